/* vm_reclaim: frees memory of a running VM that a snapshot in its image has: blocks that were not written since the
 * snapshot, or since the revert to it. Nothing is written. The guest's next access to a block reads it from the
 * image. */
#ifndef CAIRN_VMM_SNAPSHOT_VM_RECLAIM_H
#define CAIRN_VMM_SNAPSHOT_VM_RECLAIM_H

#include "vmm/snapshot/vm_snapshot.h"

struct err;
struct vm;
struct worker;

/* Begin; the guest runs meanwhile. done: gets the freed bytes as ram_bytes_shared.
 * Returns 0; -EBUSY; -ENOTSUP: this memory cannot be brought back; -EPERM: no snapshot has it. */
int vm_reclaim(struct vm *vm, struct worker *w, vm_snapshot_done_fn *done, void *opaque, struct err *e);

#endif
