#include "api/vm/vm_life.h"
#include "api/schema/call.h"
#include "api/vm/disk_change.h"
#include "api/vm/disk_doubt.h"
#include "api/vm/observer.h"
#include "api/vm/working_set_file.h"
#include "api/vm/vm.h"
#include "api/vm/vm_cgroup.h"
#include "api/vm/vm_gone.h"
#include "api/vm/vm_guest_event.h"
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
	vm_move(vm, triggers[ev->phase], ours ? vm->asked.reason : (enum vm_reason)ev->reason,
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
	vm_agent_event(vm, info->agent);
}

static void life_event(void *opaque, const struct vm_event *ev)
{
	struct vm *vm = opaque;

	switch (ev->kind) {
	case VM_EVENT_PHASE:
		phase_event(vm, ev);
		break;
	case VM_EVENT_RESET:
		vm_guest_event(vm, ev);
		/* The guest has carried out the requested reboot by a reset, so no start has to follow. */
		if (ev->value == 1 && vm_has(vm, VM_FACT_REBOOTS)) {
			vm_set(vm, VM_FACT_REBOOTS, false);
			vm_move(vm, VM_ASK_RESET, VM_REASON_BOOTED, NULL, 0);
		}
		break;
	case VM_EVENT_PROGRESS:
	case VM_EVENT_FORK_READY:
	case VM_EVENT_COPY_OUTPACED:
		vm_notify(vm, progress, ev);
		break;
	case VM_EVENT_UNPLUGGED:
	case VM_EVENT_UNPLUG_REFUSED:
		if (ev->value)
			vm_vcpus_event(vm, ev);
		else
			vm_plug_event(vm, ev);
		break;
	default:
		vm_guest_event(vm, ev);
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
	const char *kill_reason = vm_cgroup_kill_reason(vm);
	char detail[128] = "";

	if (kill_reason)
		snprintf(detail, sizeof(detail), "%s", kill_reason);
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
		!end->protocol && (!end->status_known || end->signaled) ? VM_REASON_KILLED : VM_REASON_HOST_ERROR,
		detail, 0);
}

/* Move to VM_CRASHED with the reason of the crash. How the process ended does not matter, because it was only kept for
 * the memory dump. */
static void crash_done(struct vm *vm)
{
	char detail[sizeof(vm->detail)];

	memcpy(detail, vm->detail, sizeof(detail));
	vm_move(vm, VM_SAW_CRASHED, VM_REASON_KEEP, detail, vm->value);
}

void vm_ended(struct vm *vm, const struct vm_process_end *end)
{
	const struct vm_event *ev = &end->event;

	vm->exit.status = end->status_known && !end->signaled ? end->status : -1;
	vm->exit.signal = end->status_known && end->signaled ? end->status : 0;
	if (end->said && ev->reason == VM_REASON_SAVED)
		vm_notify(vm, process_saved);
	else if (vm_is_stopping(vm))
		vm_move(vm, VM_ASK_DESTROY, VM_REASON_DESTROYED, NULL, 0);
	else if (vm_has(vm, VM_FACT_CRASH_DUMPED))
		crash_done(vm);
	else if (!end->said)
		ended_unsaid(vm, end);
	else if (reason_is_orderly(ev->reason))
		vm_move(vm, VM_SAW_ENDED,
			ev->reason == VM_REASON_USER ? VM_REASON_DESTROYED : (enum vm_reason)ev->reason,
			ev->detail, ev->value);
	else
		vm_move(vm, VM_SAW_CRASHED, ev->reason, ev->detail, ev->value);
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
	vm_live_drop(vm);
	disk_doubt_clear(&vm->disk_change);
	vm_socket_remove(vm->host->run_dir_fd, vm->def->name);
	working_set_file_keep(vm);
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
	if (!vm_ask(vm, end_waits))
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
		vm_agent_event(vm, info.agent);
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
