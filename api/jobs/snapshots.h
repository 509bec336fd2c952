/* snapshots: reads the list of a VM's snapshots from its process, or from the offline process if the VM is off
 * (api/vm/offline_process.h). All values come from an image and are not trusted: parents may be missing or form a
 * cycle. Threading: the daemon's loop. */
#ifndef CAIRN_API_JOBS_SNAPSHOTS_H
#define CAIRN_API_JOBS_SNAPSHOTS_H

#include "api/vm/vm_process.h"

#include <stddef.h>

struct json_object;
struct client_file;
struct job;
struct vm;

/* Maximum number of snapshots that snapshots_fetch() reads; more are an error (-E2BIG). */
#define SNAPSHOTS_MAX 4096
#define SNAPSHOT_TAG_KEEP "keep"
/* With SNAPSHOT_TAG_KEEP: the snapshot of a backup under way (cairn backup-begin), which servers may read. */
#define SNAPSHOT_TAG_BACKUP "backup"
/* With both tags: names the VM of the backup by its UUID, which follows. Copies of the image have the tag, too. */
#define SNAPSHOT_TAG_BACKUP_OF "backup-of:"
#define SNAPSHOT_NO_PARENT ((size_t)-1)
/* For VM_MSG_SNAPSHOT_SIZE: long enough for a large disk with many changed clusters. */
#define SNAPSHOT_SIZE_TIMEOUT_NS (600 * 1000000000ULL)

struct snapshots {
	struct vm_snapshot_info *list; /* its texts are terminated and cleaned by utf8_clean() */
	size_t *parent;		       /* for each snapshot, its parent's index or SNAPSHOT_NO_PARENT */
	size_t n;
	bool names_are_ids; /* some snapshot has another one's id as its name */
};

/* Send a request to the VM's process, or to the offline process if the VM is off. Parameters as for
 * vm_process_request(). */
void snapshots_request(struct vm *vm, enum vm_msg_type type, const void *body, size_t len,
	uint64_t timeout_ns,
	void (*done)(void *opaque, int r, const struct vm_answer *a, const struct err *e),
	void *opaque);

/* Send a request like snapshots_request(), with file descriptors. fds: borrowed. */
void snapshots_request_fds(struct vm *vm, enum vm_msg_type type, const void *body, size_t len, const int *fds,
	unsigned nfds, uint64_t timeout_ns,
	void (*done)(void *opaque, int r, const struct vm_answer *a, const struct err *e), void *opaque);

/* The same with files that another process holds, which become the first ones (api/access/client_file.h). file: taken;
 * NULL: none. */
void snapshots_request_with(struct vm *vm, enum vm_msg_type type, const void *body, size_t len, struct client_file *file,
	const int *fds, unsigned nfds, uint64_t timeout_ns,
	void (*done)(void *opaque, int r, const struct vm_answer *a, const struct err *e), void *opaque);

/* For job.cancel: ask the process to end its work. The work's request then fails, unless the work is done first. */
void snapshots_cancel(struct job *j);

/* Read all snapshots, page by page. done: called once, from the loop. s: borrowed for the call; NULL on errors. */
void snapshots_fetch(struct vm *vm,
	void (*done)(void *opaque, int r, const struct snapshots *s, const struct err *e),
	void *opaque);

/* Bring vm->counts up to date with the images.
 * backup: also look for a backup, which takes a reading of all snapshots.
 * done: called once, also if the number stays unknown. r: 0; -EBUSY: a backup is under way. e: never NULL.
 * The caller's job owns the VM. */
void snapshots_count(struct vm *vm, bool backup, void (*done)(void *opaque, int r, const struct err *e), void *opaque);

/* Find a snapshot by name, else by id; "": the current snapshot. vm: the VM's name, for the error. Returns 0 and
 * *ret_i; -ENOENT. */
int snapshots_find(const struct snapshots *s, const char *vm, const char *name, size_t *ret_i,
	struct err *e);
/* Return whether snapshot i is a descendant of `above`. */
bool snapshots_descends(const struct snapshots *s, size_t i, size_t above);
/* Return the handle that identifies the snapshot in requests: its id, or its name if another snapshot's name equals the
 * id. Borrowed from s. */
const char *snapshots_handle(const struct snapshots *s, size_t i);
/* Return whether the snapshot has the tag. */
bool snapshot_has_tag(const struct vm_snapshot_info *i, const char *tag);
/* Return whether comma-separated tags are those of the snapshot of a backup of the VM. */
bool snapshot_tags_are_backup(const struct vm *vm, const char *tags);
/* If the tags are those of a backup's snapshot, add the one that names the VM, unless it does not fit. */
void snapshot_tags_put_vm(const struct vm *vm, char tags[VM_SNAPSHOT_TAGS_MAX + 1]);
/* Check that no backup of the VM is under way: only its snapshot tells where its servers are. Returns 0; -EBUSY with a
 * sentence that names the remedy. */
int snapshots_check_backup(const struct snapshots *s, const struct vm *vm, struct err *e);
/* Return a snapshot for clients. vm: NULL: it is gone. The caller owns the result. */
struct json_object *snapshot_to_json(const struct vm *vm, const struct vm_snapshot_info *i);

#endif
