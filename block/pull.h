/* pull: gives a qcow2 image its own copy of all content that it reads from its backing file, while
 * requests continue, and then drops the backing file.
 *
 * The caller reads the backing file piece by piece, writes each piece that is not zero with
 * block_pull_write() and ends with block_pull_finish(). A crash at any time leaves an image that
 * reads the same: with its backing file, or complete and without.
 * Threading: the disk's thread, as block.h. */
#ifndef CAIRN_BLOCK_PULL_H
#define CAIRN_BLOCK_PULL_H

#include <stdint.h>

struct block;
struct block_req;
struct block_snapshot_op;
struct err;

/* Check whether the disk can be pulled: a writable qcow2 image with a backing file and without
 * internal snapshots, because snapshots read the backing file, too.
 * ret_bytes: the number of bytes, from the disk's start, that may read from the backing file.
 * Returns 0; -ENOTSUP, -EROFS or -EIO with a sentence. */
int block_pull_check(const struct block *b, uint64_t *ret_bytes, struct err *e);
/* Submit a read of the backing file, of a range below ret_bytes. */
void block_pull_read(struct block *b, struct block_req *r);
/* Submit a write that changes only clusters (or subclusters) that the image does not have yet. A
 * cluster that the range covers in part is completed from the backing file. */
void block_pull_write(struct block *b, struct block_req *r);
/* Make the image's content durable, drop the backing file's name from the header and close the backing files. Call it
 * when the image has all content of its backing file that is not zero. If the write of the header fails, the header in
 * the file may have the name or not; the image reads the same either way.
 * op: if the disk cannot be pulled, or memory is lacking, done() runs inside the call. */
void block_pull_finish(struct block *b, struct block_snapshot_op *op);

#endif
