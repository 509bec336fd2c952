/* vm_life: handles the events and the end of a VM's process: changes the VM's state and emits the daemon's events.
 * Internal to vm/. Threading: the daemon's loop. */
#ifndef CAIRN_API_VM_VM_LIFE_H
#define CAIRN_API_VM_VM_LIFE_H

#include "api/vm/vm_process.h"

struct vm;
struct vm_event;
struct vm_info;

extern const struct vm_process_ops vm_life_ops;

/* Set state and reason after the process has ended, also if it ended while no daemon ran. */
void vm_ended(struct vm *vm, const struct vm_process_end *end);
/* Handle the phase and the agent's state in a process's answer to VM_MSG_QUERY, as if events had reported them.
 * info: `detail` is terminated and cleaned in place. */
void vm_report_phase(struct vm *vm, struct vm_info *info);
/* Call the function of vm_when_gone(), if there is one. It may free the VM. */
void vm_tell_gone(struct vm *vm);
/* Answer all calls that wait for the end of the VM's process, or of a start that had none. */
void vm_answer_gone(struct vm *vm);
/* Emit EVENT_SNAPSHOT_RECOVERED. ev: of kind VM_EVENT_SNAPSHOT_RECOVERED. */
void vm_emit_recovered(struct vm *vm, const struct vm_event *ev);

#endif
