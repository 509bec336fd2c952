/* QMP handlers for the VM's lifecycle, and for queries that the daemon answers by itself. */
#include "api/commands/command.h"
#include "api/policy/balancer.h"
#include "api/qmp/qmp.h"
#include "api/qmp/qmp_handler.h"
#include "api/vm/vm.h"
#include "api/vm/vm_compat.h"
#include "api/vm/vm_process.h"
#include "api/wire/json.h"
#include "base/err.h"
#include "base/util.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define QUERY_TIMEOUT_NS (1000000000ULL)
#define REQUEST_TIMEOUT_NS (10 * 1000000000ULL)

/* Return whether the VM has a process that is not about to end; else fail the call. */
static bool is_there(struct call *c)
{
	struct err e;

	if (c->vm->proc && !vm_is_stopping(c->vm))
		return true;
	err_set(&e, -EBUSY, ERR_BUSY, "VM '%s' is being stopped", c->vm->def->name);
	call_fail(c, &e);
	return false;
}

void qmp_ask(struct call *c, void (*done)(void *opaque, int r, const struct vm_answer *a,
	const struct err *e))
{
	if (is_there(c))
		vm_process_request(c->vm->proc, VM_MSG_QUERY, NULL, 0, -1, QUERY_TIMEOUT_NS, done, c);
}

/* ---- queries of the VM's identity and status ---- */

void qmp_query_version(struct call *c)
{
	call_return(c, schema_version_to_json());
}

void qmp_query_name(struct call *c)
{
	struct json_object *o = json_object_new_object();

	js_put_str(o, "name", c->vm->def->name);
	call_return(c, o);
}

void qmp_query_uuid(struct call *c)
{
	struct json_object *o = json_object_new_object();

	js_put_uuid(o, "UUID", c->vm->def->uuid);
	call_return(c, o);
}

void qmp_query_kvm(struct call *c)
{
	struct json_object *o = json_object_new_object();

	/* A VM never runs without KVM. */
	js_put_bool(o, "enabled", true);
	js_put_bool(o, "present", true);
	call_return(c, o);
}

void qmp_query_memory(struct call *c)
{
	struct json_object *o = json_object_new_object();

	js_put_uint(o, "base-memory", vm_live(c->vm)->ram_bytes);
	js_put_int(o, "plugged-memory", 0);
	call_return(c, o);
}

const char *qmp_run_state(const struct vm *vm)
{
	if (vm->state == VM_PRESERVED)
		return vm->reason == VM_REASON_GUEST_PANICKED ? "guest-panicked" : "internal-error";
	if (vm->state != VM_PAUSED)
		return "running";
	switch (vm->reason) {
	case VM_REASON_IO_ERROR:
	case VM_REASON_NO_SPACE:
	case VM_REASON_IMAGE_CORRUPT:
		return "io-error";
	case VM_REASON_WATCHDOG:
		return "watchdog";
	case VM_REASON_SAVING:
		return "save-vm";
	default:
		return "paused";
	}
}

void qmp_query_status(struct call *c)
{
	struct json_object *o = json_object_new_object();
	const char *state = qmp_run_state(c->vm);

	js_put_str(o, "status", state);
	js_put_bool(o, "singlestep", false);
	js_put_bool(o, "running", !strcmp(state, "running"));
	call_return(c, o);
}

/* ---- controlling the VM ---- */

void qmp_stop(struct call *c)
{
	if (c->vm->state == VM_PAUSED || c->vm->state == VM_PRESERVED)
		call_return(c, NULL);
	else if (is_there(c))
		command_vm_suspend(c);
}

void qmp_cont(struct call *c)
{
	struct err e;

	if (c->vm->state == VM_PRESERVED) {
		err_set(&e, -EPERM, ERR_WRONG_STATE, "Resetting the Virtual Machine is required");
		call_fail(c, &e);
	} else if (c->vm->state != VM_PAUSED) {
		call_return(c, NULL);
	} else if (is_there(c)) {
		command_vm_resume(c);
	}
}

void qmp_powerdown(struct call *c)
{
	if (is_there(c))
		command_vm_shutdown(c);
}

void qmp_reset(struct call *c)
{
	if (is_there(c))
		command_vm_reset(c);
}

void qmp_nmi(struct call *c)
{
	if (is_there(c))
		vm_process_request(c->vm->proc, VM_MSG_NMI, NULL, 0, -1, REQUEST_TIMEOUT_NS, command_answered, c);
}

/* Parse QEMU's word for an action. QEMU has no action "dump". QEMU's "debug" only prints a line, so the result is
 * VM_WATCHDOG_NONE. Returns the enum vm_watchdog_action; -EINVAL. */
static int watchdog_action_parse(const char *word, struct err *e)
{
	if (!strcmp(word, "debug"))
		return VM_WATCHDOG_NONE;
	for (int i = 0; i < VM_WATCHDOG_ACTION_COUNT; i++)
		if (i != VM_WATCHDOG_DUMP && !strcmp(word, definition_watchdog_action((unsigned)i)))
			return i;
	return err_set(e, -EINVAL, ERR_GENERIC, "Invalid parameter '%.40s'", word);
}

void qmp_watchdog_set_action(struct call *c)
{
	struct vm_watchdog body = { 0 };
	struct err e;
	int r = watchdog_action_parse(js_get_str(c->args, "action"), &e);

	if (r < 0) {
		call_fail(c, &e);
	} else if (is_there(c)) {
		body.action = (uint8_t)r;
		vm_process_request(c->vm->proc, VM_MSG_WATCHDOG, &body, sizeof(body), -1, REQUEST_TIMEOUT_NS,
			command_answered, c);
	}
}

static bool has_balloon(struct call *c)
{
	if (!is_there(c))
		return false;
	if (vm_live(c->vm)->balloon)
		return true;
	call_fail_class(c, "DeviceNotActive", "No balloon device has been activated");
	return false;
}

static void balloon_set(void *opaque, int r, const struct vm_answer *a, const struct err *e)
{
	struct call *c = opaque;

	if (!r)
		balancer_hold_memory(c->vm);
	command_answered(c, r, a, e);
}

void qmp_balloon(struct call *c)
{
	struct vm_balloon_set body = { .set_target = 1 };
	int64_t value = js_get_int(c->args, "value", 0);
	uint64_t all = has_balloon(c) ? vm_live(c->vm)->ram_bytes : 0;
	struct err e;

	if (!all)
		return;
	if (value < 1) {
		err_set(&e, -EINVAL, ERR_GENERIC, "Parameter 'target' expects a size");
		call_fail(c, &e);
		return;
	}
	body.target_bytes = MIN((uint64_t)value, all);
	vm_process_request(c->vm->proc, VM_MSG_BALLOON_SET, &body, sizeof(body), -1, REQUEST_TIMEOUT_NS, balloon_set, c);
}

static void balloon_answered(void *opaque, int r, const struct vm_answer *a, const struct err *e)
{
	struct json_object *o;

	if (r < 0) {
		call_done(opaque, r, e);
		return;
	}
	o = json_object_new_object();
	js_put_uint(o, "actual", a->info->balloon.guest_bytes);
	call_return(opaque, o);
}

void qmp_query_balloon(struct call *c)
{
	if (has_balloon(c))
		vm_process_request(c->vm->proc, VM_MSG_QUERY, NULL, 0, -1, REQUEST_TIMEOUT_NS, balloon_answered, c);
}

#define DIRTY_RATE_MODE "page-sampling"

void qmp_calc_dirty_rate(struct call *c)
{
	const char *mode = js_get_str(c->args, "mode");
	struct err e;

	if (mode && strcmp(mode, DIRTY_RATE_MODE)) {
		err_set(&e, -ENOTSUP, ERR_UNSUPPORTED, "mode: '%.40s' is not offered; use " DIRTY_RATE_MODE, mode);
		call_fail(c, &e);
	} else {
		command_calc_dirty_rate(c, "calc-time");
	}
}

static void dirty_rate_answered(void *opaque, int r, const struct vm_answer *a, const struct err *e)
{
	static const char *const words[] = { "unstarted", "measuring", "measured" };
	const struct vm_dirty_rate *d;
	struct json_object *o;

	if (r < 0) {
		call_done(opaque, r, e);
		return;
	}
	d = &a->info->dirty_rate;
	o = json_object_new_object();
	js_put_str(o, "status", words[MIN(d->status, ARRAY_SIZE(words) - 1)]);
	js_put_uint(o, "start-time", d->start_s);
	js_put_uint(o, "calc-time", d->ask.seconds);
	js_put_uint(o, "sample-pages", d->ask.pages_per_gib);
	js_put_str(o, "mode", DIRTY_RATE_MODE);
	if (d->status >= VM_DIRTY_RATE_MEASURED)
		js_put_uint(o, "dirty-rate", d->bytes_per_s / MIB);
	call_return(opaque, o);
}

void qmp_query_dirty_rate(struct call *c)
{
	struct err e;

	if (vm_compat_check_live(c->vm, VM_KNOWS_DIRTY_RATE, &e) < 0)
		call_fail(c, &e);
	else
		vm_process_request(c->vm->proc, VM_MSG_QUERY, NULL, 0, -1, REQUEST_TIMEOUT_NS, dirty_rate_answered, c);
}

void qmp_human(struct call *c)
{
	qmp_hmp(c, js_get_str(c->args, "command-line"));
}
