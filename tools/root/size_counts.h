/* size_counts: tells whether an image has too many files of the same size for sqfstar's search for equal files. sqfstar
 * compares each file of less than a block with all files before it whose size is the same.
 *
 * Threading: one thread for each struct. */
#ifndef CAIRN_TOOLS_ROOT_SIZE_COUNTS_H
#define CAIRN_TOOLS_ROOT_SIZE_COUNTS_H

#include <stdbool.h>
#include <stdint.h>

#define SQUASH_BLOCK_BYTES (128 * 1024)
/* sqfstar makes 60 million comparisons a second on a CPU of 2.6 GHz. */
#define SQUASH_COMPARISONS_MAX 100000000

struct size_counts {
	uint64_t comparisons;
	uint32_t files[SQUASH_BLOCK_BYTES]; /* by size */
};

static inline void size_counts_add(struct size_counts *c, uint64_t bytes)
{
	if (bytes && bytes < SQUASH_BLOCK_BYTES)
		c->comparisons += c->files[bytes]++;
}

static inline bool size_counts_are_many(const struct size_counts *c)
{
	return c->comparisons > SQUASH_COMPARISONS_MAX;
}

#endif
