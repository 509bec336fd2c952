/* machine_copy: a second image that a disk is copied to while the guest uses the disk (block/mirror.h). From the end of
 * the copying on, both images get each change, until the disk goes on with one of them alone.
 *
 * Threading: main thread, while no work is in progress and the worker is idle; the machine may run. */
#ifndef CAIRN_VMM_MACHINE_MACHINE_COPY_H
#define CAIRN_VMM_MACHINE_MACHINE_COPY_H

struct err;
struct machine;
struct vm_disk;
struct vm_disk_copy;

/* Make a copy's file an image, open it, and begin a mirror of the disk to it, of which all is due.
 * fd: an empty file; taken. Returns 0; -ENOENT; -EBUSY; -ENOTSUP; -errno with a sentence. */
int machine_copy_begin(struct machine *m, const struct vm_disk_copy *what, int fd, struct err *e);
/* Close one of the two images, and go on with the other one.
 * pivot: how the copy is described, to go on with the copy; it needs a copy that gets each change, and refuses to lose
 * internal snapshots. NULL: go on without the copy. fd: with pivot, the file that must be the copy's; borrowed.
 * Returns 0; -ENOENT: there is no copy; -ENOTSUP; -errno with a sentence, and then nothing has changed. */
int machine_copy_end(struct machine *m, const char *id, const struct vm_disk *pivot, int fd, struct err *e);
/* Returns 0 if no disk has a copy; -EBUSY with a sentence that names one. */
int machine_copy_check(const struct machine *m, struct err *e);

#endif
