/* Persistent bitmaps of an open image: loads them and records changes of the disk. */
#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/file.h"
#include "base/util.h"
#include "block/qcow2/bitmap_impl.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CORRUPT(e, ...) err_set(e, -EINVAL, ERR_CORRUPT, __VA_ARGS__)

/* ---- tables and bits in the file ---- */

/* Read a bitmap's table. Returns 0; -EINVAL for an invalid entry; -errno. ret_table: the caller frees it. */
static int table_read(int fd, const struct qcow2_header *h, const struct qcow2_bitmap_info *b, uint64_t **ret_table,
	struct err *e)
{
	uint64_t bytes = b->table_entries * 8ULL, mask = (1ULL << h->cluster_bits) - 1;
	size_t padded = ROUND_UP(bytes, 4096);
	CLEANUP_FREE uint64_t *t = NULL;
	off_t end = lseek(fd, 0, SEEK_END);
	uint64_t limit = ROUND_UP((uint64_t)MAX(end, 0), mask + 1);
	int r;

	if (end < 0)
		return err_set_errno(e, -errno, "cannot find the image's end");
	if (!range_inside(b->table_offset, bytes, limit))
		return CORRUPT(e, "the table of bitmap '%s' lies past the end of the file", b->name);
	t = io_buffer_new(padded);
	r = t ? qcow2_pread(fd, t, padded, b->table_offset) : -ENOMEM;
	if (r < 0)
		return err_set_errno(e, r, "cannot read the table of bitmap '%s'", b->name);
	for (uint32_t i = 0; i < b->table_entries; i++) {
		uint64_t v = t[i] = be64toh(t[i]), off = v & QCOW2_OFFSET_MASK;

		if (!qcow2_bitmap_entry_valid(v, mask + 1) || (off && !range_inside(off, mask + 1, limit)))
			return CORRUPT(e, "entry %u of the table of bitmap '%s' is invalid (0x%016llx)", i, b->name,
				(unsigned long long)v);
	}
	*ret_table = STEAL_PTR(t);
	return 0;
}

/* Read the bits that the table names. The bytes in the file are the words in memory, because both are little-endian. */
static int bits_read(int fd, uint32_t cluster_bits, const uint64_t *table, uint32_t entries, struct bitmap *bits)
{
	size_t cluster = 1ULL << cluster_bits, bytes = DIV_ROUND_UP(bits->nbits, 64u) * 8;
	CLEANUP_FREE uint8_t *buf = io_buffer_new(ROUND_UP(cluster, 4096));
	int r = buf ? 0 : -ENOMEM;

	for (uint32_t i = 0; i < entries && !r; i++) {
		size_t from = i * cluster, n = MIN(cluster, bytes - MIN(from, bytes));
		uint8_t *to = (uint8_t *)bits->words + from;

		if (table[i] & QCOW2_OFFSET_MASK) {
			r = qcow2_pread(fd, buf, cluster, table[i] & QCOW2_OFFSET_MASK);
			if (!r)
				memcpy(to, buf, n);
		} else if (table[i] & QCOW2_BITMAP_ALL_ONES) {
			memset(to, 0xff, n);
		}
	}
	if (bits->nbits % 64)
		bits->words[bits->nbits / 64] &= (1ULL << bits->nbits % 64) - 1;
	return r;
}

int qcow2_bitmap_read(int fd, const struct qcow2_header *h, const struct qcow2_bitmap_info *b, struct bitmap *ret_bits,
	struct err *e)
{
	CLEANUP_FREE uint64_t *table = NULL;
	int r = b->flags & QCOW2_BITMAP_IN_USE
		? CORRUPT(e, "bitmap '%s' is in use: its content is unknown", b->name) : table_read(fd, h, b, &table, e);

	if (r < 0)
		return r;
	r = bitmap_init(ret_bits, qcow2_bitmap_bits(ROUND_DOWN(h->size_bytes, 512), b->granularity_bits));
	if (!r)
		r = bits_read(fd, h->cluster_bits, table, b->table_entries, ret_bits);
	if (r < 0) {
		bitmap_done(ret_bits);
		return err_set_errno(e, r, "cannot read bitmap '%s'", b->name);
	}
	return 0;
}

/* ---- loading ---- */

bool bitmap_records(const struct dirty_bitmap *b)
{
	return (b->info.flags & QCOW2_BITMAP_AUTO) && !bitmap_is_lost(b);
}

/* Check that the limit allows all bits of a disk of so many bytes: of the bitmaps that record, of those that are
 * loaded, and of `more` (NULL: none). The next open loads no others, so it does not refuse the stored ones. */
static int bits_check(const struct qcow2 *q, uint64_t disk_bytes, const struct dirty_bitmap *more, struct err *e)
{
	uint64_t memory = more ? qcow2_bitmap_bits(disk_bytes, more->info.granularity_bits) / 8 : 0;

	for (size_t i = 0; i < q->bitmaps.n; i++) {
		const struct dirty_bitmap *b = &q->bitmaps.list[i];

		if (b != more && (bitmap_records(b) || b->bits.words))
			memory += qcow2_bitmap_bits(disk_bytes, b->info.granularity_bits) / 8;
	}
	return memory <= QCOW2_BITMAP_BITS_MEMORY_MAX ? 0 : err_set(e, -ENOTSUP, ERR_UNSUPPORTED,
		"%s: the bitmaps need more than %llu MiB of memory; remove some with `cairn-img bitmap --remove`",
		q->base.name, QCOW2_BITMAP_BITS_MEMORY_MAX / MIB);
}

int bitmap_load_bits(struct qcow2 *q, struct dirty_bitmap *b, struct err *e)
{
	int r;

	if (b->bits.words)
		return 0;
	r = bits_check(q, q->base.info.size_bytes, b, e);
	if (r < 0)
		return r;
	r = bitmap_init(&b->bits, qcow2_bitmap_bits(q->base.info.size_bytes, b->info.granularity_bits));
	if (!r && b->table)
		r = bits_read(q->base.fd, q->cluster_bits, b->table, b->info.table_entries, &b->bits);
	if (r < 0) {
		bitmap_done(&b->bits);
		return err_set_errno(e, r, "%s: cannot read bitmap '%s'", q->base.name, b->info.name);
	}
	return 0;
}

static int clusters_mark(struct qcow2 *q, uint64_t off, uint64_t len)
{
	int r = 0;

	for (uint64_t c = off >> q->cluster_bits; len && c <= (off + len - 1) >> q->cluster_bits && !r; c++)
		r = meta_add(&q->meta, c, META_BITMAP);
	return r;
}

static int bitmap_load(struct qcow2 *q, struct dirty_bitmap *b, struct err *e)
{
	int r = table_read(q->base.fd, &q->h, &b->info, &b->table, e);

	if (r < 0)
		return r;
	r = clusters_mark(q, b->info.table_offset, b->info.table_entries * 8ULL);
	for (uint32_t i = 0; i < b->info.table_entries && !r; i++)
		if (b->table[i] & QCOW2_OFFSET_MASK)
			r = clusters_mark(q, b->table[i] & QCOW2_OFFSET_MASK, q->cluster_bytes);
	if (r < 0)
		return err_set_errno(e, r, "bitmaps");
	return bitmap_records(b) && !q->bitmaps.lazy ? bitmap_load_bits(q, b, e) : 0;
}

static int list_load(struct qcow2 *q, struct qcow2_bitmap_info *list, size_t n, struct err *e)
{
	uint64_t tables = 0;
	int r = 0;

	for (size_t i = 0; i < n; i++)
		tables += list[i].table_entries * 8ULL;
	if (!budget_take(&q->memory, tables))
		return -EDQUOT;
	q->bitmaps.list = calloc(n, sizeof(*q->bitmaps.list));
	if (!q->bitmaps.list)
		return err_set_errno(e, -ENOMEM, "bitmaps");
	q->bitmaps.n = n;
	for (size_t i = 0; i < n; i++) {
		q->bitmaps.list[i].info = list[i];
		list[i].name = NULL;
	}
	r = clusters_mark(q, q->h.bitmaps_offset, q->h.bitmaps_bytes);
	if (r < 0)
		return err_set_errno(e, r, "bitmaps");
	for (size_t i = 0; i < n && !r; i++)
		r = bitmap_load(q, &q->bitmaps.list[i], e);
	return r;
}

int bitmaps_load(struct qcow2 *q, struct err *e)
{
	struct qcow2_bitmap_info *list = NULL;
	size_t n = 0;
	struct err why;
	int r = qcow2_bitmaps_read(q->base.fd, &q->h, &list, &n, &why);

	if (!r && n)
		r = list_load(q, list, n, &why);
	qcow2_bitmaps_free(list, n);
	if (r == -EDQUOT)
		return qcow2_memory_exceeded(q, e);
	if (r == -EINVAL)
		return err_set(e, -EUCLEAN, ERR_CORRUPT, "%s: the persistent bitmaps are damaged (%s); remove them with "
			"`cairn-img check -r all`, or open the image read-only", q->base.name, why.msg);
	if (r < 0 && e) {
		*e = why;
		err_prefix(e, "%s", q->base.name);
	}
	return r;
}

void bitmaps_done(struct qcow2 *q)
{
	for (size_t i = 0; i < q->bitmaps.n; i++) {
		free(q->bitmaps.list[i].info.name);
		free(q->bitmaps.list[i].table);
		bitmap_done(&q->bitmaps.list[i].bits);
	}
	for (size_t i = 0; i < q->bitmaps.nremoved; i++)
		free(q->bitmaps.removed[i].table);
	free(q->bitmaps.removed);
	free(q->bitmaps.list);
}

/* ---- recording ---- */

/* Set IN_USE of one entry in the directory as the file has it. */
static void entry_mark(uint8_t *entry)
{
	store_be32(entry + QCOW2_BITMAP_AT_FLAGS, load_be32(entry + QCOW2_BITMAP_AT_FLAGS) | QCOW2_BITMAP_IN_USE);
}

int bitmaps_mark(struct qcow2 *q, bool all)
{
	uint64_t padded = ROUND_UP(q->h.bitmaps_bytes, q->slice_bytes), at = 0;
	CLEANUP_FREE uint8_t *dir = NULL;
	int r = 0, marks = 0;
	struct err e;

	for (size_t i = 0; i < q->bitmaps.n && !r; i++) {
		struct dirty_bitmap *b = &q->bitmaps.list[i];

		if (bitmap_records(b)) /* a lazy open has not loaded its bits */
			r = bitmap_load_bits(q, b, &e);
		marks += !b->marked && !bitmap_is_lost(b) && (all || bitmap_records(b));
	}
	if (r < 0 || !marks)
		return r;
	if (q->bitmaps.changed) /* the entries in the file are others: the caller has to store the bitmaps first */
		return -EBUSY;
	for (uint64_t c = 0; c < padded; c += q->cluster_bytes)
		if (meta_find(&q->meta, (q->h.bitmaps_offset + c) >> q->cluster_bits) != META_BITMAP)
			return qcow2_corrupt(q, "the bitmap directory overlaps other metadata");
	dir = io_buffer_new(ROUND_UP(padded, 4096));
	r = dir ? qcow2_pread(q->base.fd, dir, ROUND_UP(padded, 4096), q->h.bitmaps_offset) : -ENOMEM;
	if (r < 0)
		return r;
	for (size_t i = 0; i < q->bitmaps.n; i++) {
		struct dirty_bitmap *b = &q->bitmaps.list[i];

		if (all || bitmap_records(b)) {
			b->marked = true;
			entry_mark(dir + at);
		}
		at += qcow2_bitmap_entry_bytes(strlen(b->info.name));
	}
	r = pwrite_full(q->base.fd, dir, padded, (off_t)q->h.bitmaps_offset);
	return r < 0 ? r : block_sync(&q->base, q->base.fd);
}

void bitmaps_record(struct qcow2 *q, uint64_t off, uint64_t len)
{
	for (size_t i = 0; i < q->bitmaps.n; i++) {
		struct dirty_bitmap *b = &q->bitmaps.list[i];
		uint32_t g = b->info.granularity_bits;
		uint64_t first = off >> g, end = MIN(DIV_ROUND_UP(off + len, 1ULL << g), b->bits.nbits);

		if (!bitmap_records(b) || first >= end)
			continue;
		bitmap_set_range(&b->bits, first, end - first);
		b->changed = true;
	}
}

int bitmaps_resize_begin(struct qcow2 *q, uint64_t size, struct err *e)
{
	int r = 0;

	for (size_t i = 0; i < q->bitmaps.n && !r; i++) {
		struct dirty_bitmap *b = &q->bitmaps.list[i];

		if (bitmap_is_lost(b))
			continue;
		if (qcow2_bitmap_table_entries(size, b->info.granularity_bits, q->cluster_bits) >
			QCOW2_BITMAP_BYTES_MAX >> q->cluster_bits)
			r = err_set(e, -EFBIG, ERR_INVALID, "%s: bitmap '%s' would have more than %u MiB; remove it with "
				"`cairn-img bitmap --remove` first", q->base.name, b->info.name,
				QCOW2_BITMAP_BYTES_MAX >> 20);
		else
			r = bitmap_load_bits(q, b, e);
	}
	if (!r)
		r = bits_check(q, size, NULL, e);
	if (r < 0)
		return r;
	r = bitmaps_mark(q, true);
	return r < 0 ? err_set_errno(e, r, "%s: cannot mark the bitmaps as in use", q->base.name) : 0;
}

void bitmaps_resized(struct qcow2 *q)
{
	for (size_t i = 0; i < q->bitmaps.n; i++) {
		struct dirty_bitmap *b = &q->bitmaps.list[i];
		size_t n = qcow2_bitmap_bits(q->base.info.size_bytes, b->info.granularity_bits);

		if (!b->bits.words || n == b->bits.nbits)
			continue;
		if (bitmap_resize(&b->bits, n) < 0) {
			/* Its bits are lost, and the file says so. */
			b->info.flags |= QCOW2_BITMAP_IN_USE;
			bitmap_done(&b->bits);
		}
		b->changed = true;
	}
}
