/* Stores the persistent bitmaps. Order, each group durable before the next:
 *    1 bits, tables and the directory to free clusters, and their refcounts
 *    2 the header names the new directory (bitmap_header.c); IN_USE is clear there
 *    3 the old directory, tables and bits are freed
 * A power cut before 2 leaves the old bitmaps, after 2 the new ones; clusters leak at most. */
#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/file.h"
#include "base/util.h"
#include "block/qcow2/bitmap_impl.h"
#include "block/qcow2/snapshot_impl.h"
#include "block/qcow2/sync.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static void clusters_free(struct qcow2 *q, uint64_t off, uint64_t bytes)
{
	struct contig c = { .first = off >> q->cluster_bits, .n = (uint32_t)DIV_ROUND_UP(bytes, (uint64_t)q->cluster_bytes) };

	if (!off || !bytes)
		return;
	(void)contig_meta(q, &c, META_NONE);
	contig_release(q, &c);
}

/* Free the clusters and the table in memory. */
static void place_free(struct qcow2 *q, struct bitmap_place *p)
{
	for (uint32_t i = 0; p->table && i < p->entries; i++)
		clusters_free(q, p->table[i] & QCOW2_OFFSET_MASK, q->cluster_bytes);
	clusters_free(q, p->offset, p->entries * 8ULL);
	free(p->table);
	*p = (struct bitmap_place){ 0 };
}

/* Write `bytes` of buf, rounded up to whole clusters, to new adjacent clusters. */
static int clusters_write(struct qcow2 *q, const void *buf, uint64_t bytes, uint64_t *ret_off)
{
	uint32_t n = (uint32_t)DIV_ROUND_UP(bytes, (uint64_t)q->cluster_bytes);
	struct contig c = { .n = n };
	int r = contig_place(q, n, &c.first);

	if (r < 0)
		return r;
	r = contig_meta(q, &c, META_BITMAP);
	if (!r)
		r = pwrite_full(q->base.fd, buf, (size_t)n << q->cluster_bits, (off_t)(c.first << q->cluster_bits));
	if (r < 0)
		clusters_free(q, c.first << q->cluster_bits, bytes);
	else
		*ret_off = c.first << q->cluster_bits;
	return r;
}

static int bits_write(struct qcow2 *q, const struct bitmap *bits, struct bitmap_place *p)
{
	size_t bytes = DIV_ROUND_UP(bits->nbits, 64u) * 8;
	CLEANUP_FREE uint8_t *buf = io_buffer_new(q->cluster_bytes);
	int r = buf ? 0 : -ENOMEM;

	for (uint32_t i = 0; i < p->entries && !r; i++) {
		size_t from = (size_t)i << q->cluster_bits, n = MIN(bytes - from, q->cluster_bytes);

		memcpy(buf, (const uint8_t *)bits->words + from, n);
		memset(buf + n, 0, q->cluster_bytes - n);
		if (!bytes_are_zero(buf, n))
			r = clusters_write(q, buf, q->cluster_bytes, &p->table[i]);
	}
	return r;
}

static int table_write(struct qcow2 *q, struct bitmap_place *p)
{
	size_t padded = ROUND_UP(p->entries * 8ULL, q->cluster_bytes);
	CLEANUP_FREE uint8_t *buf = io_buffer_new(padded);

	if (!buf)
		return -ENOMEM;
	memset(buf, 0, padded);
	for (uint32_t i = 0; i < p->entries; i++)
		store_be64(buf + i * 8ULL, p->table[i]);
	return clusters_write(q, buf, p->entries * 8ULL, &p->offset);
}

static int bitmap_write(struct qcow2 *q, const struct dirty_bitmap *b, struct bitmap_place *p)
{
	int r;

	if (!b->changed || bitmap_is_lost(b))
		return 0;
	p->entries = (uint32_t)qcow2_bitmap_table_entries(q->base.info.size_bytes, b->info.granularity_bits, q->cluster_bits);
	p->table = calloc(MAX(p->entries, 1u), sizeof(*p->table));
	if (!p->table)
		return -ENOMEM;
	r = bits_write(q, &b->bits, p);
	return r ? r : table_write(q, p);
}

static uint64_t directory_bytes(const struct qcow2 *q)
{
	uint64_t n = 0;

	for (size_t i = 0; i < q->bitmaps.n; i++)
		n += qcow2_bitmap_entry_bytes(strlen(q->bitmaps.list[i].info.name));
	return n;
}

static void entry_put(struct cursor *c, const struct qcow2_bitmap_info *b, const struct bitmap_place *p)
{
	size_t name = strlen(b->name);

	cursor_put_be64(c, p->table ? p->offset : b->table_offset);
	cursor_put_be32(c, p->table ? p->entries : b->table_entries);
	cursor_put_be32(c, b->flags);
	cursor_put_u8(c, QCOW2_BITMAP_TYPE_DIRTY);
	cursor_put_u8(c, (uint8_t)b->granularity_bits);
	cursor_put_be16(c, (uint16_t)name);
	cursor_put_be32(c, 0);
	cursor_put_padded(c, b->name, name);
}

static int directory_write(struct qcow2 *q, const struct bitmap_place *places, uint64_t bytes, uint64_t *ret_off)
{
	size_t padded = ROUND_UP(bytes, q->cluster_bytes);
	CLEANUP_FREE uint8_t *buf = io_buffer_new(padded);
	struct cursor c;

	if (!bytes)
		return 0;
	if (!buf)
		return -ENOMEM;
	memset(buf, 0, padded);
	c = cursor_over(buf, bytes);
	for (size_t i = 0; i < q->bitmaps.n; i++)
		entry_put(&c, &q->bitmaps.list[i].info, &places[i]);
	return clusters_write(q, buf, bytes, ret_off);
}

/* Write everything that the new directory names, durably. */
static int all_write(struct qcow2 *q, struct bitmap_place *places, uint64_t bytes, uint64_t *ret_off)
{
	int r = 0;

	for (size_t i = 0; i < q->bitmaps.n && !r; i++)
		r = bitmap_write(q, &q->bitmaps.list[i], &places[i]);
	if (!r)
		r = directory_write(q, places, bytes, ret_off);
	if (!r)
		r = qcow2_sync_flush(q);
	return r ? r : block_sync(&q->base, q->base.fd);
}

/* The header names the new directory: free the old one, and the old places of the bitmaps. */
static void all_adopt(struct qcow2 *q, struct bitmap_place *places)
{
	struct qcow2_bitmaps *m = &q->bitmaps;

	for (size_t i = 0; i < m->n; i++) {
		struct dirty_bitmap *b = &m->list[i];
		struct bitmap_place old = { b->table, b->info.table_offset, b->info.table_entries };

		b->marked = false;
		if (bitmap_records(b))
			q->gate_shut = true;
		if (!places[i].table)
			continue;
		place_free(q, &old);
		b->table = STEAL_PTR(places[i].table);
		b->info.table_offset = places[i].offset;
		b->info.table_entries = places[i].entries;
		b->changed = false;
	}
	for (size_t i = 0; i < m->nremoved; i++)
		place_free(q, &m->removed[i]);
	m->nremoved = 0;
	m->changed = false;
}

static bool anything_to_store(const struct qcow2 *q)
{
	bool any = q->bitmaps.changed;

	for (size_t i = 0; i < q->bitmaps.n; i++)
		any |= q->bitmaps.list[i].changed || q->bitmaps.list[i].marked;
	return any;
}

int bitmaps_store(struct qcow2 *q, struct err *e)
{
	uint64_t bytes = directory_bytes(q), offset = 0, old = qcow2_bitmaps_valid(&q->h) ? q->h.bitmaps_offset : 0;
	uint64_t old_bytes = q->h.bitmaps_bytes;
	struct bitmap_place *places;
	bool written;
	int r;

	if (!anything_to_store(q))
		return 0;
	places = calloc(q->bitmaps.n + 1, sizeof(*places));
	r = places ? all_write(q, places, bytes, &offset) : -ENOMEM;
	written = !r;
	if (!r)
		r = bitmap_header_put(q, (uint32_t)q->bitmaps.n, bytes, offset);
	if (!r) {
		clusters_free(q, old, old_bytes);
		all_adopt(q, places);
	}
	/* If the write of the header failed, the file may name the new directory, so its clusters leak. */
	if (r < 0 && (!written || r == -EMSGSIZE)) {
		for (size_t i = 0; places && i < q->bitmaps.n; i++)
			place_free(q, &places[i]);
		clusters_free(q, offset, bytes);
	}
	for (size_t i = 0; places && i < q->bitmaps.n; i++)
		free(places[i].table);
	free(places);
	return !r ? 0 : r == -EMSGSIZE
		? err_set(e, r, ERR_NO_SPACE, "%s: the first cluster of %u bytes has no room for bitmaps", q->base.name,
			q->cluster_bytes)
		: err_set_errno(e, r, "%s: cannot store the bitmaps", q->base.name);
}
