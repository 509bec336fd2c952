/* block_snapshot: internal snapshots of an open image.
 *
 * Only qcow2 has snapshots. On another format, every call fails with -ENOTSUP; where the caller gets a sentence, it
 * is "disk vda is raw; internal snapshots need qcow2". Call every function on the disk's loop. The loop calls done(),
 * except when memory for that is lacking and when block_vmstate_read() gets another format: then done() runs inside
 * the call. docs/qcow2.md has the format and the order of writes. */
#ifndef CAIRN_BLOCK_BLOCK_SNAPSHOT_H
#define CAIRN_BLOCK_BLOCK_SNAPSHOT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

struct block;
struct block_snapshot;
struct err;
struct qcow2_pin;

#define BLOCK_SNAPSHOT_NAME_MAX 255
#define BLOCK_SNAPSHOT_ID_MAX 23
/* Room for Cairn's data in an entry behind QEMU's fields; the format allows 1024 bytes in total. */
#define BLOCK_SNAPSHOT_EXTRA_MAX 960
#define BLOCK_PIN_ID_BYTES 16

struct block_snapshot_info {
	char id[BLOCK_SNAPSHOT_ID_MAX + 1]; /* decimal, unique in the image; assigned by the commit */
	char name[BLOCK_SNAPSHOT_NAME_MAX + 1];
	uint32_t sec, nsec;
	uint64_t vm_clock_ns, vm_state_bytes, disk_bytes;
	uint8_t extra[BLOCK_SNAPSHOT_EXTRA_MAX]; /* only a pin's mark is interpreted here; other programs preserve the bytes */
	size_t extra_bytes;
	/* Set by block_snapshot_list(), ignored elsewhere: a pin (block/qcow2/pin.h), which holds
	 * the content of forks' disks. Users do not see it, and it is part of no tree. */
	bool pinned;
	uint8_t pin_id[BLOCK_PIN_ID_BYTES];
};

/* ---- create ---- */

/* Freeze the disk's content: it belongs to the snapshot, and later writes go elsewhere. No request
 * may be in flight. The file's snapshot table does not have the snapshot yet; a crash leaks clusters at most. The
 * call does no I/O, so its time does not depend on the amount of data.
 * ret_s: ended by block_snapshot_commit() or block_snapshot_abort().
 * Returns 0; -EBUSY if another operation runs; -errno with a sentence. */
int block_snapshot_begin(struct block *b, struct block_snapshot **ret_s, struct err *e);
/* Do block_snapshot_begin() in two calls: the VM state may be written in between, while the guest still changes the
 * disk. Only block_snapshot_freeze() needs a disk without requests in flight. block_snapshot_abort() may also end a
 * snapshot that was not frozen. */
int block_snapshot_open(struct block *b, struct block_snapshot **ret_s, struct err *e);
int block_snapshot_freeze(struct block_snapshot *s, struct err *e);

/* A request to the VM-state area of a snapshot: a separate address space from 0, whose holes read
 * as zeros. */
struct block_vmstate_req {
	uint64_t offset, len; /* multiples of 4096; writing whole clusters costs least */
	const struct iovec *iov;
	unsigned niov;
	void (*done)(struct block_vmstate_req *r, int res);
	void *engine;
};
/* Write VM state. Only before the commit. */
void block_snapshot_vmstate_write(struct block_snapshot *s, struct block_vmstate_req *r);
/* Let [offset, offset + len) of the VM state share the clusters of the existing snapshot `id`, by
 * incrementing their refcounts. A later write to such a cluster goes to a new cluster. Whole
 * clusters only; r has no iov. */
void block_snapshot_vmstate_share(struct block_snapshot *s, const char *id,
	struct block_vmstate_req *r);
/* Read VM state that was written before the commit. */
void block_snapshot_vmstate_read(struct block_snapshot *s, struct block_vmstate_req *r);

struct block_snapshot_op {
	void (*done)(struct block_snapshot_op *op, int res, const struct err *e);
	/* Called occasionally with the finished and the total amount of work; NULL: not wanted. */
	void (*progress)(struct block_snapshot_op *op, uint64_t done, uint64_t total);
	/* Called by the commit of a pin when the pin's place is known, so that overlays on it can be written while the
	 * commit continues: the pin is not in the file yet, and done() may report an error. NULL: not wanted. */
	void (*placed)(struct block_snapshot_op *op, const struct qcow2_pin *pin);
	/* Called by the commit of a pin after placed(): the file has all tables and data of the pin, so overlays on it
	 * can be read (block_open.pin_readable). It is not on stable storage, the header does not name it yet, and
	 * done() may report an error. NULL: not wanted. */
	void (*readable)(struct block_snapshot_op *op);
	/* Called by a commit when the file names the snapshot, on stable storage, and by an apply when the file has the
	 * snapshot's content as the disk's. The operation has succeeded, but continues until done(), where an apply may
	 * report that the old content's clusters are not free. NULL: not wanted. */
	void (*stands)(struct block_snapshot_op *op);
	/* Called by an apply when all but the header is on stable storage: the write of the header needs no space. The
	 * apply then waits for block_snapshot_apply_decide(). NULL: do not wait. */
	void (*ready)(struct block_snapshot_op *op);
	char id[BLOCK_SNAPSHOT_ID_MAX + 1]; /* the commit sets the new snapshot's id */
	/* The operation failed, but the file may have its outcome: a commit's snapshot, until another change succeeds;
	 * the content of the snapshot that is applied; an entry's update. */
	bool unknown;
	void *engine;
};
/* Make the snapshot visible and durable. Frees s. If it fails, the snapshot is aborted.
 * info: copied; id is ignored and disk_bytes filled in. */
void block_snapshot_commit(struct block_snapshot *s, const struct block_snapshot_info *info,
	struct block_snapshot_op *op);
/* Release everything and free s. */
void block_snapshot_abort(struct block_snapshot *s, struct block_snapshot_op *op);

/* ---- waiting for operations under way ---- */

struct block_snapshot_wait {
	void (*run)(struct block_snapshot_wait *w);
	struct block_snapshot_wait *next;
};
/* Run w->run() when no operation changes the disk's snapshots: within the call, or later, in the order of the calls.
 * Without this wait, the functions below fail with -EBUSY, and so do block_snapshot_begin(), block_resize() and others.
 * Nobody waits for an operation that waits for its caller: a snapshot before its commit or abort, and an apply before
 * block_snapshot_apply_decide().
 * w: borrowed until it runs. */
void block_snapshot_wait(struct block *b, struct block_snapshot_wait *w);

/* ---- existing snapshots ---- */

/* Copy the snapshot table in its order. The caller frees the list.
 * Returns 0 or -errno with a sentence. */
int block_snapshot_list(struct block *b, struct block_snapshot_info **ret_list, size_t *ret_n,
	struct err *e);
/* Set the disk's content and size to the snapshot's. No request may be in flight or come before
 * stands() or done(). A crash leaves the old or the new content. */
void block_snapshot_apply(struct block *b, const char *id, struct block_snapshot_op *op);
/* Like block_snapshot_apply(), and set the snapshot's extra data in the same write.
 * info: its id selects the snapshot, and its extra data are the new ones. Its name is checked, but not used. */
void block_snapshot_apply_with(struct block *b, const struct block_snapshot_info *info,
	struct block_snapshot_op *op);
/* Continue an apply whose op->ready() was called. go: false: undo it; done() then reports -ECANCELED. */
void block_snapshot_apply_decide(struct block_snapshot_op *op, bool go);
/* Make another snapshot with the content and size of the disk in the existing snapshot `id`, without VM state. Shares
 * its clusters. Incremental: guest requests continue. A crash leaves the new snapshot, or leaked clusters.
 * info: as for block_snapshot_commit(); its vm_state_bytes is 0. op->id gets the new id. */
void block_snapshot_copy(struct block *b, const char *id, const struct block_snapshot_info *info,
	struct block_snapshot_op *op);
/* Delete a snapshot, free its clusters, and truncate the file behind the last used cluster. Incremental: guest requests
 * continue. A crash leaves the snapshot, or leaked clusters. */
void block_snapshot_delete(struct block *b, const char *id, struct block_snapshot_op *op);
/* Set the name and the extra data of the snapshot with info's id. -EEXIST: another snapshot has the
 * name. */
void block_snapshot_update(struct block *b, const struct block_snapshot_info *info,
	struct block_snapshot_op *op);
/* Count the bytes of data, VM state and tables (without the L1) that only this snapshot refers to: deleting it
 * frees them. Without VM state, the count is 0 while the disk has not changed since the snapshot. Changes nothing.
 * Incremental: guest requests continue. If the guest writes meanwhile, the result is approximate. Fails with
 * -EBUSY during another operation, with -ECANCELED if one that changes refcounts begins, and with -EROFS on a
 * read-only disk.
 * ret_bytes: set if op succeeds. */
void block_snapshot_own(struct block *b, const char *id, uint64_t *ret_bytes,
	struct block_snapshot_op *op);
void block_vmstate_read(struct block *b, const char *id, struct block_vmstate_req *r);

/* The extents of an existing snapshot's VM state in the file, for a reader that must not depend on
 * the disk's loop: the loop may wait for memory that the RAM reader fetches. Valid until the
 * snapshot is deleted, because its clusters do not change. */
struct block_vmstate_extent {
	uint64_t cluster; /* first cluster; the extent ends where the next one begins */
	uint64_t host;	  /* offset in the file; 0: a hole */
};

struct block_vmstate_map {
	int fd; /* the image's fd, borrowed */
	uint32_t cluster_bytes;
	uint64_t n; /* number of clusters in [0, vm_state_bytes) */
	struct block_vmstate_extent *extents; /* all extents in ascending order; the caller frees them */
	size_t nextents;
};
/* Look up a cluster below n.
 * ret_n: number of clusters from there on that are contiguous in the file, or that are holes.
 * Returns its offset in the file; 0: a hole. */
uint64_t block_vmstate_map_host(const struct block_vmstate_map *m, uint64_t cluster, uint64_t *ret_n);
/* Get the extents of a snapshot's VM state. Fails with -ENOTSUP if a cluster is compressed or only partly written.
 * ret: set if op succeeds. */
void block_vmstate_map(struct block *b, const char *id, struct block_vmstate_map *ret,
	struct block_snapshot_op *op);

#endif
