/* lock: OFD locks on images, compatible with QEMU.
 *
 * QEMU's scheme (block/file-posix.c): a shared lock on byte 100 + n means "I use permission n", one
 * on byte 200 + n means "nobody else may use permission n". */
#ifndef CAIRN_BLOCK_LOCK_H
#define CAIRN_BLOCK_LOCK_H

#include <stdbool.h>

struct err;

/* Lock the image behind fd for reading, or for reading and writing. Nobody else may then write or
 * resize it. The lock lasts until lock_release(), or until the last duplicate of fd is closed.
 * name: the disk's name for the sentence.
 * Returns 0, also if the file system has no OFD locks (this is logged); -EBUSY (ERR_BUSY) if another process holds a
 * conflicting lock. */
int lock_acquire(int fd, bool writer, const char *name, struct err *e);
void lock_release(int fd);

#endif
