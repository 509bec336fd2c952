/* Resizes a disk. If the clusters of the L1 are too small, a larger L1 is written and counted, and then named in the
 * header with the old size. The removed or added part is made to read as zeros, and an added part is filled if that is
 * wanted; then one sector of the header gets the new size. Unneeded tables are freed last. */
#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/file.h"
#include "base/util.h"
#include "block/qcow2/bitmap_impl.h"
#include "block/qcow2/snapshot_impl.h"
#include "block/qcow2/sync.h"

#include <stdlib.h>
#include <string.h>

/* Write header_piece to the file, durably. Returns 0 or -errno. */
static int qcow2_header_write(struct qcow2 *q)
{
	int r = pwrite_full(q->base.fd, q->header_piece, q->header_piece_bytes, 0);

	return r < 0 ? r : block_sync(&q->base, q->base.fd);
}

static int size_check(const struct qcow2 *q, uint64_t size, struct err *e)
{
	if (size & 511)
		return err_set(e, -EINVAL, ERR_INVALID, "%s: the size must be a multiple of 512 bytes",
			q->base.name);
	if (size > INT64_MAX ||
		qcow2_l1_entries(size, q->cluster_bits, q->ext) > QCOW2_L1_BYTES_MAX / 8)
		return err_set(e, -EFBIG, ERR_INVALID, "%s: a disk of %llu bytes needs clusters larger "
			"than %u bytes", q->base.name, (unsigned long long)size, q->cluster_bytes);
	if (q->snapshot_busy)
		return err_set(e, -EBUSY, ERR_BUSY, "%s: a snapshot operation is running", q->base.name);
	for (size_t i = 0; i < q->bitmaps.n; i++)
		if (bitmap_is_lost(&q->bitmaps.list[i]))
			return err_set(e, -ENOTSUP, ERR_UNSUPPORTED, "%s: Bitmap '%s' is inconsistent and cannot be used; "
				"remove it with `cairn-img bitmap --remove` first", q->base.name,
				q->bitmaps.list[i].info.name);
	if (q->h.version < 3 && q->h.nb_snapshots)
		return err_set(e, -ENOTSUP, ERR_UNSUPPORTED, "%s has snapshots in the old format (compat "
			"0.10), which does not keep their sizes; use `cairn-img amend -o compat=1.1` first",
			q->base.name);
	return 0;
}

static int zero_range(struct qcow2 *q, uint64_t off, uint64_t end)
{
	struct block_req z = { .op = BLOCK_WRITE_ZEROES, .flags = BLOCK_REQ_MAY_UNMAP | BLOCK_REQ_OWN, .offset = off,
		.len = end - off };

	return end > off ? block_run(&q->base, &z) : 0;
}

/* ---- shrinking ---- */

/* Make the removed part read as zeros, durably, so that it does even if the change of the size then
 * fails. */
static int cut_zero(struct qcow2 *q, uint64_t size)
{
	int r = zero_range(q, size, q->base.info.size_bytes);

	return r < 0 ? r : qcow2_sync_flush(q);
}

/* Free a table that the L1 no longer names, and its clusters. */
static int table_release(struct qcow2 *q, uint64_t table)
{
	struct release l = { .entries = &table, .n = 1 };
	int r;

	(void)meta_add(&q->meta, table >> q->cluster_bits, META_INACTIVE_L2);
	do
		r = QCOW2_SYNC(q, release_step(q, &l, &sync.wait));
	while (r == -EAGAIN);
	return r;
}

/* Their entries have no clusters, except where zeros had to be written: version 2 has no zero flag to hide a backing
 * file. */
int qcow2_tables_cut(struct qcow2 *q, uint64_t size, uint64_t old)
{
	uint64_t end = qcow2_l1_entries(old, q->cluster_bits, q->ext);
	bool written = q->h.version < 3 && q->base.backing;
	int r = 0;

	for (uint64_t i = qcow2_l1_entries(size, q->cluster_bits, q->ext); i < end && !r; i++) {
		uint64_t table = q->disk.l1.entries[i] & QCOW2_OFFSET_MASK;

		if (!table || !(q->disk.l1.entries[i] & QCOW2_COPIED))
			continue;
		table_set(q, &q->disk.l1, (uint32_t)i, 0);
		meta_remove(&q->meta, table >> q->cluster_bits);
		if (written) {
			r = table_release(q, table);
			continue;
		}
		cache_drop(&q->l2, table, q->cluster_bytes);
		cluster_free_later(q, table >> q->cluster_bits, 1);
	}
	return r < 0 ? r : qcow2_sync_flush(q);
}

/* ---- growing ---- */

/* Write a larger L1 to `first`; the header does not name it yet. */
static int l1_write(struct qcow2 *q, uint64_t first, uint32_t clusters)
{
	size_t bytes = (size_t)clusters << q->cluster_bits;
	CLEANUP_FREE uint8_t *buf = io_buffer_new(bytes);
	int r;

	if (!buf)
		return -ENOMEM;
	memset(buf, 0, bytes);
	for (uint32_t i = 0; i < q->disk.l1.n; i++)
		store_be64(buf + i * 8ULL, q->disk.l1.entries[i]);
	r = pwrite_full(q->base.fd, buf, bytes, (off_t)(first << q->cluster_bits));
	return r ? r : qcow2_sync_flush(q);
}

static void header_set(struct qcow2 *q, uint64_t size)
{
	store_be64(q->header_piece + QCOW2_AT_SIZE, size);
	store_be32(q->header_piece + QCOW2_AT_L1_SIZE, q->disk.l1.n);
	store_be64(q->header_piece + QCOW2_AT_L1_OFFSET, q->disk.l1.offset);
	q->h.size_bytes = size;
	q->h.l1_size = q->disk.l1.n;
	q->h.l1_offset = q->disk.l1.offset;
}

/* Make room for cap entries; those behind t->n become 0. */
static int l1_room(struct table *t, uint32_t cap, uint32_t piece_bytes)
{
	uint64_t *entries = reallocarray(t->entries, cap, sizeof(*entries));

	if (!entries)
		return -ENOMEM;
	memset(entries + t->n, 0, (cap - t->n) * sizeof(*entries));
	t->entries = entries;
	t->cap = cap;
	return bitmap_grow(&t->dirty, DIV_ROUND_UP(cap * 8ULL, piece_bytes));
}

/* Switch to a larger L1, written beside the old one: one write of the header sets its offset and length.
 * size: the disk's size for the header. */
static int l1_move(struct qcow2 *q, uint32_t n, uint64_t size)
{
	uint32_t per_cluster = q->cluster_bytes / 8, clusters = DIV_ROUND_UP(n, per_cluster);
	uint32_t old_clusters = DIV_ROUND_UP(q->disk.l1.n, per_cluster);
	uint64_t first, old = q->disk.l1.offset;
	int r = contig_place(q, clusters, &first);

	if (r < 0)
		return r;
	r = l1_write(q, first, clusters);
	if (!r)
		r = l1_room(&q->disk.l1, clusters * per_cluster, q->slice_bytes);
	for (uint32_t i = 0; i < clusters && !r; i++)
		r = meta_add(&q->meta, first + i, META_L1);
	if (r < 0) {
		cluster_free_later(q, first, clusters);
		return r;
	}
	q->disk.l1.offset = first << q->cluster_bits;
	q->disk.l1.n = n;
	header_set(q, size);
	r = qcow2_header_write(q);
	if (r < 0) /* the file may name either of the two */
		return qcow2_corrupt(q, "the header cannot be written: %s", strerror(-r));
	for (uint32_t i = 0; i < old_clusters; i++)
		meta_remove(&q->meta, (old >> q->cluster_bits) + i);
	cluster_free_later(q, old >> q->cluster_bits, old_clusters);
	return 0;
}

/* Extend the L1 within its clusters. The bytes behind its end may hold anything, so write zeros. */
static int l1_extend(struct qcow2 *q, uint32_t n)
{
	for (uint32_t i = q->disk.l1.n; i < n; i++) {
		q->disk.l1.entries[i] = 0;
		bitmap_set(&q->disk.l1.dirty, i * 8ULL / q->slice_bytes);
	}
	q->disk.l1.n = n;
	q->disk.l1.any_dirty = true;
	return qcow2_sync_flush(q);
}

/* Hide old content in the added part: the rest of a longer backing file, or an old VM state. */
static int added_zero(struct qcow2 *q, uint64_t from, uint64_t to)
{
	uint64_t reach = map_table_reach(q), backing = 0, off = from, next;
	int r = 0;

	if (q->base.backing)
		backing = MIN(q->base.backing->info.size_bytes, to);
	for (; off < to && !r; off = next) {
		next = MIN(ROUND_DOWN(off, reach) + reach, to);
		if (off < backing || (q->disk.l1.entries[l1_index(q, off)] & QCOW2_OFFSET_MASK))
			r = zero_range(q, off, next);
	}
	return r ? r : qcow2_sync_flush(q);
}

/* All readers of a raw data file must find the same content, so the added part of such a disk is mapped. */
static int disk_grow(struct qcow2 *q, uint64_t size)
{
	uint32_t want = (uint32_t)qcow2_l1_entries(size, q->cluster_bits, q->ext);
	uint64_t old = q->base.info.size_bytes;
	int r = 0;

	if (want > q->disk.l1.cap || (want && !q->disk.l1.n))
		r = l1_move(q, want, old);
	else if (want > q->disk.l1.n)
		r = l1_extend(q, want);
	if (r < 0)
		return r;
	q->base.info.size_bytes = size;
	if (!q->data.raw)
		r = added_zero(q, old, size);
	else
		r = qcow2_preallocate(&q->base, old, NULL);
	if (r < 0)
		q->base.info.size_bytes = old;
	return r;
}

/* Fill the added part, while the header has the old size. After an error, free that part. */
static int added_fill(struct qcow2 *q, uint64_t old, const struct block_fill *fill, struct err *e)
{
	uint64_t size = q->base.info.size_bytes;
	int r = fill->run(&q->base, old, fill->opaque, e), freed;

	if (!r) {
		r = q->base.ops->flush_all(&q->base);
		if (r < 0)
			(void)err_set_errno(e, r, "%s: cannot change the size", q->base.name);
	}
	if (r >= 0)
		return 0;
	freed = zero_range(q, old, size);
	q->base.info.size_bytes = old;
	if (!freed)
		freed = qcow2_tables_cut(q, old, size);
	if (!freed)
		(void)data_truncate(q, old);
	return r;
}

int qcow2_resize(struct block *b, uint64_t size, const struct block_fill *fill, struct err *e)
{
	struct qcow2 *q = qcow2_of(b);
	uint64_t old = b->info.size_bytes;
	int r = size_check(q, size, e);

	if (r < 0)
		return r;
	r = b->ops->flush_all(b);
	if (!r)
		r = qcow2_sync_gate(q);
	if (!r) {
		r = bitmaps_resize_begin(q, size, e);
		if (r < 0)
			return r;
	}
	/* A longer data file's content behind the old end must not become readable, so cut it off first. But a raw data
	 * file's content is the disk's, also there. */
	if (!r && size > old && !q->data.raw)
		r = data_truncate(q, old);
	if (!r && size > old)
		r = data_extend(q, size);
	if (!r)
		r = size < old ? cut_zero(q, size) : disk_grow(q, size);
	if (r == -EFBIG)
		return err_set(e, r, ERR_UNSUPPORTED, "%s: a table for that size does not fit beside "
			"clusters of %u bytes; convert the image into one with larger clusters", b->name,
			q->cluster_bytes);
	if (!r && fill) {
		r = added_fill(q, old, fill, e);
		if (r < 0)
			return r;
	}
	if (!r) {
		header_set(q, size);
		b->info.size_bytes = size;
		r = qcow2_header_write(q);
		bitmaps_resized(q);
	}
	if (!r && size < old)
		r = qcow2_tables_cut(q, size, old);
	if (!r && size < old)
		r = data_truncate(q, size);
	return r < 0 ? err_set_errno(e, r, "%s: cannot change the size", b->name) : 0;
}
