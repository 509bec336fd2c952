/* diff: finds where a snapshot differs from an earlier snapshot of the same qcow2 image. Both read the same backing
 * file, and the engine never changes a cluster in place that a snapshot names. So clusters whose L2 entries are equal
 * have the same content. Only L2 tables are read, and only those that the snapshots do not share.
 * Threading: one thread at a time, which also runs the loop of the disks. */
#ifndef CAIRN_BLOCK_DIFF_H
#define CAIRN_BLOCK_DIFF_H

#include <stdbool.h>
#include <stdint.h>

struct block;
struct block_diff;
struct err;

/* Prepare a comparison.
 * b: a snapshot, or the disk itself if nobody writes to it. since: a snapshot. Both are open for reading, from the same
 * file; borrowed until block_diff_free().
 * ret: the caller frees it; untouched on error. Returns 0; -EINVAL: not two contents of one image; -ENOMEM. */
int block_diff_new(struct block *b, const struct block *since, struct block_diff **ret, struct err *e);
/* NULL allowed. */
void block_diff_free(struct block_diff *d);
struct block_diff_extent {
	bool same; /* the content is the same */
	bool zero; /* if it differs: b reads as zeros */
	uint64_t len; /* 1 to the requested length */
};
/* Compare a range that begins at off, at most len bytes, inside b. Behind the end of `since`, everything differs.
 * Runs the loop of b, so do not call it from a callback of the loop.
 * Returns 0; -EIO: a damaged entry; -errno. */
int block_diff_extent(struct block_diff *d, uint64_t off, uint64_t len, struct block_diff_extent *ret);

#endif
