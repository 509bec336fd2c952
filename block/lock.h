/* lock: OFD locks on images, compatible with QEMU.
 *
 * QEMU's scheme (block/file-posix.c): a shared lock on byte 100 + n means "I use permission n", one
 * on byte 200 + n means "nobody else may use permission n".
 *
 * An ordinary reader says that nobody else may write or resize. A reader of a pin only forbids others to resize. This
 * also keeps QEMU's writers away, because they use both permissions. A writer of Cairn may ignore it if it keeps all
 * pins. Byte 300 means "I read a pin", byte 301 "I write, and I keep all pins". */
#ifndef CAIRN_BLOCK_LOCK_H
#define CAIRN_BLOCK_LOCK_H

struct err;

/* Words of the error for a reader. */
#define LOCK_WRITTEN "open for writing in another process"

enum lock_mode {
	LOCK_AS_READER,
	LOCK_AS_WRITER,
	/* For writing; other processes may read a pin at the same time (block/qcow2/pin.h). */
	LOCK_AS_WRITER_BESIDE_PINS,
	/* For reading a pin; another process may hold LOCK_AS_WRITER_BESIDE_PINS at the same time. */
	LOCK_AS_PIN_READER,
};
/* Lock the image behind fd. No other process may then write or resize the image, except that LOCK_AS_WRITER_BESIDE_PINS
 * and LOCK_AS_PIN_READER allow each other. The lock lasts until lock_release(), or until the last duplicate of fd is
 * closed.
 * name: the disk's name, for errors.
 * Returns 0, also if the file system has no OFD locks (this is logged); -EBUSY (ERR_BUSY) if another process holds a
 * conflicting lock. */
int lock_acquire(int fd, enum lock_mode mode, const char *name, struct err *e);
/* Keep only those of fd's locks that a reader takes: a writer becomes a reader. */
void lock_reduce(int fd);
void lock_release(int fd);

#endif
