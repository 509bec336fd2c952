/* disk_resize: grows a disk while the guest uses it. Threading: main thread, as vm_snapshot.h. No function waits for a
 * file system. */
#ifndef CAIRN_VMM_SNAPSHOT_DISK_RESIZE_H
#define CAIRN_VMM_SNAPSHOT_DISK_RESIZE_H

#include "vmm/snapshot/vm_snapshot.h"

struct vm_disk_resize;

/* Begin, as work: hold back the disk's requests, grow the image, tell the guest, and continue. A disk never gets
 * smaller.
 * Returns 0; -EBUSY; -ENOENT; -errno with a sentence. */
int vm_disk_resize(struct vm *vm, struct worker *w, const struct vm_disk_resize *what, vm_snapshot_done_fn *done, void *opaque,
	struct err *e);

#endif
