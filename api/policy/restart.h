/* restart: restarts VMs that have ended, by their on_crash and on_poweroff policies: at once, then with back-off, up to
 * a number of tries in a window. A user's start or destroy cancels the pending restart. state.json holds the progress,
 * so a later daemon continues.
 *
 * Threading: the loop's thread. */
#ifndef CAIRN_API_POLICY_RESTART_H
#define CAIRN_API_POLICY_RESTART_H

#include "base/backoff.h"

struct loop_timer;
struct vm;
struct vm_observer;

struct restart {
	struct backoff tries;
	struct loop_timer *timer;
	uint64_t due_ns; /* monotonic; 0: no restart pending */
	bool take_up;	 /* loaded from state.json; arm the timer when all VMs are loaded */
};

extern const struct vm_observer restart_observer;

/* Restart a VM that has ended if its definition's on_crash or on_poweroff demands that, or if a reboot was
 * requested. */
void restart_apply_policies(struct vm *vm, bool rebooting);
bool restart_is_pending(const struct vm *vm);
/* Return the time until the pending restart. */
uint64_t restart_in_ns(const struct vm *vm);
/* Cancel the pending restart, and say so in the VM's detail. */
void restart_call_off(struct vm *vm);

/* Arm the restart that an earlier daemon left pending. Call it once the VMs are loaded. */
void restart_take_up(struct vm *vm);

#endif
