#include "api/policy/transient.h"
#include "api/jobs/undefine.h"
#include "api/policy/restart.h"
#include "api/vm/observer.h"
#include "api/vm/offline_process.h"
#include "api/vm/vm.h"
#include "api/vm/vm_gone.h"
#include "api/wire/json.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/loop.h"
#include "base/util.h"

#include <stdlib.h>

#define AGAIN_NS CLOCK_NS_PER_S /* while something else works on a VM that has ended */
#define ANSWER_NS (5 * CLOCK_NS_PER_S) /* limit for the wait of vm-destroy */

struct transients {
	struct vm_host *host;
	struct loop_timer *timer;
	struct loop_timer *limit; /* answers the calls that wait; armed while `limited` */
	bool limited;
};

static bool has_ended(const struct vm *vm)
{
	return vm->state == VM_SHUT_OFF || vm->state == VM_CRASHED;
}

static bool is_over(const struct vm *vm)
{
	return vm_has(vm, VM_FACT_TRANSIENT) && vm_has(vm, VM_FACT_TRANSIENT_OVER) && has_ended(vm) && !restart_is_pending(vm) &&
		!vm_is_starting(vm);
}

/* Remove an ephemeral clone's own images only, not those that a user has attached. */
static bool undefine_now(struct vm *vm)
{
	CLEANUP_JS struct json_object *images = vm_has(vm, VM_FACT_EPHEMERAL) ? vm_ephemeral_images(vm) : NULL;
	const struct undefine_opts opts = { .snapshots_metadata = true, .nvram = true, .storage = images };
	struct err e;

	return !vm->proc && !vm->offline && undefine_begin(vm, &opts, NULL, &e) == 0;
}

static void sweep_soon(void *opaque)
{
	struct vm_host *host = opaque;

	if (host->transients)
		loop_timer_arm(host->transients->timer, loop_now_ns());
}

static void sweep(void *opaque)
{
	struct transients *t = opaque;
	bool again = false;

	/* From the end: an undefine removes the VM from the list, at once or later. */
	for (size_t i = t->host->nvms; i-- > 0;) {
		struct vm *vm = t->host->vms[i];

		if (!is_over(vm) || offline_wait(vm, sweep_soon, t->host))
			continue;
		if (vm->operation.kind == VM_OP_UNDEFINE) {
			again = true;
		} else if (!undefine_now(vm)) {
			vm_answer_gone(vm);
			again = true;
		}
	}
	if (again)
		loop_timer_arm(t->timer, loop_now_ns() + AGAIN_NS);
}

/* Answer the calls whose VM stays for now, as when an image does not answer. */
static void limit_over(void *opaque)
{
	struct transients *t = opaque;

	t->limited = false;
	for (size_t i = 0; i < t->host->nvms; i++)
		if (has_ended(t->host->vms[i]) && !vm_is_starting(t->host->vms[i]) && !vm_is_stopping(t->host->vms[i]))
			vm_answer_gone(t->host->vms[i]);
}

void transient_over(struct vm *vm)
{
	vm_set(vm, VM_FACT_TRANSIENT_OVER, true);
	sweep_soon(vm->host);
}

/* The state or its reason has changed; a restart that was given up or cancelled changes the reason. The VM is undefined
 * in the loop's next turn, because the caller continues with it. */
static void transient_on_state(struct vm *vm)
{
	if (vm_has(vm, VM_FACT_TRANSIENT) && has_ended(vm))
		transient_over(vm);
}

/* Let vm-destroy return when the VM's name is free. */
static bool transient_end_waits(struct vm *vm)
{
	struct transients *t = vm->host->transients;

	if (!t || !vm->stop.calls || !is_over(vm))
		return false;
	if (!t->limited)
		loop_timer_arm(t->limit, loop_now_ns() + ANSWER_NS);
	t->limited = true;
	return true;
}

static void transient_removed(struct vm *vm)
{
	if (vm->host->transients) /* the daemon does not end */
		vm_answer_gone(vm);
}

const struct vm_observer transient_observer = { .state_saved = transient_on_state, .end_waits = transient_end_waits, .removed = transient_removed };

int transients_new(struct vm_host *host, struct transients **ret, struct err *e)
{
	struct transients *t = must_alloc(calloc(1, sizeof(*t)));
	int r = loop_timer_new(host->loop, sweep, t, &t->timer);

	if (!r)
		r = loop_timer_new(host->loop, limit_over, t, &t->limit);
	if (r < 0) {
		transients_free(t);
		return err_set_errno(e, r, "transient VMs");
	}
	t->host = host;
	*ret = t;
	for (size_t i = 0; i < host->nvms; i++)
		vm_set(host->vms[i], VM_FACT_TRANSIENT_OVER, true);
	loop_timer_arm(t->timer, loop_now_ns());
	return 0;
}

void transients_free(struct transients *t)
{
	if (!t)
		return;
	loop_timer_free(t->timer);
	loop_timer_free(t->limit);
	free(t);
}
