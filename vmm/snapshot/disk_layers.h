/* disk_layers: gives disks new overlays while the guest runs, all at one instant. The previous image becomes the
 * first backing file. Threading: main thread, as vm_snapshot.h. No function waits for a file system. */
#ifndef CAIRN_VMM_SNAPSHOT_DISK_LAYERS_H
#define CAIRN_VMM_SNAPSHOT_DISK_LAYERS_H

#include "vmm/snapshot/vm_snapshot.h"

/* Begin, as work.
 * c: the disks, each with the new overlay and the layers that the disk has now; c->disk_more[0].check_only: only look
 * whether that is possible. fds: those that c names; -1 stands for those that are taken.
 * Returns 0; -EBUSY; -errno with a sentence. */
int vm_disk_layers(struct vm *vm, struct worker *w, const struct vm_config *c, int *fds, vm_snapshot_done_fn *done, void *opaque,
	struct err *e);

#endif
