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
struct bitmap;
/* Read a bitmap's bits. ret_bits: the caller releases it with bitmap_done(). Returns 0; -EINVAL: the table is damaged,
 * or the bitmap is in use; -errno. */
int qcow2_bitmap_read(int fd, const struct qcow2_header *h, const struct qcow2_bitmap_info *b, struct bitmap *ret_bits,
	struct err *e);
/* Returns the number of bits of a bitmap, or of the table entries that a bitmap of a disk needs. */
uint64_t qcow2_bitmap_bits(uint64_t disk_bytes, uint32_t granularity_bits);
uint64_t qcow2_bitmap_table_entries(uint64_t disk_bytes, uint32_t granularity_bits, uint32_t cluster_bits);
/* Returns whether an entry of a bitmap's table has an aligned offset and no reserved bits. Its cluster's place is not
 * checked. */
bool qcow2_bitmap_entry_valid(uint64_t entry, uint64_t cluster_bytes);
/* Returns the length of a directory entry. */
uint64_t qcow2_bitmap_entry_bytes(size_t name_len);

/* ---- changes of an image that is open for writing and used by nobody else; they run no requests of the disk ---- */

/* Returns the default granularity for the image, as QEMU's. */
uint64_t qcow2_bitmap_granularity(const struct block *b);
/* Each returns 0; -errno with a sentence: nothing has changed. The change is stored by qcow2_bitmaps_commit() or when
 * the image is closed. granularity: in bytes. on: the bitmap records writes. from: a bitmap of the same image. */
int qcow2_bitmap_add(struct block *b, const char *name, uint64_t granularity, bool on, struct err *e);
int qcow2_bitmap_remove(struct block *b, const char *name, struct err *e);
int qcow2_bitmap_clear(struct block *b, const char *name, struct err *e);
int qcow2_bitmap_enable(struct block *b, const char *name, bool on, struct err *e);
int qcow2_bitmap_merge(struct block *b, const char *name, const char *from, struct err *e);
/* Merge a bitmap of another image, whose file and header these are. */
int qcow2_bitmap_merge_image(struct block *b, const char *name, int fd, const struct qcow2_header *h,
	const struct qcow2_bitmap_info *from, struct err *e);
/* Store the changes. Runs the loop. Returns 0; -errno with a sentence: the file has the bitmaps that it had. */
int qcow2_bitmaps_commit(struct block *b, struct err *e);

#endif
