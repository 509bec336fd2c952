/* disk_copy: copies a disk to another image while the guest runs, until each change goes to both (block/mirror.h).
 * After that, vm_disk_copy_end() continues with one of them.
 * Threading: main thread, as vm_snapshot.h. No function waits for a file system. */
#ifndef CAIRN_VMM_SNAPSHOT_DISK_COPY_H
#define CAIRN_VMM_SNAPSHOT_DISK_COPY_H

#include "vmm/snapshot/vm_snapshot.h"

#include <stdbool.h>

struct vm_disk;
struct vm_disk_copy;

/* Begin the copy, as work. A cancel or an error ends it, and closes the file, whose content then means nothing.
 * fd: an empty file; taken, also on errors. done: r: 0: both images get each change.
 * Returns 0; -EBUSY; -errno with a sentence. */
int vm_disk_copy(struct vm *vm, struct worker *w, const struct vm_disk_copy *what, int fd, vm_snapshot_done_fn *done, void *opaque,
	struct err *e);
/* End a copy, as work: continue with the copy alone, or without it (machine_copy.h).
 * pivot: how the copy is described; borrowed for the call; NULL: without it. fd: with pivot, the file that must be the
 * copy's; taken, also on errors; else -1.
 * check_only: with pivot: check whether it would be refused.
 * Returns 0; -EBUSY; -ENOENT with a sentence. */
int vm_disk_copy_end(struct vm *vm, struct worker *w, const char *disk, const struct vm_disk *pivot, int fd, bool check_only,
	vm_snapshot_done_fn *done, void *opaque, struct err *e);

#endif
