/* block_snapshot: snapshots inside an image, taken and given back while it is open.
 *
 * Only qcow2 has them; every call on another format is -ENOTSUP with the sentence "disk vda
 * is raw; internal snapshots need qcow2". Everything runs on the disk's loop; done() as for
 * requests. Format and order of writes: docs/qcow2.md. */
#ifndef CAIRN_BLOCK_BLOCK_SNAPSHOT_H
#define CAIRN_BLOCK_BLOCK_SNAPSHOT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

struct block;
struct block_snapshot;
struct err;

#define BLOCK_SNAPSHOT_NAME_MAX 255
#define BLOCK_SNAPSHOT_ID_MAX 23
/* What an entry may carry of ours behind QEMU's fields; the format allows 1024 in all. */
#define BLOCK_SNAPSHOT_EXTRA_MAX 960

struct block_snapshot_info {
	char id[BLOCK_SNAPSHOT_ID_MAX + 1]; /* decimal, unique in the image; given by create */
	char name[BLOCK_SNAPSHOT_NAME_MAX + 1];
	uint32_t sec, nsec;
	uint64_t vm_clock_ns, vm_state_bytes, disk_bytes;
	uint8_t extra[BLOCK_SNAPSHOT_EXTRA_MAX]; /* uninterpreted here; other programs keep it */
	size_t extra_bytes;
};

/* ---- taking one ---- */

/* This instant: no request is in flight. From the return on, the disk's present content belongs
 * to the snapshot and writes go elsewhere. Nothing is visible in the file yet: a crash leaves
 * leaked clusters at most. One at a time (-EBUSY). Bounded time: no I/O that grows with the
 * image's size. Returns 0 or -errno with a sentence. */
int block_snapshot_begin(struct block *b, struct block_snapshot **ret_s, struct err *e);

/* The VM state area of the snapshot being made, or of one that exists: an address space of its
 * own from 0, a hole reads as zeros. */
struct block_vmstate_req {
	uint64_t offset, len; /* multiples of 4096; writes of whole clusters are cheapest */
	const struct iovec *iov;
	unsigned niov;
	void (*done)(struct block_vmstate_req *r, int res);
	void *engine;
};
/* Only on one that is being made. */
void block_snapshot_vmstate_write(struct block_snapshot *s, struct block_vmstate_req *r);
/* Let [offset, offset + len) of the state be the same clusters as in the existing snapshot `id`
 * (a reference more to each); what is later written in them is written elsewhere. Whole
 * clusters. Without iov. */
void block_snapshot_vmstate_share(struct block_snapshot *s, const char *id,
	struct block_vmstate_req *r);
/* What has been written can be read again before the commit. */
void block_snapshot_vmstate_read(struct block_snapshot *s, struct block_vmstate_req *r);

struct block_snapshot_op {
	void (*done)(struct block_snapshot_op *op, int res, const struct err *e);
	/* Called now and then with what is done of what is to do; NULL: none. */
	void (*progress)(struct block_snapshot_op *op, uint64_t done, uint64_t total);
	char id[BLOCK_SNAPSHOT_ID_MAX + 1]; /* commit: the id it got */
	bool unknown; /* commit failed, and the file may have it all the same, until another change succeeds */
	void *engine;
};
/* Make it visible and durable. info: id is ignored (given), disk_bytes filled in; copied.
 * On failure it is gone as by abort. Frees s. */
void block_snapshot_commit(struct block_snapshot *s, const struct block_snapshot_info *info,
	struct block_snapshot_op *op);
/* Give everything back. Frees s. */
void block_snapshot_abort(struct block_snapshot *s, struct block_snapshot_op *op);

/* ---- those that exist ---- */

/* A copy of the table, in its order; caller frees. */
int block_snapshot_list(struct block *b, struct block_snapshot_info **ret_list, size_t *ret_n,
	struct err *e);
/* The disk's content becomes the snapshot's (its size, too); no request is in flight, none comes
 * before done(). A crash leaves the one or the other. */
void block_snapshot_apply(struct block *b, const char *id, struct block_snapshot_op *op);
/* The same, and in the same write the entry's extra data becomes info's. By info's id; the rest of the entry
 * stays. */
void block_snapshot_apply_with(struct block *b, const struct block_snapshot_info *info,
	struct block_snapshot_op *op);
/* Incremental: guest requests go on in between; space is given back, the file's tail cut.
 * A crash leaves it there or leaks. */
void block_snapshot_delete(struct block *b, const char *id, struct block_snapshot_op *op);
/* New name, extra data. By id; the rest of the entry stays. */
void block_snapshot_update(struct block *b, const struct block_snapshot_info *info,
	struct block_snapshot_op *op);
/* Bytes of the clusters that only the snapshot refers to, its L1 left out: what deleting it gives back;
 * 0 when nothing has changed since. Data, VM state and tables. Changes nothing, incremental, not to be
 * had while another operation is at work (-EBUSY), and given up when one begins (-ECANCELED). Not of a
 * disk that is read-only (-EROFS). The guest may write meanwhile: then it is some moment's. ret_bytes: set when op is done without error. */
void block_snapshot_own(struct block *b, const char *id, uint64_t *ret_bytes,
	struct block_snapshot_op *op);
void block_vmstate_read(struct block *b, const char *id, struct block_vmstate_req *r);

/* Where an existing snapshot's state lies in the file, for readers that must not depend on the
 * disk's loop (the pager: the loop itself may wait for memory that it brings). Valid until the
 * snapshot is deleted: its clusters do not change. */
struct block_vmstate_extent {
	uint64_t cluster; /* where it begins; it ends where the next one does */
	uint64_t host;	  /* offset in the file; 0: a hole */
};

struct block_vmstate_map {
	int fd; /* the image's, borrowed */
	uint32_t cluster_bytes;
	uint64_t n; /* clusters of [0, vm_state_bytes) */
	struct block_vmstate_extent *extents; /* of all of it, ascending. Caller frees */
	size_t nextents;
};
/* Offset in the file of a cluster below n, or 0 for a hole; *ret_n: so many from it on lie behind each other, or
 * are holes. */
uint64_t block_vmstate_map_host(const struct block_vmstate_map *m, uint64_t cluster, uint64_t *ret_n);
/* ret: filled in when op is done without error. A compressed cluster: -ENOTSUP. */
void block_vmstate_map(struct block *b, const char *id, struct block_vmstate_map *ret,
	struct block_snapshot_op *op);

#endif
