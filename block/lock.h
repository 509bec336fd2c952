/* lock: who may open an image, agreed with QEMU through OFD locks.
 *
 * QEMU's scheme (block/file-posix.c): a shared lock on byte 100 + n says "I use
 * permission n", one on byte 200 + n says "nobody else may use n". */
#ifndef CAIRN_BLOCK_LOCK_H
#define CAIRN_BLOCK_LOCK_H

#include <stdbool.h>

struct err;

/* Say that the image behind fd is read (or also written) by us, and that nobody else
 * may write or resize it. The lock lives until lock_release() or the last dup of fd is
 * closed. name: for the sentence.
 * Returns 0; -EBUSY (ERR_BUSY) when another process is in the way. */
int lock_acquire(int fd, bool writer, const char *name, struct err *e);
void lock_release(int fd);

#endif
