/* snapshot_impl: internals of snapshots, in addition to impl.h.
 *
 * A snapshot is created while the guest writes. begin() copies the L1 (`frozen`) and clears COPIED
 * in the active L1, so that no write goes in place afterwards. Each L2 table of the frozen L1 is
 * then *counted*: the refcounts of the table and of each cluster that it names are incremented, and
 * its entries lose COPIED. This happens in the background, or at once if the guest wants to change
 * something below the table. Nobody may copy or free a table before it is counted. docs/qcow2.md
 * has the order. */
#ifndef CAIRN_BLOCK_QCOW2_SNAPSHOT_IMPL_H
#define CAIRN_BLOCK_QCOW2_SNAPSHOT_IMPL_H

#include "base/err.h"
#include "block/block_snapshot.h"
#include "block/qcow2/impl.h"

/* ---- task.c: long operations, step by step on the loop ---- */

#define TASK_DONE 1
struct task {
	struct qcow2 *q;
	struct wait wait;
	struct loop_op nop;
	struct io io;
	struct iovec iov;
	unsigned steps;
	/* Do the next step. Returns 0: call again at once; -EAGAIN: call again, occasionally after
	 * other work had its turn; -EINPROGRESS: t->wait runs later; TASK_DONE; any other error
	 * ends the task. */
	int (*step)(struct task *t);
	/* Called if an operation that t->wait waited for failed. Returns 0: call step() again; TASK_DONE;
	 * or an error that ends the task. NULL: the failure ends the task. */
	int (*failed)(struct task *t, int res);
	void (*end)(struct task *t, int res);
};
/* Start the task: step() runs in the loop's next round. */
void task_start(struct task *t, struct qcow2 *q);
/* Continue a task whose step() returned -EINPROGRESS without a wait. */
void task_resume(struct task *t);
/* Start an I/O; t->wait runs when it completes. Each returns -EINPROGRESS.
 * buf: aligned, whole sectors. */
int task_write(struct task *t, const void *buf, size_t len, uint64_t off);
int task_read(struct task *t, void *buf, size_t len, uint64_t off);
int task_flush(struct task *t);
/* Give a range of the file back to the file system; a failure is ignored. */
int task_punch(struct task *t, uint64_t off, uint64_t len);

/* A run of adjacent clusters, allocated piece by piece. */
struct contig {
	uint64_t first;
	uint32_t n;
	uint64_t found; /* clusters from `first` on that the search knows as free */
	uint64_t counted; /* number (from 1) of a durable refcount block, which may count new blocks; 0: none */
	bool searching, placed; /* placed: all are found, and are now allocated */
};
/* Extend the run towards `want` clusters.
 * Returns 0 if it is complete; -EAGAIN: call again; -EINPROGRESS; -EFBIG; -errno.
 * After an error the run is released. */
int contig_alloc(struct qcow2 *q, uint32_t want, struct contig *c, struct wait *w);
/* Allocate n adjacent clusters. Runs the loop. Returns 0 or -errno. */
int contig_place(struct qcow2 *q, uint32_t n, uint64_t *ret_first);
void contig_release(struct qcow2 *q, struct contig *c);
int contig_meta(struct qcow2 *q, const struct contig *c, enum meta_kind k);

/* Wait for the right to write the header. Between hold and release no commit runs. Returns 0;
 * -EINPROGRESS: w runs later, then call again. */
int header_hold(struct qcow2 *q, struct wait *w);
void header_release(struct qcow2 *q);
struct header_update {
	struct io io;
	struct iovec iov;
	struct loop_op op;
	struct qcow2 *q;
	struct wait *w;
};
/* Write q->header_piece to the file and sync. The caller holds the header. Returns -EINPROGRESS; w runs at the end. */
int header_put(struct qcow2 *q, struct header_update *h, struct wait *w);

/* ---- snapshot_mark.c ---- */

struct snapshot_mark {
	struct header_update header;
	bool writing;
};
/* Set or clear the dirty bit: set it before the first refcount changes, clear it when the
 * operation's whole work is durable. Call it like a task's step().
 * Returns 0 when the file has the new value. After an error, call snapshot_mark_failed(). */
int snapshot_mark_put(struct snapshot_mark *m, struct task *t, bool dirty);
/* Call this after a failure, also of an operation that t->wait waited for. The file's state is then
 * unknown, so the image counts as marked. */
void snapshot_mark_failed(struct snapshot_mark *m, struct qcow2 *q);

/* ---- refcount.c ---- */

/* Get the refcount of a cluster, and the number (up to n) of clusters from there on with the same
 * refcount. */
int refcount_run(struct qcow2 *q, uint64_t cluster, uint32_t n, struct wait *w, uint64_t *ret,
	uint32_t *ret_n);
/* Increment the refcounts of the first *ret_n (>= 1) of n clusters.
 * Returns 0; -EINPROGRESS; -ERANGE if a refcount is at its maximum; -EIO for a corrupt image. */
int refcount_add(struct qcow2 *q, uint64_t cluster, uint32_t n, struct wait *w, uint32_t *ret_n);

/* ---- snapshot_refcount.c: increment refcounts ---- */

enum count_state { COUNT_NONE, COUNT_PART, COUNT_DONE };
struct count_job {
	struct count_job *next;
	struct counter *c;
	uint32_t index;
	bool running;	/* false: the job failed; release_step() reads here how far it counted */
	uint32_t entry; /* number of counted entries */
	uint32_t sub;	/* compressed entry at `entry`: number of its counted clusters */
	struct wait wait;
	struct loop_op nop;
	struct wait_list waiters;
};
struct counter {
	struct qcow2 *q;
	const uint64_t *entries; /* offsets of the L1's entries */
	uint64_t *own; /* NULL: the entries are borrowed */
	uint8_t *state;
	uint32_t n, done;
	struct count_job *jobs;
	int failed;
};
/* Prepare to count the tables of an L1. entries: copied. Returns 0 or -ENOMEM. */
int counter_init(struct counter *c, struct qcow2 *q, const uint64_t *entries, uint32_t n);
/* Like counter_init(). entries: offsets; borrowed until counter_done(). */
int counter_borrow(struct counter *c, struct qcow2 *q, const uint64_t *entries, uint32_t n);
void counter_done(struct counter *c);
/* Count table `index`. Returns 0 when it is counted; -EINPROGRESS; -errno. */
int counter_count(struct counter *c, uint32_t index, struct wait *w);
/* Set e if counting ended with res because a refcount is at its maximum, and e is not set. */
void snapshot_refcount_full(const struct qcow2 *q, int res, struct err *e);
/* Returns true if a job runs; w then runs at the job's end. */
bool counter_busy(struct counter *c, struct wait *w);

/* Returns the number of entries from i on, below `end` and within the slice, that name adjacent
 * clusters and are plain and valid. 0: the first entry does not qualify. */
uint32_t slice_run(const struct qcow2 *q, const struct slice *s, uint32_t i, uint32_t end);

/* ---- snapshot_release.c: decrement refcounts, set COPIED again ---- */

/* Releases the clusters that an L1 names, table by table. */
struct release {
	const uint64_t *entries; /* borrowed */
	const struct counter *counted; /* release only clusters that this counter counted; NULL: all */
	uint32_t n, index;
	uint32_t entry;
	/* Nothing in the file names these tables, so their cached changes need no write. On a full
	 * disk such a write would fail, and then nothing would become free. */
	bool unnamed;
};
/* Release the next part. Returns 0 at the end; -EAGAIN: call again; -EINPROGRESS: w runs later; -errno. */
int release_step(struct qcow2 *q, struct release *r, struct wait *w);
/* Sets COPIED for clusters that only the active L1 owns, in tables whose touched[index] is not 0. */
struct recopy {
	const uint64_t *touched; /* borrowed */
	uint32_t n, index, entry;
};
/* Handle the next part. Returns as release_step(). */
int recopy_step(struct qcow2 *q, struct recopy *r, struct wait *w);

/* ---- snapshot_entries.c ---- */

void snapshot_entry_done(struct qcow2_snapshot_info *s);
/* Set an entry's extra data: QEMU's fields, then Cairn's. */
int snapshot_entry_extra(struct qcow2_snapshot_info *s, uint64_t icount, const uint8_t *extra,
	size_t n);
/* Serialize the list, padded to whole clusters, and complete entries that lack QEMU's extra data; list[].table_bytes
 * is set. ret_buf: owned by the caller; NULL for an empty list. Returns 0; -EFBIG; -ENOMEM. */
int snapshots_serialize(struct qcow2_snapshot_info *list, size_t n, uint32_t cluster_bytes, uint8_t **ret_buf,
	uint64_t *ret_bytes);

/* ---- snapshot_table.c ---- */

/* Fill q->snapshots and q->nsnapshots; read the table on the first call. Returns 0 or -errno. */
int snapshots_load(struct qcow2 *q, struct err *e);
void snapshots_done(struct qcow2 *q);
struct qcow2_snapshot_info *snapshot_find(struct qcow2 *q, const char *id);
void snapshot_entry_info(const struct qcow2_snapshot_info *s, struct block_snapshot_info *ret);
/* Returns the number of L1 entries for the snapshot's disk. The further entries hold VM state. */
uint32_t snapshot_disk_entries(const struct qcow2 *q, const struct qcow2_snapshot_info *s);
/* Check n entries of a snapshot's L1 as the file has them, replace them by the tables' offsets, and mark tables that
 * have no mark yet META_INACTIVE_L2.
 * Returns 0; -EINVAL; -EDQUOT if the marks need more memory than the image may have. */
int snapshot_l1_take(struct qcow2 *q, uint64_t *entries, uint32_t n, struct err *e);

/* Replaces the whole snapshot table. */
struct table_swap {
	struct qcow2_snapshot_info *list; /* owned; becomes q->snapshots on success */
	size_t n;
	unsigned phase;
	bool unknown; /* the write of the header failed, so the file may have either table */
	struct contig place;
	uint8_t *buf;
	uint64_t bytes;
	bool tight;    /* there was no space */
	size_t spared; /* number of tables whose padding was freed */
	uint64_t spare_from, spare_to; /* offsets in the file: the padding to free next */
	struct header_update header;
	uint8_t old_fields[12];
};
/* After an error of a step, or of an operation that t->wait waited for: returns true if the steps shall go on, with
 * space that they free first. Otherwise call table_swap_failed(). */
bool table_swap_retry(struct table_swap *s, struct qcow2 *q, int res);
/* Copy the current list, with room for one more entry. Returns 0 or -ENOMEM. */
int table_swap_init(struct table_swap *s, struct qcow2 *q);
void table_swap_done(struct table_swap *s);
int table_swap_step(struct table_swap *s, struct task *t);
/* Returns true if the next step flushes the new table. */
bool table_swap_is_written(const struct table_swap *s);
/* For an operation that changes further header fields in the same write: write the new table.
 * Returns TASK_DONE when the new table and everything written before it are durable. The header
 * does not name the table yet. */
int table_swap_write(struct table_swap *s, struct task *t);
/* Put the table's fields into q->header_piece. The caller holds the header. */
void table_swap_fields(struct table_swap *s, struct qcow2 *q);
/* Make the new table the current one and free the old one. Call it when the header in the file has the new fields. */
void table_swap_adopt(struct table_swap *s, struct qcow2 *q);
/* Clean up after an error of a step, or of an operation that t->wait waited for. Returns res. */
int table_swap_failed(struct table_swap *s, struct qcow2 *q, int res);

/* ---- vmstate.c ---- */

/* The VM state of an existing snapshot. */
struct snapshot_vmstate {
	struct snapshot_vmstate *next;
	char *id;
	struct map map;
	unsigned users;
	bool loading;
	int res;
	struct wait_list waiters;
	struct io io;
	struct iovec iov;
	uint32_t skip; /* bytes in the buffer before the first entry */
	struct qcow2 *q;
};
/* Drop the cached VM state. Returns 0; -EBUSY while a request reads it. */
int snapshot_vmstate_drop(struct qcow2 *q, const char *id);
void snapshot_vmstates_done(struct qcow2 *q);

/* ---- operations ---- */

/* An operation on snapshots that runs as a task. q->snapshot_busy keeps operations that change the table apart. */
struct snapshot_op {
	struct task task;
	struct block_snapshot_op *op;
	struct err err;
	unsigned phase;
};
/* Call op->done() with the error in the loop's next round; at once with -ENOMEM if memory is lacking. */
void block_snapshot_op_fail(struct block *b, struct block_snapshot_op *op, int res, const struct err *e);
void snapshot_op_fail(struct qcow2 *q, struct block_snapshot_op *op, int res, const struct err *e);
void snapshot_op_finish(struct snapshot_op *o, int res);
/* Clear q->snapshot_busy and run what waits for that. Call it before op->done(), which may close the image. */
void snapshot_op_over(struct qcow2 *q);

int qcow2_snapshot_begin(struct qcow2 *q, struct block_snapshot **ret_s, struct err *e);
int qcow2_snapshot_open(struct qcow2 *q, struct block_snapshot **ret_s, struct err *e);
int qcow2_snapshot_freeze(struct block_snapshot *s, struct err *e);
void qcow2_snapshot_commit(struct block_snapshot *s, const struct block_snapshot_info *info,
	struct block_snapshot_op *op);
/* Make a snapshot with the disk's content of snapshot `id`. */
void qcow2_snapshot_copy(struct qcow2 *q, const char *id, const struct block_snapshot_info *info,
	struct block_snapshot_op *op);
void qcow2_snapshot_abort(struct block_snapshot *s, struct block_snapshot_op *op);
/* Abort the snapshot and answer op with res and e, for a commit with invalid arguments. */
void qcow2_snapshot_refuse(struct block_snapshot *s, struct block_snapshot_op *op, int res,
	const struct err *e);
/* Abort an unfinished snapshot at close. Runs the loop. */
void qcow2_snapshot_close(struct qcow2 *q);
struct map *qcow2_snapshot_vmstate_map(struct block_snapshot *s);
struct qcow2 *qcow2_snapshot_q(struct block_snapshot *s);
/* Apply snapshot `id`. info: copied; its extra data becomes the snapshot's; NULL: leave the extra data. */
void qcow2_snapshot_apply(struct qcow2 *q, const char *id, const struct block_snapshot_info *info,
	struct block_snapshot_op *op);
void qcow2_snapshot_apply_decide(struct block_snapshot_op *op, bool go);
void qcow2_snapshot_delete(struct qcow2 *q, const char *id, struct block_snapshot_op *op);
void qcow2_snapshot_own(struct qcow2 *q, const char *id, uint64_t *ret_bytes, struct block_snapshot_op *op);
void qcow2_snapshot_update(struct qcow2 *q, const struct block_snapshot_info *info,
	struct block_snapshot_op *op);

/* Start a request to a VM state. m: the state's map. user: the reference to release at the end; NULL: none. Returns 0;
 * -errno: nothing was started or released. */
int vmstate_start(struct qcow2 *q, struct map *m, struct block_vmstate_req *r, bool write,
	struct snapshot_vmstate *user);
void qcow2_vmstate_read(struct qcow2 *q, const char *id, struct block_vmstate_req *r);
void qcow2_vmstate_share(struct block_snapshot *s, const char *id, struct block_vmstate_req *r);
void qcow2_vmstate_map(struct qcow2 *q, const char *id, struct block_vmstate_map *ret,
	struct block_snapshot_op *op);
/* Call r->done() with the error in the loop's next round; at once with -ENOMEM if memory is lacking. */
void vmstate_fail(struct qcow2 *q, struct block_vmstate_req *r, int res);

#endif
