#include "api/policy/host_shutdown.h"
#include "api/jobs/job.h"
#include "api/jobs/save.h"
#include "api/policy/bounds.h"
#include "api/policy/restart.h"
#include "api/policy/shutdown.h"
#include "api/policy/staged_run.h"
#include "api/schema/call.h"
#include "api/vm/observer.h"
#include "api/vm/vm.h"
#include "api/wire/json.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/util.h"

#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

/* With --shutdown-limit 0: the longest wait for a VM, in addition to its deadline. */
#define UNLIMITED_WAIT_S 3600
/* The shortest wait for a VM whose turn comes late. */
#define LATE_WAIT_S 5
/* The shortest deadline of a VM that would be left running, when the host ends, and the VM with it. */
#define HOST_ENDS_WAIT_S 300

struct wait {
	enum { WAITS_NOT, WAITS_FOR_END, WAITS_FOR_JOB } kind;
	uint64_t due_ns, done; /* done: the progress of the VM's job when due_ns was set */
};

struct host_shutdown {
	struct vm_host *host;
	struct call *call;
	struct staged_run *sequence;
	struct json_object *outcomes;
	struct wait *waits; /* for each entry of the staged run */
	struct loop_timer *timer;
	int action; /* as of host_shutdown_all() */
	uint64_t begun_ns;
	bool then_end;
};

static const char *const actions[] = { [DEFINITION_LEAVE] = "leave", [DEFINITION_SAVE] = "save",
	[DEFINITION_SHUTDOWN] = "shutdown" };

static uint8_t action_of(const struct host_shutdown *s, const struct vm *vm)
{
	if (s->action == HOST_SHUTDOWN_HOST_ENDS && vm->def->stop_action == DEFINITION_LEAVE)
		return DEFINITION_SHUTDOWN;
	return s->action < 0 ? vm->def->stop_action : (uint8_t)s->action;
}

/* Return the index of the VM's entry in the staged run; the number of entries if the VM's end is not awaited. */
static size_t place_of(const struct vm *vm)
{
	const struct host_shutdown *s = vm->host->host_shutdown;
	size_t n = s ? staged_run_count(s->sequence) : 0, i = 0;

	while (i < n && (s->waits[i].kind == WAITS_NOT || staged_run_vm(s->sequence, i) != vm))
		i++;
	return i;
}

bool host_shutdown_waits_for(const struct vm *vm)
{
	return vm->host->host_shutdown && place_of(vm) < staged_run_count(vm->host->host_shutdown->sequence);
}

bool host_shutdown_leaves(const struct vm *vm)
{
	return vm->host->host_shutdown && action_of(vm->host->host_shutdown, vm) == DEFINITION_LEAVE;
}

static void outcome_add(struct json_object *all, const struct vm *vm, uint8_t action, const char *outcome)
{
	struct json_object *o = json_object_new_object();

	js_put_str(o, "vm", vm->def->name);
	js_put_str(o, "action", actions[action]);
	js_put_str(o, "outcome", outcome);
	json_object_array_add(all, o);
}

static void outcome_put(struct host_shutdown *s, const struct vm *vm, const char *outcome)
{
	outcome_add(s->outcomes, vm, action_of(s, vm), outcome);
	log_info("stop", "VM '%s': %s", vm->def->name, outcome);
}

/* Return an answer with the outcomes that fit into a line; the log has all. outcomes: taken. */
static struct json_object *outcomes_answer(struct json_object *outcomes)
{
	struct json_object *o = json_object_new_object();
	size_t n = json_object_array_length(outcomes), fit = 0, bytes = 0;

	while (fit < n && (bytes += js_line_bytes(json_object_array_get_idx(outcomes, fit))) <= JS_ANSWER_MAX)
		fit++;
	json_object_array_del_idx(outcomes, fit, n - fit);
	js_put(o, "vms", outcomes);
	if (fit < n)
		js_put_uint(o, "omitted", n - fit);
	return o;
}

void host_shutdown_vm_over(struct vm *vm, const char *outcome)
{
	struct host_shutdown *s = vm->host->host_shutdown;
	size_t i = place_of(vm);

	if (!s || i == staged_run_count(s->sequence))
		return;
	s->waits[i].kind = WAITS_NOT;
	outcome_put(s, vm, outcome);
	staged_run_over(s->sequence, i);
}

static void step_saved(struct job *j, void *opaque)
{
	host_shutdown_vm_over(opaque, j->failed ? j->e.msg : "saved");
}

/* Save the VM when the job that owns it is over. Nobody can begin another job before host_shutdown_on_job_end(). A save
 * that is under way continues; any other job is cancelled, if it can be. */
static void step_save_after_job(struct vm *vm)
{
	struct err e;

	vm->host->host_shutdown->waits[place_of(vm)].kind = WAITS_FOR_JOB;
	log_info("stop", "VM '%s': waits for the end of job %s (%s)", vm->def->name, vm->operation.id, vm->operation.type);
	if (vm->operation.kind == VM_OP_JOB)
		job_cancel(vm->operation.job, &e);
}

static void step_save(struct vm *vm)
{
	struct job *j;
	struct err e;

	if (vm->operation.job) {
		step_save_after_job(vm);
		return;
	}
	if (save_managed(vm, SAVE_THEN_AS_IT_WAS, NULL, NULL, &j, &e) < 0) {
		host_shutdown_vm_over(vm, e.msg);
		return;
	}
	j->concluded = step_saved;
	j->concluded_opaque = vm;
}

static uint64_t seconds_past(const struct host_shutdown *s)
{
	return (loop_now_ns() - s->begun_ns) / CLOCK_NS_PER_S;
}

/* Fill the plan of the VM's shutdown. Neither the definer nor all VMs together may block the host's shutdown. */
static void plan_of(const struct host_shutdown *s, const struct vm *vm, struct shutdown_plan *ret_p)
{
	uint64_t limit_s = vm->host->paths->limits.shutdown_s, past_s = seconds_past(s);

	shutdown_plan_default(vm, ret_p);
	ret_p->by_host = true;
	ret_p->deadline_s = bounds_deadline_s(vm);
	if (s->action == HOST_SHUTDOWN_HOST_ENDS && ret_p->then == DEFINITION_LEAVE)
		ret_p->deadline_s = MAX(ret_p->deadline_s, HOST_ENDS_WAIT_S);
	if (limit_s)
		ret_p->deadline_s = (uint32_t)MIN(ret_p->deadline_s, limit_s > past_s ? limit_s - past_s : 1);
}

static void shut_down(struct vm *vm)
{
	struct shutdown_plan p;

	plan_of(vm->host->host_shutdown, vm, &p);
	shutdown_begin(vm, &p, NULL, NULL);
}

static void vm_act(struct host_shutdown *s, struct vm *vm)
{
	uint8_t action = action_of(s, vm);

	if (!vm->proc || (!vm_state_is_active(vm->state) && vm->start.kind != VM_OP_START))
		host_shutdown_vm_over(vm, "is off");
	else if (action == DEFINITION_LEAVE || vm->state == VM_PRESERVED)
		host_shutdown_vm_over(vm, "left running");
	else if (vm->start.kind == VM_OP_START)
		return; /* continued by host_shutdown_on_started() or by the VM's end */
	else if (action == DEFINITION_SAVE)
		step_save(vm);
	else
		shut_down(vm);
}

/* ---- the bound of each wait ---- */

static uint64_t job_progress_of(const struct vm *vm)
{
	return vm->operation.job ? vm->operation.job->done : 0;
}

/* Return how long the shutdown waits for a VM from now, in addition to its deadline. The VMs of definers other than
 * root and the daemon's user have two thirds of the limit, all together, so that time remains for the others. */
static uint64_t wait_s(const struct host_shutdown *s, const struct vm *vm)
{
	uint64_t limit_s = vm->host->paths->limits.shutdown_s, past_s = seconds_past(s);
	uint64_t users_s = limit_s * 2 / 3;

	if (!limit_s)
		return UNLIMITED_WAIT_S;
	return vm->def->rights ? MAX(users_s > past_s ? users_s - past_s : 0, LATE_WAIT_S) : MAX(limit_s, LATE_WAIT_S);
}

static void wait_begin(struct host_shutdown *s, const struct vm *vm, struct wait *w)
{
	struct shutdown_plan p = { .deadline_s = 0 };

	if (action_of(s, vm) == DEFINITION_SHUTDOWN)
		plan_of(s, vm, &p);
	*w = (struct wait){ WAITS_FOR_END, loop_now_ns() + (p.deadline_s + wait_s(s, vm)) * CLOCK_NS_PER_S, job_progress_of(vm) };
}

/* Return whether the wait is over. A save that makes progress is awaited for as long as it lasts, unless such a
 * definer's VM makes it. */
static bool wait_is_due(struct host_shutdown *s, struct vm *vm, struct wait *w)
{
	uint64_t done = job_progress_of(vm);

	if (w->kind == WAITS_NOT || loop_now_ns() < w->due_ns)
		return false;
	if (vm->def->rights || done <= w->done)
		return true;
	log_info("stop", "VM '%s': job %s makes progress, so it is awaited", vm->def->name, vm->operation.id);
	w->done = done;
	w->due_ns = loop_now_ns() + wait_s(s, vm) * CLOCK_NS_PER_S;
	return false;
}

static void waits_arm(struct host_shutdown *s)
{
	uint64_t at = UINT64_MAX;

	for (size_t i = 0; i < staged_run_count(s->sequence); i++)
		if (s->waits[i].kind != WAITS_NOT && staged_run_vm(s->sequence, i))
			at = MIN(at, s->waits[i].due_ns);
	if (at != UINT64_MAX)
		loop_timer_arm(s->timer, at);
}

static void waits_fire(void *opaque)
{
	struct vm_host *host = opaque;

	for (size_t i = 0; host->host_shutdown && i < staged_run_count(host->host_shutdown->sequence); i++) {
		struct host_shutdown *s = host->host_shutdown; /* the last VM's end frees it */
		struct vm *vm = staged_run_vm(s->sequence, i);

		if (vm && wait_is_due(s, vm, &s->waits[i]))
			host_shutdown_vm_over(vm, action_of(s, vm) == DEFINITION_SAVE ? "not saved in time" : "not ended in time");
	}
	if (host->host_shutdown)
		waits_arm(host->host_shutdown);
}

static void shutdown_turn(void *opaque, struct vm *vm, size_t i)
{
	struct host_shutdown *s = opaque;

	wait_begin(s, vm, &s->waits[i]);
	waits_arm(s);
	vm_act(s, vm);
}

static void host_shutdown_on_started(struct vm *vm)
{
	if (host_shutdown_waits_for(vm))
		shutdown_turn(vm->host->host_shutdown, vm, place_of(vm));
}

static void shutdown_done(void *opaque)
{
	struct host_shutdown *s = opaque;
	struct vm_host *host = s->host;
	bool then_end = s->then_end;

	host->host_shutdown = NULL;
	call_return(s->call, outcomes_answer(STEAL_PTR(s->outcomes)));
	s->call = NULL;
	host_shutdown_free(s);
	if (then_end)
		loop_stop(host->loop);
}

/* Create a staged run of all running and starting VMs, in reverse start order. */
static struct staged_run *staged_run_of(struct vm_host *host, unsigned parallel, const struct staged_run_ops *ops, struct host_shutdown *s)
{
	struct staged_run *q = staged_run_new(host, parallel, ops, s);

	for (size_t i = 0; i < host->nvms; i++)
		if (vm_state_is_active(host->vms[i]->state) || host->vms[i]->start.kind == VM_OP_START)
			staged_run_add(q, host->vms[i], UINT32_MAX - bounds_order(host->vms[i]), 0);
	return q;
}

/* Return whether the shutdown cancels the VM's pending restart. A VM with the action `leave` keeps it. */
static bool is_called_off(const struct host_shutdown *s, const struct vm *vm)
{
	return restart_is_pending(vm) && vm->start.kind != VM_OP_START && action_of(s, vm) != DEFINITION_LEAVE;
}

int host_shutdown_all(struct vm_host *host, int action, bool then_end, struct call *c, struct err *e)
{
	static const struct staged_run_ops ops = { shutdown_turn, shutdown_done };
	struct host_shutdown *s;

	if (host->host_shutdown)
		return err_set(e, -EBUSY, ERR_BUSY, "another cairn daemon-stop is already stopping the VMs");
	s = calloc(1, sizeof(*s));
	if (!s || !(s->waits = calloc(host->nvms + 1, sizeof(*s->waits))))
		abort();
	if (loop_timer_new(host->loop, waits_fire, host, &s->timer) < 0)
		abort();
	s->host = host;
	s->call = c;
	s->action = action;
	s->then_end = then_end;
	s->begun_ns = loop_now_ns();
	s->outcomes = json_object_new_array();
	for (size_t i = 0; i < host->nvms; i++)
		if (is_called_off(s, host->vms[i])) {
			restart_call_off(host->vms[i]);
			outcome_put(s, host->vms[i], "its restart is cancelled");
		}
	for (size_t i = 0; i < host->nvms; i++)
		if (vm_is_starting(host->vms[i]) && host->vms[i]->start.kind != VM_OP_START)
			host->vms[i]->start.opts.too_late = true;
	s->sequence = staged_run_of(host, host->paths->limits.starting, &ops, s);
	host->host_shutdown = s;
	staged_run_go(s->sequence);
	return 0;
}

/* ---- dry run ---- */

static void would_stop(void *opaque, struct vm *vm, size_t i)
{
	static const char *const after[] = { [DEFINITION_LEAVE] = "left running", [DEFINITION_DESTROY] = "destroyed",
		[DEFINITION_SAVE] = "saved" };
	struct host_shutdown *s = opaque;
	uint8_t action = action_of(s, vm);
	struct shutdown_plan p;
	char words[80];

	plan_of(s, vm, &p);
	if (action == DEFINITION_LEAVE || vm->state == VM_PRESERVED)
		snprintf(words, sizeof(words), "would be left running");
	else if (action == DEFINITION_SAVE)
		snprintf(words, sizeof(words), "would be saved");
	else
		snprintf(words, sizeof(words), "would be shut down; after %u s, %s", p.deadline_s, after[p.then]);
	outcome_add(s->outcomes, vm, action, words);
	staged_run_over(s->sequence, i);
}

static void shutdown_do_nothing(void *opaque)
{
	(void)opaque;
}

struct json_object *host_shutdown_plan(struct vm_host *host, int action)
{
	static const struct staged_run_ops ops = { would_stop, shutdown_do_nothing };
	struct host_shutdown s = { .host = host, .action = action, .outcomes = json_object_new_array(),
		.begun_ns = loop_now_ns() };

	for (size_t i = 0; i < host->nvms; i++)
		if (is_called_off(&s, host->vms[i]))
			outcome_add(s.outcomes, host->vms[i], action_of(&s, host->vms[i]), "its restart would be "
				"cancelled");
	s.sequence = staged_run_of(host, 1, &ops, &s); /* one at a time, so that the order is visible */
	staged_run_go(s.sequence);
	staged_run_free(s.sequence);
	return outcomes_answer(s.outcomes);
}

void host_shutdown_free(struct host_shutdown *s)
{
	if (!s)
		return;
	staged_run_free(s->sequence);
	loop_timer_free(s->timer);
	json_object_put(s->outcomes);
	free(s->waits);
	free(s);
}

static void host_shutdown_on_run_over(struct vm *vm, bool was_active, bool rebooting)
{
	(void)was_active;
	(void)rebooting;
	/* While the saved state is being stored, do nothing: save.c calls the observer's save_over() afterwards. */
	if (vm->operation.kind != VM_OP_SAVE_KEPT)
		host_shutdown_vm_over(vm, vm_reason_name(vm->reason));
}

static void host_shutdown_on_stuck(struct vm *vm)
{
	host_shutdown_vm_over(vm, "its process was killed, but has not ended");
}

/* A job may own more VMs than the one that its end names, such as the clones of a fork. */
static void host_shutdown_on_job_end(struct vm_host *host, const char *name)
{
	(void)name;
	for (size_t i = 0; host->host_shutdown && i < staged_run_count(host->host_shutdown->sequence); i++) {
		struct host_shutdown *s = host->host_shutdown; /* the last VM's end may free it */
		struct vm *vm = staged_run_vm(s->sequence, i);

		if (s->waits[i].kind != WAITS_FOR_JOB || (vm && vm->operation.job))
			continue;
		s->waits[i].kind = WAITS_NOT;
		if (vm)
			shutdown_turn(s, vm, i);
		else
			staged_run_over(s->sequence, i);
	}
}

const struct vm_observer host_shutdown_observer = { .started = host_shutdown_on_started,
	.job_concluded = host_shutdown_on_job_end,
	.process_stuck = host_shutdown_on_stuck, .run_over = host_shutdown_on_run_over, .save_over = host_shutdown_vm_over };
