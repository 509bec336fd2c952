/* vm_snapshot: snapshots of a VM inside its qcow2 disks: every writable disk, memory, vCPUs and
 * devices at one instant. The first qcow2 disk holds the state and the tree.
 *
 * Taking one of a running VM: memory is write-protected while the guest runs (once); in the
 * pause the devices are drained and saved, each disk's content is frozen, and what was
 * dirtied is protected again; then the guest goes on, and the worker writes memory as it was.
 * The next snapshot shares all that was not dirtied since with this one; after a revert, with the one
 * that was reverted to, loaded or not.
 *
 * Main thread; done() runs on it, unless a call fails at once. One at a time (-EBUSY). */
#ifndef CAIRN_VMM_SNAPSHOT_VM_SNAPSHOT_H
#define CAIRN_VMM_SNAPSHOT_VM_SNAPSHOT_H

#include "vmm/vm_msg.h"

struct err;
struct machine;
struct vm;
struct worker;

typedef void vm_snapshot_done_fn(void *opaque, const struct vm_snapshot_done *d);

int vm_snapshot_create(struct vm *vm, struct worker *w, const struct vm_snapshot_create *c,
	vm_snapshot_done_fn *done, void *opaque, struct err *e);
int vm_snapshot_delete(struct vm *vm, struct worker *w, const char *name,
	vm_snapshot_done_fn *done, void *opaque, struct err *e);
/* The VM goes back in place: its process, its control socket and consoles stay. What is wrong with
 * the saved state is found before the VM is touched. */
int vm_snapshot_revert(struct vm *vm, struct worker *w, const struct vm_snapshot_revert *v,
	vm_snapshot_done_fn *done, void *opaque, struct err *e);
int vm_snapshot_set(struct vm *vm, const struct vm_snapshot_set *s, struct err *e);
/* Before anything runs, the disks' threads there: what a crash left half done on several disks is ended or
 * undone. Waits for the disks; an event for each. Fails when the disks do not belong together. */
int vm_snapshot_recover(struct vm *vm, struct err *e);
/* A page of the list, from index `from`. */
int vm_snapshot_list(struct vm *vm, uint32_t from, struct vm_snapshots *ret, struct err *e);
/* One of them with own_bytes. No work in vm.h's sense: it may be asked for at any time, by several, and
 * fails with -EBUSY or -ECANCELED when something changes the snapshots meanwhile. */
typedef void vm_snapshot_size_fn(void *opaque, int r, const struct vm_snapshot_info *info,
	const struct err *e);
int vm_snapshot_size(struct vm *vm, const char *name, vm_snapshot_size_fn *done, void *opaque,
	struct err *e);

#endif
