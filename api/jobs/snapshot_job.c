#include "api/jobs/snapshot_job_impl.h"
#include "api/jobs/group_steps.h"
#include "api/jobs/snapshot_devices.h"
#include "api/vm/quota_use.h"
#include "api/vm/vm_gone.h"
#include "api/vm/vm_process.h"
#include "api/wire/json.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

void snapshot_work_release(struct job *j)
{
	struct snapshot_work *w = j->opaque;

	json_object_put(w->result);
	json_object_put(w->devices);
	json_object_put(w->warnings);
	definition_free(w->definition);
	definition_free(w->then);
	free(w->victims);
	free(w);
}

int snapshot_work_begin(struct vm *vm, const char *type, const struct job_name *name, struct snapshot_work **ret_w, struct err *e)
{
	struct snapshot_work *w = calloc(1, sizeof(*w));
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
	w->job->release = snapshot_work_release;
	*ret_w = w;
	return 0;
}

void snapshot_work_succeed(struct snapshot_work *w)
{
	job_succeed(w->job, json_object_get(w->result));
}

void snapshot_work_emit(const struct snapshot_work *w, enum event_id id, const char *snapshot)
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
static void create_over(struct snapshot_work *w, unsigned more)
{
	w->vm->counts.snapshot_coming = w->vm->counts.snapshot_begun = false;
	w->vm->counts.snapshots += more;
	if (more)
		vm_save(w->vm);
}

static void vm_halted(struct vm *vm, void *opaque)
{
	(void)vm;
	snapshot_work_succeed(opaque);
}

static bool drive_is_empty(const struct vm *vm, const char *id)
{
	int i = definition_disk_find(vm_live(vm), id);

	return i >= 0 && !vm_live(vm)->disks[i].nlayers;
}

/* Add the ids of the read-only disks. An empty CD drive has no content that the snapshot could leave out. */
static void left_out_put(struct json_object *result, const struct vm *vm, const char *ids)
{
	struct json_object *list = NULL;
	char id[16];

	while (*ids) {
		size_t n = strcspn(ids, ",");

		snprintf(id, sizeof(id), "%.*s", (int)n, ids);
		ids += n + (ids[n] == ',');
		if (drive_is_empty(vm, id))
			continue;
		if (!list)
			list = json_object_new_array();
		json_object_array_add(list, json_object_new_string(id));
	}
	if (list)
		js_put(result, "disks-left-out", list);
}

void snapshot_put_created(struct json_object *result, const struct vm *vm, const struct vm_snapshot_done *d)
{
	js_put_str(result, "id", d->id);
	js_put_uint(result, "pause", d->pause_ns);
	js_put_uint(result, "total", d->total_ns);
	js_put_uint(result, "ram-bytes-written", d->ram_bytes_written);
	js_put_uint(result, "ram-bytes-shared", d->ram_bytes_shared);
	left_out_put(result, vm, d->left_out);
	job_put_tracking(result, d);
	group_put_instant(result, d);
}

static void create_done(void *opaque, int r, const struct vm_answer *a, const struct err *e)
{
	struct snapshot_work *w = opaque;

	create_over(w, r >= 0);
	if (r < 0) {
		job_fail(w->job, e);
		return;
	}
	snapshot_work_emit(w, EVENT_SNAPSHOT_CREATED, w->create.name);
	js_put_str(w->result, "name", w->create.name);
	if (a->snapshot) {
		snapshot_put_created(w->result, w->vm, a->snapshot);
		snapshot_devices_note(w->vm, a->snapshot->id, w->devices);
	}
	if (w->create.halt && w->vm->proc)
		vm_when_gone(w->vm, vm_halted, w);
	else
		snapshot_work_succeed(w);
}

static void create_begin(struct snapshot_work *w)
{
	w->vm->counts.snapshot_begun = true;
	w->job->cancel = snapshots_cancel;
	w->devices = snapshot_devices_json(w->vm);
	snapshots_request(w->vm, VM_MSG_SNAPSHOT_CREATE, &w->create, sizeof(w->create), VM_PROCESS_NO_TIMEOUT,
		create_done, w);
}

/* Check the quota again: the images may have more snapshots than the daemon knew. */
static void create_counted(void *opaque, int r, const struct err *why)
{
	struct snapshot_work *w = opaque;
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
	struct snapshot_work *w;
	int r = quota_check_more(vm, QUOTA_SNAPSHOTS, 1, e);

	if (!r)
		r = snapshot_work_begin(vm, "snapshot-create", name, &w, e);
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
