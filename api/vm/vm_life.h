/* vm_life: what a VM's process reports, turned into its life. Used by vm_life.c and
 * vm_start.c; of the process for the images, by offline_process.c. */
#ifndef CAIRN_API_VM_VM_LIFE_H
#define CAIRN_API_VM_VM_LIFE_H

#include "api/vm/vm_process.h"

#include <stdbool.h>

struct vm;
struct vm_event;

extern const struct vm_process_ops vm_life_ops;

/* How a process ended, as state and reason; also for one that ended unseen. */
void vm_ended(struct vm *vm, const struct vm_process_end *end);
/* VM_EVENT_SNAPSHOT_RECOVERED as the daemon's event. */
void vm_emit_recovered(struct vm *vm, const struct vm_event *ev);
/* Answers all calls that wait for the process to be gone. e: NULL for success. */
void vm_answer_gone(struct vm *vm, const struct err *e);

#endif
