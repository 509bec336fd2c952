/* copy: the content of one disk into another, whatever their formats and layers. Reads and writes overlap, a
 * few chunks at a time; what is known to be zeros is not read.
 *
 * Threading: the caller's thread writes and runs `loop`; a thread made for it reads and runs `from_loop`. Both
 * loops are the caller's again at the end. */
#ifndef CAIRN_BLOCK_COPY_H
#define CAIRN_BLOCK_COPY_H

#include <stdbool.h>
#include <stdint.h>

struct block;
struct err;
struct loop;

struct block_copy {
	struct block *from, *to; /* `to` is as large, or larger */
	struct loop *from_loop, *loop; /* of from and of to */
	bool to_is_zero; /* the target reads as zeros where nothing is written */
	/* Each may be NULL. stop: true: end with -ECANCELED; any thread. hold: how long to read no more at that
	 * place of the disk, in ns; 0: go on; the reader's thread. progress: bytes; the caller's thread. */
	bool (*stop)(void *opaque);
	uint64_t (*hold)(void *opaque, uint64_t pos);
	void (*progress)(void *opaque, uint64_t done, uint64_t total);
	void *opaque;
};

/* Returns 0; -errno with a sentence. Nothing is flushed. */
int block_copy(const struct block_copy *c, struct err *e);

#endif
