/* parts: a read-only disk that is made of ranges of other disks, one behind the other.
 *
 * Threading: as block.h; the parts belong to the disk's loop. */
#ifndef CAIRN_BLOCK_PARTS_H
#define CAIRN_BLOCK_PARTS_H

#include <stdint.h>

struct block;
struct err;
struct loop;

struct block_part {
	struct block *b; /* open on the same loop; taken on success */
	uint64_t offset, len; /* in bytes, inside b; every len but the last is a multiple of 512 */
};

/* Make a disk of n parts (n > 0). Its size is the sum of all len, rounded up to 512; bytes behind the last part read as
 * zeros. Several parts must not share a disk. An extent of such a disk has no offset in a file.
 * ret_b: the caller closes it with block_close(), which closes the parts.
 * Returns 0; -EINVAL or -ENOMEM with a sentence. */
int block_parts_open(struct loop *l, const struct block_part *parts, unsigned n, struct block **ret_b, struct err *e);

#endif
