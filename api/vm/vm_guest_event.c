#include "api/vm/vm_guest_event.h"
#include "api/vm/vm.h"
#include "api/wire/json.h"
#include "base/log.h"
#include "base/loop.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

/* Emit an event that a guest can trigger at will, within a rate limit: one guest must not push the events of the other
 * VMs out of the event log. */
static void emit_of_guest(struct vm *vm, struct ratelimit *l, enum event_id id, struct json_object *data)
{
	uint64_t left_out;

	if (!ratelimit_take(l, loop_now_ns(), &left_out)) {
		json_object_put(data);
		return;
	}
	if (left_out)
		js_put_uint(data, "left-out", left_out);
	vm_emit(vm, id, data);
}

static void emit_io_error(struct vm *vm, const struct vm_event *ev)
{
	struct json_object *data = json_object_new_object();

	js_put_str(data, "device", ev->device);
	js_put_str(data, "node-name", ev->device);
	js_put_str(data, "operation", ev->is_write ? "write" : "read");
	js_put_str(data, "action", ev->detail);
	js_put_bool(data, "nospace", ev->value == ENOSPC || ev->value == EDQUOT);
	js_put_str(data, "reason", ev->image_corrupt ? "image corrupt" :
		strerror(ev->value > 0 && ev->value < 4096 ? (int)ev->value : EIO));
	emit_of_guest(vm, &vm->event_limits.io_error, EVENT_BLOCK_IO_ERROR, data);
}

static void emit_reset(struct vm *vm, bool guest)
{
	struct json_object *data = json_object_new_object();

	js_put_bool(data, "guest", guest);
	js_put_str(data, "reason", guest ? "guest-reset" : "host-qmp-system-reset");
	if (guest)
		emit_of_guest(vm, &vm->event_limits.reset, EVENT_RESET, data);
	else
		vm_emit(vm, EVENT_RESET, data);
}

static void emit_reset_delayed(struct vm *vm, const struct vm_event *ev)
{
	struct json_object *data = json_object_new_object();

	js_put_int(data, "in", ev->value);
	js_put_int(data, "resets", ev->total);
	emit_of_guest(vm, &vm->event_limits.reset_delayed, EVENT_RESET_DELAYED, data);
}

static void emit_panicked(struct vm *vm, int64_t bits)
{
	struct json_object *data = json_object_new_object();

	js_put_str(data, "action",
		vm_live(vm)->on_crash >= VM_ACTION_PRESERVE ? "pause" : "shutdown");
	js_put_int(data, "bits", bits);
	emit_of_guest(vm, &vm->event_limits.panicked, EVENT_GUEST_PANICKED, data);
}

static void emit_watchdog(struct vm *vm, int64_t action)
{
	struct json_object *data = json_object_new_object();

	js_put_str(data, "action", definition_watchdog_action(action < 0 ? UINT_MAX : (unsigned)action));
	emit_of_guest(vm, &vm->event_limits.watchdog, EVENT_WATCHDOG, data);
}

static void emit_link_lost(struct vm *vm, const struct vm_event *ev)
{
	struct json_object *data = json_object_new_object();

	js_put_str(data, "device", ev->device);
	js_put_str(data, "detail", ev->detail);
	emit_of_guest(vm, &vm->event_limits.link_lost, EVENT_LINK_LOST, data);
}

static void emit_tray(struct vm *vm, const struct vm_event *ev)
{
	struct json_object *data = json_object_new_object();

	js_put_str(data, "device", ev->device);
	js_put_bool(data, "tray-open", ev->value);
	emit_of_guest(vm, &vm->event_limits.tray, EVENT_TRAY_MOVED, data);
}

static void emit_balloon(struct vm *vm, const struct vm_event *ev)
{
	struct json_object *data = json_object_new_object();

	js_put_int(data, "actual", ev->value);
	emit_of_guest(vm, &vm->event_limits.balloon, EVENT_BALLOON_CHANGE, data);
}

/* A guest's watchdog may press the power button at will. Each press by a client is reported. */
static void emit_powerdown(struct vm *vm)
{
	if (!vm->event_limits.powerdowns_asked) {
		emit_of_guest(vm, &vm->event_limits.powerdown, EVENT_POWERDOWN, json_object_new_object());
		return;
	}
	vm->event_limits.powerdowns_asked--;
	vm_emit(vm, EVENT_POWERDOWN, NULL);
}

static void emit_needs_reset(struct vm *vm, const struct vm_event *ev)
{
	struct json_object *data = json_object_new_object();

	js_put_str(data, "device", ev->device);
	emit_of_guest(vm, &vm->event_limits.needs_reset, EVENT_DEVICE_NEEDS_RESET, data);
}

static void emit_agent(struct vm *vm, uint8_t was, uint8_t now)
{
	struct json_object *data;

	if ((was >= VM_AGENT_OPEN) != (now >= VM_AGENT_OPEN)) {
		data = json_object_new_object();
		js_put_str(data, "id", "guest-agent0");
		js_put_bool(data, "open", now >= VM_AGENT_OPEN);
		vm_emit(vm, EVENT_VSERPORT_CHANGE, data);
	}
	if ((was == VM_AGENT_ANSWERS) != (now == VM_AGENT_ANSWERS)) {
		data = json_object_new_object();
		js_put_bool(data, "connected", now == VM_AGENT_ANSWERS);
		vm_emit(vm, EVENT_AGENT, data);
	}
}

/* Emit the events for a change of the agent's port. Above the rate limit, a timer emits them later, so that the last
 * event reports the port's true state. */
static void agent_report(void *opaque)
{
	struct vm *vm = opaque;
	uint8_t was = vm->agent.told;
	uint64_t left_out;

	if (was == vm->agent.now)
		return;
	if (ratelimit_take(&vm->event_limits.agent, loop_now_ns(), &left_out)) {
		vm->agent.told = vm->agent.now;
		emit_agent(vm, was, vm->agent.now);
		return;
	}
	if (!vm->agent.timer && loop_timer_new(vm->host->loop, agent_report, vm, &vm->agent.timer) < 0)
		abort();
	loop_timer_arm(vm->agent.timer, vm->event_limits.agent.since_ns + RATELIMIT_WINDOW_NS);
}

void vm_agent_event(struct vm *vm, int64_t now)
{
	if (now < VM_AGENT_CLOSED || now > VM_AGENT_ANSWERS)
		return;
	vm->agent.now = (uint8_t)now;
	agent_report(vm);
}

static void emit_recovered(struct vm *vm, const struct vm_event *ev)
{
	static const char *const actions[] = { [VM_RECOVERY_MADE] = "taken",
		[VM_RECOVERY_UNMADE] = "rolled-back", [VM_RECOVERY_DELETED] = "deleted",
		[VM_RECOVERY_REVERTED] = "reverted" };
	struct json_object *data;

	if (ev->value < VM_RECOVERY_MADE || ev->value > VM_RECOVERY_REVERTED)
		return;
	data = json_object_new_object();
	js_put_str(data, "snapshot", ev->detail);
	js_put_str(data, "device", ev->device);
	js_put_str(data, "action", actions[ev->value]);
	emit_of_guest(vm, &vm->event_limits.recovered, EVENT_SNAPSHOT_RECOVERED, data);
}

void vm_guest_event(struct vm *vm, const struct vm_event *ev)
{
	switch (ev->kind) {
	case VM_EVENT_POWERDOWN:
		emit_powerdown(vm);
		break;
	case VM_EVENT_RESET:
		emit_reset(vm, ev->value == 1);
		break;
	case VM_EVENT_GUEST_PANICKED:
		emit_panicked(vm, ev->value);
		break;
	case VM_EVENT_AGENT:
		vm_agent_event(vm, ev->value);
		break;
	case VM_EVENT_WATCHDOG:
		emit_watchdog(vm, ev->value);
		break;
	case VM_EVENT_IO_ERROR:
		emit_io_error(vm, ev);
		break;
	case VM_EVENT_RESET_DELAYED:
		emit_reset_delayed(vm, ev);
		break;
	case VM_EVENT_NEEDS_RESET:
		emit_needs_reset(vm, ev);
		break;
	case VM_EVENT_LINK_LOST:
		emit_link_lost(vm, ev);
		break;
	case VM_EVENT_TRAY:
		emit_tray(vm, ev);
		break;
	case VM_EVENT_BALLOON:
		emit_balloon(vm, ev);
		break;
	case VM_EVENT_SNAPSHOT_RECOVERED:
		emit_recovered(vm, ev);
		break;
	case VM_EVENT_GUEST_FROZEN:
		emit_of_guest(vm, &vm->event_limits.frozen, EVENT_GUEST_FROZEN, json_object_new_object());
		break;
	default:
		if (log_ratelimit_pass(&vm->event_limits.unknown))
			log_warn("process", "VM '%s': its process sent an event of unknown kind %u", vm->def->name,
				ev->kind);
	}
}
