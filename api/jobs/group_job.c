#include "api/jobs/group_job.h"
#include "api/definition/definition.h"
#include "api/jobs/job.h"
#include "api/jobs/job_owner.h"
#include "api/vm/vm.h"
#include "api/wire/json.h"
#include "base/log.h"
#include "base/util.h"
#include "base/uuid.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define RETRY_NS 50000000ULL
#define RETRIES_MAX 600

static struct group_job *group_new(const struct group_kind *kind, struct vm_host *host, const char *id)
{
	struct group_job *g = must_alloc(calloc(1, kind->size));

	g->kind = kind;
	g->host = g->steps.host = host;
	snprintf(g->id, sizeof(g->id), "%s", id);
	snprintf(g->file, sizeof(g->file), STORE_GROUPS "/%s%s.json", kind->prefix, id);
	for (size_t i = 0; i < GROUP_VMS_MAX; i++)
		g->members[i].group = g;
	return g;
}

static void group_free(struct group_job *g)
{
	if (g->kind->release)
		g->kind->release(g);
	for (size_t i = 0; i < g->n; i++)
		json_object_put(g->members[i].result);
	loop_timer_free(g->retry);
	free(g);
}

static void group_release(struct job *j)
{
	group_free(j->opaque);
}

bool group_member_is_on(const struct group_member *m)
{
	return m->group->steps.vms[m - m->group->members].is_on;
}

/* ---- the end of a group that failed: remove the clones or snapshots ---- */

/* End the group. all: nothing is left; else the file stays, and the next daemon tries again. */
static void undone(struct group_job *g, bool all)
{
	struct err e, why = g->e;

	if (!all) {
		log_error("group", "group %s failed, and some of its %s could not be removed; the next daemon removes them", g->id, g->kind->unit);
		err_set(&g->e, -EIO, why.cls, "%.400s; some %s of group %s could not be removed: %s", why.msg, g->kind->unit, g->id, g->kind->remedy);
	} else if (store_remove_file(g->host->store, NULL, g->file, STORE_EVENTUALLY, NULL, &e) < 0) {
		log_warn("group", "%s", e.msg);
	}
	if (g->kind->end)
		g->kind->end(g);
	if (g->job)
		job_fail(g->job, &g->e); /* frees the group */
	else
		group_free(g);
}

static void undo_later(struct group_job *g);

static void undo_try(void *opaque)
{
	struct group_job *g = opaque;
	bool left = false, last = g->retries++ == RETRIES_MAX;

	g->busy++; /* a removal may end at once */
	for (size_t i = 0; i < g->n; i++)
		if (uuid_is_set(g->members[i].uuid))
			left |= last || g->kind->remove(&g->members[i]);
	g->busy--;
	if (g->busy)
		return; /* until the last part is done */
	if (!left || last)
		undone(g, !left);
	else
		undo_later(g);
}

/* A removal may fail now: in a process that is ending, or while other work on the VM is under way. */
static void undo_later(struct group_job *g)
{
	if (!g->retry && loop_timer_new(g->host->loop, undo_try, g, &g->retry) < 0)
		abort(); /* otherwise the group would never end */
	loop_timer_arm(g->retry, loop_now_ns() + RETRY_NS);
}

/* ---- the parts of a group, and its end ---- */

/* Go on when nothing is under way any more. May free the group. */
static void group_check(struct group_job *g)
{
	for (size_t i = 0; i < g->n; i++)
		if (g->members[i].job)
			return;
	if (g->busy)
		return;
	if (g->failed)
		undo_later(g);
	else
		g->kind->complete(g);
}

void group_error_name(struct err *e, const char *vm)
{
	char name[VM_NAME_MAX + 8];

	snprintf(name, sizeof(name), "VM '%s'", vm);
	if (strncmp(e->msg, name, strlen(name)) != 0)
		err_prefix(e, "VM '%.100s'", vm);
}

/* Fail the group, unless it has failed already. May free the group. */
static void group_fail(struct group_job *g, const char *vm, const struct err *e)
{
	if (g->failed)
		return;
	g->failed = true;
	g->e = *e;
	if (vm)
		group_error_name(&g->e, vm);
	g->busy++; /* a job may conclude at once */
	for (size_t i = 0; i < g->n; i++)
		if (g->members[i].job && !g->members[i].job->cancelling)
			job_cancel(g->members[i].job, NULL);
	g->busy--;
	group_check(g);
}

static void group_cancel(struct job *j)
{
	struct group_job *g = j->opaque;
	struct err e;

	err_set(&e, -ECANCELED, ERR_CANCELLED, "the job was cancelled; no %s remains", g->kind->noun);
	group_fail(g, NULL, &e);
}

static void steps_next(struct group_job *g)
{
	if (!g->busy && !g->failed)
		group_steps_next(&g->steps);
}

void group_part_done(struct group_job *g, const char *vm, int r, const struct err *e)
{
	g->busy--;
	if (r < 0 && !g->failed) {
		group_fail(g, vm, e);
		return;
	}
	steps_next(g);
	group_check(g);
}

void group_member_stage(struct group_member *m, int64_t stage)
{
	m->group->steps.vms[m - m->group->members].stage = stage;
	steps_next(m->group);
}

static void member_concluded(struct job *j, void *opaque)
{
	struct group_member *m = opaque;
	struct group_job *g = m->group;
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

/* ---- the end of a group that is complete ---- */

static struct json_object *result_make(const struct group_job *g)
{
	struct json_object *o = g->kind->result_make(g);
	int64_t first = INT64_MAX, last = 0;

	for (size_t i = 0; i < g->n; i++) {
		int64_t at = group_member_is_on(&g->members[i]) ? js_get_int(g->members[i].result, "instant", 0) : 0;

		first = at ? MIN(first, at) : first;
		last = MAX(last, at);
	}
	js_put_int(o, "spread", last > first ? last - first : 0);
	js_put_uint(o, "total", loop_now_ns() - g->begun_ns);
	return o;
}

static void file_removed(struct store_work *w)
{
	struct group_job *g = container_of(w, struct group_job, work);

	if (w->r < 0) {
		group_part_done(g, NULL, w->r, &w->e);
		return;
	}
	if (g->kind->end)
		g->kind->end(g);
	job_succeed(g->job, result_make(g)); /* frees the group */
}

void group_keep(struct group_job *g)
{
	struct err e;
	int r;

	g->job->cancel = NULL;
	g->busy++;
	g->work = (struct store_work){ .loop = g->host->loop, .done = file_removed };
	r = store_remove_file(g->host->store, NULL, g->file, STORE_WITH_WORK, &g->work, &e);
	if (r < 0)
		group_part_done(g, NULL, r, &e);
}

/* ---- the begin ---- */

int group_begin(const struct group_kind *kind, struct vm *const *vms, size_t n, const char *id, const char *job_id, struct group_job **ret_g,
	struct err *e)
{
	struct job_name called = { .id = job_id, .qmp_id = "" };
	struct group_job *g = group_new(kind, vms[0]->host, id);
	int r = job_new_beside(vms[0], kind->type, &called, &g->job, e);

	if (r < 0) {
		group_free(g);
		return r;
	}
	g->job->unit = kind->unit;
	g->job->opaque = g;
	g->job->release = group_release;
	g->job->cancel = group_cancel;
	g->begun_ns = loop_now_ns();
	g->busy = 1;
	for (g->n = 0; g->n < n; g->n++) {
		struct vm *vm = vms[g->n];

		snprintf(g->members[g->n].name, sizeof(g->members[g->n].name), "%s", vm->def->name);
		group_steps_add(&g->steps, vm->def->uuid, vm_state_is_active(vm->state));
	}
	*ret_g = g;
	return 0;
}

void group_member_begun(struct group_member *m, struct job *j, const uint8_t uuid[16], const struct call *by)
{
	memcpy(m->uuid, uuid, sizeof(m->uuid));
	m->job = j;
	j->concluded = member_concluded;
	j->concluded_opaque = m;
	job_owner_set(j, by);
}

static void file_stored(struct store_work *w)
{
	struct group_job *g = container_of(w, struct group_job, work);

	group_part_done(g, NULL, w->r, &w->e);
}

static int file_put(struct group_job *g, struct err *e)
{
	CLEANUP_JS struct json_object *o = json_object_new_object();
	struct json_object *uuids = json_object_new_array();
	char uuid[UUID_TEXT];

	for (size_t i = 0; i < g->n; i++) {
		uuid_print(g->members[i].uuid, uuid);
		json_object_array_add(uuids, json_object_new_string(uuid));
	}
	js_put(o, "vms", uuids);
	g->work = (struct store_work){ .loop = g->host->loop, .done = file_stored };
	return store_put(g->host->store, NULL, g->file, o, STORE_WITH_WORK, &g->work, e);
}

static void begin_failed(struct loop_task *t)
{
	struct group_job *g = container_of(t, struct group_job, task);

	group_part_done(g, NULL, -EIO, &g->e);
}

void group_record(struct group_job *g, int r)
{
	if (!r)
		r = file_put(g, &g->e);
	if (r == 0)
		return;
	g->task.run = begin_failed;
	loop_post(g->host->loop, &g->task);
}

/* ---- groups of an earlier daemon ---- */

struct finder {
	const struct group_kind *kind;
	struct vm_host *host;
};

/* Return whether a file's name is PREFIXid.json. id: gets the id. */
static bool file_is(const char *name, const char *prefix, char id[GROUP_ID_TEXT])
{
	const char *digits = name + strlen(prefix);

	if (strncmp(name, prefix, strlen(prefix)) != 0 || strspn(digits, "0123456789abcdef") != GROUP_ID_TEXT - 1 ||
		strcmp(digits + GROUP_ID_TEXT - 1, ".json") != 0)
		return false;
	snprintf(id, GROUP_ID_TEXT, "%s", digits);
	return true;
}

static void file_found(void *opaque, const char *name)
{
	const struct finder *f = opaque;
	CLEANUP_JS struct json_object *o = NULL;
	char id[GROUP_ID_TEXT];
	struct json_object *uuids;
	struct group_job *g;

	if (!file_is(name, f->kind->prefix, id))
		return;
	g = group_new(f->kind, f->host, id);
	o = store_load_file(f->host->store, NULL, g->file);
	uuids = js_get_array(o, "vms");
	if (!uuids || json_object_array_length(uuids) > GROUP_VMS_MAX) {
		group_free(g);
		return;
	}
	g->failed = true;
	for (; g->n < json_object_array_length(uuids); g->n++) {
		struct group_member *m = &g->members[g->n];
		const char *uuid = js_plain_string(json_object_array_get_idx(uuids, g->n));

		snprintf(m->name, sizeof(m->name), "%s", uuid ? uuid : "");
		if (uuid)
			uuid_parse(uuid, m->uuid);
	}
	log_warn("group", "the daemon ended while the %s of group %s were made; removing them", f->kind->unit, id);
	undo_later(g);
}

void group_clear_up(const struct group_kind *kind, struct vm_host *host)
{
	struct finder f = { kind, host };

	store_each_file(host->store, STORE_GROUPS, file_found, &f);
}
