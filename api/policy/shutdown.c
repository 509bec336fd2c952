#include "api/policy/shutdown.h"
#include "api/jobs/job.h"
#include "api/jobs/save.h"
#include "api/policy/host_shutdown.h"
#include "api/policy/policy.h"
#include "api/vm/observer.h"
#include "api/vm/vm.h"
#include "api/vm/vm_process.h"
#include "api/wire/json.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/shell_word.h"
#include "base/util.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NS 1000000000LL
/* The guest agent begins within AGENT_TURN_NS, and has AGENT_SYNC_NS to answer and AGENT_SILENCE_NS to refuse. */
#define REQUEST_TIMEOUT_NS (12 * 1000000000ULL)
/* The wall clock may be set, so check a planned time at this interval. */
#define CHECK_S 60
/* A planned shutdown waits in such steps while hooks are being asked about another request. */
#define ASKED_AGAIN_NS CLOCK_NS_PER_S

static const char *const thens[] = { [DEFINITION_LEAVE] = "leave", [DEFINITION_DESTROY] = "destroy",
	[DEFINITION_SAVE] = "save" };

static int64_t now_s(void)
{
	return (int64_t)clock_realtime_ns() / NS;
}

void shutdown_plan_default(const struct vm *vm, struct shutdown_plan *p)
{
	*p = (struct shutdown_plan){ .then = vm->def->shutdown_then, .deadline_s = vm->def->shutdown_deadline_s };
}

static void shutdown_emit(struct vm *vm, const char *what, const char *detail)
{
	const struct shutdown_plan *p = &vm->shutdown->plan;
	struct json_object *data = json_object_new_object();

	js_put_str(data, "what", what);
	js_put_bool(data, "reboot", p->reboot);
	if (!strcmp(what, "planned") || !strcmp(what, "delayed"))
		js_put_int(data, "at", p->at_s * NS);
	if (!strcmp(what, "overdue"))
		js_put_str(data, "then", thens[p->then]);
	js_put_str(data, "detail", detail);
	vm_emit(vm, EVENT_SHUTDOWN_PLAN, data);
}

static void shutdown_reset(struct vm *vm)
{
	vm->shutdown->stage = SHUTDOWN_NONE;
	vm->shutdown->overdue = false;
	if (vm->shutdown->timer)
		loop_timer_disarm(vm->shutdown->timer);
}

static void timer_fire(void *opaque);

/* Return when to look at the plan next: at its time or the next warning, but soon enough to notice a clock that was
 * set. */
static uint64_t planned_check_ns(const struct shutdown *s)
{
	int64_t now = (int64_t)clock_realtime_ns(), at = s->plan.at_s;

	if (s->warn_s && s->warn_s < at)
		at = s->warn_s;
	at = MAX(MIN(at - now / NS, CHECK_S), 0);
	return loop_now_ns() + (uint64_t)MAX(at * NS - now % NS, 0);
}

static void timer_arm(struct vm *vm)
{
	struct shutdown *s = vm->shutdown;

	if (!s->timer && loop_timer_new(vm->host->loop, timer_fire, vm, &s->timer) < 0)
		abort();
	loop_timer_arm(s->timer, s->stage == SHUTDOWN_BEGUN ? s->due_ns : planned_check_ns(s));
}

/* ---- warning the guest ---- */

static void guest_warned(void *opaque, int r, const struct vm_answer *a, const struct err *e)
{
	struct vm *vm = opaque;

	(void)a;
	/* The VM's process shows the warning on the consoles, too, so without an agent a failure is not logged. */
	if (r < 0 && vm_live(vm)->guest_agent)
		log_info("shutdown", "VM '%s': cannot warn the guest's users: %s", vm->def->name, e->msg);
}

static void guest_warn(struct vm *vm)
{
	const struct shutdown_plan *p = &vm->shutdown->plan;
	struct vm_agent body = { .action = VM_AGENT_TELL };
	long long left = MAX((long long)(p->at_s - now_s()), 0);
	bool minutes = left >= 120;

	if (!vm->proc || vm->state != VM_RUNNING)
		return;
	snprintf(body.text, sizeof(body.text), "%s%sThis machine %s in %lld %s.", p->message, p->message[0] ? " " : "",
		p->reboot ? "reboots" : "shuts down", minutes ? (left + 30) / 60 : left,
		minutes ? "minutes" : "seconds");
	vm_process_request(vm->proc, VM_MSG_AGENT, &body, sizeof(body), -1, REQUEST_TIMEOUT_NS, guest_warned, vm);
}

/* ---- the deadline of a shutdown ---- */

static void save_done(struct job *j, void *opaque)
{
	struct vm *vm = opaque;

	if (j->failed)
		shutdown_emit(vm, "failed", j->e.msg);
	host_shutdown_vm_over(vm, j->failed ? j->e.msg : "saved");
}

static void overdue_save(struct vm *vm)
{
	struct job *j;
	struct err e;

	if (save_managed(vm, SAVE_THEN_RUNNING, NULL, NULL, &j, &e) < 0) {
		shutdown_emit(vm, "failed", e.msg);
		host_shutdown_vm_over(vm, e.msg);
		return;
	}
	j->concluded = save_done;
	j->concluded_opaque = vm;
}

static void shutdown_overdue(struct vm *vm)
{
	uint8_t then = vm->shutdown->plan.then;
	bool by_host = vm->shutdown->plan.by_host;

	log_warn("shutdown", "VM '%s' has not shut down within %u s: %s", vm->def->name,
		vm->shutdown->plan.deadline_s, thens[then]);
	shutdown_emit(vm, "overdue", NULL);
	shutdown_reset(vm);
	vm->shutdown->overdue = then == DEFINITION_LEAVE;
	vm_save(vm);
	if (then == DEFINITION_DESTROY)
		vm_destroy(vm, NULL);
	else if (then == DEFINITION_SAVE)
		overdue_save(vm);
	else if (by_host)
		host_shutdown_vm_over(vm, "did not shut down in time");
}

/* ---- immediate shutdown ---- */

struct begun {
	struct vm *vm;
	void (*done)(void *opaque, int r, const struct err *e);
	void *opaque;
	bool presses; /* the power button, so an event is to come */
};

static void guest_asked(void *opaque, int r, const struct vm_answer *a, const struct err *e)
{
	struct begun b = *(struct begun *)opaque;
	struct shutdown *s = b.vm->shutdown;
	bool dropped = r < 0 && s->stage == SHUTDOWN_BEGUN && s->plan.then == DEFINITION_LEAVE;

	(void)a;
	free(opaque);
	if (r < 0 && b.presses && b.vm->event_limits.powerdowns_asked)
		b.vm->event_limits.powerdowns_asked--;
	if (r < 0) {
		vm_set(b.vm, VM_FACT_REBOOTS | VM_FACT_OFF_ASKED, false);
		if (dropped) {
			shutdown_reset(b.vm);
			vm_save(b.vm);
		}
		if (dropped && s->plan.by_host)
			host_shutdown_vm_over(b.vm, e->msg);
	} else if (!s->plan.reboot || !s->plan.agent) {
		vm_move(b.vm, s->plan.reboot ? VM_ASK_REBOOT : VM_ASK_SHUTDOWN, VM_REASON_USER, NULL, 0);
	}
	/* Another client may wait for an earlier shutdown, which this one has replaced. */
	if (dropped || (r < 0 && !b.done))
		shutdown_emit(b.vm, "failed", e->msg);
	if (b.done)
		b.done(b.opaque, r, e);
}

void shutdown_begin(struct vm *vm, const struct shutdown_plan *p,
	void (*done)(void *opaque, int r, const struct err *e), void *opaque)
{
	struct vm_agent body = { .action = p->reboot ? VM_AGENT_REBOOT : VM_AGENT_SHUTDOWN };
	struct begun *b = must_alloc(malloc(sizeof(*b)));

	hook_ask_cancel(vm, HOOK_SHUTDOWN);
	*b = (struct begun){ vm, done, opaque, !p->agent };
	vm->event_limits.powerdowns_asked += b->presses;
	shutdown_reset(vm);
	vm->shutdown->plan = *p;
	vm_set(vm, VM_FACT_REBOOTS, p->reboot); /* before pressing the button: the guest may power off at once */
	vm_set(vm, VM_FACT_OFF_ASKED, !p->reboot);
	if (!p->reboot) {
		vm->shutdown->stage = SHUTDOWN_BEGUN;
		vm->shutdown->due_ns = loop_now_ns() + p->deadline_s * CLOCK_NS_PER_S;
		timer_arm(vm);
	}
	if (p->agent)
		vm_process_request(vm->proc, VM_MSG_AGENT, &body, sizeof(body), -1, REQUEST_TIMEOUT_NS, guest_asked, b);
	else
		vm_process_request(vm->proc, VM_MSG_POWERDOWN, NULL, 0, -1, REQUEST_TIMEOUT_NS, guest_asked, b);
	vm_save(vm);
}

/* ---- asking the hooks ---- */

struct request {
	struct shutdown_plan plan;
	bool planned; /* the plan's time has come */
	void (*done)(void *opaque, int r, const struct err *e);
	void *opaque;
};

static bool can_shut_down(const struct vm *vm)
{
	return vm->proc && vm_state_is_active(vm->state) && vm->state != VM_PRESERVED;
}

/* Tell the outcome if it is not the shutdown itself. */
static void request_end(struct vm *vm, const struct request *q, int r, const struct err *e)
{
	if (q->planned && r < 0 && vm) {
		shutdown_emit(vm, "failed", e->msg);
		shutdown_reset(vm);
		vm_save(vm);
	}
	if (q->done)
		q->done(q->opaque, r, e);
}

static void shutdown_delay(struct vm *vm, const struct request *q, const struct hook_answer *a)
{
	struct shutdown *s = vm->shutdown;

	s->stage = SHUTDOWN_PLANNED;
	s->plan = q->plan;
	s->plan.at_s = now_s() + a->delay_s;
	snprintf(s->plan.delay_reason, sizeof(s->plan.delay_reason), "%s", a->reason);
	s->warn_s = 0;
	timer_arm(vm);
	log_info("shutdown", "VM '%s': its %s is delayed by %u s: %s", vm->def->name, q->plan.reboot ? "reboot" : "shutdown", a->delay_s,
		a->reason);
	vm_save(vm);
	shutdown_emit(vm, "delayed", a->reason);
}

/* Look whether the VM can be shut down after the hooks were asked. */
static int answer_check(const struct vm *vm, const struct hook_answer *a, bool reboot, struct err *e)
{
	if (!vm)
		return err_set(e, -ENOENT, ERR_NOT_FOUND, "the VM was removed meanwhile");
	if (host_shutdown_waits_for(vm))
		return err_set(e, -EBUSY, ERR_BUSY, "VM '%.200s' is being stopped by cairn daemon-stop", vm->def->name);
	if (!can_shut_down(vm))
		return err_set(e, -EINVAL, ERR_WRONG_STATE, "VM '%.200s' is %s", vm->def->name, vm_state_name(vm->state));
	if (a->says == HOOK_CANCELLED)
		return err_set(e, -ECANCELED, ERR_CANCELLED, "VM '%.200s' keeps running: its shutdown was cancelled", vm->def->name);
	if (a->says == HOOK_NO)
		return err_set(e, -EPERM, ERR_PERMISSION, "the host's admin does not let VM '%.200s' %s: %s", vm->def->name,
			reboot ? "reboot" : "shut down", a->reason);
	return 0;
}

static void hooks_answered(struct vm *vm, const struct hook_answer *ans, void *opaque)
{
	struct request *q = opaque;
	struct hook_answer a = *ans;
	struct err e;
	int r;

	if (q->planned && a.says == HOOK_CANCELLED)
		return; /* the plan is cancelled, replaced or moot */
	if (a.says == HOOK_LATER)
		hook_delays_add(&q->plan.delays, &a);
	r = answer_check(vm, &a, q->plan.reboot, &e);
	if (!r && a.says == HOOK_YES) {
		shutdown_begin(vm, &q->plan, q->done, q->opaque);
		return;
	}
	if (!r) {
		shutdown_delay(vm, q, &a);
		r = 1;
	}
	request_end(vm, q, r, &e);
}

static void request_ask(struct vm *vm, const struct request *q)
{
	struct request *own;
	struct err e;
	int r;

	if (hook_ask_is_under_way(vm, HOOK_SHUTDOWN)) {
		err_set(&e, -EBUSY, ERR_BUSY, "the hooks of the host's admin are being asked about another request; to cancel that: cairn "
			"shutdown --cancel %s", shell_word(vm->def->name).s);
		request_end(vm, q, -EBUSY, &e);
		return;
	}
	own = must_alloc(malloc(sizeof(*own)));
	*own = *q;
	r = hook_ask(vm, HOOK_SHUTDOWN, q->plan.reboot, hooks_answered, own, &e);
	if (r > 0)
		return;
	free(own);
	if (r < 0)
		request_end(vm, q, r, &e);
	else
		shutdown_begin(vm, &q->plan, q->done, q->opaque);
}

void shutdown_request(struct vm *vm, const struct shutdown_plan *p, void (*done)(void *opaque, int r, const struct err *e), void *opaque)
{
	request_ask(vm, &(struct request){ .plan = *p, .done = done, .opaque = opaque });
}

/* ---- planned shutdown ---- */

static void planned_begin(struct vm *vm)
{
	struct request q = { .plan = vm->shutdown->plan, .planned = true };

	if (hook_ask_is_under_way(vm, HOOK_SHUTDOWN)) {
		loop_timer_arm(vm->shutdown->timer, loop_now_ns() + ASKED_AGAIN_NS);
		return;
	}
	if (can_shut_down(vm)) {
		request_ask(vm, &q);
		return;
	}
	shutdown_reset(vm);
	vm_save(vm);
}

static void timer_fire(void *opaque)
{
	struct vm *vm = opaque;
	struct shutdown *s = vm->shutdown;
	int64_t now = now_s();

	if (s->stage == SHUTDOWN_BEGUN && loop_now_ns() >= s->due_ns) {
		shutdown_overdue(vm);
		return;
	}
	if (s->stage == SHUTDOWN_PLANNED && now >= s->plan.at_s) {
		planned_begin(vm);
		return;
	}
	if (s->stage == SHUTDOWN_PLANNED && s->warn_s && now >= s->warn_s) {
		guest_warn(vm);
		s->warn_s = policy_next_warning(s->plan.at_s, now);
	}
	if (s->stage != SHUTDOWN_NONE)
		timer_arm(vm);
}

void shutdown_plan(struct vm *vm, const struct shutdown_plan *p)
{
	struct shutdown *s = vm->shutdown;

	hook_ask_cancel(vm, HOOK_SHUTDOWN);
	s->stage = SHUTDOWN_PLANNED;
	s->overdue = false;
	s->plan = *p;
	s->warn_s = policy_next_warning(p->at_s, now_s());
	timer_arm(vm);
	guest_warn(vm);
	vm_save(vm);
	shutdown_emit(vm, "planned", NULL);
}

int shutdown_cancel(struct vm *vm, struct err *e)
{
	bool asked = hook_ask_is_under_way(vm, HOOK_SHUTDOWN);

	if (vm->shutdown->stage == SHUTDOWN_NONE && !asked)
		return err_set(e, -ENOENT, ERR_NOT_FOUND,
			"VM '%.200s' has no shutdown planned, and no deadline runs", vm->def->name);
	hook_ask_cancel(vm, HOOK_SHUTDOWN);
	shutdown_emit(vm, "cancelled", NULL);
	shutdown_reset(vm);
	vm_save(vm);
	return 0;
}

/* ---- the plan as JSON ---- */

/* Return the deadline in seconds of the wall clock, rounded up, so that it is never earlier than requested; 0: no
 * shutdown is under way. */
static int64_t deadline_wall_s(const struct shutdown *s)
{
	uint64_t now = loop_now_ns(), left = s->due_ns > now ? s->due_ns - now : 0;

	return s->stage == SHUTDOWN_BEGUN ? ((int64_t)(clock_realtime_ns() + left) + NS - 1) / NS : 0;
}

const char *shutdown_hook_waits(const struct vm *vm)
{
	const struct shutdown *s = vm->shutdown;
	const char *asked = hook_ask_waits(vm);

	if (asked || s->stage != SHUTDOWN_PLANNED || !s->plan.delay_reason[0])
		return asked;
	return s->plan.reboot ? "reboot" : "shutdown";
}

void shutdown_put(const struct vm *vm, struct json_object *o)
{
	const struct shutdown *s = vm->shutdown;

	if (s->overdue)
		js_put_bool(o, "shutdown-overdue", true);
	if (s->stage == SHUTDOWN_NONE)
		return;
	if (s->stage == SHUTDOWN_PLANNED)
		js_put_int(o, s->plan.reboot ? "reboot-at" : "shutdown-at", s->plan.at_s * NS);
	else
		js_put_int(o, "shutdown-deadline", deadline_wall_s(s) * NS);
	if (!s->plan.reboot)
		js_put_str(o, "shutdown-then", thens[s->plan.then]);
	if (s->stage == SHUTDOWN_PLANNED && s->plan.delay_reason[0])
		js_put_str(o, "delayed", s->plan.delay_reason);
}

static struct json_object *shutdown_to_json(const struct vm *vm)
{
	const struct shutdown *s = vm->shutdown;
	struct json_object *o;

	if (s->stage == SHUTDOWN_NONE)
		return NULL;
	o = json_object_new_object();
	js_put_bool(o, "begun", s->stage == SHUTDOWN_BEGUN);
	js_put_bool(o, "reboot", s->plan.reboot);
	js_put_bool(o, "agent", s->plan.agent);
	js_put_str(o, "then", thens[s->plan.then]);
	js_put_int(o, "deadline_s", s->plan.deadline_s);
	js_put_int(o, "at_s", s->plan.at_s);
	js_put_int(o, "due_s", deadline_wall_s(s));
	js_put_str(o, "message", s->plan.message);
	if (s->plan.delay_reason[0]) {
		js_put_int(o, "delays", s->plan.delays.n);
		js_put_int(o, "delayed_s", s->plan.delays.sum_s);
		js_put_str(o, "delay_reason", s->plan.delay_reason);
	}
	return o;
}

static void shutdown_load(struct vm *vm, struct json_object *state)
{
	struct json_object *o = js_get(state, "shutdown");
	struct shutdown *s = vm->shutdown;
	int64_t deadline = js_get_int(o, "deadline_s", 0), due = js_get_int(o, "due_s", 0), now = now_s();
	int64_t at = js_get_time_s(o, "at_s");
	const char *message = js_get_str(o, "message"), *word = js_get_str(o, "then");
	size_t then = 0;

	while (then < ARRAY_SIZE(thens) && (!word || strcmp(thens[then], word)))
		then++;
	if (then == ARRAY_SIZE(thens) || deadline < 0 || deadline > UINT32_MAX || at != js_get_int(o, "at_s", 0))
		return;
	s->stage = js_get_bool(o, "begun", false) ? SHUTDOWN_BEGUN : SHUTDOWN_PLANNED;
	s->plan = (struct shutdown_plan){ .reboot = js_get_bool(o, "reboot", false),
		.agent = js_get_bool(o, "agent", false), .then = (uint8_t)then, .deadline_s = (uint32_t)deadline,
		.at_s = at };
	snprintf(s->plan.message, sizeof(s->plan.message), "%s", message ? message : "");
	snprintf(s->plan.delay_reason, sizeof(s->plan.delay_reason), "%s", js_get_str_or(o, "delay_reason", ""));
	s->plan.delays.n = (uint32_t)MIN(MAX(js_get_int(o, "delays", 0), 0), HOOK_DELAYS_MAX);
	s->plan.delays.sum_s = (uint32_t)MIN(MAX(js_get_int(o, "delayed_s", 0), 0), HOOK_DELAY_MAX_S);
	/* If the clock was set back meanwhile, give the guest no more time than at the beginning. */
	s->due_ns = loop_now_ns() + (due > now ? (uint64_t)MIN(due - now, deadline) : 0) * CLOCK_NS_PER_S;
}

void shutdown_take_up(struct vm *vm)
{
	struct shutdown *s = vm->shutdown;

	if (s->stage == SHUTDOWN_NONE)
		return;
	if (!vm_state_is_active(vm->state) && !vm_has(vm, VM_FACT_CONTINUES)) {
		shutdown_reset(vm);
		return;
	}
	s->warn_s = s->plan.delay_reason[0] ? 0 : policy_next_warning(s->plan.at_s, now_s());
	timer_arm(vm);
}

/* ---- hooks of the observer ---- */

static void shutdown_state_put(const struct vm *vm, struct json_object *state)
{
	struct json_object *o = shutdown_to_json(vm);

	if (o)
		js_put(state, "shutdown", o);
}

/* Drop the deadline of a shutdown of which the guest no longer knows. The host's shutdown still waits for the VM. */
static void deadline_drop(struct vm *vm)
{
	vm->shutdown->overdue = false;
	if (vm->shutdown->stage != SHUTDOWN_BEGUN || host_shutdown_waits_for(vm))
		return;
	shutdown_emit(vm, "cancelled", "the VM was reset or reverted");
	shutdown_reset(vm);
}

/* Drop the plan and the deadline when the VM is not active. A reset drops the deadline. */
static void shutdown_on_state_change(struct vm *vm, enum vm_trigger t)
{
	/* A VM that gets a new process keeps its plan. */
	if (vm_has(vm, VM_FACT_CONTINUES) && vm->shutdown->stage == SHUTDOWN_PLANNED)
		return;
	if (!vm_state_is_active(vm->state)) {
		hook_ask_cancel(vm, HOOK_SHUTDOWN);
		shutdown_reset(vm);
	} else if (t == VM_ASK_RESET) {
		deadline_drop(vm);
	}
}

static void shutdown_on_renewed(struct vm *vm)
{
	deadline_drop(vm);
	vm_set(vm, VM_FACT_OFF_ASKED | VM_FACT_REBOOTS, false);
}

static void shutdown_on_start_failed(struct vm *vm)
{
	shutdown_reset(vm);
}

static void shutdown_added(struct vm *vm)
{
	vm->shutdown = must_alloc(calloc(1, sizeof(*vm->shutdown)));
}

static void shutdown_removed(struct vm *vm)
{
	loop_timer_free(vm->shutdown->timer);
	free(vm->shutdown);
}

const struct vm_observer shutdown_observer = { .added = shutdown_added, .removed = shutdown_removed,
	.state_put = shutdown_state_put, .state_load = shutdown_load, .state_changed = shutdown_on_state_change,
	.start_failed = shutdown_on_start_failed, .renewed = shutdown_on_renewed };
