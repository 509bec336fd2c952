#include "vmm/machine/vm.h"
#include "base/backoff.h"
#include "base/build_id.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/shell_word.h"
#include "base/util.h"
#include "devices/acpi_pm.h"
#include "devices/legacy/pvpanic.h"
#include "vmm/agent/agent.h"
#include "vmm/kvm/end_file.h"
#include "vmm/machine/machine.h"
#include "vmm/machine/machine_firmware.h"
#include "vmm/machine/machine_restore.h"
#include "vmm/machine/vm_impl.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Bound of the queue from other threads to the main thread. A guest can fill it. Half of the queue is reserved for
 * faults, for events that may stop the VM, and for the watchdog's. When the other half is full, one event of each
 * kind is queued, and further ones are dropped. */
#define QUEUE_MAX 256
#define QUEUE_KEPT_FOR_STOPS 128

static const char *phase_name(enum vm_phase p)
{
	static const char *const names[] = { "not started", "paused", "running", "crashed", "ended" };

	return names[p];
}

/* ---- sending events ---- */

struct vm_event vm_event_new(const struct vm *vm, enum vm_event_kind kind)
{
	return (struct vm_event){ .kind = kind, .phase = (uint8_t)vm->phase,
		.reason = (uint8_t)vm->reason, .realtime_ns = clock_realtime_ns() };
}

void vm_event_send(struct vm *vm, const struct vm_event *ev)
{
	if (vm->sink.event)
		vm->sink.event(vm->sink.opaque, ev);
}

/* Return whether the reason is a fault, a deadline that passed or a kill, or a reset for which the VM does not run
 * again. Such reasons are logged as warnings, because `cairn run` reports by its log and exit status only, and exits
 * with 0 after a reset as after a shutdown. */
static bool reason_is_warning(enum vm_reason r)
{
	switch (r) {
	case VM_REASON_IO_ERROR:
	case VM_REASON_NO_SPACE:
	case VM_REASON_IMAGE_CORRUPT:
	case VM_REASON_GUEST_PANICKED:
	case VM_REASON_TRIPLE_FAULT:
	case VM_REASON_EMULATION_FAILURE:
	case VM_REASON_SHUTDOWN_TIMEOUT:
	case VM_REASON_KILLED:
	case VM_REASON_HOST_ERROR:
	case VM_REASON_WATCHDOG:
	case VM_REASON_GUEST_RESET:
		return true;
	default:
		return false;
	}
}

void vm_phase_set(struct vm *vm, enum vm_phase phase, enum vm_reason reason, int64_t value,
	const char *detail)
{
	bool images_only = vm->m && vm->m->cfg.images_only;
	enum log_level level = reason_is_warning(reason) ? LOG_LEVEL_WARN : images_only ? LOG_LEVEL_DEBUG : LOG_LEVEL_INFO;
	struct vm_event ev;

	if (vm->m && !images_only)
		vm_vcpus_report(vm);
	vm->phase = phase;
	vm->reason = reason;
	vm->value = value;
	if (reason == VM_REASON_FROM_SNAPSHOT || phase == VM_PHASE_RUNNING)
		vm->m->cfg.for_revert = false;
	snprintf(vm->detail, sizeof(vm->detail), "%s", detail ? detail : "");
	ev = vm_event_new(vm, VM_EVENT_PHASE);
	ev.value = value;
	memcpy(ev.detail, vm->detail, sizeof(ev.detail));
	log_write(level, NULL, "%s (%s)%s%s",
		phase_name(phase), vm_reason_name(reason), vm->detail[0] ? ": " : "", vm->detail);
	if (phase == VM_PHASE_ENDED)
		end_file_write(&ev);
	vm_event_send(vm, &ev);
}

/* ---- requests that are refused now ---- */

int vm_wrong_phase(const struct vm *vm, const char *what, struct err *e)
{
	return err_set(e, -EBUSY, ERR_WRONG_STATE, "cannot %s: the VM is %s (%s)", what,
		phase_name(vm->phase), vm_reason_name(vm->reason));
}

/* Return whether the guest has asked for a reset or for its end and the main thread is still to act. */
static bool guest_asks(struct vm *vm)
{
	bool asks = vm->reset_pending;

	LOCK_GUARD(&vm->lock);
	for (unsigned i = 0; i < vm->nqueued && !asks; i++)
		asks = vm->queue[i].stops && vm->queue[i].generation == vm->generation;
	return asks;
}

/* Refuse while a reset is pending: a state saved now would wait for a reset that never comes. */
int vm_check_keepable(struct vm *vm, struct err *e)
{
	if (vm->reset_delayed)
		return err_set(e, -EBUSY, ERR_BUSY,
			"the guest resets in a loop and its next reset is pending; try again after that reset");
	return guest_asks(vm) ? err_set(e, -EBUSY, ERR_BUSY, "the guest is about to reset or to end; try again") : 0;
}

/* Refuse while exclusive work is in progress, or in a process that only works on images. */
static int vm_check_busy(const struct vm *vm, struct err *e)
{
	if (vm->m->cfg.images_only)
		return err_set(e, -EBUSY, ERR_WRONG_STATE,
			"this process only works on the VM's images; the VM is off");
	if (!vm->work || vm->work_live)
		return 0;
	return err_set(e, -EBUSY, ERR_BUSY, "a %s of this VM is under way", vm->work);
}

/* ---- requests of the daemon ---- */

void vm_generation_next(struct vm *vm)
{
	LOCK_GUARD(&vm->lock);

	vm->generation++;
}

static void guest_frozen(void *opaque)
{
	struct vm *vm = opaque;
	struct vm_event ev = vm_event_new(vm, VM_EVENT_GUEST_FROZEN);

	log_warn(NULL, "the guest was saved with its file systems frozen, and its agent did not "
		"confirm a thaw; run `fsfreeze -u` on them in the guest");
	vm_event_send(vm, &ev);
}

/* After a restore or a revert, set the guest's clock: kvm-clock and the TSC continue from their saved values, so
 * monotonic time has no gap, but only the guest can correct its time of day. */
void vm_guest_run(struct vm *vm)
{
	machine_resume(vm->m);
	if (vm->time_passed) {
		agent_thaw_restored(vm->m->agent, guest_frozen, vm);
		agent_set_time(vm->m->agent);
	}
	if (vm->hint_hostname)
		agent_set_hostname(vm->m->agent, vm->m->cfg.name);
	vm->time_passed = vm->hint_hostname = false;
}

int vm_cont(struct vm *vm, enum vm_reason reason, struct err *e)
{
	const char *corrupt = machine_corrupt_disk(vm->m);
	char note[VM_DETAIL_MAX];

	if (vm_check_busy(vm, e))
		return -EBUSY;
	if (vm->phase == VM_PHASE_RUNNING)
		return 0;
	if (vm->phase != VM_PHASE_PAUSED)
		return vm_wrong_phase(vm, "resume", e);
	if (vm->memory_lost)
		return err_set(e, -EIO, ERR_IO,
			"cannot resume: part of the VM's saved memory could not be read; reset it or "
			"revert to another snapshot");
	if (corrupt)
		return err_set(e, -EIO, ERR_CORRUPT,
			"cannot resume: the image of %s is corrupt; destroy the VM, then repair the "
			"image with cairn-img check -r all", corrupt);
	/* Send the event first: the guest may send events of its own as soon as it runs. */
	vm_processor_note(vm, note, sizeof(note));
	vm_phase_set(vm, VM_PHASE_RUNNING, reason, 0, reason == VM_REASON_RESTORED ? note : NULL);
	if (!vm->reset_delayed && !vm->reset_pending)
		vm_guest_run(vm);
	return 0;
}

void vm_processor_note(const struct vm *vm, char *note, size_t size)
{
	const char *more = vm->m->cpu_more;

	snprintf(note, size, more[0] ? "the guest sees processor features that it did not see before: %s" : "%s", more);
}

int vm_stop(struct vm *vm, enum vm_reason reason, struct err *e)
{
	if (vm->phase == VM_PHASE_PAUSED)
		return 0;
	if (vm->phase != VM_PHASE_RUNNING)
		return vm_wrong_phase(vm, "suspend", e);
	machine_pause(vm->m);
	vm_phase_set(vm, VM_PHASE_PAUSED, reason, 0, NULL);
	return 0;
}

void vm_vcpus_resume(struct vm *vm)
{
	if (!vm->reset_delayed && !vm->reset_pending)
		machine_resume(vm->m);
}

/* Press the power button, for a user (asked) or for the watchdog. */
static int button_press(struct vm *vm, bool asked, struct err *e)
{
	struct vm_event ev;

	if (vm_check_busy(vm, e))
		return -EBUSY;
	if (vm->phase != VM_PHASE_RUNNING && vm->phase != VM_PHASE_PAUSED)
		return vm_wrong_phase(vm, "press the power button", e);
	ev = vm_event_new(vm, VM_EVENT_POWERDOWN);
	ev.value = asked;
	vm_event_send(vm, &ev);
	acpi_pm_press_power_button(vm->m->acpi_pm);
	return 0;
}

int vm_powerdown(struct vm *vm, struct err *e)
{
	int r = button_press(vm, true, e);

	if (!r) {
		vm->off_asked = true;
		vm->renewed = false;
	}
	return r;
}

void vm_set_off_asked(struct vm *vm, bool asked)
{
	vm->off_asked = asked;
}

void vm_shutdown_begun(struct vm *vm)
{
	vm->renewed = false;
}

int vm_nmi(struct vm *vm, struct err *e)
{
	if (vm_check_busy(vm, e))
		return -EBUSY;
	if (vm->phase != VM_PHASE_RUNNING)
		return vm_wrong_phase(vm, "inject an NMI", e);
	vcpus_nmi(&vm->m->vcpus);
	return 0;
}

/* Reset to power-on state and stay in the current phase. */
static int reset_in_place(struct vm *vm, bool by_guest, struct err *e)
{
	bool run = vm->phase == VM_PHASE_RUNNING;
	struct vm_event ev;
	int r;

	if (run)
		machine_pause(vm->m);
	vm_generation_next(vm);
	r = machine_reset(vm->m, e);
	vm->memory_lost = vm->reset_delayed = vm->off_asked = false;
	vm->renewed |= !by_guest;
	if (r < 0) {
		vm_end(vm, VM_REASON_HOST_ERROR, 0, e ? e->msg : "reset failed");
		return r;
	}
	log_info(NULL, by_guest ? "reset by the guest or its watchdog" : "reset");
	ev = vm_event_new(vm, VM_EVENT_RESET);
	ev.value = by_guest;
	vm_event_send(vm, &ev);
	if (run)
		machine_resume(vm->m);
	return 0;
}

int vm_reset(struct vm *vm, struct err *e)
{
	if (vm_check_busy(vm, e))
		return -EBUSY;
	if (vm->work && vm->work_live < 2)
		return err_set(e, -EBUSY, ERR_BUSY, "a %s of this VM is under way", vm->work);
	if (vm->phase == VM_PHASE_CRASHED) {
		vm->phase = VM_PHASE_PAUSED; /* a crashed VM that was preserved can be reset, too */
		vm->reason = VM_REASON_USER;
	}
	if (vm->phase != VM_PHASE_RUNNING && vm->phase != VM_PHASE_PAUSED)
		return vm_wrong_phase(vm, "reset", e);
	return reset_in_place(vm, false, e);
}

void vm_end(struct vm *vm, enum vm_reason reason, int64_t value, const char *detail)
{
	if (vm->phase == VM_PHASE_ENDED)
		return;
	atomic_store(&vm->work_cancelled, true);
	if (vm->phase == VM_PHASE_RUNNING)
		machine_pause(vm->m);
	vm_phase_set(vm, VM_PHASE_ENDED, reason, value, detail);
	loop_stop(vm->loop);
}

/* ---- events from the guest ---- */

static void reset_fire(void *opaque)
{
	struct vm *vm = opaque;
	struct err e = { 0 };

	if (!vm->reset_delayed || vm->reset_generation != vm->generation ||
		(vm->phase != VM_PHASE_RUNNING && vm->phase != VM_PHASE_PAUSED))
		return;
	vm->reset_delayed = false;
	if (vm->work && vm->work_live < 2)
		vm->reset_pending = true;
	else
		reset_in_place(vm, true, &e);
}

static void reset_later(struct vm *vm, uint64_t now, uint64_t wait_ns)
{
	struct vm_event ev = vm_event_new(vm, VM_EVENT_RESET_DELAYED);

	log_warn(NULL, "the guest has asked for %u resets within %u s; delaying this one by %llu s",
		vm->resets.n, vm->m->cfg.resets.window_s, (unsigned long long)wait_ns / 1000000000);
	vm->reset_delayed = true;
	vm->reset_generation = vm->generation;
	loop_timer_arm(vm->reset_timer, now + wait_ns);
	ev.value = (int64_t)wait_ns;
	ev.total = vm->resets.n;
	vm_event_send(vm, &ev);
}

/* Reset for the guest or the watchdog. If the guest resets in a loop, reset after a delay. If work in progress still
 * reads memory, which a reset clears, reset at the work's end. If the guest itself asked, the vCPUs stay stopped
 * until then. */
static void guest_restart(struct vm *vm)
{
	uint64_t now = loop_now_ns(), wait = backoff_slow(&vm->m->cfg.resets, &vm->resets, now);
	struct err e = { 0 };

	if (wait)
		reset_later(vm, now, wait);
	else if (vm->work && vm->work_live < 2)
		vm->reset_pending = true;
	else
		reset_in_place(vm, true, &e);
}

static void guest_poweroff(struct vm *vm)
{
	bool off = vm->off_asked && vm->m->cfg.on_poweroff == VM_ACTION_RESTART;

	agent_guest_off(vm->m->agent);
	switch (off ? VM_ACTION_DESTROY : vm->m->cfg.on_poweroff) {
	case VM_ACTION_RESTART:
		guest_restart(vm);
		break;
	case VM_ACTION_PRESERVE:
		vm_stop(vm, VM_REASON_GUEST_SHUTDOWN, NULL);
		break;
	default:
		vm_end(vm, VM_REASON_GUEST_SHUTDOWN, 0, NULL);
	}
}

void vm_work_end(struct vm *vm)
{
	struct err e = { 0 };

	vm->work = NULL;
	machine_hold_vhost(vm->m, false);
	if (vm->reset_pending && (vm->phase == VM_PHASE_RUNNING || vm->phase == VM_PHASE_PAUSED))
		reset_in_place(vm, true, &e);
	vm->reset_pending = false;
	vm_plug_remove_released(vm);
	vm_vcpus_remove_released(vm);
}

static void guest_reset(struct vm *vm)
{
	switch (vm->m->cfg.on_reboot) {
	case VM_ACTION_RESTART:
		guest_restart(vm);
		break;
	case VM_ACTION_PRESERVE:
		vm_stop(vm, VM_REASON_GUEST_RESET, NULL);
		break;
	default:
		vm_end(vm, VM_REASON_GUEST_RESET, 0, NULL);
	}
}

/* Handle a crash of the guest: panic, triple fault or emulation failure. The daemon does any
 * restart, since it counts them and backs off. */
static void guest_crashed(struct vm *vm, enum vm_reason reason, int64_t value, const char *detail)
{
	if (vm->m->cfg.on_crash != VM_ACTION_PRESERVE) {
		vm_end(vm, reason, value, detail);
		return;
	}
	if (vm->phase == VM_PHASE_RUNNING)
		machine_pause(vm->m);
	vm_phase_set(vm, VM_PHASE_CRASHED, reason, value, detail);
}

static void guest_panicked(struct vm *vm, const struct queued *q)
{
	struct vm_event ev = vm_event_new(vm, VM_EVENT_GUEST_PANICKED);

	ev.value = q->ev.value;
	vm_event_send(vm, &ev);
	if (q->ev.value & PVPANIC_PANICKED)
		guest_crashed(vm, VM_REASON_GUEST_PANICKED, q->ev.value, NULL);
}

/* Carry out the watchdog's action, also while work is in progress. Then a reset may wait for the work's end, and the
 * power button and the NMI do nothing if the work excludes them (vm_check_busy()). */
static void watchdog_bit(struct vm *vm)
{
	enum vm_watchdog_action action = (enum vm_watchdog_action)vm->m->cfg.watchdog_action;
	struct vm_event ev = vm_event_new(vm, VM_EVENT_WATCHDOG);

	ev.value = action;
	vm_event_send(vm, &ev);
	switch (action) {
	case VM_WATCHDOG_RESET:
		log_warn(NULL, "the watchdog resets the guest");
		guest_reset(vm);
		break;
	case VM_WATCHDOG_SHUTDOWN:
		button_press(vm, false, NULL);
		break;
	case VM_WATCHDOG_POWEROFF:
		vm_end(vm, VM_REASON_WATCHDOG, 0, NULL);
		break;
	case VM_WATCHDOG_PAUSE:
	case VM_WATCHDOG_DUMP:
		if (vm->phase != VM_PHASE_RUNNING)
			break;
		machine_pause(vm->m);
		vm_phase_set(vm, VM_PHASE_PAUSED, VM_REASON_WATCHDOG, action, NULL);
		break;
	case VM_WATCHDOG_NMI:
		vm_nmi(vm, NULL);
		break;
	default:
		break;
	}
}

void vm_set_watchdog(struct vm *vm, enum vm_watchdog_action action)
{
	vm->m->cfg.watchdog_action = (uint8_t)action;
}

static void disk_error_send(struct vm *vm, const struct queued *q)
{
	struct vm_event ev = vm_event_new(vm, VM_EVENT_IO_ERROR);

	snprintf(ev.device, sizeof(ev.device), "%s", q->device);
	ev.value = q->ev.value;
	ev.is_write = q->ev.is_write;
	ev.image_corrupt = q->ev.corrupt;
	snprintf(ev.detail, sizeof(ev.detail), "%s", q->ev.stop ? "stop" : q->ev.ignored ? "ignore" : "report");
	vm_event_send(vm, &ev);
}

static void disk_error(struct vm *vm, const struct queued *q)
{
	int error = (int)q->ev.value;
	char detail[VM_DETAIL_MAX];

	disk_error_send(vm, q);
	if (!q->ev.stop || vm->phase != VM_PHASE_RUNNING)
		return;
	machine_pause(vm->m);
	snprintf(detail, sizeof(detail), "%s: %s failed: %s%s%s", q->device,
		q->ev.is_write ? "write" : "read", strerror(error), q->detail[0] ? "; " : "", q->detail);
	vm_phase_set(vm, VM_PHASE_PAUSED,
		error == ENOSPC || error == EDQUOT ? VM_REASON_NO_SPACE : VM_REASON_IO_ERROR, error, detail);
}

/* Pause the VM because an image is corrupt, even for an event of an older generation: the guest cannot continue with
 * that disk. A crashed VM stays crashed. */
static void disk_corrupt(struct vm *vm, const struct queued *q)
{
	char detail[VM_DETAIL_MAX];

	disk_error_send(vm, q);
	if (vm->phase == VM_PHASE_RUNNING)
		machine_pause(vm->m);
	if (vm->phase == VM_PHASE_CRASHED ||
		(vm->phase == VM_PHASE_PAUSED && vm->reason == VM_REASON_IMAGE_CORRUPT))
		return;
	snprintf(detail, sizeof(detail), "%s%s%s", q->device, q->detail[0] ? ": " : "", q->detail);
	vm_phase_set(vm, VM_PHASE_PAUSED, VM_REASON_IMAGE_CORRUPT, q->ev.value, detail);
}

/* Forward a device's event. */
static void device_event_send(struct vm *vm, enum vm_event_kind kind, const struct queued *q)
{
	struct vm_event ev = vm_event_new(vm, kind);

	snprintf(ev.device, sizeof(ev.device), "%s", q->device);
	memcpy(ev.detail, q->detail, sizeof(ev.detail));
	ev.value = q->ev.value;
	vm_event_send(vm, &ev);
}

static void agent_changed(void *opaque, bool open, bool answers)
{
	struct vm_event ev = vm_event_new(opaque, VM_EVENT_AGENT);

	ev.value = answers ? VM_AGENT_ANSWERS : open ? VM_AGENT_OPEN : VM_AGENT_CLOSED;
	vm_event_send(opaque, &ev);
}

void vm_fork_event_send(struct vm *vm, enum vm_fork_stage stage)
{
	struct vm_event ev = vm_event_new(vm, VM_EVENT_FORK_READY);

	ev.value = stage;
	vm_event_send(vm, &ev);
}

void vm_recovered(struct vm *vm, enum vm_recovery what, const char *disk, const char *snapshot)
{
	struct vm_event ev = vm_event_new(vm, VM_EVENT_SNAPSHOT_RECOVERED);

	ev.value = what;
	snprintf(ev.device, sizeof(ev.device), "%s", disk);
	snprintf(ev.detail, sizeof(ev.detail), "%s", snapshot);
	vm_event_send(vm, &ev);
}

/* Pause the VM until a reset or a revert: the RAM reader could not read a block. */
static void memory_loss_handle(struct vm *vm, const struct queued *q)
{
	vm->memory_lost = true;
	if (vm->phase == VM_PHASE_RUNNING)
		machine_pause(vm->m);
	vm_phase_set(vm, VM_PHASE_PAUSED, VM_REASON_IO_ERROR, EIO, q->detail);
}

static void queued_handle(struct vm *vm, const struct queued *q)
{
	if (!q->is_fault && q->ev.corrupt && vm->phase != VM_PHASE_ENDED) {
		disk_corrupt(vm, q);
		return;
	}
	/* Drop events from before a reset or revert, and those after a crash or the end: when several vCPUs
	 * fault together, only the first fault counts. */
	if ((vm->phase != VM_PHASE_RUNNING && vm->phase != VM_PHASE_PAUSED) || q->generation != vm->generation)
		return;
	if (q->is_fault) {
		if (q->reason == VM_REASON_IO_ERROR)
			memory_loss_handle(vm, q);
		else if (q->reason == VM_REASON_HOST_ERROR)
			vm_end(vm, q->reason, 0, q->detail);
		else
			guest_crashed(vm, q->reason, 0, q->detail);
		return;
	}
	switch (q->ev.kind) {
	case DEV_EVENT_POWEROFF:
		guest_poweroff(vm);
		break;
	case DEV_EVENT_RESET:
		guest_reset(vm);
		break;
	case DEV_EVENT_PANICKED:
		guest_panicked(vm, q);
		break;
	case DEV_EVENT_DEBUG_EXIT:
		vm_end(vm, VM_REASON_DEBUG_EXIT, q->ev.value, NULL);
		break;
	case DEV_EVENT_IO_ERROR:
		disk_error(vm, q);
		break;
	case DEV_EVENT_NEEDS_RESET:
		device_event_send(vm, VM_EVENT_NEEDS_RESET, q);
		break;
	case DEV_EVENT_LINK_LOST:
		device_event_send(vm, VM_EVENT_LINK_LOST, q);
		break;
	case DEV_EVENT_TRAY:
	case DEV_EVENT_BALLOON:
		device_event_send(vm, q->ev.kind == DEV_EVENT_TRAY ? VM_EVENT_TRAY : VM_EVENT_BALLOON, q);
		break;
	case DEV_EVENT_WATCHDOG:
		watchdog_bit(vm);
		break;
	}
}

/* ---- the queue of events from other threads ---- */

static void queue_run(struct loop_task *t)
{
	struct vm *vm = container_of(t, struct vm, task);
	struct queued *batch = NULL;
	unsigned n;

	pthread_mutex_lock(&vm->lock);
	n = vm->nqueued;
	batch = malloc((n ? n : 1) * sizeof(*batch));
	if (batch) {
		memcpy(batch, vm->queue, n * sizeof(*batch));
		vm->nqueued = 0;
	}
	vm->posted = false;
	pthread_mutex_unlock(&vm->lock);
	if (!batch) {
		vm_end(vm, VM_REASON_HOST_ERROR, 0, "out of memory");
		return;
	}
	for (unsigned i = 0; i < n; i++)
		queued_handle(vm, &batch[i]);
	free(batch);
}

/* Return whether the queue has an event with the same consequence. */
static bool queue_has(const struct vm *vm, const struct queued *q)
{
	for (unsigned i = 0; i < vm->nqueued; i++) {
		const struct queued *o = &vm->queue[i];

		if (o->generation == vm->generation && o->is_fault == q->is_fault && o->reason == q->reason &&
			o->ev.kind == q->ev.kind && o->stops && o->ev.corrupt == q->ev.corrupt)
			return true;
	}
	return false;
}

static void queue_add(struct vm *vm, const struct queued *q)
{
	LOCK_GUARD(&vm->lock);

	if (vm->nqueued >= QUEUE_MAX - QUEUE_KEPT_FOR_STOPS && (!q->stops || vm->nqueued == QUEUE_MAX || queue_has(vm, q)))
		return;
	vm->queue[vm->nqueued] = *q;
	vm->queue[vm->nqueued++].generation = vm->generation;
	if (vm->posted)
		return;
	vm->posted = true;
	loop_post(vm->loop, &vm->task);
}

/* Return whether the event must not get lost: it has stopped the vCPUs, or is the watchdog's. A guest can repeat all
 * other events at any rate. */
static bool event_needs_room(const struct dev_event *ev)
{
	if (ev->kind == DEV_EVENT_PANICKED)
		return ev->value & PVPANIC_PANICKED; /* else its crash kernel has taken over, and it runs on */
	return ev->kind <= DEV_EVENT_DEBUG_EXIT || ev->stop || ev->kind == DEV_EVENT_WATCHDOG;
}

static void listener_event(void *opaque, const struct dev_event *ev)
{
	struct queued q = { .ev = *ev, .stops = event_needs_room(ev) };

	snprintf(q.device, sizeof(q.device), "%s", ev->device ? ev->device : "");
	snprintf(q.detail, sizeof(q.detail), "%s", ev->detail ? ev->detail : "");
	q.ev.device = q.ev.detail = NULL;
	queue_add(opaque, &q);
}

static void listener_fault(void *opaque, unsigned vcpu, enum vm_reason reason, const char *detail)
{
	struct queued q = { .is_fault = true, .stops = true, .reason = reason };

	(void)vcpu;
	snprintf(q.detail, sizeof(q.detail), "%s", detail);
	queue_add(opaque, &q);
}

/* ---- creation and teardown ---- */

int vm_new(const struct vm_config *cfg, int *fds, unsigned nfds, struct memory *taken, struct host_files *host,
	struct loop *l, const struct vm_sink *sink, struct vm **ret_vm, struct err *e)
{
	struct vm *vm = calloc(1, sizeof(*vm));
	struct machine_listener listener = { .event = listener_event, .fault = listener_fault,
		.opaque = vm };
	int r;

	if (!vm || !(vm->queue = malloc(QUEUE_MAX * sizeof(*vm->queue)))) {
		free(vm);
		return err_set_errno(e, -ENOMEM, "VM");
	}
	vm->loop = l;
	vm->sink = *sink;
	vm->phase = VM_PHASE_PAUSED;
	vm->started_ns = cfg->taken_over ? cfg->taken.started_realtime_ns : clock_realtime_ns();
	vm->off_asked = cfg->taken_over && cfg->taken.off_asked;
	vm->task.run = queue_run;
	vm->work_task.run = vm_work_progress;
	vm->restore_fd = -1;
	pthread_mutex_init(&vm->lock, NULL);
	if (cfg->restore_fd != VM_NO_FD) {
		vm->restore_fd = fds[cfg->restore_fd];
		fds[cfg->restore_fd] = -1;
	}
	r = loop_timer_new(l, reset_fire, vm, &vm->reset_timer);
	if (!r)
		r = loop_timer_new(l, vm_plug_remove_released_later, vm, &vm->released_timer);
	if (r < 0)
		err_set_errno(e, r, "VM");
	else
		r = machine_new(cfg, fds, nfds, cfg->forked ? vm->restore_fd : -1, taken, host, l, &listener, &vm->m, e);
	if (r < 0) {
		vm_free(vm);
		return r;
	}
	if (vm->m->agent)
		agent_watch(vm->m->agent, agent_changed, vm);
	vm_plug_listen(vm);
	vm_vcpus_listen(vm);
	*ret_vm = vm;
	return 0;
}

int vm_load(struct vm *vm, struct err *e)
{
	if (vm->m->cfg.images_only)
		return 0;
	if (vm->restore_fd < 0) {
		int r = vm->m->cfg.for_revert ? 0 : machine_check_bootable(vm->m, e);

		return r < 0 ? r : machine_boot(vm->m, e);
	}
	vm->time_passed = true;
	vm->hint_hostname = vm->m->cfg.forked && vm->m->cfg.hint_hostname;
	return machine_restore(vm->m, steal_fd(&vm->restore_fd), e);
}

void vm_free(struct vm *vm)
{
	if (!vm)
		return;
	machine_free(vm->m);
	loop_timer_free(vm->reset_timer);
	loop_timer_free(vm->released_timer);
	if (vm->restore_fd >= 0)
		close(vm->restore_fd);
	pthread_mutex_destroy(&vm->lock);
	free(vm->queue);
	free(vm);
}

int vm_check_agent(struct vm *vm, struct err *e)
{
	const char *name = vm->m->cfg.name;

	return vm->m->agent ? 0 : err_set(e, -ENOTSUP, ERR_UNSUPPORTED,
		"VM '%s' has no port for a guest agent; set \"guest_agent\": true with cairn edit %s, shut the VM down and start it", name,
		shell_word(name).s);
}

struct machine *vm_machine(struct vm *vm)
{
	return vm->m;
}

enum vm_phase vm_phase(const struct vm *vm)
{
	return vm->phase;
}

void vm_set_landlock(struct vm *vm, int version)
{
	vm->landlock = (uint8_t)(1 + MIN(version, UINT8_MAX - 1));
}

void vm_info(struct vm *vm, struct vm_info *i)
{
	memset(i, 0, sizeof(*i));
	i->phase = (uint8_t)vm->phase;
	i->reason = (uint8_t)vm->reason;
	i->value = vm->value;
	i->started_realtime_ns = vm->started_ns;
	memcpy(i->detail, vm->detail, sizeof(i->detail));
	i->hands_over = true;
	i->sets_interfaces = i->plugs = i->sets_medium = true;
	i->sets_disks = VM_SETS_DISK_TUNE;
	i->screens = VM_SCREENS_INPUT;
	i->shows_figures = i->samples_pages = true;
	i->pins_readable = VM_IDLE_PINS;
	i->groups = VM_GROUPS_FORK;
	i->copies_disks = VM_CHECKS_ABOVE;
	i->works = vm_works(vm);
	i->sets_balloon = i->reclaims = true;
	i->plugs_vcpus = VM_SHOWS_PCI;
	i->renewed = vm->renewed;
	i->for_revert = vm->m->cfg.for_revert && !vm->work;
	i->handover_pause_ns = vm->handover_pause_ns;
	i->handover_rounds = vm->m->cfg.copy_rounds;
	i->handover_throttle = vm->m->cfg.copy_throttle;
	i->handover_stopped = vm->m->cfg.copy_stopped;
	i->landlock = vm->landlock;
	i->ends_consoles = i->ends_agents = i->agent_commands = i->dumps_then = true;
	i->checks_saves = 2;
	i->build = build_id_own();
	machine_info(vm->m, i);
}

int vm_exit_status(const struct vm *vm)
{
	switch (vm->reason) {
	case VM_REASON_DEBUG_EXIT:
		return (int)(vm->value & 0xff);
	case VM_REASON_GUEST_PANICKED:
		return VM_EXIT_PANICKED;
	case VM_REASON_TRIPLE_FAULT:
	case VM_REASON_EMULATION_FAILURE:
	case VM_REASON_WATCHDOG:
		return VM_EXIT_CRASHED;
	case VM_REASON_SHUTDOWN_TIMEOUT:
		return VM_EXIT_TIMEOUT;
	case VM_REASON_KILLED:
		return VM_EXIT_KILLED;
	case VM_REASON_HOST_ERROR:
		return VM_EXIT_HOST;
	default:
		return VM_EXIT_OK;
	}
}
