/* working_set: the blocks that a VM touched soon after it was restored from a saved state, earlier restores included.
 * A RAM reader reads them first at the next restore. The sets of a few states are kept, in memory and in a small
 * file. They are a hint: a lost or wrong set only costs time.
 *
 * The file, little-endian:
 *   0   u8[8]  "CAIRNWS1"
 *   8   u32    CRC32C of all bytes after it, up to the end of the last set
 *  12   u32    number of sets, at most WORKING_SETS; newest first; each:
 *              u64 key, u32 n (at most WORKING_SET_BLOCKS_MAX), u32[n] blocks */
#ifndef CAIRN_SNAPSHOT_WORKING_SET_H
#define CAIRN_SNAPSHOT_WORKING_SET_H

#include <stdint.h>

#define WORKING_SETS 4u
#define WORKING_SET_BLOCKS_MAX 16384u

struct working_set {
	uint64_t key; /* the state's time, ns since the epoch */
	uint32_t n;
	uint32_t *blocks; /* NULL: the slot is empty */
};

struct working_sets {
	struct working_set set[WORKING_SETS]; /* newest first; empty slots at the end */
};

/* Find the set of a state; else the newest one of another state, because a VM mostly touches the
 * same blocks. NULL: none. The result is valid until the next change. */
const struct working_set *working_sets_find(const struct working_sets *w, uint64_t key);
/* Store a state's set. It replaces the state's old set, or the oldest one. n 0 and lack of memory
 * change nothing. blocks: copied. */
void working_sets_put(struct working_sets *w, uint64_t key, const uint32_t *blocks, uint32_t n);
void working_sets_done(struct working_sets *w);

/* Read the sets from offset 0. An incomplete file, or one with a block number of `blocks` or above,
 * leaves *w empty. fd: borrowed. */
void working_sets_read(struct working_sets *w, int fd, uint64_t blocks);
/* Write the sets to offset 0. fd: borrowed. Returns 0 or -errno. */
int working_sets_write(const struct working_sets *w, int fd);

#endif
