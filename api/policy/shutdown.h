/* shutdown: asks a guest to shut down or reboot, now or at a planned time with warnings before it. A guest that misses
 * the deadline is left, destroyed or saved. state.json holds plan and deadline, so a later daemon continues.
 *
 * Threading: the loop's thread. */
#ifndef CAIRN_API_POLICY_SHUTDOWN_H
#define CAIRN_API_POLICY_SHUTDOWN_H

#include "api/policy/hook_ask.h"

#define SHUTDOWN_MESSAGE_MAX 160

struct json_object;
struct loop_timer;
struct vm;
struct vm_observer;

extern const struct vm_observer shutdown_observer;

struct shutdown_plan {
	bool reboot;
	bool agent;	 /* use the guest agent instead of the power button */
	bool by_host;	 /* host_shutdown.h waits for it */
	uint8_t then;	 /* enum definition_then: leave, destroy, save */
	uint32_t deadline_s; /* time before `then` applies; unused for a reboot */
	int64_t at_s;	 /* UTC */
	char message[SHUTDOWN_MESSAGE_MAX + 1];
	struct hook_delays delays;
	char delay_reason[HOOK_REASON_MAX + 1]; /* why a hook has delayed it; "": none has */
};

struct shutdown {
	enum { SHUTDOWN_NONE, SHUTDOWN_PLANNED, SHUTDOWN_BEGUN } stage;
	struct shutdown_plan plan;
	bool overdue; /* the last shutdown's deadline has passed, and its action is to leave the VM running */
	uint64_t due_ns; /* CLOCK_MONOTONIC: deadline of the shutdown under way */
	int64_t warn_s; /* UTC: the next warning; 0: none */
	struct loop_timer *timer;
};

/* Fill a plan with the definition's settings. */
void shutdown_plan_default(const struct vm *vm, struct shutdown_plan *ret_p);
/* Shut down or reboot for a user: ask the hooks of before-shutdown, then shutdown_begin(), or plan it for later.
 * done: called once; r: 0; 1: it is delayed, and vm->shutdown->plan says until when and why; -EPERM: a hook refuses;
 * -EBUSY: another request is being asked about; -errno. */
void shutdown_request(struct vm *vm, const struct shutdown_plan *p,
	void (*done)(void *opaque, int r, const struct err *e), void *opaque);
/* Start a shutdown or a reboot now, without hooks. done: called once, with the answer of the VM's process;
 * NULL allowed. */
void shutdown_begin(struct vm *vm, const struct shutdown_plan *p,
	void (*done)(void *opaque, int r, const struct err *e), void *opaque);
/* Plan a shutdown or a reboot at p->at_s, replacing an earlier plan or deadline. */
void shutdown_plan(struct vm *vm, const struct shutdown_plan *p);
/* Cancel the plan, the deadline and a request about which hooks are being asked. Returns 0; -ENOENT: there is none. */
int shutdown_cancel(struct vm *vm, struct err *e);

/* Return "start", "shutdown" or "reboot" if hooks are being asked about that, or have delayed it; else NULL. */
const char *shutdown_hook_waits(const struct vm *vm);
/* Add plan and deadline to a VM's info for clients. */
void shutdown_put(const struct vm *vm, struct json_object *o);
/* Continue an earlier daemon's plan or deadline. Call it once the VMs are loaded. */
void shutdown_take_up(struct vm *vm);

#endif
