#include "api/jobs/group_snapshot.h"
#include "api/jobs/group_job.h"
#include "api/jobs/job.h"
#include "api/jobs/snapshot_job.h"
#include "api/jobs/snapshots.h"
#include "api/vm/vm.h"
#include "api/wire/json.h"
#include "base/err.h"
#include "base/log.h"
#include "base/util.h"

#include <stdio.h>
#include <string.h>

struct group_snapshot {
	struct group_job group;
	char name[VM_SNAPSHOT_NAME_MAX + 1];
};

/* ---- the end of a group that failed: deleting its snapshots ---- */

static void victims_choose(void *opaque, const struct snapshots *s, bool *victims)
{
	const struct group_member *m = opaque;
	char tag[sizeof(GROUP_TAG) + GROUP_ID_TEXT];

	snprintf(tag, sizeof(tag), GROUP_TAG "%s", m->group->id);
	for (size_t i = 0; i < s->n; i++)
		victims[i] = snapshot_has_tag(&s->list[i], tag);
}

static void snapshot_deleted(struct job *j, void *opaque)
{
	struct group_member *m = opaque;

	/* Disks that cannot have snapshots have none of the group's. */
	if (j->failed && j->e.cls != ERR_UNSUPPORTED)
		log_warn("group", "VM '%s': a snapshot of group %s is not deleted yet: %s", m->name, m->group->id, j->e.msg);
	else
		memset(m->uuid, 0, sizeof(m->uuid));
	job_dismiss(j, NULL);
	group_part_done(m->group, NULL, 0, NULL);
}

/* The snapshot may exist even if its job failed: the VM's process may have ended in its last write. */
static bool snapshot_remove(struct group_member *m)
{
	struct vm *vm = vm_find_uuid(m->group->host, m->uuid);
	struct job *j = NULL;
	struct err e;

	if (!vm)
		return false;
	if (snapshot_delete_where(vm, victims_choose, m, &j, &e) < 0)
		return true;
	m->group->busy++;
	j->concluded = snapshot_deleted;
	j->concluded_opaque = m;
	return true;
}

/* ---- the end of a group whose snapshots are made ---- */

static struct json_object *member_to_json(const struct group_member *m)
{
	struct json_object *o = json_object_new_object();

	js_put_str(o, "vm", m->name);
	js_put_str(o, "id", js_get_str(m->result, "id"));
	if (group_member_is_on(m)) {
		js_put_int(o, "instant", js_get_int(m->result, "instant", 0));
		js_put_int(o, "pause", js_get_int(m->result, "pause", 0));
	}
	return o;
}

static struct json_object *result_make(const struct group_job *g)
{
	const struct group_snapshot *s = container_of(g, const struct group_snapshot, group);
	struct json_object *o = json_object_new_object(), *vms = json_object_new_array();

	for (size_t i = 0; i < g->n; i++)
		json_object_array_add(vms, member_to_json(&g->members[i]));
	js_put_str(o, "name", s->name);
	js_put_str(o, "group", g->id);
	js_put(o, "vms", vms);
	return o;
}

static const struct group_kind snapshot_kind = {
	.size = sizeof(struct group_snapshot),
	.type = "group-snapshot",
	.noun = "snapshot",
	.unit = "snapshots",
	.prefix = "",
	.remedy = "delete them with cairn snapshot-delete",
	.complete = group_keep,
	.result_make = result_make,
	.remove = snapshot_remove,
};

/* ---- the begin ---- */

static void member_stage(struct job *j, int64_t stage)
{
	group_member_stage(j->concluded_opaque, stage);
}

static int member_begin(struct group_member *m, struct vm *vm, const struct vm_snapshot_create *what, const struct call *by, struct err *e)
{
	struct vm_snapshot_create body = *what;
	struct job *j;
	int r;

	body.group = group_member_is_on(m);
	body.quiesce &= body.group;
	snprintf(body.tags, sizeof(body.tags), GROUP_TAG "%s", m->group->id);
	r = snapshot_create(vm, &body, NULL, &j, e);
	if (r < 0) {
		group_error_name(e, m->name);
		return r;
	}
	group_member_begun(m, j, vm->def->uuid, by);
	j->fork_stage = member_stage;
	return 0;
}

int group_snapshot_begin(struct vm *const *vms, size_t n, const char *id, const struct vm_snapshot_create *what, const char *job_id,
	const struct call *by, struct job **ret_j, struct err *e)
{
	struct group_job *g;
	int r = group_begin(&snapshot_kind, vms, n, id, job_id, &g, e);

	if (r < 0)
		return r;
	snprintf(container_of(g, struct group_snapshot, group)->name, sizeof(what->name), "%s", what->name);
	*ret_j = g->job;
	for (size_t i = 0; i < n && !r; i++)
		r = member_begin(&g->members[i], vms[i], what, by, &g->e);
	group_record(g, r);
	return 0;
}

void group_snapshot_clear_up(struct vm_host *host)
{
	group_clear_up(&snapshot_kind, host);
}
