/* vm_fork: what clones of a running VM begin with. The VM stands still for a moment, as for a snapshot; its state
 * at that moment is written into a file in memory (snapshot/vmstate.h) while it goes on. Clones have their
 * RAM as a private view of that file (vmm/kvm/memory.h), so that what none of them writes is there once.
 *
 * Main thread; done() runs on it, unless the call fails at once. */
#ifndef CAIRN_VMM_SNAPSHOT_VM_FORK_H
#define CAIRN_VMM_SNAPSHOT_VM_FORK_H

#include "vmm/snapshot/vm_snapshot.h"
#include "vmm/vm_msg.h"

struct err;
struct machine;
struct vm;
struct worker;

/* fds: nfds (1 or more), as VM_MSG_FORK says; taken on success only. Of the result, pause, total and
 * ram_bytes_written are filled in. */
int vm_fork(struct vm *vm, struct worker *w, const struct vm_fork *f, const int *fds, unsigned nfds,
	vm_snapshot_done_fn *done, void *opaque, struct err *e);
/* The same of a snapshot (vm_fork_snapshot.c): memory, devices and disks are what they were then. Nothing of the VM
 * stands still for it, and it may be off. */
int vm_fork_snapshot(struct vm *vm, struct worker *w, const struct vm_fork *f, const int *fds, unsigned nfds,
	vm_snapshot_done_fn *done, void *opaque, struct err *e);

/* In a clone, in place of machine_restore(). fd: taken. */
int machine_load_fork(struct machine *m, int fd, struct err *e);

/* A VM whose RAM is a view of another's gets its own, standing still for as long as that takes: before
 * its memory is watched. 0 at once for any other VM. */
int vm_own_memory(struct vm *vm, struct err *e);

#endif
