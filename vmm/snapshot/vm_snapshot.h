/* vm_snapshot: snapshots of a VM inside its qcow2 disks: all writable disks, memory, vCPUs and
 * devices at one instant. The first writable qcow2 disk holds the VM state and the snapshot tree.
 *
 * Snapshot of a running VM: while the guest runs, memory is write-protected: all of it for the first snapshot, later
 * the pages dirtied since the last one. In the pause the devices are drained and saved, pages dirtied meanwhile are
 * protected again, and each disk's content is frozen. Then the guest runs on, and the worker writes memory as of the
 * pause. Without userfaultfd, the worker copies memory in rounds while the guest runs (vmm/machine/ram_save.h), and the
 * pause follows the last round.
 * The next snapshot shares all memory that was not dirtied since with this one. After a revert, it shares memory with
 * the snapshot of the revert, even if that memory is not loaded yet. With huge pages, nothing is shared.
 *
 * Threading: main thread; done() runs on it, unless the function fails. A create, a delete and a revert
 * get -EBUSY while other work of the VM is in progress (vm_work_begin()). Functions return 0 or -errno. */
#ifndef CAIRN_VMM_SNAPSHOT_VM_SNAPSHOT_H
#define CAIRN_VMM_SNAPSHOT_VM_SNAPSHOT_H

#include "vmm/vm_msg.h"

struct err;
struct vm;
struct worker;

typedef void vm_snapshot_done_fn(void *opaque, const struct vm_snapshot_done *d);

int vm_snapshot_create(struct vm *vm, struct worker *w, const struct vm_snapshot_create *c,
	vm_snapshot_done_fn *done, void *opaque, struct err *e);
/* Go on with the snapshot of a group. Returns 0; -EPERM: none waits for this step. */
int vm_snapshot_go(struct vm *vm, const struct vm_snapshot_go *go, struct err *e);
/* The VM has ended: undo the snapshot of a group that waits, if there is one, by work for the worker. */
void vm_snapshot_give_up(struct vm *vm);
int vm_snapshot_delete(struct vm *vm, struct worker *w, const char *name,
	vm_snapshot_done_fn *done, void *opaque, struct err *e);
/* Revert the VM in place: its process, control socket and consoles stay. The saved state is checked before the VM is
 * changed; with userfaultfd, blocks of memory only if v->verify is set, else when they are loaded. */
int vm_snapshot_revert(struct vm *vm, struct worker *w, const struct vm_snapshot_revert *v,
	vm_snapshot_done_fn *done, void *opaque, struct err *e);
/* Change a snapshot, on the worker, which the caller has started. s: copied. */
int vm_snapshot_set(struct vm *vm, struct worker *w, const struct vm_snapshot_set *s,
	void (*done)(void *opaque, int r, const struct err *e), void *opaque, struct err *e);
/* Complete or undo operations on several disks that a crash has interrupted. Call before the guest
 * runs, when the disks' threads exist; waits for the disks. Sends an event for each recovery. Returns 0; -EBUSY if an
 * interrupted revert has to be completed, which a start from a saved state cannot do; -errno. */
int vm_snapshot_recover(struct vm *vm, struct err *e);
/* List one page of snapshots, starting at index `from`. */
int vm_snapshot_list(struct vm *vm, uint32_t from, struct vm_snapshots *ret, struct err *e);
/* Compute own_bytes of one snapshot, or of the pin of that name. May run at any time and several times at once;
 * it does not count as work (vm_work_begin()). Fails with -EBUSY or -ECANCELED when the snapshots change
 * meanwhile. */
typedef void vm_snapshot_size_fn(void *opaque, int r, const struct vm_snapshot_info *info,
	const struct err *e);
int vm_snapshot_size(struct vm *vm, const char *name, vm_snapshot_size_fn *done, void *opaque,
	struct err *e);

#endif
