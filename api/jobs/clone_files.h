/* clone_files: checks, creates and removes the files of clones' disks, each with the rights of its author
 * (api/access/authors.h), in a forked process for each author. Threading: the daemon's loop. */
#ifndef CAIRN_API_JOBS_CLONE_FILES_H
#define CAIRN_API_JOBS_CLONE_FILES_H

#include "api/access/fork_as.h"
#include "vmm/vm_msg.h"

#include <limits.h>
#include <stdbool.h>
#include <stdint.h>

struct client_file;
struct config;
struct definition;
struct definition_disk;
struct err;
struct helpers;
struct rights;

struct clone_files {
	struct definition *const *defs; /* the clones' definitions */
	unsigned n;
	const struct rights *author; /* set by these functions: the author whose files a process handles */
	/* Only for clone_files_check(). The VM whose writable disks are copied; NULL: none is copied. layers: a
	 * copy gets the content of all layers, not only the first one's file. */
	const struct definition *source;
	bool layers;
	/* Only for clone_files_remove(). Per clone: number of its writable disks whose files are removed; NULL: all. */
	const unsigned *made;
	/* Only for clone_files_remove(). Per clone: files created before this time, in ns since 1970, are kept; 0: none
	 * is kept. NULL: none of any clone is kept. */
	const uint64_t *born_after_ns;
};

typedef void clone_files_done(void *opaque, int r, const struct fork_as_result *res, const struct err *e);

/* Return the bytes for which a copy of the disk's layers from `from` to before `to` counts (api/vm/quota_use.h): the
 * space that their files occupy now. Runs in the forked process. */
uint64_t clone_disk_bytes(const struct definition_disk *d, unsigned from, unsigned to);
/* The processes of one call. */
struct clone_files_work;

/* Check that none of the files exists. res->bytes: bytes that the images of one clone add to a quota
 * (api/vm/quota_use.h). done() may be called at once. *ret: until then, for clone_files_free(). */
void clone_files_check(struct helpers *h, const struct clone_files *f, clone_files_done *done, void *opaque,
	struct clone_files_work **ret);
/* Kill the processes; done() is not called. NULL allowed. */
void clone_files_free(struct clone_files_work *w);

/* The files to open for the copy of one disk. */
struct clone_copy {
	char path[PATH_MAX]; /* the new file */
	unsigned n, nsources;
	uint16_t at[2 * VM_DISK_LAYERS_MAX]; /* indexes of the source's files among all nsources */
};

/* Fill ret and the request's layers. c: the source's images, held by others. disk: its number. path: of the new
 * file. */
void clone_copy_set(struct clone_copy *ret, const struct config *c, unsigned disk, const char *path,
	struct vm_clone_disk *request);
/* Let a process with these rights create the new file, and hold it with the source's images, in the order of
 * VM_MSG_CLONE_DISK. c: its relays are borrowed for the call. done: res->count is 1 if the file was created, also on
 * failure. The others as for client_file_new(). */
int clone_copy_open(struct helpers *h, const struct rights *rights, const struct clone_copy *copy, const struct config *c,
	clone_files_done *done, void *opaque, struct client_file **ret, struct err *e);

/* Remove the files that `made` and `born_after_ns` select. A file that is missing is no error. done, ret: as for
 * clone_files_check(). */
void clone_files_remove(struct helpers *h, const struct clone_files *f, clone_files_done *done, void *opaque,
	struct clone_files_work **ret);

#endif
