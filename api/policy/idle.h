/* idle: suspends or saves a VM, with the reason `idle`, that was idle for as long as its definition says: almost no CPU
 * time, no disk requests, no console traffic or client, nothing sent to a network. A command for the guest, for a
 * console or for a vsock port wakes the VM; so do a shutdown, a reboot, and a connection to a forward (forwards.h).
 * Counting restarts when the VM runs again.
 *
 * Threading: the loop's thread. */
#ifndef CAIRN_API_POLICY_IDLE_H
#define CAIRN_API_POLICY_IDLE_H

#include "api/policy/policy.h"
#include "api/schema/vm_state.h"

struct err;
struct fall;
struct loop_timer;
struct vm;
struct vm_observer;

extern const struct vm_observer idle_observer;

struct idle {
	struct policy_idle look;
	struct loop_timer *timer;
	bool asking;	/* a query is under way, or the VM is being put to sleep */
	bool waking; /* a resume was requested */
	bool holding;	/* the VM's networks hold new connections, because the daemon is about to save the VM */
	struct fall *fall; /* while `falling_asleep` is being stored; else NULL */
	bool disturbed; /* a client connected while the VM fell asleep */
	char by[80];	/* "by forward …" if a connection to a forward wakes the VM; empty: a command wakes it */
};

/* Start or stop counting the VM's idle time after a change of its state. */
void idle_on_state_change(struct vm *vm);
/* Return whether the VM sleeps and must be woken before the request. */
bool idle_has_to_wake(const struct vm *vm, enum vm_trigger t);
/* Wake the VM. done: called once, before the call returns or from the loop. */
void idle_wake(struct vm *vm, void (*done)(void *opaque, int r, const struct err *e), void *opaque);

#endif
