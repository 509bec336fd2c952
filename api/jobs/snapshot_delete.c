/* Deletes snapshots: one, its descendants, or those that the caller chooses. */
#include "api/jobs/snapshot_job_impl.h"
#include "api/jobs/snapshot_devices.h"
#include "api/vm/quota_use.h"
#include "api/vm/vm_process.h"
#include "api/wire/json.h"
#include "base/shell_word.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NAMES_TOLD_MAX 20 /* names of deleted snapshots in a result, which is part of a line of 64 KiB */

struct victim {
	char handle[VM_SNAPSHOT_NAME_MAX + 1], name[VM_SNAPSHOT_NAME_MAX + 1];
	size_t depth;
};

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

static int victims_mark(struct snapshot_work *w, const struct snapshots *s, bool *victims, struct err *e)
{
	struct json_object *left_out;
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
	left_out = victims[top] ? snapshot_devices_lacking(w->vm, s->list[top].id) : NULL;
	if (left_out)
		js_put(w->result, "disks-left-out", left_out);
	return 0;
}

static int victims_take(struct snapshot_work *w, const struct snapshots *s, const bool *victims, struct err *e)
{
	for (size_t i = 0; i < s->n; i++) {
		struct victim *v = &w->victims[w->nvictims];

		if (!victims[i])
			continue;
		if (snapshot_tags_are_backup(w->vm, s->list[i].tags))
			return snapshots_check_backup(s, w->vm, e);
		if (snapshot_has_tag(&s->list[i], SNAPSHOT_TAG_KEEP))
			return err_set(e, -EPERM, ERR_WRONG_STATE, "snapshot '%.100s' has the tag \"keep\", which protects it from deletion; remove "
				"the tag first: cairn snapshot-tag %s %s --remove keep", s->list[i].name, shell_word(w->vm->def->name).s,
				*s->list[i].name == '-' ? snapshots_handle(s, i) : shell_word(s->list[i].name).s);
		snprintf(v->handle, sizeof(v->handle), "%s", snapshots_handle(s, i));
		memcpy(v->name, s->list[i].name, sizeof(v->name));
		v->depth = depth_of(s, i);
		w->nvictims++;
	}
	qsort(w->victims, w->nvictims, sizeof(*w->victims), victim_compare);
	return 0;
}

static int victims_choose(struct snapshot_work *w, const struct snapshots *s, struct err *e)
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

static void delete_next(struct snapshot_work *w);

static void delete_done(void *opaque, int r, const struct vm_answer *a, const struct err *e)
{
	struct snapshot_work *w = opaque;
	struct json_object *deleted = js_get_array(w->result, "deleted");

	(void)a;
	if (r < 0) {
		job_fail(w->job, e);
		return;
	}
	if (w->vm->counts.snapshots)
		quota_snapshots_set(w->vm, w->vm->counts.snapshots - 1);
	snapshot_work_emit(w, EVENT_SNAPSHOT_DELETED, w->victims[w->at].name);
	if (w->at < NAMES_TOLD_MAX)
		json_object_array_add(deleted, json_object_new_string(w->victims[w->at].name));
	w->at++;
	delete_next(w);
}

static void delete_next(struct snapshot_work *w)
{
	struct vm_snapshot_name body = { "" };
	struct err e;

	js_put_uint(w->result, "count", w->at);
	if (w->nvictims != 1)
		job_progress(w->job, w->at, w->nvictims);
	if (w->at == w->nvictims) {
		snapshot_work_succeed(w);
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

static void delete_report(struct snapshot_work *w)
{
	struct json_object *deleted = js_get_array(w->result, "deleted");

	for (size_t i = 0; i < w->nvictims && i < NAMES_TOLD_MAX; i++)
		json_object_array_add(deleted, json_object_new_string(w->victims[i].name));
	js_put_uint(w->result, "count", w->nvictims);
	snapshot_work_succeed(w);
}

static void delete_chosen(void *opaque, int r, const struct snapshots *s, const struct err *e)
{
	struct snapshot_work *w = opaque;
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
		delete_report(w);
		return;
	}
	w->job->unit = w->nvictims == 1 ? "bytes" : "snapshots";
	delete_next(w);
}

int snapshot_delete(struct vm *vm, const char *snapshot, enum snapshot_victims victims, bool look_only,
	const struct job_name *name, struct job **ret_j, struct err *e)
{
	struct snapshot_work *w;
	int r = snapshot_work_begin(vm, "snapshot-delete", name, &w, e);

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
	struct snapshot_work *w;
	int r = snapshot_work_begin(vm, "snapshot-delete", NULL, &w, e);

	if (r < 0)
		return r;
	w->choose = choose;
	w->choose_opaque = opaque;
	w->job->cancel = snapshots_cancel;
	*ret_j = w->job;
	snapshots_fetch(vm, delete_chosen, w);
	return 0;
}
