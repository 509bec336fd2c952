/* copy: copies the content of one disk to another, of any formats and layers. Reads and writes
 * overlap, a few chunks at a time. Known zeros are not read.
 *
 * Threading: the caller's thread writes and runs `loop`. A new thread reads and runs `from_loop`.
 * Both loops belong to the caller again on return. */
#ifndef CAIRN_BLOCK_COPY_H
#define CAIRN_BLOCK_COPY_H

#include <stdbool.h>
#include <stdint.h>

struct block;
struct err;
struct loop;

struct block_copy {
	struct block *from, *to; /* `to` is at least as large as `from` */
	struct loop *from_loop, *loop; /* the loops of `from` and `to` */
	bool to_is_zero; /* the target reads as zeros where nothing is written and its backing file has nothing */
	/* The target's backing file has the content of the source's backing files: copy only the data of the source's
	 * own layer. */
	bool over_backing;
	bool dense; /* write zeros as data */
	/* Shortest run of zeros within data that is not written as data; rounded up to 4 KiB, or to a cluster of a
	 * target of smaller ones; at most 256 KiB; 0: the least. */
	uint32_t sparse_bytes;
	/* Callbacks; each may be NULL.
	 * stop: returns true to end with -ECANCELED; called on both threads.
	 * hold: returns the ns to wait before reading at pos; 0: none; the reader's thread.
	 * progress: in bytes; the caller's thread.
	 * unreadable: a block at `off` cannot be read; the copy stores zeros instead and continues. NULL: the copy
	 * fails. The reader's thread. */
	bool (*stop)(void *opaque);
	uint64_t (*hold)(void *opaque, uint64_t pos);
	void (*progress)(void *opaque, uint64_t done, uint64_t total);
	void (*unreadable)(void *opaque, uint64_t off, int error);
	void *opaque;
};

/* Copy the disk without a flush. Returns 0; -errno with a sentence. */
int block_copy(const struct block_copy *c, struct err *e);

#endif
