/* Reads and checks the directory of persistent bitmaps. */
#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/util.h"
#include "block/qcow2/bitmap.h"
#include "block/qcow2/impl.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CORRUPT(e, ...) err_set(e, -EINVAL, ERR_CORRUPT, __VA_ARGS__)

bool qcow2_bitmaps_valid(const struct qcow2_header *h)
{
	return h->version >= 3 && h->has_bitmaps && (h->autoclear & QCOW2_AUTOCLEAR_BITMAPS);
}

uint64_t qcow2_bitmap_bits(uint64_t disk_bytes, uint32_t granularity_bits)
{
	return DIV_ROUND_UP(disk_bytes, 1ULL << granularity_bits);
}

uint64_t qcow2_bitmap_table_entries(uint64_t disk_bytes, uint32_t granularity_bits, uint32_t cluster_bits)
{
	uint64_t words = DIV_ROUND_UP(qcow2_bitmap_bits(disk_bytes, granularity_bits), 64u);

	return DIV_ROUND_UP(words * 8, 1ULL << cluster_bits);
}

bool qcow2_bitmap_entry_valid(uint64_t entry, uint64_t cluster_bytes)
{
	uint64_t off = entry & QCOW2_OFFSET_MASK;

	return !(entry & QCOW2_BITMAP_TABLE_RESERVED) && !(off & (cluster_bytes - 1)) &&
	       !(off && (entry & QCOW2_BITMAP_ALL_ONES));
}

uint64_t qcow2_bitmap_entry_bytes(size_t name_len)
{
	return ROUND_UP(QCOW2_BITMAP_ENTRY_BYTES + (uint64_t)name_len, 8);
}

void qcow2_bitmaps_free(struct qcow2_bitmap_info *list, size_t n)
{
	for (size_t i = 0; list && i < n; i++)
		free(list[i].name);
	free(list);
}

/* Check the fields of a directory entry, but for its name's bytes. */
static int entry_check(const struct qcow2_header *h, const struct qcow2_bitmap_info *b, uint32_t type, uint32_t name_len,
	uint32_t extra, struct err *e)
{
	uint64_t disk = ROUND_DOWN(h->size_bytes, 512);

	if (extra || type != QCOW2_BITMAP_TYPE_DIRTY || (b->flags & ~QCOW2_BITMAP_FLAGS_KNOWN))
		return CORRUPT(e, "a bitmap has extra data, or a type (%u) or flags (0x%x) that this version does not know",
			type, b->flags);
	if (!name_len || name_len > QCOW2_BITMAP_NAME_MAX)
		return CORRUPT(e, "a bitmap's name has %u bytes; 1 to %u are possible", name_len, QCOW2_BITMAP_NAME_MAX);
	if (b->granularity_bits < QCOW2_BITMAP_GRANULARITY_BITS_MIN ||
		b->granularity_bits > QCOW2_BITMAP_GRANULARITY_BITS_MAX)
		return CORRUPT(e, "a bitmap's granularity is 2^%u bytes; 2^%u to 2^%u are possible", b->granularity_bits,
			QCOW2_BITMAP_GRANULARITY_BITS_MIN, QCOW2_BITMAP_GRANULARITY_BITS_MAX);
	if (!b->table_offset || (b->table_offset & ((1ULL << h->cluster_bits) - 1)) || !b->table_entries ||
		b->table_entries > QCOW2_BITMAP_BYTES_MAX >> h->cluster_bits ||
		!range_inside(b->table_offset, b->table_entries * 8ULL, QCOW2_OFFSET_END))
		return CORRUPT(e, "a bitmap's table of %u entries at 0x%llx is misplaced or too large", b->table_entries,
			(unsigned long long)b->table_offset);
	/* A program that resized the disk may have left the old table in a bitmap that is in use. */
	if (!(b->flags & QCOW2_BITMAP_IN_USE) &&
		b->table_entries != qcow2_bitmap_table_entries(disk, b->granularity_bits, h->cluster_bits))
		return CORRUPT(e, "a bitmap's table has %u entries, which does not suit the size of the disk",
			b->table_entries);
	return 0;
}

static int entry_parse(struct cursor *c, const struct qcow2_header *h, struct qcow2_bitmap_info *b, struct err *e)
{
	uint32_t type, name_len, extra;
	const char *name;
	int r;

	b->table_offset = cursor_be64(c);
	b->table_entries = cursor_be32(c);
	b->flags = cursor_be32(c);
	type = cursor_u8(c);
	b->granularity_bits = cursor_u8(c);
	name_len = cursor_be16(c);
	extra = cursor_be32(c);
	if (!cursor_ok(c))
		return CORRUPT(e, "the bitmap directory ends inside an entry");
	r = entry_check(h, b, type, name_len, extra, e);
	if (r < 0)
		return r;
	name = cursor_take(c, name_len);
	cursor_skip(c, ROUND_UP(name_len, 8u) - name_len);
	if (!cursor_ok(c))
		return CORRUPT(e, "the bitmap directory ends inside an entry");
	if (memchr(name, 0, name_len))
		return CORRUPT(e, "a bitmap's name has a NUL in it");
	b->name = strndup(name, name_len);
	return b->name ? 0 : err_set_errno(e, -ENOMEM, "bitmaps");
}

static int name_compare(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Check that no two bitmaps have the same name. */
static int names_check(const struct qcow2_bitmap_info *list, size_t n, struct err *e)
{
	CLEANUP_FREE char **names = calloc(n, sizeof(*names));

	if (!names)
		return err_set_errno(e, -ENOMEM, "bitmaps");
	for (size_t i = 0; i < n; i++)
		names[i] = list[i].name;
	qsort(names, n, sizeof(*names), name_compare);
	for (size_t i = 1; i < n; i++)
		if (!strcmp(names[i - 1], names[i]))
			return CORRUPT(e, "two bitmaps have the same name");
	return 0;
}

static int directory_check(int fd, const struct qcow2_header *h, struct err *e)
{
	off_t end = lseek(fd, 0, SEEK_END);

	if (end < 0)
		return err_set_errno(e, -errno, "cannot find the image's end");
	if (h->bitmaps_ext_bytes != QCOW2_BITMAPS_EXT_BYTES || h->bitmaps_reserved)
		return CORRUPT(e, "the header's extension for bitmaps is damaged");
	if (!h->nb_bitmaps || h->nb_bitmaps > QCOW2_BITMAPS_MAX)
		return CORRUPT(e, "%u bitmaps; 1 to %u are possible", h->nb_bitmaps, QCOW2_BITMAPS_MAX);
	if (!h->bitmaps_offset || (h->bitmaps_offset & ((1ULL << h->cluster_bits) - 1)) ||
		h->bitmaps_bytes > QCOW2_BITMAP_DIRECTORY_BYTES_MAX ||
		h->bitmaps_bytes < (uint64_t)h->nb_bitmaps * QCOW2_BITMAP_ENTRY_BYTES ||
		!range_inside(h->bitmaps_offset, h->bitmaps_bytes, (uint64_t)end))
		return CORRUPT(e, "the bitmap directory of %llu bytes at 0x%llx is misplaced or too large",
			(unsigned long long)h->bitmaps_bytes, (unsigned long long)h->bitmaps_offset);
	return 0;
}

static int entries_parse(struct cursor *c, const struct qcow2_header *h, struct qcow2_bitmap_info *list, struct err *e)
{
	int r = 0;

	for (size_t i = 0; i < h->nb_bitmaps && !r; i++)
		r = entry_parse(c, h, &list[i], e);
	if (!r && cursor_left(c))
		r = CORRUPT(e, "the bitmap directory has more bytes than its entries");
	return r ? r : names_check(list, h->nb_bitmaps, e);
}

int qcow2_bitmaps_read(int fd, const struct qcow2_header *h, struct qcow2_bitmap_info **ret_list, size_t *ret_n,
	struct err *e)
{
	CLEANUP_FREE uint8_t *buf = NULL;
	struct qcow2_bitmap_info *list;
	struct cursor c;
	size_t padded;
	int r;

	*ret_list = NULL;
	*ret_n = 0;
	if (!qcow2_bitmaps_valid(h))
		return 0;
	r = directory_check(fd, h, e);
	if (r < 0)
		return r;
	padded = ROUND_UP(h->bitmaps_bytes, 4096);
	buf = io_buffer_new(padded);
	list = calloc(h->nb_bitmaps, sizeof(*list));
	r = buf && list ? qcow2_pread(fd, buf, padded, h->bitmaps_offset) : -ENOMEM;
	if (r < 0) {
		free(list);
		return err_set_errno(e, r, "cannot read the bitmap directory");
	}
	c = cursor_over(buf, h->bitmaps_bytes);
	r = entries_parse(&c, h, list, e);
	if (r < 0) {
		qcow2_bitmaps_free(list, h->nb_bitmaps);
		return r;
	}
	*ret_list = list;
	*ret_n = h->nb_bitmaps;
	return 0;
}
