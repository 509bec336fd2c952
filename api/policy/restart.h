/* restart: VMs that start again by themselves when they have ended (on_crash, on_poweroff): at once, then
 * after growing waits, and so often in a window. A start or a destroy by a user overrides it. How far it
 * is is part of state.json: another daemon goes on with it. */
#ifndef CAIRN_API_POLICY_RESTART_H
#define CAIRN_API_POLICY_RESTART_H

#include "base/backoff.h"

struct json_object;
struct loop_timer;
struct vm;

struct restart {
	struct backoff tries;
	struct loop_timer *timer;
	uint64_t due_ns; /* monotonic; 0: none is to come */
	bool take_up;	 /* what was loaded: once the VMs are there */
};

/* It has ended, and its policy wants it back. Emits RESTART_SCHEDULED, or says in its state that it stays
 * off. */
void restart_want(struct vm *vm);
bool restart_is_pending(const struct vm *vm);
/* How long until then. */
uint64_t restart_in_ns(const struct vm *vm);
/* Somebody starts it, or wants it off: no more of that, and a next time counts anew. */
void restart_forget(struct vm *vm);
/* The same, told. It is pending. */
void restart_call_off(struct vm *vm);

/* Part of the VM's state; NULL: nothing to keep. The caller puts it. */
struct json_object *restart_to_json(const struct vm *vm);
/* o: NULL allowed. */
void restart_load(struct vm *vm, struct json_object *o);
/* The loop runs soon: arms what an earlier daemon had pending. */
void restart_take_up(struct vm *vm);

#endif
