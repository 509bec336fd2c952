/* Adopts snapshot jobs of an earlier daemon, whose work continues in the VM's process. */
#include "api/jobs/snapshot_job_impl.h"
#include "api/jobs/job_recover.h"
#include "api/jobs/snapshot_devices.h"
#include "api/vm/observer.h"
#include "api/vm/vm_gone.h"
#include "api/vm/vm_process.h"
#include "api/wire/json.h"
#include "base/log.h"
#include "base/shell_word.h"
#include "base/util.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define QUERY_TIMEOUT_NS (10 * 1000000000ULL)

/* The VM's process has completed the earlier daemon's request. A delete may have been one of several. */
static void adopted_succeed(struct snapshot_work *w)
{
	struct err e;

	if (w->adopted == VM_MSG_SNAPSHOT_DELETE) {
		err_set(&e, -EIO, ERR_GENERIC, "the daemon ended while the job was under way: the snapshot that was being deleted "
			"is gone, and the job deletes no further ones. Next: cairn snapshot-list %s", shell_word(w->vm->def->name).s);
		job_fail(w->job, &e);
		return;
	}
	if (w->adopted == VM_MSG_SNAPSHOT_REVERT && w->name[0]) {
		snapshot_revert_succeed(w);
		return;
	}
	if (w->name[0]) {
		snapshot_work_emit(w, EVENT_SNAPSHOT_CREATED, w->name);
		js_put_str(w->result, "name", w->name);
	}
	snapshot_work_succeed(w);
}

/* Learn the snapshot's name, which only the earlier daemon knew. Without it, the job tells the id alone. */
static void adopted_listed(void *opaque, int r, const struct snapshots *s, const struct err *e)
{
	struct snapshot_work *w = opaque;

	(void)e;
	for (size_t i = 0; !r && i < s->n; i++)
		if (!strcmp(s->list[i].id, w->id))
			memcpy(w->name, s->list[i].name, sizeof(w->name));
	adopted_succeed(w);
}

/* A VM that was started for the revert has no other state to run. */
static void adopted_revert_failed(void *opaque, int r, const struct vm_answer *a, const struct err *e)
{
	struct snapshot_work *w = opaque;

	(void)e;
	if (r < 0 || !a->info->for_revert) {
		job_fail(w->job, &w->e);
		return;
	}
	vm_when_gone(w->vm, snapshot_revert_failed, w);
	vm_destroy(w->vm, NULL);
}

static void adopted_fail(struct snapshot_work *w, int r, const struct err *e)
{
	w->e = *e;
	if (e->cls == ERR_WRONG_STATE) /* the work ended before the process had VM_MSG_WORK */
		err_set(&w->e, -EIO, ERR_GENERIC, "the daemon ended while the job was under way, so its result is unknown. Next: "
			"cairn snapshot-list %s", shell_word(w->vm->def->name).s);
	if (w->adopted == VM_MSG_SNAPSHOT_REVERT && r != -ESRCH)
		vm_process_request(w->vm->proc, VM_MSG_QUERY, NULL, 0, -1, QUERY_TIMEOUT_NS, adopted_revert_failed, w);
	else
		job_fail(w->job, &w->e);
}

static void adopted_answered(void *opaque, int r, const struct vm_answer *a, const struct err *e)
{
	struct snapshot_work *w = opaque;

	w->vm->counts.snapshot_coming = w->vm->counts.snapshot_begun = false;
	if (r < 0) {
		adopted_fail(w, r, e);
		return;
	}
	if (a->snapshot)
		memcpy(w->id, a->snapshot->id, sizeof(w->id));
	if (a->snapshot && w->adopted == VM_MSG_SNAPSHOT_CREATE) {
		snapshot_put_created(w->result, w->vm, a->snapshot);
		w->devices = snapshot_devices_json(w->vm);
		snapshot_devices_note(w->vm, w->id, w->devices);
	}
	if (w->adopted == VM_MSG_SNAPSHOT_REVERT)
		snapshot_revert_note(w, a->snapshot);
	snapshots_fetch(w->vm, adopted_listed, w); /* this also counts them */
}

/* Make the job of an earlier daemon, whose work the VM's process continues with, the owner of the VM again. */
static void work_adopt(struct vm *vm, const struct vm_info *info)
{
	static const char *const types[VM_MSG_TYPE_COUNT] = { [VM_MSG_SNAPSHOT_CREATE] = "snapshot-create",
		[VM_MSG_SNAPSHOT_DELETE] = "snapshot-delete", [VM_MSG_SNAPSHOT_REVERT] = "snapshot-revert" };
	const char *type = info->work < VM_MSG_TYPE_COUNT ? types[info->work] : NULL;
	struct snapshot_work *w;
	struct job *j;
	struct err e;

	if (!type || job_adopt(vm, type, &j, &e) < 0)
		return;
	w = must_alloc(calloc(1, sizeof(*w)));
	*w = (struct snapshot_work){ .job = j, .vm = vm, .result = json_object_new_object(), .adopted = info->work };
	j->opaque = w;
	j->release = snapshot_work_release;
	j->cancel = info->work == VM_MSG_SNAPSHOT_REVERT ? NULL : snapshots_cancel;
	vm->counts.snapshot_coming = vm->counts.snapshot_begun = info->work == VM_MSG_SNAPSHOT_CREATE;
	log_info("snapshot", "VM '%s': its process continues the work of %s (%s)", vm->def->name, j->id, type);
	vm_process_request(vm->proc, VM_MSG_WORK, NULL, 0, -1, VM_PROCESS_NO_TIMEOUT, adopted_answered, w);
}

const struct vm_observer snapshot_job_observer = { .adopted = work_adopt };
