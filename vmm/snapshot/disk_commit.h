/* disk_commit: copies the data of a disk's upper layers to a lower one, while the guest runs. If the disk itself is
 * among the upper layers, the lower one is then a copy of the disk (disk_copy.h); else the upper layers leave the
 * disk.
 * Threading: main thread, as vm_snapshot.h. No function waits for a file system. */
#ifndef CAIRN_VMM_SNAPSHOT_DISK_COMMIT_H
#define CAIRN_VMM_SNAPSHOT_DISK_COMMIT_H

#include "vmm/snapshot/vm_snapshot.h"

struct vm_disk_commit;

/* Begin the commit, as work. A cancel or an error leaves the disk with all its layers and its content.
 * c: the disks that belong to `what`. fds: those that c names; -1 stands for those that are taken.
 * done: r: 0: both images get each change, or the upper layers have left the disk. In a process that only works on
 * images: the lower layer has all.
 * Returns 0; -EBUSY; -errno with a sentence. */
int vm_disk_commit(struct vm *vm, struct worker *w, const struct vm_disk_commit *what, const struct vm_config *c, int *fds,
	vm_snapshot_done_fn *done, void *opaque, struct err *e);

#endif
