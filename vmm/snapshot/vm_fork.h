/* vm_fork: captures the state from which clones of a running VM start. The VM is paused for a
 * moment, as for a snapshot, and its state at that moment is written into a memfd
 * (snapshot/vmstate.h) while the VM continues. Clones map this file privately as their RAM
 * (vmm/kvm/memory.h), so pages that no clone writes exist once.
 *
 * Threading: main thread; done() runs on it, unless the function fails. */
#ifndef CAIRN_VMM_SNAPSHOT_VM_FORK_H
#define CAIRN_VMM_SNAPSHOT_VM_FORK_H

#include "vmm/snapshot/vm_snapshot.h"
#include "vmm/vm_msg.h"

struct err;
struct vm;
struct worker;

/* Capture the VM's current state, or that of f->snapshot, and make the clones' disks (fork_disks.h).
 * fds: nfds (1 or more), in the order that VM_MSG_FORK defines; taken on success only.
 * done: receives the result, with pause, total and ram_bytes_written filled in.
 * Returns 0 or -errno. */
int vm_fork(struct vm *vm, struct worker *w, const struct vm_fork *f, const int *fds, unsigned nfds,
	vm_snapshot_done_fn *done, void *opaque, struct err *e);
/* Capture memory, devices and disks of a snapshot (vm_fork_snapshot.c). Does not pause the VM,
 * which may also be off. Parameters as for vm_fork(). */
int vm_fork_snapshot(struct vm *vm, struct worker *w, const struct vm_fork *f, const int *fds, unsigned nfds,
	vm_snapshot_done_fn *done, void *opaque, struct err *e);

#endif
