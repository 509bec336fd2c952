/* vm_life: handles the events and the end of a VM's process: changes the VM's state and emits the daemon's events.
 * Internal to vm/. Threading: the daemon's loop. */
#ifndef CAIRN_API_VM_VM_LIFE_H
#define CAIRN_API_VM_VM_LIFE_H

#include "api/vm/vm_process.h"

struct vm;
struct vm_info;

extern const struct vm_process_ops vm_life_ops;

/* Set state and reason after the process has ended, also if it ended while no daemon ran. */
void vm_ended(struct vm *vm, const struct vm_process_end *end);
/* Handle the phase and the agent's state in a process's answer to VM_MSG_QUERY, as if events had reported them.
 * info: `detail` is terminated and cleaned in place. */
void vm_report_phase(struct vm *vm, struct vm_info *info);

#endif
