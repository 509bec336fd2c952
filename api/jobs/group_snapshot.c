#include "api/jobs/group_snapshot.h"
#include "api/jobs/group_steps.h"
#include "api/jobs/job.h"
#include "api/jobs/job_owner.h"
#include "api/jobs/snapshot_job.h"
#include "api/jobs/snapshots.h"
#include "api/store/store.h"
#include "api/vm/vm.h"
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

#define ID_DIGITS (GROUP_ID_TEXT - 1)
#define RETRY_NS 250000000ULL
#define RETRIES_MAX 120

struct member {
	struct group *group;
	uint8_t uuid[16];
	char name[VM_NAME_MAX + 1];
	struct job *job; /* of the snapshot; NULL: it has concluded */
	bool made;	 /* the snapshot may be there, also if its job failed: the VM's process may have died in its last write */
	bool deleting;
	struct json_object *result; /* owned: the job's; NULL: none */
};

struct group {
	struct vm_host *host;
	struct job *job; /* NULL: an earlier daemon's group, of which the snapshots are deleted */
	char id[GROUP_ID_TEXT], tag[sizeof(GROUP_TAG) + ID_DIGITS], file[sizeof(STORE_GROUPS) + ID_DIGITS + 8];
	char snapshot[VM_SNAPSHOT_NAME_MAX + 1];
	struct member *members;
	size_t n;
	struct group_steps steps; /* of the members, in their order */
	bool recorded; /* the file is on stable storage */
	bool storing;  /* the file is being written or removed */
	bool failed;
	bool undoing;  /* snapshots are being deleted */
	bool trying;   /* in undo_try() */
	struct err e;
	uint64_t begun_ns;
	struct store_work work;
	struct loop_task task;
	struct loop_timer *retry; /* owned; NULL: not needed yet */
	unsigned retries;
};

static void group_free(struct group *g)
{
	for (size_t i = 0; i < g->n; i++)
		json_object_put(g->members[i].result);
	loop_timer_free(g->retry);
	free(g->members);
	free(g);
}

static void group_release(struct job *j)
{
	group_free(j->opaque);
}

static struct group *group_new(struct vm_host *host, const char *id, size_t n)
{
	struct group *g = must_alloc(calloc(1, sizeof(*g)));

	g->host = g->steps.host = host;
	g->members = must_alloc(calloc(n + 1, sizeof(*g->members)));
	g->n = n;
	snprintf(g->id, sizeof(g->id), "%s", id);
	snprintf(g->tag, sizeof(g->tag), GROUP_TAG "%s", id);
	snprintf(g->file, sizeof(g->file), STORE_GROUPS "/%s.json", id);
	for (size_t i = 0; i < n; i++)
		g->members[i].group = g;
	return g;
}

static void group_check(struct group *g);

/* ---- the end of a group that failed: deleting its snapshots ---- */

static void victims_choose(void *opaque, const struct snapshots *s, bool *victims)
{
	const struct member *m = opaque;

	for (size_t i = 0; i < s->n; i++)
		victims[i] = snapshot_has_tag(&s->list[i], m->group->tag);
}

static void group_undo(struct group *g);
static void retry_fire(void *opaque);

static void retry_later(struct group *g)
{
	if (!g->retry && loop_timer_new(g->host->loop, retry_fire, g, &g->retry) < 0)
		abort(); /* otherwise the group would never end */
	loop_timer_arm(g->retry, loop_now_ns() + RETRY_NS);
}

static void deleted(struct job *j, void *opaque)
{
	struct member *m = opaque;

	m->deleting = false;
	m->made = j->failed;
	if (j->failed)
		log_warn("group", "VM '%s': a snapshot of group %s is not deleted yet: %s", m->name, m->group->id, j->e.msg);
	job_dismiss(j, NULL);
	if (!m->group->trying)
		group_undo(m->group);
}

static void member_delete(struct member *m)
{
	struct vm *vm = vm_find_uuid(m->group->host, m->uuid);
	struct job *j = NULL;
	struct err e;

	if (!m->made || m->deleting)
		return;
	if (!vm) {
		m->made = false;
		return;
	}
	if (snapshot_delete_where(vm, victims_choose, m, &j, &e) < 0)
		return;
	m->deleting = true;
	j->concluded = deleted;
	j->concluded_opaque = m;
}

/* Try to delete what may be there. A delete may fail at once, in a process that is ending. May free the group. */
static void undo_try(struct group *g)
{
	g->undoing = g->trying = true;
	for (size_t i = 0; i < g->n; i++)
		member_delete(&g->members[i]);
	g->trying = false;
	group_undo(g);
}

static void retry_fire(void *opaque)
{
	struct group *g = opaque;

	g->retries++;
	undo_try(g);
}

/* End the group, of which nothing is left, or a snapshot that could not be deleted: then the file stays, and the next
 * daemon tries again. */
static void undone(struct group *g, bool all)
{
	struct err e, why = g->e;

	if (!all) {
		log_error("group", "group %s failed, and some of its snapshots could not be deleted; the next daemon deletes them", g->id);
		err_set(&g->e, -EIO, why.cls, "%.400s; snapshots with the tag %s could not be deleted: delete them with cairn snapshot-delete",
			why.msg, g->tag);
	} else if (store_remove_file(g->host->store, NULL, g->file, STORE_EVENTUALLY, NULL, &e) < 0) {
		log_warn("group", "%s", e.msg);
	}
	if (g->job)
		job_fail(g->job, &g->e); /* frees the group */
	else
		group_free(g);
}

static void group_undo(struct group *g)
{
	bool any = false, busy = false;

	for (size_t i = 0; i < g->n; i++) {
		any |= g->members[i].made;
		busy |= g->members[i].deleting;
	}
	if (!any || (!busy && g->retries >= RETRIES_MAX))
		undone(g, !any);
	else if (!busy)
		retry_later(g);
}

/* ---- the end of a group whose snapshots are made ---- */

static void group_fail(struct group *g, const char *vm, const struct err *e);

static bool is_on(const struct member *m)
{
	return m->group->steps.vms[m - m->group->members].is_on;
}

static struct json_object *member_to_json(const struct member *m)
{
	struct json_object *o = json_object_new_object();

	js_put_str(o, "vm", m->name);
	js_put_str(o, "id", js_get_str(m->result, "id"));
	if (is_on(m)) {
		js_put_int(o, "instant", js_get_int(m->result, "instant", 0));
		js_put_int(o, "pause", js_get_int(m->result, "pause", 0));
	}
	return o;
}

static struct json_object *result_make(const struct group *g)
{
	struct json_object *o = json_object_new_object(), *vms = json_object_new_array(), *results[GROUP_VMS_MAX];

	for (size_t i = 0; i < g->n; i++) {
		results[i] = is_on(&g->members[i]) ? g->members[i].result : NULL;
		json_object_array_add(vms, member_to_json(&g->members[i]));
	}
	js_put_str(o, "name", g->snapshot);
	js_put_str(o, "group", g->id);
	js_put_int(o, "spread", group_spread(results, g->n));
	js_put_uint(o, "total", loop_now_ns() - g->begun_ns);
	js_put(o, "vms", vms);
	return o;
}

static void file_removed(struct store_work *w)
{
	struct group *g = container_of(w, struct group, work);

	g->storing = false;
	if (w->r < 0)
		group_fail(g, NULL, &w->e);
	else
		job_succeed(g->job, result_make(g)); /* frees the group */
}

/* All snapshots are there: without its file, the group is complete. */
static void group_keep(struct group *g)
{
	struct err e;

	if (g->storing)
		return;
	g->storing = true;
	g->work = (struct store_work){ .loop = g->host->loop, .done = file_removed };
	if (store_remove_file(g->host->store, NULL, g->file, STORE_WITH_WORK, &g->work, &e) == 0)
		return;
	g->storing = false;
	group_fail(g, NULL, &e);
}

/* ---- the steps ---- */

/* Let the processes go on if all wait. */
static void step_next(struct group *g)
{
	if (g->recorded && !g->failed)
		group_steps_next(&g->steps);
}

static void member_stage(struct job *j, int64_t stage)
{
	struct member *m = j->concluded_opaque;

	m->group->steps.vms[m - m->group->members].stage = stage;
	step_next(m->group);
}

/* ---- failures and ends ---- */

/* Fail the group. vm: the VM that the error concerns; NULL: none. */
static void group_fail(struct group *g, const char *vm, const struct err *e)
{
	if (g->failed)
		return;
	g->failed = true;
	g->e = *e;
	if (vm)
		err_prefix(&g->e, "VM '%.100s'", vm);
	for (size_t i = 0; i < g->n; i++)
		if (g->members[i].job && !g->members[i].job->cancelling)
			job_cancel(g->members[i].job, NULL);
	group_check(g);
}

static void group_cancel(struct job *j)
{
	struct err e;

	err_set(&e, -ECANCELED, ERR_CANCELLED, "the job was cancelled; no snapshot remains");
	group_fail(j->opaque, NULL, &e);
}

/* Go on when no snapshot is under way any more. May free the group. */
static void group_check(struct group *g)
{
	for (size_t i = 0; i < g->n; i++)
		if (g->members[i].job)
			return;
	if (g->storing)
		return;
	if (!g->failed)
		group_keep(g);
	else if (!g->undoing)
		undo_try(g);
}

static void member_concluded(struct job *j, void *opaque)
{
	struct member *m = opaque;
	struct group *g = m->group;
	struct err e = j->e;
	bool failed = j->failed;
	size_t over = 0;

	m->job = NULL;
	m->result = json_object_get(j->result);
	job_dismiss(j, NULL);
	for (size_t i = 0; i < g->n; i++)
		over += !g->members[i].job;
	job_progress(g->job, over, g->n);
	if (failed && !g->failed)
		group_fail(g, m->name, &e);
	else
		group_check(g);
}

static void file_stored(struct store_work *w)
{
	struct group *g = container_of(w, struct group, work);
	struct err e = w->e;

	g->storing = false;
	g->recorded = w->r == 0;
	if (!g->recorded && !g->failed) {
		group_fail(g, NULL, &e);
		return;
	}
	step_next(g);
	group_check(g);
}

/* ---- the begin ---- */

static int file_put(struct group *g, struct err *e)
{
	CLEANUP_JS struct json_object *o = json_object_new_object();
	struct json_object *vms = json_object_new_array();
	char uuid[DEFINITION_UUID_TEXT];

	for (size_t i = 0; i < g->n; i++) {
		uuid_print(g->members[i].uuid, uuid);
		json_object_array_add(vms, json_object_new_string(uuid));
	}
	js_put(o, "vms", vms);
	g->work = (struct store_work){ .loop = g->host->loop, .done = file_stored };
	return store_put(g->host->store, NULL, g->file, o, STORE_WITH_WORK, &g->work, e);
}

static int member_begin(struct member *m, struct vm *vm, const struct vm_snapshot_create *what, const struct call *by, struct err *e)
{
	struct vm_snapshot_create body = *what;
	int r;

	memcpy(m->uuid, vm->def->uuid, sizeof(m->uuid));
	snprintf(m->name, sizeof(m->name), "%s", vm->def->name);
	group_steps_add(&m->group->steps, m->uuid, vm_state_is_active(vm->state));
	body.group = vm_state_is_active(vm->state);
	body.quiesce &= body.group;
	snprintf(body.tags, sizeof(body.tags), "%s", m->group->tag);
	r = snapshot_create(vm, &body, NULL, &m->job, e);
	if (r < 0) {
		err_prefix(e, "VM '%.100s'", m->name);
		return r;
	}
	m->made = true;
	m->job->concluded = member_concluded;
	m->job->concluded_opaque = m;
	m->job->fork_stage = member_stage;
	job_owner_set(m->job, by);
	return 0;
}

static void begin_failed(struct loop_task *t)
{
	struct group *g = container_of(t, struct group, task);
	struct err e = g->e;

	g->storing = false;
	group_fail(g, NULL, &e);
}

int group_snapshot_begin(struct vm *const *vms, size_t n, const char *id, const struct vm_snapshot_create *what, const char *job_id,
	const struct call *by, struct job **ret_j, struct err *e)
{
	struct job_name called = { .id = job_id, .qmp_id = "" };
	struct group *g = group_new(vms[0]->host, id, n);
	int r;

	snprintf(g->snapshot, sizeof(g->snapshot), "%s", what->name);
	g->begun_ns = loop_now_ns();
	r = job_new_beside(vms[0], "group-snapshot", &called, &g->job, e);
	if (r < 0) {
		group_free(g);
		return r;
	}
	g->job->unit = "snapshots";
	g->job->opaque = g;
	g->job->release = group_release;
	g->job->cancel = group_cancel;
	*ret_j = g->job;
	g->storing = true;
	for (size_t i = 0; i < n && !r; i++)
		r = member_begin(&g->members[i], vms[i], what, by, &g->e);
	if (!r)
		r = file_put(g, &g->e);
	if (r < 0) {
		g->task.run = begin_failed;
		loop_post(g->host->loop, &g->task);
	}
	return 0;
}

/* ---- groups of an earlier daemon ---- */

static void file_found(void *opaque, const char *name)
{
	struct vm_host *host = opaque;
	CLEANUP_JS struct json_object *o = NULL;
	char file[sizeof(((struct group *)NULL)->file)], id[GROUP_ID_TEXT];
	struct json_object *vms;
	struct group *g;

	if (!group_file_is(name, "", id))
		return;
	snprintf(file, sizeof(file), STORE_GROUPS "/%s.json", id);
	o = store_load_file(host->store, NULL, file);
	vms = js_get_array(o, "vms");
	if (!vms || json_object_array_length(vms) > GROUP_VMS_MAX)
		return;
	g = group_new(host, id, json_object_array_length(vms));
	g->failed = true;
	for (size_t i = 0; i < g->n; i++) {
		const char *uuid = js_plain_string(json_object_array_get_idx(vms, i));

		snprintf(g->members[i].name, sizeof(g->members[i].name), "%s", uuid ? uuid : "");
		g->members[i].made = uuid && uuid_parse(uuid, g->members[i].uuid) == 0;
	}
	log_warn("group", "the daemon ended while the snapshots of group %s were taken; deleting them", id);
	retry_later(g); /* the processes are cancelling them */
}

void group_snapshot_clear_up(struct vm_host *host)
{
	store_each_file(host->store, STORE_GROUPS, file_found, host);
}
