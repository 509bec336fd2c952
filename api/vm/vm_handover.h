/* vm_handover: gives a running VM a new process, to which the present one hands the VM over
 * (vmm/snapshot/vm_handover.h).
 *
 * The daemon starts the new process and sends the VM's process VM_MSG_HANDOVER. When that process ends after it
 * reported VM_REASON_HANDOVER, and did not report an end of the VM, the daemon connects to the VM's socket again: if
 * the new process serves it, the VM goes on; otherwise the VM has ended as by a crash. So does a daemon that adopted
 * the VM meanwhile. Threading: the daemon's loop. */
#ifndef CAIRN_API_VM_VM_HANDOVER_H
#define CAIRN_API_VM_VM_HANDOVER_H

#include <stdbool.h>

struct err;
struct vm;
struct vm_info;
struct vm_process_end;

struct vm_handover_ops {
	/* The VM's process has the request. Not called if it was refused before. */
	void (*asked)(void *opaque);
	/* Called once, from the loop. r: 0: the VM has a new process, which reports *info; -ENOTSUP: the VM's process
	 * cannot hand it over, and the VM was not paused; -ESRCH: the VM has ended; other -errno: the VM goes on as
	 * before. */
	void (*done)(void *opaque, int r, const struct vm_info *info, const struct err *e);
};

/* Begin. The VM has a process, and no other handover is under way. ops, opaque: borrowed until done(). */
void vm_hand_over(struct vm *vm, const struct vm_handover_ops *ops, void *opaque);

/* Internal to vm/. The VM's process has ended: connect to the process that took the VM over, if it reported a handover.
 * Returns whether it did; then vm->proc is another process, and the VM has not ended. */
bool vm_handover_follow(struct vm *vm, const struct vm_process_end *end);
/* Internal to vm/. The VM has ended: end the handover, if one is under way. */
void vm_handover_abandon(struct vm *vm);

#endif
