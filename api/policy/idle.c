#include "api/policy/idle.h"
#include "api/jobs/job.h"
#include "api/jobs/save.h"
#include "api/net/forwards.h"
#include "api/store/store.h"
#include "api/vm/observer.h"
#include "api/vm/vm.h"
#include "api/vm/vm_process.h"
#include "base/err.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/util.h"

#include <stdio.h>
#include <stdlib.h>

#define REQUEST_TIMEOUT_NS (10 * 1000000000ULL)

static struct policy_idle_rule rule_of(const struct vm *vm)
{
	const struct definition *d = vm_live(vm);

	return (struct policy_idle_rule){ d->idle_after_s, d->idle_cpu_percent };
}

static struct policy_sample sample_of(const struct vm_info *i)
{
	struct policy_sample s = { .now_ns = loop_now_ns(), .bytes = i->console_bytes,
		.watched = i->console_readers > 0 };

	for (uint32_t n = 0; n < MIN(i->vcpus, VM_VCPUS_MAX); n++)
		s.cpu_ns += i->vcpu_ns[n];
	for (uint32_t n = 0; n < MIN(i->ndisks, VM_DISKS_MAX); n++)
		s.requests += i->disks[n].rd_reqs + i->disks[n].wr_reqs + i->disks[n].fl_reqs;
	/* Count only sent bytes: received ones may be broadcasts of other hosts. */
	for (uint32_t n = 0; n < MIN(i->ninterfaces, VM_INTERFACES_MAX); n++)
		s.bytes += i->interfaces[n].tx_bytes;
	return s;
}

static void idle_timer_fire(void *opaque);

static void sample_later(struct vm *vm)
{
	struct policy_idle_rule rule = rule_of(vm);

	if (!vm->idle->timer && loop_timer_new(vm->host->loop, idle_timer_fire, vm, &vm->idle->timer) < 0)
		abort();
	loop_timer_arm(vm->idle->timer, loop_now_ns() + policy_idle_period_ns(&rule));
}

/* ---- putting a VM to sleep ----
 * state.json says `falling_asleep` before the suspend or save begins, so that a later daemon knows why the VM
 * sleeps. */

struct fall {
	struct store_work work;
	struct vm *vm; /* NULL: undefined meanwhile */
};

static void wake_begin(struct vm *vm, void (*done)(void *opaque, int r, const struct err *e), void *opaque);

static void disturbed_woken(void *opaque, int r, const struct err *e)
{
	struct vm *vm = opaque;

	if (r < 0)
		log_warn("idle", "VM '%s' could not be woken: %s", vm->def->name, e->msg);
}

static void sleep_begin_timer(struct vm *vm)
{
	vm->idle->asking = false;
	vm_set(vm, VM_FACT_FALLS_ASLEEP, false);
	vm_save(vm);
}

static void vm_suspended(void *opaque, int r, const struct vm_answer *a, const struct err *e)
{
	struct vm *vm = opaque;

	(void)a;
	if (r < 0)
		log_info("idle", "VM '%s': cannot suspend the idle VM: %s", vm->def->name, e->msg);
	else
		vm_move(vm, VM_SAW_PAUSED, VM_REASON_IDLE, NULL, 0);
	sleep_begin_timer(vm);
	if (vm->idle->waking) /* since the process reported the pause, which it does before this answer */
		return;
	vm->asked.reason = VM_REASON_NONE;
	idle_on_state_change(vm);
	if (vm->idle->disturbed && vm_sleeps(vm))
		wake_begin(vm, disturbed_woken, vm);
	else
		vm->idle->by[0] = 0;
}

static void suspend_begin(struct store_work *w)
{
	struct fall *f = container_of(w, struct fall, work);
	struct vm *vm = f->vm;

	free(f);
	if (!vm)
		return;
	vm->idle->fall = NULL;
	if (vm->state != VM_RUNNING || !vm->proc || vm->idle->disturbed) {
		sleep_begin_timer(vm);
		idle_on_state_change(vm);
		return;
	}
	vm->asked.phase = VM_PHASE_PAUSED;
	vm->asked.reason = VM_REASON_IDLE;
	vm->asked.detail = NULL;
	vm_process_request(vm->proc, VM_MSG_STOP, NULL, 0, -1, REQUEST_TIMEOUT_NS, vm_suspended, vm);
}

static void suspend_store(struct vm *vm)
{
	struct fall *f = must_alloc(calloc(1, sizeof(*f)));

	*f = (struct fall){ { .done = suspend_begin, .loop = vm->host->loop }, vm };
	vm->idle->fall = f;
	vm_save(vm);
	store_after(vm->host->store, &f->work);
}

/* After a failed save, let the VM's networks accept connections again. */
static void not_saved(struct vm *vm)
{
	sleep_begin_timer(vm);
	forwards_release(vm);
	forwards_on_state_change(vm);
	idle_on_state_change(vm);
}

/* The job that saves the VM has ended. After a success, set the reason `idle`, which marks the VM as wakeable. */
static void vm_saved(struct job *j, void *opaque)
{
	struct vm *vm = opaque;

	vm->idle->by[0] = 0;
	if (j->failed || vm->state != VM_SAVED) {
		not_saved(vm);
	} else {
		vm->idle->asking = false;
		vm_set(vm, VM_FACT_FALLS_ASLEEP, false);
		vm_set_reason(vm, VM_REASON_IDLE, "");
		idle_on_state_change(vm);
	}
	if (!j->failed)
		job_dismiss(j, NULL);
}

static void save_on_state_change(struct vm *vm, struct job *j)
{
	j->concluded = vm_saved;
	j->concluded_opaque = vm;
}

static void sleep_begin(struct vm *vm)
{
	struct job *j;
	struct err e;

	vm->idle->asking = true;
	vm_set(vm, VM_FACT_FALLS_ASLEEP, true);
	vm->idle->holding = vm->idle->disturbed = false;
	vm->idle->by[0] = 0;
	if (vm_live(vm)->idle_action != DEFINITION_SAVE) {
		suspend_store(vm);
	} else if (save_managed(vm, SAVE_THEN_RUNNING, NULL, NULL, &j, &e) < 0) {
		log_info("idle", "VM '%s': cannot save the idle VM: %s", vm->def->name, e.msg);
		not_saved(vm);
	} else {
		save_on_state_change(vm, j);
		forwards_on_state_change(vm);
	}
}

/* ---- VMs that an earlier daemon put to sleep ---- */

static void idle_taken_back(struct vm *vm, struct job *saving)
{
	bool fell = vm_has(vm, VM_FACT_FALLS_ASLEEP);

	vm_set(vm, VM_FACT_FALLS_ASLEEP, fell && saving);
	if (fell && saving)
		save_on_state_change(vm, saving);
	else if (fell && vm->state == VM_SAVED)
		vm->reason = VM_REASON_IDLE;
	/* Only store the reason: the daemon opens the forwards of sleeping VMs later, when all VMs are loaded. */
	if (fell)
		vm_save(vm);
}

static void idle_on_adopted(struct vm *vm, const struct vm_info *info)
{
	(void)info;
	idle_taken_back(vm, vm->operation.kind == VM_OP_SAVE_ADOPTED ? vm->operation.job : NULL);
}

static void idle_on_found_off(struct vm *vm)
{
	idle_taken_back(vm, NULL);
}

/* ---- watching an awake VM ---- */

static void stay_awake(struct vm *vm)
{
	if (vm->idle->holding)
		forwards_release(vm);
	vm->idle->holding = false;
	sample_later(vm);
}

/* Suspend the idle VM now; before a save, ask the VM's networks to hold new connections, so that no client reaches a
 * process that is about to end. If the networks have not answered by the next sample, save anyway. */
static void sleep_schedule(struct vm *vm)
{
	if (vm_live(vm)->idle_action != DEFINITION_SAVE || vm->idle->holding || !forwards_hold(vm)) {
		sleep_begin(vm);
		return;
	}
	vm->idle->holding = true;
	sample_later(vm);
}

static void idle_on_forwards_held(struct vm *vm)
{
	if (!vm->idle->holding || vm->idle->asking)
		return;
	/* A client has connected meanwhile, or a job of the VM has begun. */
	if (!vm->idle->look.begun || vm->operation.job)
		stay_awake(vm);
	else
		sleep_begin(vm);
}

static void agent_answered(void *opaque, int r, const struct vm_answer *a, const struct err *e)
{
	struct vm *vm = opaque;
	struct policy_idle_rule rule = rule_of(vm);
	struct policy_sample s;

	(void)e;
	vm->idle->asking = false;
	if (vm->state != VM_RUNNING || !rule.after_s)
		return;
	if (r < 0 || vm->operation.job) {
		vm->idle->look.begun = false;
		stay_awake(vm);
		return;
	}
	s = sample_of(a->info);
	if (policy_idle_sample(&rule, &vm->idle->look, &s))
		sleep_schedule(vm);
	else
		stay_awake(vm);
}

static void idle_timer_fire(void *opaque)
{
	struct vm *vm = opaque;

	if (vm->state != VM_RUNNING || !vm->proc || vm->idle->asking)
		return;
	vm->idle->asking = true;
	vm_process_request(vm->proc, VM_MSG_QUERY, NULL, 0, -1, REQUEST_TIMEOUT_NS, agent_answered, vm);
}

void idle_on_state_change(struct vm *vm)
{
	vm->idle->look.begun = false;
	if (vm->state != VM_RUNNING && vm->idle->holding) {
		vm->idle->holding = false;
		forwards_release(vm);
	}
	if (vm->state == VM_RUNNING && rule_of(vm).after_s)
		sample_later(vm);
	else if (vm->idle->timer)
		loop_timer_disarm(vm->idle->timer);
}

static void idle_added(struct vm *vm)
{
	vm->idle = must_alloc(calloc(1, sizeof(*vm->idle)));
}

static void idle_removed(struct vm *vm)
{
	if (vm->idle->fall)
		vm->idle->fall->vm = NULL;
	loop_timer_free(vm->idle->timer);
	free(vm->idle);
}

/* ---- waking a VM ---- */

bool idle_has_to_wake(const struct vm *vm, enum vm_trigger t)
{
	return vm_sleeps(vm) &&
		(t == VM_ASK_CONSOLE || t == VM_ASK_GUEST || t == VM_ASK_SHUTDOWN || t == VM_ASK_REBOOT);
}

struct wake {
	struct vm *vm;
	void (*done)(void *opaque, int r, const struct err *e);
	void *opaque;
};

static void vm_woken(void *opaque, int r, const struct vm_answer *a, const struct err *e)
{
	struct wake w = *(struct wake *)opaque;

	(void)a;
	free(opaque);
	if (!r)
		vm_move(w.vm, VM_SAW_RUNNING, VM_REASON_WOKEN, w.vm->idle->by, 0);
	w.vm->idle->waking = false;
	w.vm->asked.reason = VM_REASON_NONE;
	w.vm->idle->by[0] = 0;
	w.done(w.opaque, r, e);
}

static void wake_begin(struct vm *vm, void (*done)(void *opaque, int r, const struct err *e), void *opaque)
{
	struct vm_start_opts opts = { .state_fd = -1, .woken_by = vm->idle->by, .done = done, .opaque = opaque };
	struct wake *w;

	if (vm->state == VM_SAVED) {
		vm_start(vm, &opts);
		return;
	}
	w = must_alloc(malloc(sizeof(*w)));
	*w = (struct wake){ vm, done, opaque };
	vm->idle->waking = true;
	vm->asked.phase = VM_PHASE_RUNNING;
	vm->asked.reason = VM_REASON_WOKEN;
	vm->asked.detail = vm->idle->by;
	vm_process_request(vm->proc, VM_MSG_CONT, NULL, 0, -1, REQUEST_TIMEOUT_NS, vm_woken, w);
}

void idle_wake(struct vm *vm, void (*done)(void *opaque, int r, const struct err *e), void *opaque)
{
	vm->idle->by[0] = 0;
	wake_begin(vm, done, opaque);
}

/* Note that a client connected while the VM falls asleep: vm_suspended() then resumes the VM. Cancel a save, since its
 * end would break the client's connection. */
static void vm_disturb(struct vm *vm)
{
	struct err e;

	if (vm->idle->disturbed) /* the guest's network process may send this any number of times */
		return;
	vm->idle->disturbed = true;
	if (vm->operation.job && vm->state != VM_SAVED && vm_live(vm)->idle_action == DEFINITION_SAVE &&
		job_cancel(vm->operation.job, &e) < 0)
		log_info("idle", "VM '%s': a client connects, but the save cannot be cancelled: %s",
			vm->def->name, e.msg);
}

static void idle_on_client(struct vm *vm, const char *forward, void (*done)(void *opaque, int r, const struct err *e),
	void *opaque)
{
	vm->idle->look.begun = false;
	if (!vm_has(vm, VM_FACT_FALLS_ASLEEP) && (!vm_sleeps(vm) || vm->idle->waking || vm_is_starting(vm)))
		return;
	snprintf(vm->idle->by, sizeof(vm->idle->by), "by forward %s", forward);
	if (vm_has(vm, VM_FACT_FALLS_ASLEEP))
		vm_disturb(vm);
	else
		wake_begin(vm, done, opaque);
}

static void idle_on_start_failed(struct vm *vm)
{
	vm->idle->by[0] = 0;
}

const struct vm_observer idle_observer = { .added = idle_added, .removed = idle_removed, .state_saved = idle_on_state_change,
	.start_failed = idle_on_start_failed, .adopted = idle_on_adopted, .found_off = idle_on_found_off,
	.client_waits = idle_on_client, .forwards_held = idle_on_forwards_held };
