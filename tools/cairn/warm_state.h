/* warm_state: saved states of guests that `cairn run` has booted, from which later runs begin. They are files in
 * $XDG_CACHE_HOME/cairn/warm, one for each key (warm_key.h), as a fork writes them (docs/vmstate.md):
 *
 *   KEY.state  a complete state
 *   PID.tmp    a file that is being written, on a file system that has no files without names (O_TMPFILE); its maker
 *              holds a lock of it, and the next maker of any state removes one that nobody locks */
#ifndef CAIRN_TOOLS_WARM_STATE_H
#define CAIRN_TOOLS_WARM_STATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct err;
struct stat;
struct warm_key;

/* The states that have been used last are kept. */
#define WARM_STATES_MAX 16

/* Open the state of a key, for reading. Removes a file of that name that is none.
 * Returns an owned fd; -ENOENT: there is none; -errno with a sentence. */
int warm_state_open(const struct warm_key *k, struct err *e);
/* Check all of the memory in a state against its checksums, if the file was written to since the last check.
 * Returns 0; -errno with a sentence. */
int warm_state_check(int fd, struct err *e);
/* Keep the list of the pages that a guest touches first in its state (snapshot/first_pages.h). Returns 0 or -errno. */
int warm_state_put_pages(int fd, const uint32_t *list, size_t n);
/* Remove the state of a key. */
void warm_state_drop(const struct warm_key *k);

/* A state in the folder. */
struct warm_state_info {
	char name[32];
	uint64_t bytes; /* space that its file takes */
	int64_t used_s; /* time of its last use, in seconds since 1970 */
};

/* List the states. Returns their number, and *ret, which the caller frees. */
size_t warm_states_list(struct warm_state_info **ret);
/* Return whether a file is one of those that the guest of a state was made of. */
bool warm_state_has_file(const char *name, const struct stat *file);
void warm_state_remove(const char *name);

/* A file for a state. */
struct warm_file {
	int fd;	       /* owned; -1: none */
	char name[32]; /* "": it has none */
};

/* Make a file for a state. Returns 0; -errno with a sentence. Call warm_file_done() in either case. */
int warm_file_new(struct warm_file *f, struct err *e);
/* Let later runs find the state in the file, unless one of the same key is there already. Returns 0; -errno with a
 * sentence. */
int warm_file_keep(const struct warm_file *f, const struct warm_key *k, struct err *e);
void warm_file_done(struct warm_file *f);

#endif
