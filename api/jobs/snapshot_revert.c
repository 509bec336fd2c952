/* Reverts a VM to a snapshot, in its process, in a new one or in its images alone. */
#include "api/jobs/snapshot_job_impl.h"
#include "api/jobs/snapshot_devices.h"
#include "api/vm/observer.h"
#include "api/vm/vm_gone.h"
#include "api/vm/vm_process.h"
#include "api/wire/json.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/util.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

/* Fail the job with the error of the VM's process, or with the cause that only the daemon knows. */
static void revert_fail(struct snapshot_work *w, const struct err *e)
{
	struct err own = *e;

	snapshot_devices_explain(w->vm, w->then, w->revert.name, &own);
	job_fail(w->job, &own);
}

static void warnings_put(struct snapshot_work *w)
{
	if (w->warnings && json_object_array_length(w->warnings))
		js_put(w->result, "warnings", json_object_get(w->warnings));
}

void snapshot_revert_succeed(struct snapshot_work *w)
{
	struct vm *vm = w->vm;

	warnings_put(w);
	snapshot_work_emit(w, EVENT_SNAPSHOT_REVERTED, w->name);
	js_put_str(w->result, "name", w->name);
	js_put_str(w->result, "id", w->id);
	js_put_bool(w->result, "stopped", w->stopped);
	js_put_str(w->result, "state", vm_state_word(vm->state));
	snapshot_work_succeed(w);
}

static void revert_started(void *opaque, int r, const struct err *e)
{
	struct snapshot_work *w = opaque;

	if (r < 0)
		job_fail(w->job, e);
	else
		snapshot_revert_succeed(w);
}

static void revert_stored(struct store_work *stored)
{
	snapshot_revert_succeed(container_of(stored, struct snapshot_work, stored));
}

static void images_reverted(void *opaque, int r, const struct vm_answer *a, const struct err *e)
{
	struct vm_start_opts opts = { .state_fd = -1, .by_job = true, .done = revert_started, .opaque = opaque };
	struct snapshot_work *w = opaque;

	(void)a;
	if (r < 0) {
		revert_fail(w, e);
		return;
	}
	vm_move(w->vm, VM_ASK_REVERT, VM_REASON_FROM_SNAPSHOT, NULL, 0);
	opts.paused = w->revert.then == SAVE_THEN_PAUSED;
	if (w->revert.then != SAVE_THEN_AS_IT_WAS) {
		vm_start(w->vm, &opts);
		return;
	}
	/* Only state.json tells the next daemon that a VM that had crashed is off. */
	w->stored = (struct store_work){ .loop = w->vm->host->loop, .done = revert_stored };
	store_after(w->vm->host->store, &w->stored);
}

static void images_revert(struct snapshot_work *w)
{
	w->body.disks_only = 1;
	snapshots_request(w->vm, VM_MSG_SNAPSHOT_REVERT, &w->body, sizeof(w->body),
		VM_PROCESS_NO_TIMEOUT, images_reverted, w);
}

/* Set the reason of the VM's state after a revert. Events of the process during the revert may have set another one. */
static void reason_set(struct vm *vm)
{
	if (vm->state == VM_IN_SHUTDOWN) {
		vm_move(vm, VM_SAW_PAUSED, VM_REASON_FROM_SNAPSHOT, NULL, 0);
		vm_move(vm, VM_SAW_RUNNING, VM_REASON_FROM_SNAPSHOT, NULL, 0);
	}
	vm->reason = VM_REASON_FROM_SNAPSHOT;
	vm_save(vm);
}

/* Give the VM, whose process was started only for the revert and has ended, the state that it had before. */
static void state_give_back(const struct snapshot_work *w)
{
	struct vm *vm = w->vm;

	if (vm->state != VM_SHUT_OFF || !w->before.known)
		return;
	if (w->before.state == VM_CRASHED) {
		vm_move(vm, VM_SAW_NOT_REVERTED, w->before.reason, w->before.detail, w->before.value);
		return;
	}
	vm->reason = w->before.reason;
	memcpy(vm->detail, w->before.detail, sizeof(vm->detail));
	vm->value = w->before.value;
	vm_save(vm);
}

void snapshot_revert_failed(struct vm *vm, void *opaque)
{
	struct snapshot_work *w = opaque;

	(void)vm;
	state_give_back(w);
	job_fail(w->job, &w->e);
}

void snapshot_revert_note(struct snapshot_work *w, const struct vm_snapshot_done *d)
{
	if (d)
		js_put_uint(w->result, "pause", w->stopped_at_ns ? clock_monotonic_ns() - w->stopped_at_ns : d->pause_ns);
	job_put_tracking(w->result, d);
	vm_set(w->vm, VM_FACT_FOR_REVERT, false);
	vm_notify(w->vm, renewed);
	reason_set(w->vm);
}

static void memory_reverted(void *opaque, int r, const struct vm_answer *a, const struct err *e)
{
	struct snapshot_work *w = opaque;

	if (r < 0) {
		revert_fail(w, e);
		return;
	}
	snapshot_revert_note(w, a->snapshot);
	snapshot_revert_succeed(w);
}

/* Handle the answer to the revert of a VM that the job has started for this. If the revert failed, destroy the VM,
 * because it has no other state to run. */
static void fresh_reverted(void *opaque, int r, const struct vm_answer *a, const struct err *e)
{
	struct snapshot_work *w = opaque;

	if (r >= 0 || !w->vm->proc) {
		memory_reverted(opaque, r, a, e);
		return;
	}
	w->e = *e;
	snapshot_devices_explain(w->vm, w->then, w->revert.name, &w->e);
	vm_when_gone(w->vm, snapshot_revert_failed, w);
	vm_destroy(w->vm, NULL);
}

static void fresh_started(void *opaque, int r, const struct err *e)
{
	struct snapshot_work *w = opaque;

	if (r < 0) {
		job_fail(w->job, e);
		return;
	}
	vm_process_request(w->vm->proc, VM_MSG_SNAPSHOT_REVERT, &w->body, sizeof(w->body), -1, VM_PROCESS_NO_TIMEOUT,
		fresh_reverted, w);
}

static void fresh_start(struct snapshot_work *w)
{
	struct vm_start_opts opts = { .state_fd = -1, .by_job = true, .paused = true, .for_revert = true,
		.definition = STEAL_PTR(w->definition), .done = fresh_started, .opaque = w };

	vm_start(w->vm, &opts);
}

static void off_revert(struct snapshot_work *w)
{
	w->before.known = true;
	w->before.state = w->vm->state;
	w->before.value = w->vm->value;
	w->before.reason = w->vm->reason;
	memcpy(w->before.detail, w->vm->detail, sizeof(w->before.detail));
	if (w->has_memory)
		fresh_start(w);
	else
		images_revert(w);
}

static void revert_stopped(struct vm *vm, void *opaque)
{
	struct snapshot_work *w = opaque;
	struct err e;

	if (vm->state == VM_SHUT_OFF || vm->state == VM_CRASHED) {
		off_revert(w);
		return;
	}
	err_set(&e, -EBUSY, ERR_WRONG_STATE, "VM '%s' is %s", vm->def->name, vm_state_name(vm->state));
	job_fail(w->job, &e);
}

static int revert_choose(struct snapshot_work *w, const struct snapshots *s, struct err *e)
{
	const struct vm_snapshot_info *info;
	size_t i;
	int r = snapshots_find(s, w->vm->def->name, w->revert.name, &i, e);

	if (r < 0)
		return r;
	info = &s->list[i];
	if (w->revert.with_memory && info->state == VM_SNAPSHOT_SHUTOFF)
		return err_set(e, -EINVAL, ERR_UNSUPPORTED,
			"snapshot '%.200s' has no memory, only disks. Revert to it with: cairn snapshot-revert",
			info->name);
	memcpy(w->name, info->name, sizeof(w->name));
	memcpy(w->id, info->id, sizeof(w->id));
	snprintf(w->body.name, sizeof(w->body.name), "%s", snapshots_handle(s, i));
	w->taken = info->state;
	w->has_memory = !w->revert.disks_only && info->state != VM_SNAPSHOT_SHUTOFF;
	w->body.then = (uint8_t)w->revert.then;
	w->body.eager = w->revert.eager;
	w->body.verify = w->revert.verify;
	w->body.wants_done = 1;
	memcpy(w->body.disk, w->revert.disk, sizeof(w->body.disk));
	return 0;
}

static void revert_checked(void *opaque, int r, const struct vm_answer *a, const struct err *e)
{
	struct snapshot_work *w = opaque;

	(void)a;
	if (r < 0) {
		revert_fail(w, e);
		return;
	}
	w->stopped = true;
	w->stopped_at_ns = w->vm->state == VM_RUNNING ? clock_monotonic_ns() : 0;
	vm_when_gone(w->vm, revert_stopped, w);
	vm_destroy(w->vm, NULL);
}

/* Ask the VM's process to check that all disks can be reverted, then stop the VM. Skip the check if the VM crashed and
 * its process is preserved, or if the VM is being stopped: such a process accepts no work. */
static void stop_and_revert(struct snapshot_work *w)
{
	struct vm_snapshot_revert look = w->body;

	if (w->vm->state == VM_PRESERVED || vm_is_stopping(w->vm)) {
		revert_checked(w, 0, NULL, NULL);
		return;
	}
	look.look_only = look.disks_only = 1;
	vm_process_request(w->vm->proc, VM_MSG_SNAPSHOT_REVERT, &look, sizeof(look), -1,
		VM_PROCESS_NO_TIMEOUT, revert_checked, w);
}

/* The files of w->definition can be opened, so a new process will have them. */
static void devices_checked(void *opaque, int r, const struct err *e)
{
	struct snapshot_work *w = opaque;

	if (r < 0)
		job_fail(w->job, e);
	else if (w->vm->proc && vm_state_is_active(w->vm->state))
		revert_checked(w, 0, NULL, NULL);
	else
		revert_stopped(w->vm, w);
}

/* ---- dry run of a revert ---- */

/* Return whether the VM's present process continues after the revert. */
static bool stays_active(const struct snapshot_work *w)
{
	return vm_state_is_active(w->vm->state) && w->has_memory && !w->definition && w->vm->state != VM_PRESERVED &&
		!vm_is_stopping(w->vm);
}

static enum vm_state state_then(const struct snapshot_work *w)
{
	bool as_it_was = w->revert.then == SAVE_THEN_AS_IT_WAS;

	if (as_it_was && !w->has_memory)
		return VM_SHUT_OFF;
	if (as_it_was)
		return w->taken == VM_SNAPSHOT_PAUSED ? VM_PAUSED : VM_RUNNING;
	return w->revert.then == SAVE_THEN_PAUSED ? VM_PAUSED : VM_RUNNING;
}

/* Return whether the revert changes the content of a disk. It detaches those that were attached after the snapshot. */
static bool would_change(const struct snapshot_work *w, const struct definition_disk *d)
{
	return !d->read_only && (!w->revert.disk[0] || !strcmp(w->revert.disk, d->id)) &&
		(!w->has_memory || !w->then || definition_disk_find(w->then, d->id) >= 0);
}

static void would_revert(void *opaque, int r, const struct vm_answer *a, const struct err *e)
{
	struct json_object *disks = json_object_new_array();
	struct snapshot_work *w = opaque;
	const struct definition *d = w->definition ? w->definition : vm_live(w->vm); /* it attaches disks that were detached */
	bool active = vm_state_is_active(w->vm->state);

	(void)a;
	for (uint32_t i = 0; i < d->ndisks; i++)
		if (would_change(w, &d->disks[i]))
			json_object_array_add(disks, json_object_new_string(d->disks[i].id));
	js_put_str(w->result, "name", w->name);
	js_put_str(w->result, "id", w->id);
	js_put_bool(w->result, "stopped", active && !stays_active(w));
	js_put_str(w->result, "state", vm_state_word(state_then(w)));
	js_put_bool(w->result, "memory-lost", active);
	js_put(w->result, "disks-lost", disks);
	warnings_put(w);
	if (r < 0)
		revert_fail(w, e);
	else
		snapshot_work_succeed(w);
}

static void devices_would_revert(void *opaque, int r, const struct err *e)
{
	would_revert(opaque, r, NULL, e);
}

static void disk_would_revert(void *opaque, int r, const struct vm_answer *a, const struct err *e);

/* Check one disk after another in the images of a VM that is off, which have no memory that says which disks the
 * snapshot lacks. */
static void disks_would_revert(struct snapshot_work *w)
{
	const struct definition *d = vm_live(w->vm);

	while (w->checked < d->ndisks && !would_change(w, &d->disks[w->checked]))
		w->checked++;
	if (w->checked == d->ndisks) {
		would_revert(w, 0, NULL, NULL);
		return;
	}
	snprintf(w->body.disk, sizeof(w->body.disk), "%s", d->disks[w->checked++].id);
	snapshots_request(w->vm, VM_MSG_SNAPSHOT_REVERT, &w->body, sizeof(w->body), VM_PROCESS_NO_TIMEOUT, disk_would_revert, w);
}

static void disk_would_revert(void *opaque, int r, const struct vm_answer *a, const struct err *e)
{
	if (r < 0)
		would_revert(opaque, r, a, e);
	else
		disks_would_revert(opaque);
}

static void would_revert_ask(struct snapshot_work *w)
{
	if (w->definition) {
		snapshot_devices_check(w->vm, w->definition, devices_would_revert, w);
		return;
	}
	w->body.look_only = 1;
	w->body.disks_only = !stays_active(w);
	if (w->vm->state == VM_PRESERVED || vm_is_stopping(w->vm))
		would_revert(w, 0, NULL, NULL); /* the process accepts no work */
	else if (w->has_memory && w->then && !vm_state_is_active(w->vm->state))
		disks_would_revert(w);
	else
		snapshots_request(w->vm, VM_MSG_SNAPSHOT_REVERT, &w->body, sizeof(w->body), VM_PROCESS_NO_TIMEOUT,
			would_revert, w);
}

/* The definition of a new process is known, if the revert needs one. */
static void revert_planned(void *opaque, int r, const struct err *e)
{
	struct snapshot_work *w = opaque;
	struct vm *vm = w->vm;

	if (r < 0) {
		job_fail(w->job, e);
		return;
	}
	if (w->revert.look_only) {
		would_revert_ask(w);
	} else if (!vm_state_is_active(vm->state)) {
		off_revert(w);
	} else if (w->definition) {
		snapshot_devices_check(vm, w->definition, devices_checked, w);
	} else if (stays_active(w)) {
		vm_process_request(vm->proc, VM_MSG_SNAPSHOT_REVERT, &w->body, sizeof(w->body), -1,
			VM_PROCESS_NO_TIMEOUT, memory_reverted, w);
	} else {
		stop_and_revert(w);
	}
}

static void revert_chosen(void *opaque, int r, const struct snapshots *s, const struct err *e)
{
	struct snapshot_work *w = opaque;
	struct vm *vm = w->vm;
	struct err why;

	if (!r) {
		r = revert_choose(w, s, &why);
		e = &why;
	}
	if (r < 0) {
		revert_fail(w, e);
		return;
	}
	w->then = snapshot_devices_load(vm, w->id, !w->has_memory);
	if (w->has_memory)
		r = snapshot_devices_plan(vm, w->then, &w->definition, &why);
	else
		r = snapshot_devices_check_images(vm, w->then, w->name, w->revert.disk, &why);
	if (r < 0 || !w->has_memory || stays_active(w)) {
		revert_planned(w, r, &why);
		return;
	}
	w->warnings = json_object_new_array();
	snapshot_devices_drop_media(vm, &w->definition, w->warnings, revert_planned, w);
}

int snapshot_revert(struct vm *vm, const struct snapshot_revert *opts, const struct job_name *name,
	struct job **ret_j, struct err *e)
{
	struct snapshot_work *w;
	int r = snapshot_work_begin(vm, "snapshot-revert", name, &w, e);

	if (r < 0)
		return r;
	w->revert = *opts;
	*ret_j = w->job;
	snapshots_fetch(vm, revert_chosen, w);
	return 0;
}
