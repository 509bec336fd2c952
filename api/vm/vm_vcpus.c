#include "api/vm/vm_vcpus.h"
#include "api/definition/definition.h"
#include "api/schema/call.h"
#include "api/vm/release_wait.h"
#include "api/vm/vm.h"
#include "api/vm/vm_compat.h"
#include "api/vm/vm_process.h"
#include "api/wire/json.h"
#include "base/err.h"
#include "base/loop.h"
#include "base/shell_word.h"

#include <errno.h>

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

static bool vcpus_are_over(const struct release_wait *w)
{
	return !w->vcpus || vm_vcpus_now(w->vm) <= w->vcpus;
}

static void vcpus_are_late(const struct release_wait *w, struct err *e)
{
	err_set(e, -ETIMEDOUT, ERR_TIMEOUT, "the guest has not released all vCPUs within %u s, so it still has %u; a guest without support for "
		"ACPI processor hot-plug never does. If the guest still releases one, the event DEVICE_DELETED reports that", w->seconds,
		vm_vcpus_now(w->vm));
}

static const struct release_kind vcpus_kind = { .role = ROLE_OPERATOR, .is_over = vcpus_are_over, .late = vcpus_are_late };

static void change_begin(struct call *c, const struct vm_vcpus *body, unsigned seconds)
{
	struct release_wait what = { .kind = &vcpus_kind, .seconds = seconds, .vcpus = body->op == VM_VCPUS_COUNT ? body->n : 0 };
	struct err e;

	if (vm_compat_check_live(c->vm, VM_KNOWS_VCPUS, &e) < 0)
		call_fail(c, &e);
	else
		release_wait_begin(c, &what, VM_MSG_VCPUS, body, sizeof(*body));
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
	if (release_timeout_check(seconds, e) < 0)
		return -EINVAL;
	if (n < 1)
		return err_set(e, -EINVAL, ERR_INVALID, "vcpus: a VM needs at least 1");
	if (!vm_live(c->vm)->max_vcpus && n != max)
		return err_set(e, -ENOTSUP, ERR_UNSUPPORTED, "VM '%.100s' runs without max_vcpus, so the number of its vCPUs cannot change. Next: cairn "
			"setvcpus %s N --maximum --config, then shut the VM down and start it", name, shell_word(name).s);
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
	struct release_wait *next;
	struct err e;

	js_put_str(data, "device", ev->device);
	vm_emit(vm, gone ? EVENT_DEVICE_DELETED : EVENT_DEVICE_UNPLUG_GUEST_ERROR, data);
	if (!gone)
		err_set(&e, -EBUSY, ERR_BUSY, "the guest refuses to release %s, so it still has %u vCPUs; look why in the guest, and try again",
			ev->device, vm_vcpus_now(vm));
	for (struct release_wait *w = vm->release_waits; w; w = next) {
		next = w->next;
		if (w->kind == &vcpus_kind && !w->asking && (!gone || vm_vcpus_now(vm) <= w->vcpus))
			release_wait_end(w, gone ? 0 : -EBUSY, &e);
	}
}
