#include "api/jobs/group_clone.h"
#include "api/definition/definition.h"
#include "api/jobs/fork.h"
#include "api/jobs/group_job.h"
#include "api/jobs/job.h"
#include "api/jobs/snapshots.h"
#include "api/jobs/undefine.h"
#include "api/net/group_network.h"
#include "api/net/publish.h"
#include "api/vm/vm.h"
#include "api/vm/vm_process.h"
#include "api/wire/json.h"
#include "base/cleanup.h"
#include "base/util.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define RESUME_TIMEOUT_NS (10 * 1000000000ULL)

struct group_clone {
	struct group_job group;
	struct json_object *networks; /* owned: from each network that sources share to that of their clones; NULL: none */
	size_t networks_begun;
	bool paused;
	bool resumed;
};

static struct group_clone *clone_of(const struct group_job *g)
{
	return container_of(g, struct group_clone, group);
}

static void clone_release(struct group_job *g)
{
	json_object_put(clone_of(g)->networks);
}

/* Mark the networks, so that each is removed when its last clone is gone. */
static void networks_keep(struct group_job *g)
{
	struct json_object *networks = clone_of(g)->networks;

	if (!networks)
		return;
	json_object_object_foreach(networks, source, name)
	{
		(void)source;
		group_network_keep(g->host, json_object_get_string(name));
	}
}

/* Return the ids of the disks with the images that the clone was made with, by their names (fork_definitions.c); a user
 * may have attached others. The caller owns the list. */
static struct json_object *own_disks(const struct vm *vm)
{
	struct json_object *list = json_object_new_array();
	char stem[VM_NAME_MAX + 32];

	for (uint32_t i = 0; i < vm->def->ndisks; i++) {
		const struct definition_disk *d = &vm->def->disks[i];
		const char *slash = d->nlayers && !d->read_only ? strrchr(d->layers[0].path, '/') : NULL;

		snprintf(stem, sizeof(stem), "/%s-%s.", vm->def->name, d->id);
		if (slash && !strncmp(slash, stem, strlen(stem)))
			json_object_array_add(list, json_object_new_string(d->id));
	}
	return list;
}

/* Begin or continue to remove a clone: stop it, and then undefine it. Returns false if it is removed. */
static bool clone_remove(struct group_member *m)
{
	struct undefine_opts opts = { .managed_save = true, .snapshots_metadata = true, .nvram = true };
	struct vm *vm = vm_find_uuid(m->group->host, m->uuid);
	CLEANUP_JS struct json_object *disks = NULL;
	struct err e;

	if (!vm)
		return false;
	if (vm_has(vm, VM_FACT_INCOMPLETE))
		return true; /* its batch removes it */
	if (vm->proc || vm_is_starting(vm)) {
		vm_destroy(vm, NULL);
		return true;
	}
	opts.storage = disks = own_disks(vm);
	undefine_begin(vm, &opts, NULL, &e); /* refused while something else works on the VM */
	return true;
}

/* ---- the end of a group whose clones are complete ---- */

static const char *clone_name(const struct group_member *m)
{
	return js_get_str(m->result, "first");
}

static struct json_object *clone_to_json(const struct group_member *m)
{
	static const char *const same[] = { "instant", "pause", "addresses", "published", "forwards-left-out" };
	struct json_object *o = json_object_new_object();

	js_put_str(o, "vm", m->name);
	js_put_str(o, "name", clone_name(m));
	js_put_uuid(o, "uuid", m->uuid);
	for (size_t i = 0; i < ARRAY_SIZE(same); i++)
		if (js_get(m->result, same[i]))
			js_put(o, same[i], json_object_get(js_get(m->result, same[i])));
	return o;
}

static struct json_object *result_make(const struct group_job *g)
{
	struct json_object *o = json_object_new_object(), *clones = json_object_new_array(), *networks = json_object_new_array();

	for (size_t i = 0; i < g->n; i++)
		json_object_array_add(clones, clone_to_json(&g->members[i]));
	json_object_object_foreach(clone_of(g)->networks, source, name)
	{
		struct json_object *network = json_object_new_object();

		js_put_str(network, "name", json_object_get_string(name));
		js_put_str(network, "source", source);
		json_object_array_add(networks, network);
	}
	js_put(o, "clones", clones);
	js_put(o, "networks", networks);
	return o;
}

static void clone_resumed(void *opaque, int r, const struct vm_answer *a, const struct err *e)
{
	struct group_member *m = opaque;

	(void)a;
	group_part_done(m->group, clone_name(m), r, e);
}

static void clone_resume(struct group_member *m)
{
	struct vm *vm = vm_find_uuid(m->group->host, m->uuid);
	struct err e;
	int r = 0;

	m->group->busy++;
	if (!vm || !vm->proc) {
		r = err_set(&e, -ECANCELED, ERR_CANCELLED, "the clone ended before all clones were there");
	} else if (!clone_of(m->group)->paused) {
		vm_process_request(vm->proc, VM_MSG_CONT, NULL, 0, -1, RESUME_TIMEOUT_NS, clone_resumed, m);
		return;
	}
	group_part_done(m->group, clone_name(m), r, &e);
}

/* Let the clones run, at about one time, unless they are to stay paused; then end. */
static void clones_complete(struct group_job *g)
{
	if (clone_of(g)->resumed) {
		group_keep(g);
		return;
	}
	clone_of(g)->resumed = true;
	g->busy++;
	for (size_t i = 0; i < g->n && !g->failed; i++)
		clone_resume(&g->members[i]);
	group_part_done(g, NULL, 0, NULL);
}

static const struct group_kind clone_kind = {
	.size = sizeof(struct group_clone),
	.type = "group-clone",
	.noun = "clone",
	.unit = "clones",
	.prefix = "clone-",
	.remedy = "destroy and undefine them",
	.complete = clones_complete,
	.result_make = result_make,
	.remove = clone_remove,
	.end = networks_keep,
	.release = clone_release,
};

/* ---- the networks; the forks wait for them before the guests are paused ---- */

static void networks_next(struct group_clone *c);

static void network_made(void *opaque, int r, struct json_object *answer, const struct err *e)
{
	struct group_clone *c = opaque;

	(void)answer;
	if (r < 0 || c->group.failed)
		group_part_done(&c->group, NULL, r, e);
	else
		networks_next(c);
}

static int network_begin(struct group_clone *c, const char *source, const char *name, struct err *e)
{
	const struct group_job *g = &c->group;
	struct vm *vms[GROUP_VMS_MAX];

	for (size_t i = 0; i < g->n; i++) {
		vms[i] = vm_find_uuid(g->host, g->steps.vms[i].uuid);
		if (!vms[i])
			return err_set(e, -ENOENT, ERR_NOT_FOUND, "VM '%.100s' was undefined meanwhile", g->members[i].name);
	}
	return group_network_make(vms, g->n, source, name, network_made, c, e);
}

/* Make the next network; with the last one, the group's part is done. May free the group. */
static void networks_next(struct group_clone *c)
{
	size_t i = 0;
	struct err e;
	int r = 0;

	json_object_object_foreach(c->networks, source, name)
	{
		if (i++ < c->networks_begun)
			continue;
		c->networks_begun++;
		r = network_begin(c, source, json_object_get_string(name), &e);
		if (r == 0)
			return;
		break;
	}
	group_part_done(&c->group, NULL, r, &e);
}

/* ---- the begin ---- */

static void clone_stage(void *opaque, int64_t stage)
{
	struct group_member *m = opaque;

	if (m->group->failed && m->job)
		snapshots_cancel(m->job); /* the fork may have been cancelled before its process had begun */
	else
		group_member_stage(m, stage);
}

/* Print a clone's name: the pattern with the source's name in place of its %s. pattern: NULL: "%s-clone". */
static int name_print(const char *pattern, const char *source, char name[VM_NAME_MAX + 1], struct err *e)
{
	const char *at;
	int n;

	pattern = pattern ? pattern : "%s-clone";
	at = strstr(pattern, "%s");
	if (!at || strchr(pattern, '%') != at || strchr(at + 1, '%'))
		return err_set(e, -EINVAL, ERR_INVALID, "name-pattern: \"%.60s\" must have one %%s, for the name of the VM, as in try-%%s", pattern);
	n = snprintf(name, VM_NAME_MAX + 1, "%.*s%s%s", (int)(at - pattern), pattern, source, at + 2);
	if (n > VM_NAME_MAX)
		return err_set(e, -EINVAL, ERR_INVALID, "name-pattern: makes a name of %d bytes of '%.100s'; at most %d are allowed", n, source, VM_NAME_MAX);
	n = definition_check_name(name, e);
	if (n < 0)
		err_prefix(e, "name-pattern: \"%.100s\"", name);
	return n;
}

static int names_check(struct vm *const *vms, size_t n, const char *pattern, struct err *e)
{
	char name[VM_NAME_MAX + 1];
	int r = 0;

	for (size_t i = 0; i < n && !r; i++) {
		r = name_print(pattern, vms[i]->def->name, name, e);
		if (!r && vm_find(vms[i]->host, name))
			r = err_set(e, -EEXIST, ERR_EXISTS, "there is a VM '%s' already; choose other names with name-pattern", name);
	}
	return r;
}

/* Check the forwards of all VMs, before anything has begun. */
static int forwards_check(struct vm *const *vms, size_t n, struct json_object *forwards, struct json_object *networks, struct err *e)
{
	int r = n > 1 ? publish_check_shared(forwards, e) : 0;

	for (size_t i = 0; i < n && !r; i++) {
		CLEANUP_JS struct json_object *placed = NULL;

		r = group_network_place_forwards(vms[i], forwards, networks, &placed, e);
		if (!r)
			r = publish_validate(vms[i]->host, placed, vms[i]->def, false, e);
		if (r < 0)
			group_error_name(e, vms[i]->def->name);
	}
	return r;
}

static int clone_begin(struct group_member *m, struct vm *vm, const struct group_clone_opts *opts, bool isolated, const struct call *by, struct err *e)
{
	CLEANUP_JS struct json_object *forwards = NULL;
	char name[VM_NAME_MAX + 1];
	struct fork_opts fork = { .name = name, .cpu_quota = opts->cpu_quota, .memory_max_bytes = opts->memory_max_bytes, .paused = true, .ephemeral = opts->ephemeral, .isolated = isolated,
		.hint_hostname = opts->hint_hostname, .group_stage = clone_stage, .group_opaque = m, .networks = clone_of(m->group)->networks };
	uint8_t uuid[16];
	struct job *j;
	int r = name_print(opts->pattern, vm->def->name, name, e);

	if (!r && opts->forwards)
		r = group_network_place_forwards(vm, opts->forwards, fork.networks, &forwards, e);
	fork.forwards = forwards;
	fork.forwards_rights = opts->forwards_rights;
	if (!r)
		r = fork_begin(vm, &fork, NULL, &j, e);
	if (r < 0) {
		group_error_name(e, m->name);
		return r;
	}
	fork_first_uuid(j, uuid);
	group_member_begun(m, j, uuid, by);
	return 0;
}

/* Let the clones find each other in the networks that their VMs share, and in which they stay. */
static void peers_set(const struct group_job *g, struct vm *const *vms, struct json_object *networks)
{
	const struct definition *clones[GROUP_VMS_MAX];

	for (size_t i = 0; i < g->n; i++)
		clones[i] = fork_first_definition(g->members[i].job);
	for (size_t i = 0; i < g->n; i++)
		fork_set_peers(g->members[i].job, group_network_peers(vms, clones, g->n, i, networks));
}

int group_clone_begin(struct vm *const *vms, size_t n, const struct group_clone_opts *opts, const char *job_id, const struct call *by,
	struct job **ret_j, struct err *e)
{
	CLEANUP_JS struct json_object *networks = NULL, *kept = NULL;
	char id[GROUP_ID_TEXT];
	struct group_job *g;
	int r = names_check(vms, n, opts->pattern, e);

	if (!r)
		r = group_id_make(id, e);
	if (!r)
		networks = group_networks_choose(vms, n, id);
	if (!r && opts->keep_networks) {
		kept = STEAL_PTR(networks);
		networks = json_object_new_object();
		r = group_networks_check_kept(vms, n, kept, e);
	}
	if (!r && opts->forwards)
		r = forwards_check(vms, n, opts->forwards, networks, e);
	if (!r)
		r = group_begin(&clone_kind, vms, n, id, job_id, &g, e);
	if (r < 0)
		return r;
	*ret_j = g->job;
	clone_of(g)->paused = opts->paused;
	clone_of(g)->networks = STEAL_PTR(networks);
	for (size_t i = 0; i < n && !r; i++)
		r = clone_begin(&g->members[i], vms[i], opts, opts->isolated[i], by, &g->e);
	if (!r && kept)
		peers_set(g, vms, kept);
	group_record(g, r);
	if (r < 0)
		return 0;
	g->busy++;
	networks_next(clone_of(g));
	return 0;
}

void group_clone_clear_up(struct vm_host *host)
{
	group_clear_up(&clone_kind, host);
	group_networks_adopt(host);
}
