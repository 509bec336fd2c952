/* disk_call: runs a function on a disk's own thread, where its struct block lives, while the caller
 * waits.
 *
 * Threading: any thread except a disk's own; the thread blocks until the result is there, except in the functions
 * whose names end in _start. disk_call_return() is for the disk's thread. */
#ifndef CAIRN_VMM_MACHINE_DISK_CALL_H
#define CAIRN_VMM_MACHINE_DISK_CALL_H

#include "base/err.h"
#include "base/loop.h"
#include "block/block_snapshot.h"
#include "block/qcow2/pin.h"
#include "snapshot/vmstate.h"

#include <pthread.h>

struct machine;
struct machine_disk;

struct disk_call {
	/* Runs on the disk's thread. Calls disk_call_return(), now or later. */
	void (*run)(struct disk_call *c, struct block *b);
	bool beside; /* run also during an operation on the disk's snapshots; else wait for it (block_snapshot_wait()) */
	struct machine_disk *disk;
	struct loop_task task;
	struct block_snapshot_wait wait;
	pthread_mutex_t lock;
	pthread_cond_t cond;
	bool returned;
	int res;
	struct err e;
	struct block_snapshot_op op; /* passed to the functions of block_snapshot.h that take one; else unused */
};

/* Run c->run on the disk's thread and wait. Returns the argument of disk_call_return(), with its error in e. */
int disk_call(struct machine_disk *d, struct disk_call *c, struct err *e);
void disk_call_return(struct disk_call *c, int res, const struct err *e);

/* Flush: all data that the guest has written is on stable storage afterwards. Returns 0 or
 * -errno. */
int disk_flush(struct machine_disk *d, struct err *e);
/* Check that each file of the disks that the guest may write to still has a name. Otherwise the disk is lost when the
 * VM ends, with its snapshots, and a saved state is of no use. Returns 0; -ENOENT with a sentence that says how to
 * rescue the disk. */
int disks_check_names(struct machine *m, struct err *e);

/* ---- the functions of block_snapshot.h, waiting for their result ---- */

int disk_snapshot_begin(struct machine_disk *d, struct block_snapshot **ret_s, struct err *e);
int disk_snapshot_open(struct machine_disk *d, struct block_snapshot **ret_s, struct err *e);
int disk_snapshot_freeze(struct machine_disk *d, struct block_snapshot *s, struct err *e);
/* Commit the snapshot. ret_id: NULL, or BLOCK_SNAPSHOT_ID_MAX + 1 bytes for the new snapshot's id. */
int disk_snapshot_commit(struct machine_disk *d, struct block_snapshot *s,
	const struct block_snapshot_info *info, char *ret_id, struct err *e);
/* A commit in progress. disk_commit_start() starts it and returns; disk_commit_wait() waits for its result and has to
 * be called exactly once.
 * x, info: borrowed until disk_commit_wait(). */
struct disk_commit {
	struct disk_call c;
	struct block_snapshot *s;
	const struct block_snapshot_info *info;
	bool placed, readable, stands;
	struct qcow2_pin pin;
};
void disk_commit_start(struct machine_disk *d, struct block_snapshot *s, const struct block_snapshot_info *info,
	struct disk_commit *x);
/* Wait until the pin that is being committed has its place in the image, and return the pin in *ret. Returns false if
 * the commit has failed; disk_commit_wait() then returns the error. */
bool disk_commit_place(struct disk_commit *x, struct qcow2_pin *ret);
/* Wait until the pin that is being committed can be read (block_open.pin_readable). Returns as disk_commit_place(). */
bool disk_commit_readable(struct disk_commit *x);
/* Wait until the image names the snapshot, on stable storage; the commit may still clear up. Returns false if the
 * commit has failed; disk_commit_wait() then returns the error. */
bool disk_commit_stands(struct disk_commit *x);
int disk_commit_wait(struct disk_commit *x, char *ret_id, struct err *e);
/* qcow2_warm_write() on the disk's thread, while the caller continues; disk_warm_wait() waits for its end and has to be
 * called exactly once.
 * x, id, fd: borrowed until disk_warm_wait(). */
struct disk_warm {
	struct disk_call c;
	const uint8_t *id;
	int fd;
	uint64_t at;
};
void disk_warm_start(struct machine_disk *d, struct disk_warm *x);
void disk_warm_wait(struct disk_warm *x);
int disk_snapshot_abort(struct machine_disk *d, struct block_snapshot *s, struct err *e);
int disk_snapshot_list(struct machine_disk *d, struct block_snapshot_info **ret_list, size_t *ret_n,
	struct err *e);
/* Note the result of a change of the snapshot table in d. Returns r. */
int disk_change_note(struct machine_disk *d, const struct block_snapshot_op *op, int r);
int disk_snapshot_apply(struct machine_disk *d, const char *id, struct err *e);
int disk_snapshot_apply_with(struct machine_disk *d, const struct block_snapshot_info *info,
	struct err *e);
int disk_snapshot_delete(struct machine_disk *d, const char *id, struct err *e);
/* Run block_pin_snapshot(). */
int disk_pin_snapshot(struct machine_disk *d, const char *snapshot, const uint8_t id[BLOCK_PIN_ID_BYTES], struct err *e);
/* Run block_pin_delete(). Returns -ENOENT if there is no such pin. */
int disk_pin_delete(struct machine_disk *d, const uint8_t id[BLOCK_PIN_ID_BYTES], struct err *e);
/* Run qcow2_pin_is_current(). */
bool disk_pin_is_current(struct machine_disk *d, const uint8_t id[BLOCK_PIN_ID_BYTES], struct qcow2_pin *ret);
int disk_snapshot_update(struct machine_disk *d, const struct block_snapshot_info *info,
	struct err *e);
int disk_vmstate_share(struct machine_disk *d, struct block_snapshot *s, const char *id,
	uint64_t offset, uint64_t len, struct err *e);
int disk_vmstate_map(struct machine_disk *d, const char *id, struct block_vmstate_map *ret,
	struct err *e);

/* A vmstate_store in the VM state area of a snapshot in creation (s), or of an existing snapshot
 * (id; read-only). Buffers need no alignment. */
struct disk_store {
	struct vmstate_store store;
	struct machine_disk *disk;
	struct block_snapshot *s;
	const char *id;
};
void disk_store_init(struct disk_store *st, struct machine_disk *d, struct block_snapshot *s,
	const char *id);

struct vmstate_call {
	struct disk_call c;
	struct block_vmstate_req req;
	struct iovec iov;
	struct block_snapshot *s;
	const char *id;
	enum { VMSTATE_WRITE, VMSTATE_READ, VMSTATE_SHARE } what;
};

/* Start a write and return; disk_store_write_wait() returns the result and has to be called exactly
 * once.
 * x, buf: borrowed until disk_store_write_wait(). */
void disk_store_write_start(struct disk_store *st, struct vmstate_call *x, uint64_t off, void *buf, size_t len);
int disk_store_write_wait(struct vmstate_call *x);

#endif
