#include "api/vm/vm_vcpus.h"
#include "api/definition/definition.h"
#include "api/schema/call.h"
#include "api/vm/vm.h"
#include "api/vm/vm_compat.h"
#include "api/vm/vm_process.h"
#include "api/wire/json.h"
#include "base/err.h"
#include "base/loop.h"
#include "base/util.h"

#include <errno.h>
#include <stdlib.h>

#define SET_TIMEOUT_NS (30 * 1000000000ULL)
#define RELEASE_DEFAULT_S 5
#define RELEASE_MAX_S 600

/* ---- how many ---- */

uint64_t vm_vcpus_absent(const struct vm *vm)
{
	bool runs = vm->proc && vm_state_is_active(vm->state);

	return runs ? vm_process_vcpus_absent(vm->proc) : definition_vcpus_absent(vm_live(vm));
}

unsigned vm_vcpus_now(const struct vm *vm)
{
	return definition_vcpus_max(vm_live(vm)) - (unsigned)__builtin_popcountll(vm_vcpus_absent(vm));
}

/* ---- calls that wait ---- */

struct vcpus_wait {
	struct vcpus_wait *next;
	struct vm *vm;
	struct call *call;
	struct loop_timer *timer;
	unsigned vcpus; /* wait until the guest has no more; 0: wait only for the process's answer */
	unsigned seconds;
	bool asking; /* the process has not answered the request yet */
};

/* Answer a call that waits. r < 0: with e, unless the client lost its role meanwhile. */
static void wait_end(struct vcpus_wait *w, int r, const struct err *e)
{
	struct vcpus_wait **at = &w->vm->vcpus_waits;
	struct err own;

	while (*at != w)
		at = &(*at)->next;
	*at = w->next;
	if (r < 0 && call_check_role(w->call, ROLE_OPERATOR, w->vm, &own) < 0)
		e = &own;
	call_done(w->call, r, e);
	loop_timer_free(w->timer);
	free(w);
}

static void wait_timeout(void *opaque)
{
	struct vcpus_wait *w = opaque;
	unsigned now = vm_vcpus_now(w->vm);
	struct err e;

	err_set(&e, -ETIMEDOUT, ERR_TIMEOUT, "the guest has not released all vCPUs within %u s, so it still has %u; a guest that does not know "
		"ACPI's hot-plug of processors never does. If the guest still releases one, the event DEVICE_DELETED reports that", w->seconds,
		now);
	wait_end(w, -ETIMEDOUT, &e);
}

static void asked(void *opaque, int r, const struct vm_answer *a, const struct err *e)
{
	struct vcpus_wait *w = opaque;

	(void)a;
	w->asking = false;
	if (r < 0 || !w->vcpus || vm_vcpus_now(w->vm) <= w->vcpus)
		wait_end(w, r, e);
	else
		loop_timer_arm(w->timer, loop_now_ns() + w->seconds * 1000000000ULL);
}

static void change_begin(struct call *c, const struct vm_vcpus *body, unsigned seconds)
{
	struct vcpus_wait *w;
	struct err e;
	int r = vm_compat_check_live(c->vm, VM_KNOWS_VCPUS, &e);

	if (r < 0) {
		call_fail(c, &e);
		return;
	}
	w = must_alloc(calloc(1, sizeof(*w)));
	w->vm = c->vm;
	w->call = c;
	w->vcpus = body->op == VM_VCPUS_COUNT ? body->n : 0;
	w->seconds = seconds;
	w->asking = true;
	r = loop_timer_new(c->host->loop, wait_timeout, w, &w->timer);
	if (r < 0) {
		free(w);
		err_set_errno(&e, r, "timer");
		call_fail(c, &e);
		return;
	}
	w->next = c->vm->vcpus_waits;
	c->vm->vcpus_waits = w;
	vm_process_request(c->vm->proc, VM_MSG_VCPUS, body, sizeof(*body), -1, SET_TIMEOUT_NS, asked, w);
}

/* ---- requests ---- */

static int count_check(const struct call *c, int64_t n, int64_t seconds, struct err *e)
{
	const char *name = c->vm->def->name;
	unsigned max;
	int r = vm_live_check(c->vm, e);

	if (r < 0)
		return r;
	max = definition_vcpus_max(vm_live(c->vm));
	if (seconds < 1 || seconds > RELEASE_MAX_S)
		return err_set(e, -EINVAL, ERR_INVALID, "timeout: must be 1 to %d seconds", RELEASE_MAX_S);
	if (n < 1)
		return err_set(e, -EINVAL, ERR_INVALID, "vcpus: a VM needs at least 1");
	if (!vm_live(c->vm)->max_vcpus && n != max)
		return err_set(e, -ENOTSUP, ERR_UNSUPPORTED, "VM '%.100s' runs without max_vcpus, so its vCPUs neither come nor go. Next: cairn "
			"setvcpus %.100s N --maximum --config, then shut the VM down and start it", name, name);
	if (n > max)
		return err_set(e, -EINVAL, ERR_INVALID, "vcpus: VM '%.200s' has room for %u vCPUs (max_vcpus), not for %lld", name, max,
			(long long)n);
	return 0;
}

void vm_vcpus_set(struct call *c)
{
	int64_t n = js_get_int(c->args, "vcpus", 0), seconds = js_get_int(c->args, "timeout", RELEASE_DEFAULT_S);
	struct vm_vcpus body = { .op = VM_VCPUS_COUNT };
	struct err e;

	if (count_check(c, n, seconds, &e) < 0) {
		call_fail(c, &e);
		return;
	}
	body.n = (uint32_t)n;
	change_begin(c, &body, (unsigned)seconds);
}

void vm_vcpus_add(struct call *c, unsigned vcpu)
{
	change_begin(c, &(struct vm_vcpus){ VM_VCPU_ADD, vcpu }, 0);
}

void vm_vcpus_ask(struct call *c, unsigned vcpu)
{
	change_begin(c, &(struct vm_vcpus){ VM_VCPU_REMOVE, vcpu }, 0);
}

/* ---- events of the process ---- */

void vm_vcpus_event(struct vm *vm, const struct vm_event *ev)
{
	bool gone = ev->kind == VM_EVENT_UNPLUGGED;
	struct json_object *data = json_object_new_object();
	struct vcpus_wait *next;
	struct err e;

	js_put_str(data, "device", ev->device);
	vm_emit(vm, gone ? EVENT_DEVICE_DELETED : EVENT_DEVICE_UNPLUG_GUEST_ERROR, data);
	if (!gone)
		err_set(&e, -EBUSY, ERR_BUSY, "the guest refuses to release %s, so it still has %u vCPUs; look why in the guest, and try again",
			ev->device, vm_vcpus_now(vm));
	for (struct vcpus_wait *w = vm->vcpus_waits; w; w = next) {
		next = w->next;
		if (!w->asking && (!gone || vm_vcpus_now(vm) <= w->vcpus))
			wait_end(w, gone ? 0 : -EBUSY, &e);
	}
}

void vm_vcpus_gone(struct vm *vm)
{
	struct err e;

	err_set(&e, -ESRCH, ERR_WRONG_STATE, "the VM has ended meanwhile");
	while (vm->vcpus_waits)
		wait_end(vm->vcpus_waits, -ESRCH, &e);
}
