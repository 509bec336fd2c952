#include "api/policy/transient.h"
#include "api/jobs/undefine.h"
#include "api/policy/restart.h"
#include "api/vm/observer.h"
#include "api/vm/vm.h"
#include "api/wire/json.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/loop.h"
#include "base/util.h"

#include <stdlib.h>

#define AGAIN_NS CLOCK_NS_PER_S /* while something else works on a VM that has ended */

struct transients {
	struct vm_host *host;
	struct loop_timer *timer;
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

static void sweep(void *opaque)
{
	struct transients *t = opaque;
	bool again = false;

	/* From the end: an undefine removes the VM from the list, at once or later. */
	for (size_t i = t->host->nvms; i-- > 0;)
		if (is_over(t->host->vms[i]) && !undefine_now(t->host->vms[i]))
			again = true;
	if (again)
		loop_timer_arm(t->timer, loop_now_ns() + AGAIN_NS);
}

void transient_over(struct vm *vm)
{
	vm_set(vm, VM_FACT_TRANSIENT_OVER, true);
	if (vm->host->transients)
		loop_timer_arm(vm->host->transients->timer, loop_now_ns());
}

/* The state or its reason has changed; a restart that was given up or cancelled changes the reason. The VM is undefined
 * in the loop's next turn, because the caller continues with it. */
static void transient_on_state(struct vm *vm)
{
	if (vm_has(vm, VM_FACT_TRANSIENT) && has_ended(vm))
		transient_over(vm);
}

const struct vm_observer transient_observer = { .state_saved = transient_on_state };

int transients_new(struct vm_host *host, struct transients **ret, struct err *e)
{
	struct transients *t = must_alloc(calloc(1, sizeof(*t)));
	int r = loop_timer_new(host->loop, sweep, t, &t->timer);

	if (r < 0) {
		free(t);
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
	free(t);
}
