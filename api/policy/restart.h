/* restart: VMs that start again by themselves when they have ended (on_crash, on_poweroff): at once, then
 * after growing waits, and so often in a window. A start or a destroy by a user overrides it. How far it
 * is is part of state.json: another daemon goes on with it. */
#ifndef CAIRN_API_POLICY_RESTART_H
#define CAIRN_API_POLICY_RESTART_H

#include "base/backoff.h"

struct loop_timer;
struct vm;
struct vm_observer;

struct restart {
	struct backoff tries;
	struct loop_timer *timer;
	uint64_t due_ns; /* monotonic; 0: none is to come */
	bool take_up;	 /* what was loaded: once the VMs are there */
};

extern const struct vm_observer restart_observer;

/* Start a VM that has ended again if its on_crash, on_poweroff or the reboot that was asked for say so. */
void restart_apply_policies(struct vm *vm, bool rebooting);
bool restart_is_pending(const struct vm *vm);
/* How long until then. */
uint64_t restart_in_ns(const struct vm *vm);
/* Cancel the pending restart, and say so in the VM's detail. */
void restart_call_off(struct vm *vm);

/* The loop runs soon: arms what an earlier daemon had pending. */
void restart_take_up(struct vm *vm);

#endif
