#include "api/vm/vm_life.h"
#include "api/schema/call.h"
#include "api/vm/disk_change.h"
#include "api/vm/disk_doubt.h"
#include "api/vm/observer.h"
#include "api/vm/touched.h"
#include "api/vm/vm.h"
#include "api/vm/vm_cgroup.h"
#include "api/vm/vm_handover.h"
#include "api/vm/release_wait.h"
#include "api/vm/vm_interface.h"
#include "api/vm/vm_plug.h"
#include "api/vm/vm_vcpus.h"
#include "api/vm/vm_socket.h"
#include "api/wire/json.h"
#include "base/err.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/utf8.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- events of a VM's process ---- */

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
static void agent_tell(void *opaque)
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
	if (!vm->agent.timer && loop_timer_new(vm->host->loop, agent_tell, vm, &vm->agent.timer) < 0)
		abort();
	loop_timer_arm(vm->agent.timer, vm->event_limits.agent.since_ns + RATELIMIT_WINDOW_NS);
}

static void agent_event(struct vm *vm, int64_t now)
{
	if (now < VM_AGENT_CLOSED || now > VM_AGENT_ANSWERS)
		return;
	vm->agent.now = (uint8_t)now;
	agent_tell(vm);
}

static void phase_event(struct vm *vm, const struct vm_event *ev)
{
	static const enum vm_trigger triggers[] = { [VM_PHASE_PAUSED] = VM_SAW_PAUSED,
		[VM_PHASE_RUNNING] = VM_SAW_RUNNING, [VM_PHASE_CRASHED] = VM_SAW_PRESERVED };
	bool ours = ev->reason == VM_REASON_USER && vm->asked.reason && ev->phase == vm->asked.phase;

	/* While a start awaits the process's answer, ignore phases: start_done() sets the state. */
	if (vm->start.kind == VM_OP_START || ev->phase < VM_PHASE_PAUSED || ev->phase > VM_PHASE_CRASHED)
		return;
	vm_set(vm, VM_FACT_HANDS_OVER, ev->phase == VM_PHASE_PAUSED && ev->reason == VM_REASON_HANDOVER);
	vm_notify(vm, phase_seen, ev);
	vm_move(vm, triggers[ev->phase], ours ? vm->asked.reason : vm_reason_name(ev->reason),
		ours && vm->asked.detail ? vm->asked.detail : ev->detail, ev->value);
	vm_notify(vm, phase_known);
}

void vm_report_phase(struct vm *vm, struct vm_info *info)
{
	struct vm_event ev = { .kind = VM_EVENT_PHASE, .phase = info->phase, .reason = info->reason, .value = info->value };

	info->detail[sizeof(info->detail) - 1] = 0;
	utf8_clean(info->detail);
	memcpy(ev.detail, info->detail, sizeof(ev.detail));
	phase_event(vm, &ev);
	agent_event(vm, info->agent);
}

void vm_emit_recovered(struct vm *vm, const struct vm_event *ev)
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

static void life_event(void *opaque, const struct vm_event *ev)
{
	struct vm *vm = opaque;

	switch (ev->kind) {
	case VM_EVENT_PHASE:
		phase_event(vm, ev);
		break;
	case VM_EVENT_POWERDOWN:
		emit_powerdown(vm);
		break;
	case VM_EVENT_RESET:
		emit_reset(vm, ev->value == 1);
		/* The guest has carried out the requested reboot by a reset, so no start has to follow. */
		if (ev->value == 1 && vm_has(vm, VM_FACT_REBOOTS)) {
			vm_set(vm, VM_FACT_REBOOTS, false);
			vm_move(vm, VM_ASK_RESET, "booted", NULL, 0);
		}
		break;
	case VM_EVENT_GUEST_PANICKED:
		emit_panicked(vm, ev->value);
		break;
	case VM_EVENT_AGENT:
		agent_event(vm, ev->value);
		break;
	case VM_EVENT_WATCHDOG:
		emit_watchdog(vm, ev->value);
		break;
	case VM_EVENT_IO_ERROR:
		emit_io_error(vm, ev);
		break;
	case VM_EVENT_PROGRESS:
	case VM_EVENT_FORK_READY:
	case VM_EVENT_COPY_OUTPACED:
		vm_notify(vm, progress, ev);
		break;
	case VM_EVENT_RESET_DELAYED:
		emit_reset_delayed(vm, ev);
		break;
	case VM_EVENT_NEEDS_RESET:
		emit_needs_reset(vm, ev);
		break;
	case VM_EVENT_UNPLUGGED:
	case VM_EVENT_UNPLUG_REFUSED:
		if (ev->value)
			vm_vcpus_event(vm, ev);
		else
			vm_plug_event(vm, ev);
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
		vm_emit_recovered(vm, ev);
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

/* ---- the end of a VM's process ---- */

static bool reason_is_orderly(unsigned reason)
{
	return reason == VM_REASON_GUEST_SHUTDOWN || reason == VM_REASON_USER ||
		reason == VM_REASON_DEBUG_EXIT || reason == VM_REASON_GUEST_RESET ||
		reason == VM_REASON_WATCHDOG;
}

static void ended_unsaid(struct vm *vm, const struct vm_process_end *end)
{
	char detail[96] = "";

	if (vm_cgroup_was_killed(vm))
		snprintf(detail, sizeof(detail), "the kernel killed its process at the memory limit of its control group");
	else if (end->protocol)
		snprintf(detail, sizeof(detail), "its process violated the protocol and was killed");
	else if (end->status_known && end->signaled)
		snprintf(detail, sizeof(detail), "its process was killed by signal %d (%s)",
			end->status, strsignal(end->status));
	else if (end->status_known)
		snprintf(detail, sizeof(detail), "its process ended with exit status %d",
			end->status);
	else
		snprintf(detail, sizeof(detail), "its process is gone");
	vm_move(vm, VM_SAW_CRASHED,
		end->protocol				    ? "host error" :
			!end->status_known || end->signaled ? "killed" : "host error",
		detail, 0);
}

/* Move to VM_CRASHED with the reason of the crash. How the process ended does not matter, because it was only kept for
 * the memory dump. */
static void crash_done(struct vm *vm)
{
	char reason[sizeof(vm->reason)], detail[sizeof(vm->detail)];

	memcpy(reason, vm->reason, sizeof(reason));
	memcpy(detail, vm->detail, sizeof(detail));
	vm_move(vm, VM_SAW_CRASHED, reason, detail, vm->value);
}

void vm_ended(struct vm *vm, const struct vm_process_end *end)
{
	const struct vm_event *ev = &end->event;

	vm->exit.status = end->status_known && !end->signaled ? end->status : -1;
	vm->exit.signal = end->status_known && end->signaled ? end->status : 0;
	if (end->said && ev->reason == VM_REASON_SAVED)
		vm_notify(vm, process_saved);
	else if (vm_is_stopping(vm))
		vm_move(vm, VM_ASK_DESTROY, "destroyed", NULL, 0);
	else if (vm_has(vm, VM_FACT_CRASH_DUMPED))
		crash_done(vm);
	else if (!end->said)
		ended_unsaid(vm, end);
	else if (reason_is_orderly(ev->reason))
		vm_move(vm, VM_SAW_ENDED,
			ev->reason == VM_REASON_USER ? "destroyed" : vm_reason_name(ev->reason),
			ev->detail, ev->value);
	else
		vm_move(vm, VM_SAW_CRASHED, vm_reason_name(ev->reason), ev->detail, ev->value);
}

void vm_answer_gone(struct vm *vm)
{
	while (vm->stop.calls) {
		struct call *c = vm->stop.calls;

		vm->stop.calls = c->next;
		call_return(c, NULL);
	}
}

void vm_when_gone(struct vm *vm, void (*gone)(struct vm *v, void *opaque), void *opaque)
{
	vm->stop.when_gone = gone;
	vm->stop.when_gone_opaque = opaque;
}

void vm_tell_gone(struct vm *vm)
{
	void (*gone)(struct vm *v, void *o) = vm->stop.when_gone;

	vm->stop.when_gone = NULL;
	if (gone)
		gone(vm, vm->stop.when_gone_opaque);
}

static bool life_moved(void *opaque, const struct vm_process_end *end)
{
	return vm_handover_follow(opaque, end);
}

static void life_ended(void *opaque, const struct vm_process_end *end)
{
	struct vm *vm = opaque;
	bool was_active = vm_state_is_active(vm->state), rebooting = vm_has(vm, VM_FACT_REBOOTS);

	vm_process_free(vm->proc);
	vm->proc = NULL;
	vm_live_forget(vm);
	disk_doubt_forget(&vm->disk_change);
	vm_socket_remove(vm->host->run_dir_fd, vm->def->name);
	touched_keep(vm);
	release_waits_gone(vm);
	vm_notify(vm, process_gone);
	vm_cgroups_sweep(vm->host);
	if (was_active)
		vm_ended(vm, end);
	vm->agent.now = vm->agent.told = VM_AGENT_NONE;
	vm->stop.kind = VM_OP_NONE;
	vm->stop.stuck = false;
	vm->event_limits.powerdowns_asked = 0;
	vm_set(vm, VM_FACT_REBOOTS | VM_FACT_CRASH_DUMPED | VM_FACT_DUMP_DUE, false);
	vm_handover_abandon(vm);
	vm_notify(vm, run_ended);
	vm_answer_gone(vm);
	vm_tell_gone(vm);
	vm_notify(vm, run_over, was_active, rebooting);
	vm_start_over(vm);
}

/* ---- a lost connection ---- */

static bool phase_is_known(const struct vm *vm, const struct vm_info *info)
{
	if (info->phase == VM_PHASE_PAUSED)
		return vm->state == VM_PAUSED; /* its reason may say more than the process knows */
	return vm->state == (info->phase == VM_PHASE_CRASHED ? VM_PRESERVED : VM_RUNNING);
}

static void life_connected(void *opaque, int r, const struct vm_answer *a, const struct err *e)
{
	struct vm *vm = opaque;
	struct vm_info info;

	if (r == -ESRCH)
		return; /* life_ended() follows */
	if (r < 0) {
		log_error("process", "VM '%s': its process does not answer on a new connection; killing it: %s", vm->def->name,
			e->msg);
		vm_process_kill(vm->proc);
		return;
	}
	log_info("process", "VM '%s': connected to its process again", vm->def->name);
	info = *a->info;
	disk_change_compare(vm, &info);
	vm_interfaces_compare(vm, &info);
	if (!phase_is_known(vm, &info))
		vm_report_phase(vm, &info);
	else
		agent_event(vm, info.agent);
}

static int life_lost(void *opaque, struct err *e)
{
	struct vm *vm = opaque;
	struct vm_process_paths p = { .closer = vm->host->closer, .run_dir = vm->host->run_dir_fd, .name = vm->def->name, .log_fd = -1, .end_fd = -1,
		.owns_hash = vm_has(vm, VM_FACT_OWNS_HASH) };

	log_warn("process", "VM '%s': the connection to its process (pid %d) is lost; connecting again", vm->def->name,
		(int)vm_process_pid(vm->proc));
	return vm_process_connect(vm->proc, &p, life_connected, vm, e);
}

/* Fail the calls that wait for the end of a process that SIGKILL has not ended. The stop continues. */
static void stuck_answer(struct vm *vm)
{
	struct err e;

	err_set(&e, -ETIMEDOUT, ERR_TIMEOUT, "VM '%s': its process (pid %d) was killed, but has not ended, because it waits in the "
		"kernel; if the file system of a disk does not answer, repair or unmount it: the VM is off as soon as the process "
		"has ended", vm->def->name, (int)vm_process_pid(vm->proc));
	vm->stop.stuck = true;
	while (vm->stop.calls) {
		struct call *c = vm->stop.calls;

		vm->stop.calls = c->next;
		call_fail(c, &e);
	}
}

static void life_stuck(void *opaque)
{
	struct vm *vm = opaque;

	if (vm_is_stopping(vm))
		stuck_answer(vm);
	vm_notify(vm, process_stuck);
	vm_start_over(vm);
}

const struct vm_process_ops vm_life_ops = { .event = life_event, .moved = life_moved, .gone = life_ended, .lost = life_lost,
	.stuck = life_stuck };
