#include "api/policy/restart.h"
#include "api/policy/host_shutdown.h"
#include "api/vm/observer.h"
#include "api/vm/vm.h"
#include "api/wire/json.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/shell_word.h"
#include "base/util.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SECOND_NS 1000000000ULL
#define CUT " ..."
#define FRAME_LEAVES (VM_DETAIL_MAX - 110) /* bytes that the sentence of give_up() leaves to the reason and the name */

static void restart_want(struct vm *vm);
static void restart_reset(struct vm *vm);

static void restart_ended(void *opaque, int r, const struct err *e)
{
	if (r < 0 && e->cls == ERR_CANCELLED)
		restart_reset(opaque); /* the VM was destroyed */
	else if (r < 0)
		restart_want(opaque); /* a failed start counts as a try; schedule the next one */
}

static void restart_timer_arm(struct vm *vm, uint64_t due_ns);

static void restart_timer_fire(void *opaque)
{
	struct vm *vm = opaque;
	struct vm_start_opts opts = { .state_fd = -1, .again = true, .done = restart_ended, .opaque = vm };

	/* While host_shutdown stops the VMs, start none, and none of which a job uses the images. Try again in 1 s: a
	 * VM with the action `leave` keeps its pending restart. */
	if (vm->host->host_shutdown || vm->operation.job) {
		restart_timer_arm(vm, loop_now_ns() + SECOND_NS);
		return;
	}
	vm->restart->due_ns = 0;
	if (!vm_is_starting(vm) && !vm_state_is_active(vm->state))
		vm_start(vm, &opts);
}

static void restart_timer_arm(struct vm *vm, uint64_t due_ns)
{
	struct restart *r = vm->restart;

	if (!r->timer && loop_timer_new(vm->host->loop, restart_timer_fire, vm, &r->timer) < 0)
		return;
	r->due_ns = due_ns;
	loop_timer_arm(r->timer, due_ns);
}

/* Write why the VM has ended. If the text has more than `max` bytes, cut it after a word. */
static void end_reason(const struct vm *vm, char why[VM_DETAIL_MAX], size_t max)
{
	size_t n = (size_t)snprintf(why, VM_DETAIL_MAX, "%s%s%s", vm_reason_name(vm->reason), vm->detail[0] ? ": " : "", vm->detail);

	if (n <= max)
		return;
	for (n = max - strlen(CUT); n && why[n] != ' '; n--)
		;
	strcpy(why + n, CUT);
}

static void give_up(struct vm *vm)
{
	char why[VM_DETAIL_MAX], detail[VM_DETAIL_MAX];
	struct shell_word name = shell_word(vm->def->name);

	if (strlen(name.s) > FRAME_LEAVES - sizeof(CUT))
		name = shell_word("VM");
	end_reason(vm, why, FRAME_LEAVES - strlen(name.s));
	snprintf(detail, sizeof(detail), "the VM was restarted %u times within %u s, and now stays off (%s). Next: cairn start %s",
		vm->restart->tries.n, vm->def->restart.window_s, why, name.s);
	log_error("policy", "VM '%s': %s", vm->def->name, detail);
	vm_set_reason(vm, VM_REASON_RESTART_LIMIT, detail);
}

static void restart_want(struct vm *vm)
{
	const struct backoff_rule *rule = &vm->def->restart;
	struct json_object *data;
	uint64_t now = loop_now_ns(), wait;

	/* Without the action `leave`, the VM is being stopped with the others. */
	if (vm->host->host_shutdown && !host_shutdown_leaves(vm))
		return;
	if (!backoff_again(rule, &vm->restart->tries, now, &wait)) {
		give_up(vm);
		return;
	}
	restart_timer_arm(vm, now + wait);
	vm_save(vm);
	data = json_object_new_object();
	js_put_uint(data, "in", wait);
	js_put_uint(data, "try", vm->restart->tries.n);
	js_put_uint(data, "tries", rule->tries);
	vm_emit(vm, EVENT_RESTART_SCHEDULED, data);
}

bool restart_is_pending(const struct vm *vm)
{
	return vm->restart->due_ns != 0;
}

uint64_t restart_in_ns(const struct vm *vm)
{
	uint64_t now = loop_now_ns();

	return vm->restart->due_ns > now ? vm->restart->due_ns - now : 0;
}

static void restart_reset(struct vm *vm)
{
	if (vm->restart->timer)
		loop_timer_disarm(vm->restart->timer);
	vm->restart->due_ns = 0;
	vm->restart->tries.n = 0;
}

void restart_call_off(struct vm *vm)
{
	restart_reset(vm);
	/* VM_REASON_FAILED would tell of one more failed start. */
	vm_set_reason(vm, vm->reason == VM_REASON_FAILED ? VM_REASON_DESTROYED : vm->reason, "the pending restart was cancelled");
}

/* ---- the restart in state.json ---- */

static struct json_object *restart_to_json(const struct vm *vm)
{
	const struct restart *r = vm->restart;
	uint64_t now = loop_now_ns(), real = clock_realtime_ns();
	struct json_object *o;

	if (!r->tries.n)
		return NULL;
	o = json_object_new_object();
	js_put_uint(o, "n", r->tries.n);
	js_put_uint(o, "window_ns", real - MIN(now - r->tries.window_ns, real));
	if (r->due_ns)
		js_put_uint(o, "due_ns", real + restart_in_ns(vm));
	return o;
}

/* Load the progress. The clock may have been set meanwhile: a restart whose time has passed is due now, and no restart
 * waits longer than the definition's max_delay. */
static void restart_load(struct vm *vm, struct json_object *state)
{
	struct json_object *o = js_get(state, "restart");
	uint64_t now = loop_now_ns(), real = clock_realtime_ns();
	uint64_t begun = (uint64_t)js_get_int(o, "window_ns", 0), due = (uint64_t)js_get_int(o, "due_ns", 0);
	uint64_t longest = vm->def->restart.max_delay_s * SECOND_NS;
	int64_t n = js_get_int(o, "n", 0);

	if (n <= 0 || n > UINT32_MAX)
		return;
	vm->restart->tries.n = (uint32_t)n;
	vm->restart->tries.window_ns = now - MIN(begun < real ? real - begun : 0, now);
	vm->restart->take_up = due != 0;
	if (due)
		vm->restart->due_ns = now + MIN(due > real ? due - real : 0, longest);
}

void restart_take_up(struct vm *vm)
{
	if (vm->restart->take_up && !vm_state_is_active(vm->state))
		restart_timer_arm(vm, vm->restart->due_ns);
	else if (vm->restart->take_up)
		vm->restart->due_ns = 0; /* the VM was started, but the daemon ended before it stored that in
					  * state.json */
	vm->restart->take_up = false;
}

static void restart_state_put(const struct vm *vm, struct json_object *state)
{
	struct json_object *o = restart_to_json(vm);

	if (o)
		js_put(state, "restart", o);
}

/* ---- after the end of a VM's process ---- */

/* Emit the event that a VM stays off although its guest was to start again. A start that failed after it had begun has
 * emitted it. */
static void reboot_ended(void *opaque, int r, const struct err *e)
{
	struct vm *vm = opaque;

	if (r < 0 && vm->reason != VM_REASON_FAILED && e->cls != ERR_CANCELLED)
		vm_set_reason(vm, vm->reason, e->msg);
}

void restart_apply_policies(struct vm *vm, bool rebooting)
{
	struct vm_start_opts reboot = { .state_fd = -1, .done = reboot_ended, .opaque = vm };
	bool shutdown = vm->state == VM_SHUT_OFF && vm->reason == VM_REASON_GUEST_SHUTDOWN,
	     reset = vm->state == VM_SHUT_OFF && vm->reason == VM_REASON_GUEST_RESET;

	if (rebooting && (shutdown || reset) && !vm->operation.job)
		vm_start(vm, &reboot);
	else if (rebooting && (shutdown || reset))
		restart_want(vm);
	else if (vm->state == VM_CRASHED && (vm->def->on_crash == VM_ACTION_RESTART ||
						    vm->def->on_crash == VM_ACTION_COREDUMP_RESTART))
		restart_want(vm);
	else if (shutdown && !vm_has(vm, VM_FACT_OFF_ASKED) && vm->def->on_poweroff == VM_ACTION_RESTART)
		restart_want(vm);
}

static void restart_on_run_over(struct vm *vm, bool was_active, bool rebooting)
{
	if (was_active && !vm_has(vm, VM_FACT_FOR_REVERT))
		restart_apply_policies(vm, rebooting);
}

static void restart_on_start(struct vm *vm, const struct vm_start_opts *opts)
{
	vm_set(vm, VM_FACT_FOR_REVERT, opts->for_revert);
	if (!opts->again)
		restart_reset(vm);
}

static void restart_added(struct vm *vm)
{
	vm->restart = must_alloc(calloc(1, sizeof(*vm->restart)));
}

static void restart_removed(struct vm *vm)
{
	loop_timer_free(vm->restart->timer);
	free(vm->restart);
}

const struct vm_observer restart_observer = { .added = restart_added, .removed = restart_removed,
	.state_put = restart_state_put, .state_load = restart_load, .start_asked = restart_on_start,
	.run_over = restart_on_run_over };
