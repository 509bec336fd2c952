/* vm_guest_event: emits the daemon's events for acts of a guest that its VM's process has reported. A guest can do
 * most of that at will, so each kind has a rate limit. Changes no state of the VM. Internal to vm/. Threading: the
 * daemon's loop. */
#ifndef CAIRN_API_VM_VM_GUEST_EVENT_H
#define CAIRN_API_VM_VM_GUEST_EVENT_H

#include <stdint.h>

struct vm;
struct vm_event;

/* Emit the daemon's event for one of the process. A kind without an event is logged. */
void vm_guest_event(struct vm *vm, const struct vm_event *ev);
/* Note the state of the guest agent's port, VM_AGENT_*, and emit the events for a change. Ignore other values. */
void vm_agent_event(struct vm *vm, int64_t now);

#endif
