/* vm_handover: gives a running VM a new process, to which the present one hands the VM over
 * (vmm/snapshot/vm_handover.h).
 *
 * The daemon spawns the new process, and then sends the VM's process VM_MSG_HANDOVER. When that process exits after it
 * reported VM_REASON_HANDOVER, and did not report an end of the VM, the daemon connects to the VM's socket again. If
 * the new process serves the socket, it runs the VM; otherwise the daemon treats the VM as crashed. A daemon that
 * adopted the VM during the handover does the same. (If a signal ends the VM's process meanwhile, the daemon that began
 * the handover kills the new one.) Threading: the daemon's loop. */
#ifndef CAIRN_API_VM_VM_HANDOVER_H
#define CAIRN_API_VM_VM_HANDOVER_H

#include <stdbool.h>

struct err;
struct vm;
struct vm_info;
struct vm_process_end;

struct vm_handover_ops {
	/* VM_MSG_HANDOVER was sent to the VM's process. Not called if the handover fails before that. */
	void (*asked)(void *opaque);
	/* Called once, from the loop. r: 0: the VM has a new process, which reports *info; -ENOTSUP: the VM's process
	 * cannot hand the VM over, and has not paused it; -ESRCH: the VM has ended; other -errno: the VM's process
	 * keeps the VM, or the new process has the VM and does not answer. */
	void (*done)(void *opaque, int r, const struct vm_info *info, const struct err *e);
};

/* Begin the handover. The VM has a process, and no other handover is under way. ops, opaque: borrowed until done(). */
void vm_hand_over(struct vm *vm, const struct vm_handover_ops *ops, void *opaque);

/* Cancel the handover if its new process is still being spawned: done() is called with -ECANCELED. Returns false if the
 * VM's process was asked already. */
bool vm_handover_cancel(struct vm *vm);

/* Handle the end of the VM's process after it reported VM_REASON_HANDOVER, or before it answered the query of a new
 * daemon or on a new connection, which it may have read after handing the VM over: set vm->proc to the process that
 * took the VM over, connect to it, and send it the requests that only read. If a signal ended the old process, kill the
 * new one instead, and wait for its end. The caller frees the old process's object. Internal to vm/.
 * Returns true if vm->proc is the new process now; false: the VM has ended. */
bool vm_handover_follow(struct vm *vm, const struct vm_process_end *end);
/* End the handover, if one is under way, with -ESRCH, because the VM has ended. Internal to vm/. */
void vm_handover_abandon(struct vm *vm);

#endif
