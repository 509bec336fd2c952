#include "api/jobs/snapshot_job.h"
#include "api/jobs/group_steps.h"
#include "api/jobs/job.h"
#include "api/jobs/job_recover.h"
#include "api/jobs/snapshot_devices.h"
#include "api/jobs/snapshots.h"
#include "api/store/store.h"
#include "api/vm/observer.h"
#include "api/vm/quota_use.h"
#include "api/vm/vm.h"
#include "api/vm/vm_process.h"
#include "api/wire/json.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/util.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NAMES_TOLD_MAX 20 /* names of deleted snapshots in a result, which is part of a line of 64 KiB */
#define QUERY_TIMEOUT_NS (10 * 1000000000ULL)

/* Data of a snapshot job; freed when it concludes. */
struct work {
	struct store_work stored;
	struct job *job;
	struct vm *vm;
	struct vm_snapshot_create create;
	char name[VM_SNAPSHOT_NAME_MAX + 1];
	char id[VM_SNAPSHOT_ID_MAX + 1];
	struct json_object *result;
	struct json_object *devices; /* only for a job that creates: snapshot_devices_look() */
	/* only for a job that deletes */
	enum snapshot_victims mode;
	void (*choose)(void *opaque, const struct snapshots *s, bool *victims); /* NULL: name and mode choose */
	void *choose_opaque;
	struct victim *victims;
	size_t nvictims, at;
	bool look_only;
	/* only for a job that reverts */
	struct snapshot_revert revert;
	struct vm_snapshot_revert body;
	struct definition *definition; /* of a new process, which the revert needs; NULL: it needs none */
	bool has_memory, stopped;
	uint8_t taken; /* enum vm_snapshot_state of the snapshot */
	struct {
		enum vm_state state;
		char reason[sizeof(((struct vm *)NULL)->reason)], detail[VM_DETAIL_MAX];
		int64_t value;
	} before; /* of a VM that is started to be reverted */
	struct err e; /* the job's error, kept until the VM's process has ended */
	uint8_t adopted; /* enum vm_msg_type: the request of an earlier daemon, of which only this is known; 0: none */
};

struct victim {
	char handle[VM_SNAPSHOT_NAME_MAX + 1], name[VM_SNAPSHOT_NAME_MAX + 1];
	size_t depth;
};

static void work_release(struct job *j)
{
	struct work *w = j->opaque;

	json_object_put(w->result);
	json_object_put(w->devices);
	definition_free(w->definition);
	free(w->victims);
	free(w);
}

static int work_begin(struct vm *vm, const char *type, const struct job_name *name, struct work **ret_w, struct err *e)
{
	struct work *w = calloc(1, sizeof(*w));
	int r;

	if (!w)
		return err_set_errno(e, -ENOMEM, "job");
	r = job_new_named(vm, type, name, &w->job, e);
	if (r < 0) {
		free(w);
		return r;
	}
	w->vm = vm;
	w->result = json_object_new_object();
	w->job->opaque = w;
	w->job->release = work_release;
	*ret_w = w;
	return 0;
}

static void work_succeed(struct work *w)
{
	job_succeed(w->job, json_object_get(w->result));
}

static void snapshot_tell(const struct work *w, enum event_id id, const char *snapshot)
{
	struct json_object *data = json_object_new_object();

	js_put_str(data, "snapshot", snapshot);
	js_put_str(data, "job", w->job->id);
	if (id == EVENT_SNAPSHOT_REVERTED && w->revert.disk[0])
		js_put_str(data, "disk", w->revert.disk);
	vm_emit(w->vm, id, data);
}

/* ---- creating a snapshot ---- */

/* Note the end of the creation in the VM's counts. more: 1: there is a new snapshot. */
static void create_over(struct work *w, unsigned more)
{
	w->vm->counts.snapshot_coming = w->vm->counts.snapshot_begun = false;
	w->vm->counts.snapshots += more;
	if (more)
		vm_save(w->vm);
}

static void vm_halted(struct vm *vm, void *opaque)
{
	(void)vm;
	work_succeed(opaque);
}

static void left_out_put(struct json_object *result, const char *ids)
{
	struct json_object *list;

	if (!*ids)
		return;
	list = json_object_new_array();
	while (*ids) {
		size_t n = strcspn(ids, ",");

		json_object_array_add(list, json_object_new_string_len(ids, (int)n));
		ids += n + (ids[n] == ',');
	}
	json_object_object_add(result, "disks-left-out", list);
}

static void create_put(struct json_object *result, const struct vm_snapshot_done *d)
{
	js_put_str(result, "id", d->id);
	js_put_uint(result, "pause", d->pause_ns);
	js_put_uint(result, "total", d->total_ns);
	js_put_uint(result, "ram-bytes-written", d->ram_bytes_written);
	js_put_uint(result, "ram-bytes-shared", d->ram_bytes_shared);
	left_out_put(result, d->left_out);
	job_put_tracking(result, d);
	group_put_instant(result, d);
}

static void create_done(void *opaque, int r, const struct vm_answer *a, const struct err *e)
{
	struct work *w = opaque;

	create_over(w, r >= 0);
	if (r < 0) {
		job_fail(w->job, e);
		return;
	}
	snapshot_tell(w, EVENT_SNAPSHOT_CREATED, w->create.name);
	js_put_str(w->result, "name", w->create.name);
	if (a->snapshot) {
		create_put(w->result, a->snapshot);
		if (w->devices)
			snapshot_devices_note(w->vm, a->snapshot->id, w->devices);
	}
	if (w->create.halt && w->vm->proc)
		vm_when_gone(w->vm, vm_halted, w);
	else
		work_succeed(w);
}

static void create_begin(struct work *w)
{
	w->vm->counts.snapshot_begun = true;
	w->job->cancel = snapshots_cancel;
	if (vm_state_is_active(w->vm->state) && !w->create.disks_only)
		w->devices = snapshot_devices_look(w->vm);
	snapshots_request(w->vm, VM_MSG_SNAPSHOT_CREATE, &w->create, sizeof(w->create), VM_PROCESS_NO_TIMEOUT,
		create_done, w);
}

/* Check the quota again: the images may have more snapshots than the daemon knew. */
static void create_counted(void *opaque, int r, const struct err *why)
{
	struct work *w = opaque;
	struct err e = *why;

	w->vm->counts.snapshot_coming = false;
	if (!r)
		r = quota_check_more(w->vm, QUOTA_SNAPSHOTS, 1, &e);
	if (!r && w->job->cancelling)
		r = err_set(&e, -ECANCELED, ERR_CANCELLED, "the job was cancelled; there is no snapshot");
	if (r < 0) {
		job_fail(w->job, &e);
		return;
	}
	w->vm->counts.snapshot_coming = true;
	create_begin(w);
}

/* Do nothing: create_counted() checks for the cancel. */
static void create_cancel_early(struct job *j)
{
	(void)j;
}

int snapshot_create(struct vm *vm, const struct vm_snapshot_create *c, const struct job_name *name,
	struct job **ret_j, struct err *e)
{
	struct work *w;
	int r = quota_check_more(vm, QUOTA_SNAPSHOTS, 1, e);

	if (!r)
		r = work_begin(vm, "snapshot-create", name, &w, e);
	if (r < 0)
		return r;
	w->create = *c;
	w->job->cancel = create_cancel_early;
	*ret_j = w->job;
	vm->counts.snapshot_coming = true;
	if (snapshot_tags_are_backup(vm, c->tags) || quota_limits(vm->host, vm->def, QUOTA_SNAPSHOTS))
		snapshots_count(vm, snapshot_tags_are_backup(vm, c->tags), create_counted, w);
	else
		create_begin(w);
	return 0;
}

/* ---- deleting snapshots ---- */

/* Sort children before their parents. */
static int victim_compare(const void *a, const void *b)
{
	size_t x = ((const struct victim *)a)->depth, y = ((const struct victim *)b)->depth;

	return (x < y) - (x > y);
}

static size_t depth_of(const struct snapshots *s, size_t i)
{
	size_t depth = 0;

	while (depth < s->n && (i = s->parent[i]) != SNAPSHOT_NO_PARENT)
		depth++;
	return depth;
}

static bool is_victim(const struct snapshots *s, size_t i, size_t top, enum snapshot_victims mode)
{
	if (i == top)
		return mode != SNAPSHOT_CHILDREN_ONLY;
	return mode != SNAPSHOT_ALONE && snapshots_descends(s, i, top);
}

static int victims_mark(struct work *w, const struct snapshots *s, bool *victims, struct err *e)
{
	size_t top;
	int r;

	if (w->choose) {
		w->choose(w->choose_opaque, s, victims);
		return 0;
	}
	r = snapshots_find(s, w->vm->def->name, w->name, &top, e);
	if (r < 0)
		return r;
	for (size_t i = 0; i < s->n; i++)
		victims[i] = is_victim(s, i, top, w->mode);
	js_put_str(w->result, "name", s->list[top].name);
	return 0;
}

static int victims_take(struct work *w, const struct snapshots *s, const bool *victims, struct err *e)
{
	for (size_t i = 0; i < s->n; i++) {
		struct victim *v = &w->victims[w->nvictims];

		if (!victims[i])
			continue;
		if (snapshot_tags_are_backup(w->vm, s->list[i].tags))
			return snapshots_check_backup(s, w->vm, e);
		if (snapshot_has_tag(&s->list[i], SNAPSHOT_TAG_KEEP))
			return err_set(e, -EPERM, ERR_WRONG_STATE, "snapshot '%.100s' has the tag \"keep\", which protects it from deletion; remove "
				"the tag first: cairn snapshot-tag %.60s %.100s --remove keep", s->list[i].name, w->vm->def->name, s->list[i].name);
		snprintf(v->handle, sizeof(v->handle), "%s", snapshots_handle(s, i));
		memcpy(v->name, s->list[i].name, sizeof(v->name));
		v->depth = depth_of(s, i);
		w->nvictims++;
	}
	qsort(w->victims, w->nvictims, sizeof(*w->victims), victim_compare);
	return 0;
}

static int victims_choose(struct work *w, const struct snapshots *s, struct err *e)
{
	bool *victims = calloc(s->n + 1, sizeof(*victims));
	int r;

	w->victims = calloc(s->n + 1, sizeof(*w->victims));
	if (victims && w->victims)
		r = victims_mark(w, s, victims, e);
	else
		r = err_set_errno(e, -ENOMEM, "snapshots");
	if (!r)
		r = victims_take(w, s, victims, e);
	free(victims);
	return r;
}

static void delete_next(struct work *w);

static void delete_done(void *opaque, int r, const struct vm_answer *a, const struct err *e)
{
	struct work *w = opaque;
	struct json_object *deleted = js_get_array(w->result, "deleted");

	(void)a;
	if (r < 0) {
		job_fail(w->job, e);
		return;
	}
	if (w->vm->counts.snapshots)
		quota_snapshots_set(w->vm, w->vm->counts.snapshots - 1);
	snapshot_tell(w, EVENT_SNAPSHOT_DELETED, w->victims[w->at].name);
	if (w->at < NAMES_TOLD_MAX)
		json_object_array_add(deleted, json_object_new_string(w->victims[w->at].name));
	w->at++;
	delete_next(w);
}

static void delete_next(struct work *w)
{
	struct vm_snapshot_name body = { "" };
	struct err e;

	js_put_uint(w->result, "count", w->at);
	if (w->nvictims != 1)
		job_progress(w->job, w->at, w->nvictims);
	if (w->at == w->nvictims) {
		work_succeed(w);
		return;
	}
	if (w->job->cancelling) {
		err_set(&e, -ECANCELED, ERR_CANCELLED, "the job was cancelled; %zu of %zu snapshots were deleted",
			w->at, w->nvictims);
		job_fail(w->job, &e);
		return;
	}
	memcpy(body.name, w->victims[w->at].handle, sizeof(body.name));
	snapshots_request(w->vm, VM_MSG_SNAPSHOT_DELETE, &body, sizeof(body), VM_PROCESS_NO_TIMEOUT,
		delete_done, w);
}

static void delete_tell(struct work *w)
{
	struct json_object *deleted = js_get_array(w->result, "deleted");

	for (size_t i = 0; i < w->nvictims && i < NAMES_TOLD_MAX; i++)
		json_object_array_add(deleted, json_object_new_string(w->victims[i].name));
	js_put_uint(w->result, "count", w->nvictims);
	work_succeed(w);
}

static void delete_chosen(void *opaque, int r, const struct snapshots *s, const struct err *e)
{
	struct work *w = opaque;
	struct err why;

	if (!r) {
		r = victims_choose(w, s, &why);
		e = &why;
	}
	if (r < 0) {
		job_fail(w->job, e);
		return;
	}
	js_put(w->result, "deleted", json_object_new_array());
	if (w->look_only) {
		delete_tell(w);
		return;
	}
	w->job->unit = w->nvictims == 1 ? "bytes" : "snapshots";
	delete_next(w);
}

int snapshot_delete(struct vm *vm, const char *snapshot, enum snapshot_victims victims, bool look_only,
	const struct job_name *name, struct job **ret_j, struct err *e)
{
	struct work *w;
	int r = work_begin(vm, "snapshot-delete", name, &w, e);

	if (r < 0)
		return r;
	snprintf(w->name, sizeof(w->name), "%s", snapshot);
	w->mode = victims;
	w->look_only = look_only;
	if (victims != SNAPSHOT_ALONE)
		w->job->cancel = snapshots_cancel; /* takes effect between two snapshots at the latest */
	*ret_j = w->job;
	snapshots_fetch(vm, delete_chosen, w);
	return 0;
}

int snapshot_delete_where(struct vm *vm, void (*choose)(void *opaque, const struct snapshots *s, bool *victims), void *opaque,
	struct job **ret_j, struct err *e)
{
	struct work *w;
	int r = work_begin(vm, "snapshot-delete", NULL, &w, e);

	if (r < 0)
		return r;
	w->choose = choose;
	w->choose_opaque = opaque;
	w->job->cancel = snapshots_cancel;
	*ret_j = w->job;
	snapshots_fetch(vm, delete_chosen, w);
	return 0;
}

/* ---- reverting to a snapshot ---- */

static void revert_succeed(struct work *w)
{
	struct vm *vm = w->vm;

	snapshot_tell(w, EVENT_SNAPSHOT_REVERTED, w->name);
	js_put_str(w->result, "name", w->name);
	js_put_str(w->result, "id", w->id);
	js_put_bool(w->result, "stopped", w->stopped);
	js_put_str(w->result, "state", vm_state_word(vm->state));
	work_succeed(w);
}

static void revert_started(void *opaque, int r, const struct err *e)
{
	struct work *w = opaque;

	if (r < 0)
		job_fail(w->job, e);
	else
		revert_succeed(w);
}

static void revert_stored(struct store_work *stored)
{
	revert_succeed(container_of(stored, struct work, stored));
}

static void images_reverted(void *opaque, int r, const struct vm_answer *a, const struct err *e)
{
	struct vm_start_opts opts = { .state_fd = -1, .by_job = true, .done = revert_started, .opaque = opaque };
	struct work *w = opaque;

	(void)a;
	if (r < 0) {
		job_fail(w->job, e);
		return;
	}
	vm_move(w->vm, VM_ASK_REVERT, "from snapshot", NULL, 0);
	opts.paused = w->revert.then == SAVE_THEN_PAUSED;
	if (w->revert.then != SAVE_THEN_AS_IT_WAS) {
		vm_start(w->vm, &opts);
		return;
	}
	/* Only state.json tells the next daemon that a VM that had crashed is off. */
	w->stored = (struct store_work){ .loop = w->vm->host->loop, .done = revert_stored };
	store_after(w->vm->host->store, &w->stored);
}

static void images_revert(struct work *w)
{
	w->body.disks_only = 1;
	snapshots_request(w->vm, VM_MSG_SNAPSHOT_REVERT, &w->body, sizeof(w->body),
		VM_PROCESS_NO_TIMEOUT, images_reverted, w);
}

/* Set the reason of the VM's state after a revert. Events of the process during the revert may have set another one. */
static void reason_set(struct vm *vm)
{
	static const char reason[] = "from snapshot";

	if (vm->state == VM_IN_SHUTDOWN) {
		vm_move(vm, VM_SAW_PAUSED, reason, NULL, 0);
		vm_move(vm, VM_SAW_RUNNING, reason, NULL, 0);
	}
	memcpy(vm->reason, reason, sizeof(reason));
	vm_save(vm);
}

/* Give the VM, whose process was started only for the revert and has ended, the state that it had before. */
static void state_give_back(const struct work *w)
{
	struct vm *vm = w->vm;

	if (vm->state != VM_SHUT_OFF || !w->before.reason[0])
		return;
	if (w->before.state == VM_CRASHED) {
		vm_move(vm, VM_SAW_NOT_REVERTED, w->before.reason, w->before.detail, w->before.value);
		return;
	}
	memcpy(vm->reason, w->before.reason, sizeof(vm->reason));
	memcpy(vm->detail, w->before.detail, sizeof(vm->detail));
	vm->value = w->before.value;
	vm_save(vm);
}

static void failed_ended(struct vm *vm, void *opaque)
{
	struct work *w = opaque;

	(void)vm;
	state_give_back(w);
	job_fail(w->job, &w->e);
}

static void revert_note(struct work *w, const struct vm_snapshot_done *d)
{
	if (d)
		js_put_uint(w->result, "pause", d->pause_ns);
	job_put_tracking(w->result, d);
	vm_set(w->vm, VM_FACT_FOR_REVERT, false);
	vm_notify(w->vm, renewed);
	reason_set(w->vm);
}

static void memory_reverted(void *opaque, int r, const struct vm_answer *a, const struct err *e)
{
	struct work *w = opaque;

	if (r < 0) {
		job_fail(w->job, e);
		return;
	}
	revert_note(w, a->snapshot);
	revert_succeed(w);
}

/* Handle the answer to the revert of a VM that the job has started for this. If the revert failed, destroy the VM,
 * because it has no other state to run. */
static void fresh_reverted(void *opaque, int r, const struct vm_answer *a, const struct err *e)
{
	struct work *w = opaque;

	if (r >= 0 || !w->vm->proc) {
		memory_reverted(opaque, r, a, e);
		return;
	}
	w->e = *e;
	vm_when_gone(w->vm, failed_ended, w);
	vm_destroy(w->vm, NULL);
}

static void fresh_started(void *opaque, int r, const struct err *e)
{
	struct work *w = opaque;

	if (r < 0) {
		if (!w->vm->proc && w->vm->live) {
			vm_live_forget(w->vm);
			vm_save(w->vm);
		}
		job_fail(w->job, e);
		return;
	}
	vm_process_request(w->vm->proc, VM_MSG_SNAPSHOT_REVERT, &w->body, sizeof(w->body), -1, VM_PROCESS_NO_TIMEOUT,
		fresh_reverted, w);
}

static void fresh_start(struct work *w)
{
	struct vm_start_opts opts = { .state_fd = -1, .by_job = true, .paused = true, .for_revert = true,
		.done = fresh_started, .opaque = w };

	vm_start(w->vm, &opts);
}

static void definition_stored(struct store_work *stored)
{
	fresh_start(container_of(stored, struct work, stored));
}

static void off_revert(struct work *w)
{
	w->before.state = w->vm->state;
	w->before.value = w->vm->value;
	memcpy(w->before.reason, w->vm->reason, sizeof(w->before.reason));
	memcpy(w->before.detail, w->vm->detail, sizeof(w->before.detail));
	if (!w->has_memory) {
		images_revert(w);
		return;
	}
	if (!w->definition) {
		fresh_start(w);
		return;
	}
	/* A daemon that adopts the process has to know its devices. */
	vm_live_replace(w->vm, STEAL_PTR(w->definition));
	w->stored = (struct store_work){ .loop = w->vm->host->loop, .done = definition_stored };
	store_after(w->vm->host->store, &w->stored);
}

static void revert_stopped(struct vm *vm, void *opaque)
{
	struct work *w = opaque;
	struct err e;

	if (vm->state == VM_SHUT_OFF || vm->state == VM_CRASHED) {
		off_revert(w);
		return;
	}
	err_set(&e, -EBUSY, ERR_WRONG_STATE, "VM '%s' is %s", vm->def->name, vm_state_name(vm->state));
	job_fail(w->job, &e);
}

static int revert_choose(struct work *w, const struct snapshots *s, struct err *e)
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

static void revert_looked(void *opaque, int r, const struct vm_answer *a, const struct err *e)
{
	struct work *w = opaque;

	(void)a;
	if (r < 0) {
		job_fail(w->job, e);
		return;
	}
	w->stopped = true;
	vm_when_gone(w->vm, revert_stopped, w);
	vm_destroy(w->vm, NULL);
}

/* Ask the VM's process to check that all disks can be reverted, then stop the VM. Skip the check if the VM crashed and
 * its process is preserved, or if the VM is being stopped: such a process accepts no work. */
static void stop_and_revert(struct work *w)
{
	struct vm_snapshot_revert look = w->body;

	if (w->vm->state == VM_PRESERVED || vm_is_stopping(w->vm)) {
		revert_looked(w, 0, NULL, NULL);
		return;
	}
	look.look_only = look.disks_only = 1;
	vm_process_request(w->vm->proc, VM_MSG_SNAPSHOT_REVERT, &look, sizeof(look), -1,
		VM_PROCESS_NO_TIMEOUT, revert_looked, w);
}

/* The files of w->definition can be opened, so a new process will have them. */
static void devices_checked(void *opaque, int r, const struct err *e)
{
	struct work *w = opaque;

	if (r < 0)
		job_fail(w->job, e);
	else if (w->vm->proc && vm_state_is_active(w->vm->state))
		revert_looked(w, 0, NULL, NULL);
	else
		revert_stopped(w->vm, w);
}

/* ---- dry run of a revert ---- */

/* Whether the VM's present process continues after the revert. */
static bool stays_active(const struct work *w)
{
	return vm_state_is_active(w->vm->state) && w->has_memory && !w->definition && w->vm->state != VM_PRESERVED &&
		!vm_is_stopping(w->vm);
}

static enum vm_state state_then(const struct work *w)
{
	bool as_it_was = w->revert.then == SAVE_THEN_AS_IT_WAS;

	if (as_it_was && !w->has_memory)
		return VM_SHUT_OFF;
	if (as_it_was)
		return w->taken == VM_SNAPSHOT_PAUSED ? VM_PAUSED : VM_RUNNING;
	return w->revert.then == SAVE_THEN_PAUSED ? VM_PAUSED : VM_RUNNING;
}

static void would_revert(void *opaque, int r, const struct vm_answer *a, const struct err *e)
{
	struct json_object *disks = json_object_new_array();
	struct work *w = opaque;
	const struct definition *d = vm_live(w->vm);
	bool active = vm_state_is_active(w->vm->state);

	(void)a;
	for (uint32_t i = 0; i < d->ndisks; i++)
		if (!d->disks[i].read_only && (!w->revert.disk[0] || !strcmp(w->revert.disk, d->disks[i].id)))
			json_object_array_add(disks, json_object_new_string(d->disks[i].id));
	js_put_str(w->result, "name", w->name);
	js_put_str(w->result, "id", w->id);
	js_put_bool(w->result, "stopped", active && !stays_active(w));
	js_put_str(w->result, "state", vm_state_word(state_then(w)));
	js_put_bool(w->result, "memory-lost", active);
	js_put(w->result, "disks-lost", disks);
	if (r < 0)
		job_fail(w->job, e);
	else
		work_succeed(w);
}

static void devices_would_revert(void *opaque, int r, const struct err *e)
{
	would_revert(opaque, r, NULL, e);
}

static void would_revert_ask(struct work *w)
{
	if (w->definition) {
		snapshot_devices_check(w->vm, w->definition, devices_would_revert, w);
		return;
	}
	w->body.look_only = 1;
	w->body.disks_only = !stays_active(w);
	if (w->vm->state == VM_PRESERVED || vm_is_stopping(w->vm))
		would_revert(w, 0, NULL, NULL); /* the process accepts no work */
	else
		snapshots_request(w->vm, VM_MSG_SNAPSHOT_REVERT, &w->body, sizeof(w->body), VM_PROCESS_NO_TIMEOUT,
			would_revert, w);
}

static void revert_chosen(void *opaque, int r, const struct snapshots *s, const struct err *e)
{
	struct work *w = opaque;
	struct vm *vm = w->vm;
	struct err why;

	if (!r) {
		r = revert_choose(w, s, &why);
		e = &why;
	}
	if (!r && w->has_memory && !w->revert.disk[0])
		r = snapshot_devices_plan(vm, w->id, &w->definition, &why);
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

int snapshot_revert(struct vm *vm, const struct snapshot_revert *opts, const struct job_name *name,
	struct job **ret_j, struct err *e)
{
	struct work *w;
	int r = work_begin(vm, "snapshot-revert", name, &w, e);

	if (r < 0)
		return r;
	w->revert = *opts;
	*ret_j = w->job;
	snapshots_fetch(vm, revert_chosen, w);
	return 0;
}

/* ---- work of an earlier daemon ---- */

/* The VM's process has done what the earlier daemon asked for. A delete may have been one of several. */
static void adopted_succeed(struct work *w)
{
	struct err e;

	if (w->adopted == VM_MSG_SNAPSHOT_DELETE) {
		err_set(&e, -EIO, ERR_GENERIC, "the daemon ended while the job was under way: the snapshot that was being deleted "
			"is gone, and the job deletes no further ones. Next: cairn snapshot-list %s", w->vm->def->name);
		job_fail(w->job, &e);
		return;
	}
	if (w->adopted == VM_MSG_SNAPSHOT_REVERT && w->name[0]) {
		revert_succeed(w);
		return;
	}
	if (w->name[0]) {
		snapshot_tell(w, EVENT_SNAPSHOT_CREATED, w->name);
		js_put_str(w->result, "name", w->name);
	}
	work_succeed(w);
}

/* Learn the snapshot's name, which only the earlier daemon knew. Without it, the job tells the id alone. */
static void adopted_looked(void *opaque, int r, const struct snapshots *s, const struct err *e)
{
	struct work *w = opaque;

	(void)e;
	for (size_t i = 0; !r && i < s->n; i++)
		if (!strcmp(s->list[i].id, w->id))
			memcpy(w->name, s->list[i].name, sizeof(w->name));
	adopted_succeed(w);
}

/* A VM that was started for the revert has no other state to run. */
static void adopted_revert_failed(void *opaque, int r, const struct vm_answer *a, const struct err *e)
{
	struct work *w = opaque;

	(void)e;
	if (r < 0 || !a->info->for_revert) {
		job_fail(w->job, &w->e);
		return;
	}
	vm_when_gone(w->vm, failed_ended, w);
	vm_destroy(w->vm, NULL);
}

static void adopted_fail(struct work *w, int r, const struct err *e)
{
	w->e = *e;
	if (e->cls == ERR_WRONG_STATE) /* the work ended before the process had VM_MSG_WORK */
		err_set(&w->e, -EIO, ERR_GENERIC, "the daemon ended while the job was under way, so its result is unknown. Next: "
			"cairn snapshot-list %s", w->vm->def->name);
	if (w->adopted == VM_MSG_SNAPSHOT_REVERT && r != -ESRCH)
		vm_process_request(w->vm->proc, VM_MSG_QUERY, NULL, 0, -1, QUERY_TIMEOUT_NS, adopted_revert_failed, w);
	else
		job_fail(w->job, &w->e);
}

static void adopted_answered(void *opaque, int r, const struct vm_answer *a, const struct err *e)
{
	struct work *w = opaque;

	w->vm->counts.snapshot_coming = w->vm->counts.snapshot_begun = false;
	if (r < 0) {
		adopted_fail(w, r, e);
		return;
	}
	if (a->snapshot)
		memcpy(w->id, a->snapshot->id, sizeof(w->id));
	if (a->snapshot && w->adopted == VM_MSG_SNAPSHOT_CREATE) {
		create_put(w->result, a->snapshot);
		w->devices = snapshot_devices_look(w->vm);
		snapshot_devices_note(w->vm, w->id, w->devices);
	}
	if (w->adopted == VM_MSG_SNAPSHOT_REVERT)
		revert_note(w, a->snapshot);
	snapshots_fetch(w->vm, adopted_looked, w); /* this also counts them */
}

/* Make the job of an earlier daemon, whose work the VM's process continues with, the owner of the VM again. */
static void work_adopt(struct vm *vm, const struct vm_info *info)
{
	static const char *const types[VM_MSG_TYPE_COUNT] = { [VM_MSG_SNAPSHOT_CREATE] = "snapshot-create",
		[VM_MSG_SNAPSHOT_DELETE] = "snapshot-delete", [VM_MSG_SNAPSHOT_REVERT] = "snapshot-revert" };
	const char *type = info->work < VM_MSG_TYPE_COUNT ? types[info->work] : NULL;
	struct work *w;
	struct job *j;
	struct err e;

	if (!type || job_take_back(vm, type, &j, &e) < 0)
		return;
	w = must_alloc(calloc(1, sizeof(*w)));
	*w = (struct work){ .job = j, .vm = vm, .result = json_object_new_object(), .adopted = info->work };
	j->opaque = w;
	j->release = work_release;
	j->cancel = info->work == VM_MSG_SNAPSHOT_REVERT ? NULL : snapshots_cancel;
	vm->counts.snapshot_coming = vm->counts.snapshot_begun = info->work == VM_MSG_SNAPSHOT_CREATE;
	log_info("snapshot", "VM '%s': its process goes on with the work of %s (%s)", vm->def->name, j->id, type);
	vm_process_request(vm->proc, VM_MSG_WORK, NULL, 0, -1, VM_PROCESS_NO_TIMEOUT, adopted_answered, w);
}

const struct vm_observer snapshot_job_observer = { .adopted = work_adopt };
