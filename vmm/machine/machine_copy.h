/* machine_copy: a second image that a disk is copied to while the guest uses the disk (block/mirror.h). From the end of
 * the copying on, both images get each change, until the disk continues with one of them alone.
 *
 * Threading: the main thread only reads and exchanges pointers. Functions that may wait for a file system run on the
 * worker's thread, as work of the VM. */
#ifndef CAIRN_VMM_MACHINE_MACHINE_COPY_H
#define CAIRN_VMM_MACHINE_MACHINE_COPY_H

#include <stdint.h>

struct block;
struct err;
struct machine;
struct machine_disk;
struct vm_disk;
struct vm_disk_copy;

/* Main thread. Find the disk that can be copied so. Returns 0; -ENOENT; -ENOTSUP; -EFBIG; -EINVAL with a sentence. */
int machine_copy_find(struct machine *m, const struct vm_disk_copy *what, struct machine_disk **ret, struct err *e);
/* Main thread. Find a disk that has a copy. Returns 0; -ENOENT with a sentence. */
int machine_copy_find_begun(struct machine *m, const char *id, struct machine_disk **ret, struct err *e);
/* Main thread. Returns 0 if no disk has a copy; -EBUSY with a sentence that names one. */
int machine_copy_check(const struct machine *m, struct err *e);

/* Worker. Make a file an image, open it as the disk's copy, and begin a mirror of the disk to it, of which all is due.
 * format: enum block_format. fd: an empty file; taken. Returns 0; -errno with a sentence. */
int machine_copy_open(struct machine_disk *d, uint8_t format, int fd, struct err *e);
/* Worker. Hold back all requests to the disk, and wait for those in flight.
 * pivot: how the copy is described, to continue with it alone; it must get each change, and the disk may have no
 * internal snapshots. fd: the file that must be the copy's; borrowed. NULL: to continue without the copy.
 * Returns 0; -ENOTSUP; -ETIMEDOUT: a request takes longer than 10 s; -errno with a sentence. On errors, nothing is
 * held. machine_disk_release() (machine_hold.h) continues with both. */
int machine_copy_hold(struct machine_disk *d, const struct vm_disk *pivot, int fd, struct err *e);
/* Main thread, after machine_copy_hold() with the same pivot and fd. Continue with the copy, or without it; submits
 * the requests that were held back. Returns the other image, for machine_copy_close(). */
struct block *machine_copy_swap(struct machine *m, struct machine_disk *d, const struct vm_disk *pivot, int fd);
/* Worker. Close an image that the disk does not use any more. Waits for its file system; the disk does not. Returns
 * 0; -errno: the image may lack changes. */
int machine_copy_close(struct machine_disk *d, struct block *gone);

#endif
