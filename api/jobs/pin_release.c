#include "api/jobs/pin_release.h"
#include "api/definition/definition.h"
#include "api/vm/image_users.h"
#include "api/vm/observer.h"
#include "api/vm/offline_process.h"
#include "api/vm/pins.h"
#include "api/vm/vm.h"
#include "api/vm/vm_compat.h"
#include "api/vm/vm_process.h"
#include "base/err.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/util.h"

#include <stdlib.h>
#include <string.h>

/* Deleting a pin may take long on slow storage. */
#define DELETE_TIMEOUT_NS VM_PROCESS_NO_TIMEOUT
/* Long enough for a platform that forks a VM again and again, each time after it has removed the last clone. A longer
 * wait would keep more clusters that the guest has overwritten. */
#define WAIT_S 60U
#define NOTIFY_TIMEOUT_NS VM_PROCESS_NO_TIMEOUT
/* How long the daemon waits before it notifies a process again that it could not reach, for example because the
 * process's socket was full. */
#define NOTIFY_AGAIN_NS 1000000000ULL

static void vm_release(struct vm *vm);
static void timer_arm(struct vm_host *host);

static void release_answered(void *opaque, int r, const struct vm_answer *a, const struct err *e)
{
	struct vm *vm = opaque;

	(void)a;
	/* After a failure, vm_release() asks again when a job of the VM concludes, or the VM starts or changes its
	 * phase. */
	if (r < 0)
		log_debug("pins", "VM '%s': %s", vm->def->name, e->msg);
	pins_answered(vm->host, vm, r == 0);
	if (!r)
		vm_release(vm); /* pins that have become due meanwhile */
}

static bool has_pins(const struct definition_disk *d)
{
	return !d->read_only && d->layers[0].format == DEFINITION_FORMAT_QCOW2;
}

uint64_t pin_release_wait_ns(void)
{
	const char *seconds = getenv("CAIRN_PIN_WAIT");

	return (seconds ? (unsigned)atoi(seconds) : WAIT_S) * 1000000000ULL;
}

static bool is_reachable(const struct vm *vm)
{
	return vm->proc && vm_state_is_active(vm->state) && !vm_compat_is_old(vm);
}

/* ---- pins that wait for a further fork ---- */

/* Return the pid of the VM's process if that can be notified of pins that wait; 0: it cannot, or there is none. */
static pid_t idle_pid(const struct vm *vm)
{
	return is_reachable(vm) && vm_process_knows(vm->proc, VM_KNOWS_IDLE_PINS) ? vm_process_pid(vm->proc) : 0;
}

/* Return whether another VM, whose process has the image open, can share the image's pins. */
static bool other_can_share(const struct vm *vm, const char *image)
{
	const struct vm_host *host = vm->host;

	for (size_t v = 0; v < host->nvms; v++) {
		const struct definition *def = vm_live(host->vms[v]);

		for (uint32_t i = 0; i < def->ndisks && host->vms[v] != vm && idle_pid(host->vms[v]); i++)
			if (has_pins(&def->disks[i]) && !strcmp(def->disks[i].layers[0].path, image))
				return true;
	}
	return false;
}

/* Let no pin of the VM wait, unless another VM can share it. Returns whether one did. */
static bool vm_end_wait(struct vm *vm)
{
	const struct definition *def = vm_live(vm);
	uint8_t id[VM_PIN_ID_BYTES];
	bool any = false;

	for (uint32_t i = 0; i < def->ndisks; i++) {
		const char *image = def->disks[i].layers[0].path;

		if (!has_pins(&def->disks[i]) || !pins_idle(vm->host, image, id) || other_can_share(vm, image))
			continue;
		pins_idle_end(vm->host, image);
		any = true;
	}
	return any;
}

static void idle_answered(void *opaque, int r, const struct vm_answer *a, const struct err *e)
{
	struct vm *vm = opaque;

	(void)a;
	if (r >= 0)
		return;
	log_debug("pins", "VM '%s': %s", vm->def->name, e->msg);
	/* Notify it again: it may have an earlier list, and delete a pin that an overlay reads by now. A process that
	 * has ended has no list. */
	if (!vm->proc)
		return;
	if (!vm->idle_pins_notified)
		vm->idle_pins_notified = vm_process_pid(vm->proc);
	vm->host->pins_told = true;
	vm->host->pins_notify_at_ns = loop_now_ns() + NOTIFY_AGAIN_NS;
	timer_arm(vm->host);
}

/* Tell the process which pins wait, so that it can delete them when they are in the way. The process that takes a VM
 * over, or that starts, cannot share pins, so their wait ends. */
static void vm_tell_idle(struct vm *vm)
{
	const struct definition *def = vm_live(vm);
	struct vm_pins pins = { 0 };
	pid_t pid = idle_pid(vm);

	if (!pid || (vm->idle_pins_notified && vm->idle_pins_notified != pid))
		vm_end_wait(vm);
	if (!pid) {
		vm->idle_pins_notified = 0;
		return;
	}
	for (uint32_t i = 0; i < def->ndisks; i++)
		if (has_pins(&def->disks[i]) && pins_idle(vm->host, def->disks[i].layers[0].path, pins.ids[pins.n]))
			pins.n++;
	if (pins.n || vm->idle_pins_notified == pid)
		vm_process_request(vm->proc, VM_MSG_PINS_IDLE, &pins, sizeof(pins), -1, NOTIFY_TIMEOUT_NS, idle_answered, vm);
	vm->idle_pins_notified = pins.n ? pid : 0;
}

static void tell_idle(struct vm_host *host)
{
	bool any = pins_idle_until(host);

	for (size_t i = 0; i < host->nvms && (any || host->pins_told); i++)
		vm_tell_idle(host->vms[i]);
	host->pins_told = any;
}

/* ---- pins to delete ---- */

/* Choose the pins to delete. Returns whether there are any. One request at a time: an answer is for all pins that a
 * process of the VM was asked to delete. */
static bool pins_choose(struct vm *vm, struct vm_pins *ret)
{
	const struct definition *def = vm_live(vm);

	ret->n = 0;
	if (pins_are_asked(vm->host, vm))
		return false;
	for (uint32_t i = 0; i < def->ndisks; i++)
		if (has_pins(&def->disks[i]))
			ret->n += pins_ask(vm->host, def->disks[i].layers[0].path, vm, ret->ids + ret->n, VM_PINS_MAX - ret->n);
	return ret->n;
}

static void vm_release(struct vm *vm)
{
	struct vm_pins pins = { 0 };

	if (vm->idle_pins_notified)
		vm_tell_idle(vm);
	if (is_reachable(vm) && pins_choose(vm, &pins))
		vm_process_request(vm->proc, VM_MSG_PINS_DELETE, &pins, sizeof(pins), -1, DELETE_TIMEOUT_NS,
			release_answered, vm);
}

void pin_release_before_fork(struct vm *vm)
{
	struct vm_pins pins = { 0 };

	/* Nobody may write to an image that linked clones have open. */
	if (!vm->proc && !image_is_frozen(vm) && pins_choose(vm, &pins))
		offline_request(vm, VM_MSG_PINS_DELETE, &pins, sizeof(pins), DELETE_TIMEOUT_NS, release_answered, vm);
}

static void release_all(struct vm_host *host)
{
	bool due = pins_are_due(host);

	for (size_t i = 0; i < host->nvms && due; i++)
		vm_release(host->vms[i]);
	timer_arm(host);
}

static void timer_fire(void *opaque)
{
	struct vm_host *host = opaque;

	host->pins_notify_at_ns = 0;
	tell_idle(host);
	release_all(host);
}

/* Wake up when a pin has waited long enough, and when a process is to be notified again. */
static void timer_arm(struct vm_host *host)
{
	uint64_t until = pins_idle_until(host), again = host->pins_notify_at_ns;
	uint64_t at = until && again ? MIN(until, again) : MAX(until, again);

	if (at && (host->pins_timer || loop_timer_new(host->loop, timer_fire, host, &host->pins_timer) == 0))
		loop_timer_arm(host->pins_timer, at);
}

void pin_release_due(struct vm_host *host)
{
	pins_store(host, NULL);
	release_all(host);
}

void pin_release_idle(struct vm *vm)
{
	if (vm->idle_pins_notified && vm_end_wait(vm))
		vm_release(vm);
}

/* Ask again after a job, because an earlier request may have failed, for example during a handover. */
static void job_vm_release(struct vm_host *host, const char *name)
{
	struct vm *vm = vm_find(host, name);

	if (vm)
		vm_release(vm);
}

const struct vm_observer pin_release_observer = { .started = vm_release, .phase_known = vm_release,
	.renewed = pin_release_idle, /* no fork can share the pins any more */
	.job_concluded = job_vm_release, .pins_changed = tell_idle };
