/* zeroes: writes of nothing but zeros, as requests that need not write them. Any thread. */
#ifndef CAIRN_BLOCK_ZEROES_H
#define CAIRN_BLOCK_ZEROES_H

struct block_req;

/* Values as enum vm_zeroes. */
enum block_zeroes {
	BLOCK_ZEROES_OFF = 0,
	BLOCK_ZEROES_ON = 1,	/* zero without writing, but keep the space */
	BLOCK_ZEROES_UNMAP = 2, /* free the space, too */
};

/* If r is a write and its data is all zeros, make it BLOCK_WRITE_ZEROES. The memory may change meanwhile: a guest that
 * writes to a buffer in flight gets the zeros or the new content, as with a plain write. */
void block_detect_zeroes(struct block_req *r, enum block_zeroes how);

#endif
