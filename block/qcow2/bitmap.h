/* bitmap: persistent dirty bitmaps. docs/qcow2.md has the order of writes. */
#ifndef CAIRN_BLOCK_QCOW2_BITMAP_H
#define CAIRN_BLOCK_QCOW2_BITMAP_H

#include "block/qcow2/qcow2.h"

/* An entry of the bitmap directory. qcow2_bitmaps_read() has checked each field; the table's entries and its place in
 * the file are not checked. */
struct qcow2_bitmap_info {
	char *name;
	uint64_t table_offset;
	uint32_t table_entries;
	uint32_t flags; /* QCOW2_BITMAP_IN_USE, QCOW2_BITMAP_AUTO */
	uint32_t granularity_bits;
};

/* Returns whether the image has bitmaps that count: without the autoclear bit, the extension is stale. */
bool qcow2_bitmaps_valid(const struct qcow2_header *h);
/* Read the bitmap directory. Without valid bitmaps, *ret_n is 0. The caller frees the list with qcow2_bitmaps_free().
 * Returns 0; -EINVAL: the directory is damaged or uses features that this version does not know; -ENOMEM; the read's
 * -errno. */
int qcow2_bitmaps_read(int fd, const struct qcow2_header *h, struct qcow2_bitmap_info **ret_list, size_t *ret_n,
	struct err *e);
void qcow2_bitmaps_free(struct qcow2_bitmap_info *list, size_t n);
/* Returns the number of bits of a bitmap, or of the table entries that a bitmap of a disk needs. */
uint64_t qcow2_bitmap_bits(uint64_t disk_bytes, uint32_t granularity_bits);
uint64_t qcow2_bitmap_table_entries(uint64_t disk_bytes, uint32_t granularity_bits, uint32_t cluster_bits);
/* Returns the length of a directory entry. */
uint64_t qcow2_bitmap_entry_bytes(size_t name_len);

#endif
