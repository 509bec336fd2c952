/* upper_range: finds the ranges of a disk that its upper layers have; a commit copies them to the layer below.
 * Threading: the disk's thread, as block.h. */
#ifndef CAIRN_BLOCK_UPPER_RANGE_H
#define CAIRN_BLOCK_UPPER_RANGE_H

#include <stdint.h>

struct block;

struct upper_range {
	struct block *b;
	unsigned depth; /* the number of upper layers, all of them qcow2 */
	uint64_t off, len; /* where to look; inside the disk */
	/* len 0: the upper layers have nothing there. Else the first range that one of them has, or that reads as zeros
	 * because one of them is shorter than the disk. */
	void (*done)(struct upper_range *x, int res, uint64_t off, uint64_t len);
};

/* Look. done() may run inside the call, with 0 or -errno. x: borrowed until done(). */
void upper_range_find(struct upper_range *x);

#endif
