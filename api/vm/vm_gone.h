/* vm_gone: calls and a function that wait for the end of a VM's process. Threading: the daemon's loop. */
#ifndef CAIRN_API_VM_VM_GONE_H
#define CAIRN_API_VM_VM_GONE_H

struct vm;

/* Call gone() once when the process has ended. Only the VM's owner operation may wait, so there is one callback. */
void vm_when_gone(struct vm *vm, void (*gone)(struct vm *vm, void *opaque), void *opaque);
/* Call the function of vm_when_gone(), if there is one. It may free the VM. */
void vm_tell_gone(struct vm *vm);
/* Answer all calls that wait for the end of the VM's process, or of a start that had none. */
void vm_answer_gone(struct vm *vm);

#endif
