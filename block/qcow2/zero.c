/* Discard and write-zeroes. For whole clusters, only their map entries change, except with a raw data file, and for
 * zeros in an image of version 2 before the end of its backing file. Freed clusters lose their reference after the next
 * commit. */
#include "base/util.h"
#include "block/qcow2/impl.h"

#include <errno.h>
#include <stdlib.h>

#define ZERO_BITMAP 0xffffffff00000000ULL
/* Step in bytes for zeros that are written as data. */
#define ZERO_STEP_BYTES (1 * MIB)

/* A part of a request that is written as zeros. */
struct zero_part {
	struct qcow2_req *req;
	struct block_req sub;
	struct iovec iov[ZERO_STEP_BYTES / IO_ZEROS_BYTES + 1];
};

/* Returns the memory that a part needs. It includes an internal write, which may copy both ends of a cluster. */
static uint64_t zero_part_bytes(const struct qcow2 *q)
{
	return sizeof(struct zero_part) + 2ULL * q->cluster_bytes;
}

static void zero_part_done(struct block_req *r, int res)
{
	struct zero_part *z = container_of(r, struct zero_part, sub);
	struct qcow2_req *req = z->req;
	struct qcow2 *q = req->q;

	free(z);
	qcow2_req_part_done(req, res);
	parts_give(q, zero_part_bytes(q));
}

static int write_zeros(struct qcow2_req *req, uint64_t off, uint64_t len)
{
	struct zero_part *z = malloc(sizeof(*z));
	unsigned n = 0;
	int r;

	if (!z)
		return -ENOMEM;
	for (uint64_t left = len; left; n++) {
		uint64_t take = MIN(left, (uint64_t)IO_ZEROS_BYTES);

		z->iov[n] = (struct iovec){ (void *)(uintptr_t)io_zeros, take };
		left -= take;
	}
	z->req = req;
	z->sub = (struct block_req){ .op = BLOCK_WRITE, .offset = off, .len = len, .iov = z->iov,
		.niov = n, .done = zero_part_done };
	req->pending++;
	req->pos += len;
	r = qcow2_req_start(req->q, req->map, &z->sub);
	if (r < 0) {
		free(z);
		req->pending--;
		return r;
	}
	parts_take(req->q, zero_part_bytes(req->q));
	return 0;
}

/* Handle a part of a cluster, or a range that no map entry can zero: ignore a discard; else skip bytes that already
 * read as zeros, and write zeros to the others. */
static int step_write_zeros(struct qcow2_req *req, uint64_t off, uint64_t len)
{
	struct extent x;
	int r;

	if (req->block_req->op == BLOCK_DISCARD) {
		req->pos += len;
		return 0;
	}
	r = map_lookup(req->q, req->map, off, len, &req->wait, &x);
	if (r < 0)
		return r;
	if (x.kind == EXTENT_ZERO || (x.kind == EXTENT_UNALLOCATED && backing_is_zero(req->q, req->map, off))) {
		req->pos += x.len;
		return 0;
	}
	return write_zeros(req, off, MIN(x.len, ZERO_STEP_BYTES));
}

/* Returns true if an unallocated cluster does not read as zeros, or will not when a backing file is set or grows.
 * Version 2 has no entries for that. */
static bool zeros_need_entry(const struct qcow2_req *req)
{
	const struct qcow2 *q = req->q;

	return q->h.version >= 3 && (q->base.backing || (req->block_req->flags & BLOCK_REQ_MAP_ZEROES));
}

/* Returns the entry's new value; if it is unchanged, there is nothing to do. */
static struct l2_entry zero_done(const struct qcow2_req *req, struct l2_entry v)
{
	const struct qcow2 *q = req->q;
	bool discard = req->block_req->op == BLOCK_DISCARD, backed = zeros_need_entry(req);
	bool keep = !discard && !(req->block_req->flags & BLOCK_REQ_MAY_UNMAP) && q->h.version >= 3;
	bool used = (v.e & QCOW2_COMPRESSED) || l2_has_host(q, v);
	struct l2_entry none = { 0, 0 }, zero = { q->ext ? 0 : QCOW2_ZERO, q->ext ? ZERO_BITMAP : 0 };

	if (!used && (discard || !backed))
		return v; /* nothing to free: the cluster reads as zeros, or a discard may leave its content */
	if (used && keep && !(v.e & QCOW2_COMPRESSED) && (v.e & QCOW2_COPIED)) {
		zero.e |= v.e & (QCOW2_OFFSET_MASK | QCOW2_COPIED);
		return zero;
	}
	return backed ? zero : none;
}

/* Change the entries of the whole clusters in [off, end). ret_freed: set to true if a cluster is no longer named. */
static int zero_slice(struct qcow2_req *req, struct slice *s, uint64_t off, uint64_t end, bool *ret_freed)
{
	struct qcow2 *q = req->q;

	for (; off < end; off += q->cluster_bytes) {
		struct l2_entry old = l2_get(q, s, off), v;

		if (l2_check_at(q, old, off) < 0)
			return qcow2_corrupt(q, "the L2 entry of offset 0x%llx is invalid "
				"(0x%016llx)", (unsigned long long)off, (unsigned long long)old.e);
		v = zero_done(req, old);
		if (v.e == old.e && v.bitmap == old.bitmap)
			continue;
		l2_put(q, s, off, v);
		*ret_freed |= l2_has_host(q, old) && !l2_has_host(q, v);
		if ((old.e & QCOW2_COMPRESSED) ||
			((old.e ^ v.e) & QCOW2_OFFSET_MASK)) /* otherwise the entry keeps its cluster */
			l2_release(q, old);
	}
	return 0;
}

/* Handle whole clusters from off on, within one slice. */
static int step_clusters(struct qcow2_req *req, uint64_t off, uint64_t end)
{
	struct qcow2 *q = req->q;
	uint64_t reach = (uint64_t)q->slice_entries << q->cluster_bits, table = map_table_reach(q);
	struct slice *s;
	bool freed = false;
	int r;

	if (!(q->disk.l1.entries[l1_index(q, off)] & QCOW2_OFFSET_MASK) &&
		(!zeros_need_entry(req) || req->block_req->op == BLOCK_DISCARD)) {
		req->pos += MIN(end, ROUND_DOWN(off, table) + table) - off;
		return 0;
	}
	end = MIN(end, ROUND_DOWN(off, reach) + reach);
	if (l2meta_wait(req->map, off >> q->cluster_bits, (end - 1) >> q->cluster_bits, &req->wait) ||
		commit_throttle(q, &req->wait))
		return -EINPROGRESS;
	r = map_get_writable(q, req->map, off, &req->wait, &s);
	if (r < 0)
		return r;
	r = zero_slice(req, s, off, end, &freed);
	slice_unpin(s);
	if (!r && freed && q->external)
		r = data_punch(req, off, end - off);
	req->pos += MIN(end, req->block_req->offset + req->block_req->len) - off;
	return r;
}

int qcow2_req_step_zero(struct qcow2_req *req)
{
	struct qcow2 *q = req->q;
	uint64_t off = req->block_req->offset + req->pos, end = req->block_req->offset + req->block_req->len;
	uint64_t cluster = q->cluster_bytes, whole_end = ROUND_DOWN(end, cluster);
	/* Before this offset, an image of version 2 can hide its backing file by data only. */
	uint64_t backed = q->h.version < 3 && q->base.backing ? ROUND_UP(q->base.backing->info.size_bytes, cluster) : 0;
	int r;

	if (q->data.raw) {
		r = data_zero_step(req);
		return r == -EOPNOTSUPP ? step_write_zeros(req, off, end - off) : r;
	}
	if (end == q->base.info.size_bytes)
		whole_end = ROUND_UP(end, cluster); /* the disk ends inside this cluster, so handle the whole cluster */
	if (off < backed)
		return step_write_zeros(req, off, MIN(end, backed) - off);
	if ((off & (cluster - 1)) || off >= whole_end)
		return step_write_zeros(req, off, MIN(end, ROUND_DOWN(off, cluster) + cluster) - off);
	return step_clusters(req, off, whole_end);
}
