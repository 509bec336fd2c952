/* disk_copy: copies a disk to another image while the guest runs, until both get each change (block/mirror.h). After
 * that, vm_pivot() or vm_end_copy() chooses one of them. */
#ifndef CAIRN_VMM_SNAPSHOT_DISK_COPY_H
#define CAIRN_VMM_SNAPSHOT_DISK_COPY_H

#include "vmm/snapshot/vm_snapshot.h"

struct vm_disk_copy;

/* Begin the copy, as work. A cancel or an error ends it, and closes the file, whose content then means nothing.
 * fd: an empty file; taken, also on errors. done: r: 0: both images get each change.
 * Returns 0; -EBUSY; -errno with a sentence. Threading: main thread, as vm_snapshot.h. */
int vm_disk_copy(struct vm *vm, struct worker *w, const struct vm_disk_copy *what, int fd, vm_snapshot_done_fn *done, void *opaque,
	struct err *e);

#endif
