/* disk_pull: copies the data that a qcow2 disk reads from its backing files into its image, and drops the backing
 * files (block/pull.h). It does so while the guest runs, or in a process with `images_only`.
 *
 * Threading: main thread; done() runs on it, unless the function fails. */
#ifndef CAIRN_VMM_SNAPSHOT_DISK_PULL_H
#define CAIRN_VMM_SNAPSHOT_DISK_PULL_H

#include "vmm/snapshot/vm_snapshot.h"

/* Begin to pull a disk. One operation of the VM at a time. A reset of the VM does not wait for the pull. If an earlier
 * pull has dropped the backing files, the pull succeeds at once.
 * Returns 0; -EBUSY; -ENOENT: no such disk; -errno. */
int vm_disk_pull(struct vm *vm, struct worker *w, const struct vm_disk_pull *what, vm_snapshot_done_fn *done,
	void *opaque, struct err *e);

#endif
