/* working_set: which blocks of a saved state a VM touched first when it last went on from it, in order: what a
 * pager reads before all else the next time. A few states' are kept, in memory and in a small file. Only
 * a hint: losing it, or a wrong one, costs time and nothing else.
 *
 * The file, little-endian:
 *   0   u8[8]  "CAIRNWS1"
 *   8   u32    CRC32C of all behind it
 *  12   u32    sets, at most WORKING_SETS; the newest first; each:
 *              u64 key, u32 n (at most WORKING_SET_BLOCKS_MAX), u32[n] blocks */
#ifndef CAIRN_SNAPSHOT_WORKING_SET_H
#define CAIRN_SNAPSHOT_WORKING_SET_H

#include <stddef.h>
#include <stdint.h>

#define WORKING_SETS 4u
#define WORKING_SET_BLOCKS_MAX 16384u

struct working_set {
	uint64_t key; /* of the state: when it was taken, ns since the epoch */
	uint32_t n;
	uint32_t *blocks; /* NULL: no set */
};

struct working_sets {
	struct working_set set[WORKING_SETS]; /* newest first; those without blocks at the end */
};

/* What is known of a state; else the newest of another, since a VM mostly touches the same; NULL: nothing.
 * Valid until the next change. */
const struct working_set *working_sets_find(const struct working_sets *w, uint64_t key);
/* blocks: copied; takes the place of what was known of that state, or of the oldest. n 0: nothing changes. For lack of
 * memory, too. */
void working_sets_put(struct working_sets *w, uint64_t key, const uint32_t *blocks, uint32_t n);
void working_sets_done(struct working_sets *w);

/* fd: a file, read or written from offset 0; borrowed. What is not whole, or has a block that is not below blocks, is
 * no set: *w stays empty. */
void working_sets_read(struct working_sets *w, int fd, uint64_t blocks);
/* Returns 0 or -errno. */
int working_sets_write(const struct working_sets *w, int fd);

#endif
