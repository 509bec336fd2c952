/* snapshots: a VM's snapshots as its process tells them: the VM's own while it has one, else a
 * short-lived one that looks into its images (api/vm/offline_process.h). Everything in them comes out of an
 * image and is hostile: parents may be missing, or run in circles. */
#ifndef CAIRN_API_JOBS_SNAPSHOTS_H
#define CAIRN_API_JOBS_SNAPSHOTS_H

#include "api/vm/vm_process.h"

#include <stddef.h>

struct json_object;
struct vm;

/* That are looked at as a tree. */
#define SNAPSHOTS_MAX 4096
#define SNAPSHOT_TAG_KEEP "keep"
#define SNAPSHOT_NO_PARENT ((size_t)-1)

struct snapshots {
	struct vm_snapshot_info *list; /* texts end, and are clean */
	size_t *parent;		       /* of each: index, or SNAPSHOT_NO_PARENT */
	size_t n;
};

/* As vm_process_request(), to whichever process it is. */
void snapshots_request(struct vm *vm, enum vm_msg_type type, const void *body, size_t len,
	uint64_t timeout_ns,
	void (*done)(void *opaque, int r, const struct vm_answer *a, const struct err *e),
	void *opaque);

/* The same with files; borrowed. */
void snapshots_request_fds(struct vm *vm, enum vm_msg_type type, const void *body, size_t len, const int *fds,
	unsigned nfds, uint64_t timeout_ns,
	void (*done)(void *opaque, int r, const struct vm_answer *a, const struct err *e), void *opaque);

/* All of them. s: borrowed, NULL on failure. */
void snapshots_fetch(struct vm *vm,
	void (*done)(void *opaque, int r, const struct snapshots *s, const struct err *e),
	void *opaque);

/* By name, else by id; "": the current one. Returns an index; -ENOENT with a sentence. */
int snapshots_find(const struct snapshots *s, const char *vm, const char *name, size_t *ret_i,
	struct err *e);
/* Is i below `above` in the tree? Not of itself. */
bool snapshots_descends(const struct snapshots *s, size_t i, size_t above);
/* What its process is to call it by: the id, unless that is the name of another. */
const char *snapshots_handle(const struct snapshots *s, size_t i);
/* Is `tag` one of the comma-separated tags? */
bool snapshot_has_tag(const struct vm_snapshot_info *i, const char *tag);
const char *snapshot_state_word(const struct vm_snapshot_info *i);
/* The caller puts it. */
struct json_object *snapshot_to_json(const struct vm_snapshot_info *i);

#endif
