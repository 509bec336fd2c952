/* bitmap_impl: the persistent bitmaps of an image that is open for writing.
 *
 * A bitmap that is enabled records the writes of this engine in memory. Before the first change of the disk, the engine
 * sets IN_USE of these bitmaps in the file, so that their content there counts as unknown. bitmaps_store() writes
 * the recorded bits, and a directory without IN_USE. docs/qcow2.md has the order. */
#ifndef CAIRN_BLOCK_QCOW2_BITMAP_IMPL_H
#define CAIRN_BLOCK_QCOW2_BITMAP_IMPL_H

#include "base/bitmap.h"
#include "block/qcow2/bitmap.h"
#include "block/qcow2/impl.h"

/* Limit on the memory for the bits of an image's bitmaps: those of the largest bitmap. It does not depend on the file's
 * data, because a guest that discards its disk sets bits without adding data. */
#define QCOW2_BITMAP_BITS_MEMORY_MAX (512 * MIB)

/* The clusters of a bitmap. */
struct bitmap_place {
	uint64_t *table; /* offsets of the clusters with bits; NULL: no place */
	uint64_t offset; /* of the table */
	uint32_t entries;
};

struct dirty_bitmap {
	struct qcow2_bitmap_info info; /* of the file; name owned; flags without IN_USE unless it was found there */
	uint64_t *table; /* entries in the file; NULL: no place in the file yet */
	struct bitmap bits; /* words NULL: not loaded */
	bool marked;  /* this engine has set IN_USE in the file */
	bool changed; /* the bits are not in the file */
};

/* Load the directory and the tables, and, unless q->bitmaps.lazy, the bits of enabled bitmaps. Returns 0; -errno with a
 * sentence. */
int bitmaps_load(struct qcow2 *q, struct err *e);
void bitmaps_done(struct qcow2 *q);
/* Does the bitmap record writes? */
bool bitmap_records(const struct dirty_bitmap *b);
/* Is its content unknown, because the file had IN_USE when it was opened? */
static inline bool bitmap_is_lost(const struct dirty_bitmap *b)
{
	return b->info.flags & QCOW2_BITMAP_IN_USE;
}
/* Load the bits if they are not loaded. Synchronous. Returns 0; -errno with a sentence. */
int bitmap_load_bits(struct qcow2 *q, struct dirty_bitmap *b, struct err *e);
/* Set IN_USE in the file for all bitmaps that record, or for all that are not lost. Loads the bits of those that
 * record, if a lazy open has not. Synchronous; durable on success. Returns 0 or -errno. */
int bitmaps_mark(struct qcow2 *q, bool all);
/* Record a change of [off, off + len) of the disk. Bits behind the end of a bitmap are ignored. */
void bitmaps_record(struct qcow2 *q, uint64_t off, uint64_t len);
/* Before the size of the disk changes: load all bitmaps that are not lost, and mark them in the file.
 * Returns 0; -errno with a sentence. */
int bitmaps_resize_begin(struct qcow2 *q, uint64_t size, struct err *e);
/* Adapt all bitmaps to the disk's size. New bits are clear. */
void bitmaps_resized(struct qcow2 *q);
/* Write everything that has changed, and clear IN_USE. Runs the loop; no request is in flight. Returns 0; -errno with a
 * sentence: the bitmaps in the file stay as they are. */
int bitmaps_store(struct qcow2 *q, struct err *e);

/* ---- bitmap_header.c ---- */

/* Change the header so that it names a directory of n bitmaps; 0: none. Everything that the directory names is durable.
 * Synchronous; durable on success. Returns 0; -EMSGSIZE: the first cluster has no room for the extension, and nothing
 * has changed; -errno. */
int bitmap_header_put(struct qcow2 *q, uint32_t n, uint64_t bytes, uint64_t offset);

#endif
