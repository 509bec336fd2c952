/* shutdown: a VM is asked to shut down, or to reboot: now, or at a time that it is warned of before. When it has
 * not by a deadline, it is left, destroyed or saved. Both are part of state.json: another daemon goes on with
 * them. */
#ifndef CAIRN_API_POLICY_SHUTDOWN_H
#define CAIRN_API_POLICY_SHUTDOWN_H

#include "api/definition/definition.h"

#define SHUTDOWN_MESSAGE_MAX 160

struct json_object;
struct loop_timer;
struct vm;
struct vm_observer;

extern const struct vm_observer shutdown_observer;

struct shutdown_plan {
	bool reboot;
	bool agent;	 /* by the guest agent, not the power button */
	uint8_t then;	 /* enum definition_then: leave, destroy, save */
	uint32_t deadline_s; /* until then; not for a reboot */
	int64_t at_s;	 /* UTC */
	char message[SHUTDOWN_MESSAGE_MAX + 1];
};

struct shutdown {
	enum { SHUTDOWN_NONE, SHUTDOWN_PLANNED, SHUTDOWN_BEGUN } stage;
	struct shutdown_plan plan;
	int64_t due_s; /* UTC: the deadline of one that has begun */
	int64_t warn_s; /* UTC: the next warning; 0: none */
	struct loop_timer *timer;
};

/* What its definition says. */
void shutdown_plan_default(const struct vm *vm, struct shutdown_plan *ret_p);
/* Now. done: once; NULL: nobody waits. */
void shutdown_begin(struct vm *vm, const struct shutdown_plan *p,
	void (*done)(void *opaque, int r, const struct err *e), void *opaque);
/* At p->at_s, in place of what was planned. */
void shutdown_plan(struct vm *vm, const struct shutdown_plan *p);
/* -ENOENT: nothing is planned, and no deadline runs. */
int shutdown_cancel(struct vm *vm, struct err *e);

/* Part of what clients see of a VM. */
void shutdown_put(const struct vm *vm, struct json_object *o);
/* The loop runs soon: goes on with what an earlier daemon had. */
void shutdown_take_up(struct vm *vm);

#endif
