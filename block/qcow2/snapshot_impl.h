/* qcow2_snap: the insides of snapshots, beside impl.h.
 *
 * How one is made while the guest writes: begin copies the L1 (`frozen`) and clears COPIED in
 * the active one, so that no write goes in place any more. Each L2 table of the frozen L1
 * is then *counted*, in the background or at once when the guest wants to change something
 * below it: the table and each cluster it names get a reference more, and its entries lose
 * COPIED. Until it is counted nobody may copy or free it. docs/qcow2.md has the order. */
#ifndef CAIRN_BLOCK_QCOW2_SNAPSHOT_IMPL_H
#define CAIRN_BLOCK_QCOW2_SNAPSHOT_IMPL_H

#include "base/err.h"
#include "block/block_snapshot.h"
#include "block/qcow2/impl.h"

/* ---- task.c: long works, step by step on the loop ---- */

#define TASK_DONE 1
struct task {
	struct qcow2 *q;
	struct wait wait;
	struct loop_op nop;
	struct io io;
	struct iovec iov;
	unsigned steps;
	/* 0: call again; -EAGAIN: the same, now and then after others had their turn; -EINPROGRESS: t->wait
	 * runs; TASK_DONE; else it failed. */
	int (*step)(struct task *t);
	/* What t->wait was waiting for failed. NULL: as if step() had. 0: call step again; TASK_DONE. */
	int (*failed)(struct task *t, int res);
	void (*end)(struct task *t, int res);
};
/* step() runs in the loop's next round. */
void task_start(struct task *t, struct qcow2 *q);
/* One that returned -EINPROGRESS with nothing to wait for goes on. */
void task_resume(struct task *t);
/* Returns -EINPROGRESS, goes on when it is done. buf: aligned, whole sectors. */
int task_write(struct task *t, const void *buf, size_t len, uint64_t off);
int task_read(struct task *t, void *buf, size_t len, uint64_t off);
int task_flush(struct task *t);

/* A run of adjoining clusters, taken piece by piece. */
struct contig {
	uint64_t first;
	uint32_t n;
};
/* 0: c has want clusters; -EAGAIN: call again; -EINPROGRESS; -errno (then c is given back). */
int contig_alloc(struct qcow2 *q, uint32_t want, struct contig *c, struct wait *w);
void contig_release(struct qcow2 *q, struct contig *c);
int contig_meta(struct qcow2 *q, const struct contig *c, enum meta_kind k);

/* Header writes are one at a time: no commit runs between hold and release. 0; -EINPROGRESS. */
int header_hold(struct qcow2 *q, struct wait *w);
void header_release(struct qcow2 *q);
/* Write the first piece of the file and sync; for holders. */
struct header_update {
	struct io io;
	struct iovec iov;
	struct loop_op op;
	struct qcow2 *q;
	struct wait *w;
};
int header_put(struct qcow2 *q, struct header_update *h, struct wait *w);

/* ---- snapshot_mark.c ---- */

struct snap_mark {
	struct header_update header;
	bool writing;
};
/* Set it before the first reference changes, clear it when all that the operation did is durable. As a
 * task's step(): 0 when the file has it; for an error snap_mark_failed() is due. */
int snap_mark_put(struct snap_mark *m, struct task *t, bool dirty);
/* What it waited for failed, too. The file may have either, so the image counts as marked. */
void snap_mark_failed(struct snap_mark *m, struct qcow2 *q);

/* ---- refcount.c ---- */

/* The refcount of cluster, and how many of the n from there on have the same. */
int refcount_run(struct qcow2 *q, uint64_t cluster, uint32_t n, struct wait *w, uint64_t *ret,
	uint32_t *ret_n);
/* A reference more for the first *ret_n (>= 1) of n clusters. Returns 0; -EINPROGRESS; -ERANGE: no
 * room in the refcount; -EIO: corrupt. */
int refcount_add(struct qcow2 *q, uint64_t cluster, uint32_t n, struct wait *w, uint32_t *ret_n);

/* ---- snapshot_refcount.c: references more ---- */

enum count_state { COUNT_NONE, COUNT_PART, COUNT_DONE };
struct count_job {
	struct count_job *next;
	struct counter *c;
	uint32_t index;
	bool running;	/* false: it failed and stays for counter_undo */
	uint32_t entry; /* entries counted */
	uint32_t sub;	/* clusters counted of the one at `entry` (compressed) */
	struct wait wait;
	struct loop_op nop;
	struct wait_list waiters;
};
struct counter {
	struct qcow2 *q;
	uint64_t *entries; /* L1 entries, offsets only; owned */
	uint8_t *state;
	uint32_t n, done;
	struct count_job *jobs;
	int failed;
};
/* entries: copied. */
int counter_init(struct counter *c, struct qcow2 *q, const uint64_t *entries, uint32_t n);
void counter_done(struct counter *c);
/* 0: table `index` is counted; -EINPROGRESS; -errno. */
int counter_count(struct counter *c, uint32_t index, struct wait *w);
/* A job is at work: w runs when it ends. */
bool counter_busy(struct counter *c, struct wait *w);

/* Entries from i on in the slice that name adjoining clusters, plain and well-formed; at most to
 * `end`, within the slice. 0: the first does not. */
uint32_t slice_run(const struct qcow2 *q, const struct slice *s, uint32_t i, uint32_t end);

/* ---- snapshot_release.c: references less, COPIED rebuilt ---- */

/* Gives up what an L1 names, table by table. */
struct release {
	const uint64_t *entries; /* borrowed */
	const struct counter *counted; /* only what it has counted; NULL: all */
	uint32_t n, index;
	uint32_t entry;
	/* Nothing in the file names its tables: what is cached of them need not be written. On a full
	 * disk it could not be, and then nothing of all this would come free. */
	bool unnamed;
};
/* 0: over; -EAGAIN, -EINPROGRESS, -errno. */
int release_step(struct qcow2 *q, struct release *r, struct wait *w);
/* Marks what the active L1 owns alone, where touched[index] is not 0. */
struct recopy {
	const uint64_t *touched; /* borrowed */
	uint32_t n, index, entry;
};
int recopy_step(struct qcow2 *q, struct recopy *r, struct wait *w);

/* ---- snapshot_table.c ---- */

/* q->snaps, q->nsnaps; reads it when it is not there yet. */
int snaps_load(struct qcow2 *q, struct err *e);
void snaps_done(struct qcow2 *q);
struct qcow2_snapshot_info *snap_find(struct qcow2 *q, const char *id);
void snap_entry_done(struct qcow2_snapshot_info *s);
int snap_entry_copy(const struct qcow2_snapshot_info *s, struct qcow2_snapshot_info *ret);
/* QEMU's fields, then ours. */
int snap_entry_extra(struct qcow2_snapshot_info *s, uint64_t icount, const uint8_t *extra,
	size_t n);
void snap_entry_info(const struct qcow2_snapshot_info *s, struct block_snapshot_info *ret);
/* L1 entries that hold the snapshot's disk; what follows is VM state. */
uint32_t snap_disk_entries(const struct qcow2 *q, const struct qcow2_snapshot_info *s);

/* The whole table replaced by another. */
struct table_swap {
	struct qcow2_snapshot_info *list; /* owned; the new q->snaps on success */
	size_t n;
	unsigned phase;
	bool unknown; /* it failed so late that the file may have either */
	struct contig place;
	uint8_t *buf;
	uint64_t bytes;
	struct header_update header;
	uint8_t old_fields[12];
};
/* A copy of the present list with room for one more. */
int table_swap_init(struct table_swap *s, struct qcow2 *q);
void table_swap_done(struct table_swap *s);
int table_swap_step(struct table_swap *s, struct task *t);
/* For one who changes more of the header in the same write. TASK_DONE: the new table is in the file,
 * durably (and all that was written before it), and nothing names it. */
int table_swap_write(struct table_swap *s, struct task *t);
/* Its fields into q->header_piece; for holders. */
void table_swap_fields(struct table_swap *s, struct qcow2 *q);
/* The file has them: the old table goes. */
void table_swap_adopt(struct table_swap *s, struct qcow2 *q);
/* It returned an error, or what it waited for failed. Returns res. */
int table_swap_failed(struct table_swap *s, struct qcow2 *q, int res);

/* ---- vmstate.c ---- */

/* The VM state of a snapshot that exists. */
struct snap_vm {
	struct snap_vm *next;
	char *id;
	struct map map;
	unsigned users;
	bool loading;
	int res;
	struct wait_list waiters;
	struct io io;
	struct iovec iov;
	uint32_t skip; /* bytes of the buffer before the first entry */
	struct qcow2 *q;
};
/* 0 with a user more; -EINPROGRESS; -ENOENT, -errno. */
int snap_vm_get(struct qcow2 *q, const char *id, struct wait *w, struct snap_vm **ret);
void snap_vm_put(struct snap_vm *v);
/* -EBUSY when somebody reads it. */
int snap_vm_forget(struct qcow2 *q, const char *id);
void snap_vms_done(struct qcow2 *q);

/* ---- the works ---- */

/* One operation that changes the table at a time. */
struct snap_op {
	struct task task;
	struct block_snapshot_op *op;
	struct err err;
	unsigned phase;
};
/* Calls op->done() in the loop's next round. */
void snap_op_fail(struct qcow2 *q, struct block_snapshot_op *op, int res, const struct err *e);
void snap_op_finish(struct snap_op *o, int res);

int qcow2_snap_begin(struct qcow2 *q, struct block_snapshot **ret_s, struct err *e);
void qcow2_snap_commit(struct block_snapshot *s, const struct block_snapshot_info *info,
	struct block_snapshot_op *op);
void qcow2_snap_abort(struct block_snapshot *s, struct block_snapshot_op *op);
/* Abort, and answer op with res and e: a commit that asks for what cannot be. */
void qcow2_snap_refuse(struct block_snapshot *s, struct block_snapshot_op *op, int res,
	const struct err *e);
/* One that nobody has ended: at close. Runs the loop. */
void qcow2_snap_close(struct qcow2 *q);
/* table_own(): the table has to be counted before it is copied. */
int qcow2_snap_before_own(struct qcow2 *q, uint32_t index, struct wait *w);
struct map *qcow2_snap_vm_map(struct block_snapshot *s);
struct qcow2 *qcow2_snap_q(struct block_snapshot *s);
/* info: NULL, or copied. */
void qcow2_snap_apply(struct qcow2 *q, const char *id, const struct block_snapshot_info *info,
	struct block_snapshot_op *op);
void qcow2_snap_delete(struct qcow2 *q, const char *id, struct block_snapshot_op *op);
void qcow2_snap_own(struct qcow2 *q, const char *id, uint64_t *ret_bytes, struct block_snapshot_op *op);
void qcow2_snap_update(struct qcow2 *q, const struct block_snapshot_info *info,
	struct block_snapshot_op *op);

/* m: a snapshot's VM state. */
int vmstate_start(struct qcow2 *q, struct map *m, struct block_vmstate_req *r, bool write,
	struct snap_vm *user);
void qcow2_vmstate_read(struct qcow2 *q, const char *id, struct block_vmstate_req *r);
void qcow2_vmstate_share(struct block_snapshot *s, const char *id, struct block_vmstate_req *r);
void qcow2_vmstate_map(struct qcow2 *q, const char *id, struct block_vmstate_map *ret,
	struct block_snapshot_op *op);
/* r->done() in the loop's next round. */
void vmstate_fail(struct qcow2 *q, struct block_vmstate_req *r, int res);

#endif
