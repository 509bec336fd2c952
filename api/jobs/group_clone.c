#include "api/jobs/group_clone.h"
#include "api/definition/definition.h"
#include "api/jobs/fork.h"
#include "api/jobs/group_steps.h"
#include "api/jobs/job.h"
#include "api/jobs/job_owner.h"
#include "api/jobs/snapshots.h"
#include "api/jobs/undefine.h"
#include "api/net/group_network.h"
#include "api/store/store.h"
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

#define FILE_PREFIX "clone-"
#define RESUME_TIMEOUT_NS (10 * 1000000000ULL)
#define RETRY_NS 50000000ULL
#define RETRIES_MAX 600

struct twin {
	struct group_clone *group;
	struct job *job; /* the fork; NULL: not begun, or concluded */
	uint8_t source[16], uuid[16]; /* of the VM; of the clone, all 0: its fork was not begun */
	char source_name[VM_NAME_MAX + 1], name[VM_NAME_MAX + 1];
	struct json_object *result; /* owned: the fork's; NULL: none */
};

struct group_clone {
	struct vm_host *host;
	struct job *job; /* NULL: an earlier daemon's group, of which the clones are removed */
	char file[sizeof(STORE_GROUPS) + sizeof(FILE_PREFIX) + GROUP_ID_TEXT + 8];
	struct twin *twins;
	size_t n;
	struct group_steps steps; /* of the sources, in the order of the twins */
	struct json_object *networks; /* owned: from each network that sources share to that of their clones */
	size_t networks_begun;
	bool paused;
	bool recorded; /* the file is on stable storage */
	bool storing;  /* the file is being written or removed */
	bool making;   /* a network is being made */
	bool cancelling; /* in group_fail() */
	bool resumed;
	bool failed, undoing;
	unsigned resuming; /* clones whose answer is awaited */
	struct err e;
	uint64_t begun_ns;
	struct store_work work;
	struct loop_task task;
	struct loop_timer *retry; /* owned; NULL: not needed yet */
	unsigned retries;
};

static void group_free(struct group_clone *g)
{
	for (size_t i = 0; i < g->n; i++)
		json_object_put(g->twins[i].result);
	loop_timer_free(g->retry);
	json_object_put(g->networks);
	free(g->twins);
	free(g);
}

static void group_release(struct job *j)
{
	group_free(j->opaque);
}

static struct group_clone *group_new(struct vm_host *host, const char *id, size_t n)
{
	struct group_clone *g = must_alloc(calloc(1, sizeof(*g)));

	g->host = g->steps.host = host;
	g->twins = must_alloc(calloc(n + 1, sizeof(*g->twins)));
	g->n = n;
	snprintf(g->file, sizeof(g->file), STORE_GROUPS "/" FILE_PREFIX "%s.json", id);
	for (size_t i = 0; i < n; i++)
		g->twins[i].group = g;
	return g;
}

static void group_check(struct group_clone *g);

/* ---- the end of a group that failed: removing its clones ---- */

/* Let the clone go on its way out. Returns false if it is gone. */
static bool twin_remove(struct twin *t)
{
	static const struct undefine_opts opts = { .remove_all_storage = true, .managed_save = true, .snapshots_metadata = true, .nvram = true };
	struct vm *vm = uuid_is_set(t->uuid) ? vm_find_uuid(t->group->host, t->uuid) : NULL;
	struct err e;

	if (!vm)
		return false;
	if (vm_has(vm, VM_FACT_INCOMPLETE))
		return true; /* its batch removes it */
	if (vm->proc || vm_is_starting(vm))
		vm_destroy(vm, NULL);
	else
		undefine_begin(vm, &opts, NULL, &e); /* refused while something else works on the VM */
	return true;
}

/* Let the networks go with their last clone. */
static void networks_keep(const struct group_clone *g)
{
	json_object_object_foreach(g->networks, source, name)
	{
		(void)source;
		group_network_keep(g->host, json_object_get_string(name));
	}
}

/* End the group. all: nothing is left; else the file stays, and the next daemon tries again. */
static void undone(struct group_clone *g, bool all)
{
	struct err e, why = g->e;

	if (!all) {
		log_error("group", "the clones of a group failed, and some of them could not be removed; the next daemon removes them");
		err_set(&g->e, -EIO, why.cls, "%.400s; some clones could not be removed: destroy and undefine them", why.msg);
	} else if (store_remove_file(g->host->store, NULL, g->file, STORE_EVENTUALLY, NULL, &e) < 0) {
		log_warn("group", "%s", e.msg);
	}
	if (g->networks)
		networks_keep(g);
	if (g->job)
		job_fail(g->job, &g->e); /* frees the group */
	else
		group_free(g);
}

static void undo_try(void *opaque)
{
	struct group_clone *g = opaque;
	bool left = false;

	for (size_t i = 0; i < g->n; i++)
		left |= twin_remove(&g->twins[i]);
	if (!left || ++g->retries > RETRIES_MAX)
		undone(g, !left);
	else
		loop_timer_arm(g->retry, loop_now_ns() + RETRY_NS);
}

static void undo_begin(struct group_clone *g)
{
	g->undoing = true;
	if (loop_timer_new(g->host->loop, undo_try, g, &g->retry) < 0)
		abort(); /* otherwise the group would never end */
	loop_timer_arm(g->retry, loop_now_ns());
}

/* Fail the group. vm: the VM that the error concerns; NULL: none. May free the group. */
static void group_fail(struct group_clone *g, const char *vm, const struct err *e)
{
	if (g->failed)
		return;
	g->failed = g->cancelling = true;
	g->e = *e;
	if (vm)
		err_prefix(&g->e, "VM '%.100s'", vm);
	for (size_t i = 0; i < g->n; i++)
		if (g->twins[i].job && !g->twins[i].job->cancelling)
			job_cancel(g->twins[i].job, NULL);
	g->cancelling = false;
	group_check(g);
}

static void group_cancel(struct job *j)
{
	struct err e;

	err_set(&e, -ECANCELED, ERR_CANCELLED, "the job was cancelled; no clone remains");
	group_fail(j->opaque, NULL, &e);
}

/* ---- the end of a group whose clones are there ---- */

static struct json_object *clone_to_json(const struct twin *t)
{
	static const char *const same[] = { "instant", "pause", "addresses", "forwards-left-out" };
	struct json_object *o = json_object_new_object();
	char uuid[DEFINITION_UUID_TEXT];

	uuid_print(t->uuid, uuid);
	js_put_str(o, "vm", t->source_name);
	js_put_str(o, "name", t->name);
	js_put_str(o, "uuid", uuid);
	for (size_t i = 0; i < ARRAY_SIZE(same); i++)
		if (js_get(t->result, same[i]))
			js_put(o, same[i], json_object_get(js_get(t->result, same[i])));
	return o;
}

static struct json_object *result_make(const struct group_clone *g)
{
	struct json_object *o = json_object_new_object(), *clones = json_object_new_array(), *networks = json_object_new_array();
	struct json_object *results[GROUP_VMS_MAX];

	for (size_t i = 0; i < g->n; i++) {
		results[i] = g->twins[i].result;
		json_object_array_add(clones, clone_to_json(&g->twins[i]));
	}
	json_object_object_foreach(g->networks, source, name)
	{
		struct json_object *network = json_object_new_object();

		js_put_str(network, "name", json_object_get_string(name));
		js_put_str(network, "source", source);
		json_object_array_add(networks, network);
	}
	js_put_int(o, "spread", group_spread(results, g->n));
	js_put_uint(o, "total", loop_now_ns() - g->begun_ns);
	js_put(o, "clones", clones);
	js_put(o, "networks", networks);
	return o;
}

static void file_removed(struct store_work *w)
{
	struct group_clone *g = container_of(w, struct group_clone, work);

	g->storing = false;
	if (w->r < 0) {
		group_fail(g, NULL, &w->e);
		return;
	}
	networks_keep(g);
	job_succeed(g->job, result_make(g)); /* frees the group */
}

/* Without its file, the group is complete. */
static void group_keep(struct group_clone *g)
{
	struct err e;

	g->job->cancel = NULL;
	g->storing = true;
	g->work = (struct store_work){ .loop = g->host->loop, .done = file_removed };
	if (store_remove_file(g->host->store, NULL, g->file, STORE_WITH_WORK, &g->work, &e) == 0)
		return;
	g->storing = false;
	group_fail(g, NULL, &e);
}

static void clone_resumed(void *opaque, int r, const struct vm_answer *a, const struct err *e)
{
	struct twin *t = opaque;
	struct group_clone *g = t->group;

	(void)a;
	g->resuming--;
	if (r < 0 && !g->failed)
		group_fail(g, t->name, e);
	else
		group_check(g);
}

/* Let the clones run, at about one time, unless they are to stay paused. */
static void clones_resume(struct group_clone *g)
{
	struct err e;

	g->resumed = true;
	g->resuming = 1;
	for (size_t i = 0; i < g->n && !g->failed; i++) {
		struct vm *vm = vm_find_uuid(g->host, g->twins[i].uuid);

		if (!vm || !vm->proc) {
			err_set(&e, -ECANCELED, ERR_CANCELLED, "the clone ended before all clones were there");
			group_fail(g, g->twins[i].name, &e);
		} else if (!g->paused) {
			g->resuming++;
			vm_process_request(vm->proc, VM_MSG_CONT, NULL, 0, -1, RESUME_TIMEOUT_NS, clone_resumed, &g->twins[i]);
		}
	}
	g->resuming--;
	group_check(g);
}

/* Go on when nothing is under way any more. May free the group. */
static void group_check(struct group_clone *g)
{
	for (size_t i = 0; i < g->n; i++)
		if (g->twins[i].job)
			return;
	if (g->storing || g->making || g->cancelling || g->resuming || g->undoing)
		return;
	if (g->failed)
		undo_begin(g);
	else if (!g->resumed)
		clones_resume(g);
	else
		group_keep(g);
}

/* ---- the forks ---- */

/* Let the processes go on if all wait, and the clones can start. */
static void step_next(struct group_clone *g)
{
	if (g->recorded && !g->failed && g->networks_begun == (size_t)json_object_object_length(g->networks) && !g->making)
		group_steps_next(&g->steps);
}

static void twin_stage(void *opaque, int64_t stage)
{
	struct twin *t = opaque;
	struct group_clone *g = t->group;

	g->steps.vms[t - g->twins].stage = stage;
	if (g->failed && t->job)
		snapshots_cancel(t->job); /* the fork may have been cancelled before its process had begun */
	else
		step_next(g);
}

static void forked(struct job *j, void *opaque)
{
	struct twin *t = opaque;
	struct group_clone *g = t->group;
	struct err e = j->e;
	bool failed = j->failed;
	size_t over = 0;

	t->job = NULL;
	t->result = json_object_get(j->result);
	job_dismiss(j, NULL);
	for (size_t i = 0; i < g->n; i++)
		over += !g->twins[i].job;
	job_progress(g->job, over, g->n);
	if (failed && !g->failed)
		group_fail(g, t->source_name, &e);
	else
		group_check(g);
}

static void file_stored(struct store_work *w)
{
	struct group_clone *g = container_of(w, struct group_clone, work);
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

/* ---- the networks; the forks wait for them before the guests stand still ---- */

static void networks_next(struct group_clone *g);

static void network_made(void *opaque, int r, struct json_object *answer, const struct err *e)
{
	struct group_clone *g = opaque;

	(void)answer;
	g->making = false;
	if (r < 0 && !g->failed)
		group_fail(g, NULL, e);
	else if (g->failed)
		group_check(g);
	else
		networks_next(g);
}

static int network_begin(struct group_clone *g, const char *source, const char *name, struct err *e)
{
	struct vm *vms[GROUP_VMS_MAX];

	for (size_t i = 0; i < g->n; i++) {
		vms[i] = vm_find_uuid(g->host, g->twins[i].source);
		if (!vms[i])
			return err_set(e, -ENOENT, ERR_NOT_FOUND, "VM '%.100s' was undefined meanwhile", g->twins[i].source_name);
	}
	return group_network_make(vms, g->n, source, name, network_made, g, e);
}

/* Make the next network, or let the processes go on. May free the group. */
static void networks_next(struct group_clone *g)
{
	size_t i = 0;
	struct err e;

	json_object_object_foreach(g->networks, source, name)
	{
		if (i++ < g->networks_begun)
			continue;
		g->networks_begun++;
		g->making = true;
		if (network_begin(g, source, json_object_get_string(name), &e) == 0)
			return;
		g->making = false;
		group_fail(g, NULL, &e);
		return;
	}
	step_next(g);
}

/* ---- the begin ---- */

static int file_put(struct group_clone *g, struct err *e)
{
	CLEANUP_JS struct json_object *o = json_object_new_object();
	struct json_object *clones = json_object_new_array();
	char uuid[DEFINITION_UUID_TEXT];

	for (size_t i = 0; i < g->n; i++) {
		struct json_object *c = json_object_new_object();

		uuid_print(g->twins[i].uuid, uuid);
		js_put_str(c, "name", g->twins[i].name);
		js_put_str(c, "uuid", uuid);
		json_object_array_add(clones, c);
	}
	js_put(o, "clones", clones);
	g->work = (struct store_work){ .loop = g->host->loop, .done = file_stored };
	return store_put(g->host->store, NULL, g->file, o, STORE_WITH_WORK, &g->work, e);
}

/* Print a clone's name: the pattern with the source's name in place of its %s. */
static int name_print(const char *pattern, const char *source, char name[VM_NAME_MAX + 1], struct err *e)
{
	const char *at = strstr(pattern, "%s");
	int n;

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

static int twin_init(struct twin *t, const struct vm *vm, const char *pattern, struct err *e)
{
	int r = name_print(pattern ? pattern : "%s-clone", vm->def->name, t->name, e);

	if (!r && vm_find(vm->host, t->name))
		r = err_set(e, -EEXIST, ERR_EXISTS, "there is a VM '%s' already; choose other names with name-pattern", t->name);
	memcpy(t->source, vm->def->uuid, sizeof(t->source));
	snprintf(t->source_name, sizeof(t->source_name), "%s", vm->def->name);
	return r;
}

static int twin_begin(struct twin *t, struct vm *vm, const struct group_clone_opts *opts, bool isolated, const struct call *by, struct err *e)
{
	struct fork_opts fork = { .name = t->name, .paused = true, .ephemeral = opts->ephemeral, .isolated = isolated,
		.hint_hostname = opts->hint_hostname, .group_stage = twin_stage, .group_opaque = t,
		.networks = t->group->networks };
	int r = fork_begin(vm, &fork, NULL, &t->job, e);

	if (r < 0) {
		err_prefix(e, "VM '%.100s'", t->source_name);
		return r;
	}
	fork_first_uuid(t->job, t->uuid);
	t->job->concluded = forked;
	t->job->concluded_opaque = t;
	job_owner_set(t->job, by);
	return 0;
}

static void begin_failed(struct loop_task *t)
{
	struct group_clone *g = container_of(t, struct group_clone, task);
	struct err e = g->e;

	g->storing = false;
	if (g->failed)
		group_check(g);
	else
		group_fail(g, NULL, &e);
}

static int group_begin(struct group_clone *g, struct vm *const *vms, const struct group_clone_opts *opts, const char *job_id, struct err *e)
{
	struct job_name called = { .id = job_id, .qmp_id = "" };
	int r = 0;

	g->paused = opts->paused;
	g->begun_ns = loop_now_ns();
	for (size_t i = 0; i < g->n && !r; i++)
		r = twin_init(&g->twins[i], vms[i], opts->pattern, e);
	if (!r)
		r = job_new_beside(vms[0], "group-clone", &called, &g->job, e);
	if (r < 0)
		return r;
	g->job->unit = "clones";
	g->job->opaque = g;
	g->job->release = group_release;
	g->job->cancel = group_cancel;
	return 0;
}

int group_clone_begin(struct vm *const *vms, size_t n, const struct group_clone_opts *opts, const char *job_id, const struct call *by,
	struct job **ret_j, struct err *e)
{
	char id[GROUP_ID_TEXT];
	struct group_clone *g;
	int r = group_id_make(id, e);

	if (r < 0)
		return r;
	g = group_new(vms[0]->host, id, n);
	g->networks = group_networks_choose(vms, n, id);
	r = group_begin(g, vms, opts, job_id, e);
	if (r < 0) {
		group_free(g);
		return r;
	}
	*ret_j = g->job;
	g->storing = true;
	for (size_t i = 0; i < n; i++)
		group_steps_add(&g->steps, vms[i]->def->uuid, true);
	for (size_t i = 0; i < n && !r; i++)
		r = twin_begin(&g->twins[i], vms[i], opts, opts->isolated[i], by, &g->e);
	if (!r)
		r = file_put(g, &g->e);
	if (r < 0) {
		g->task.run = begin_failed;
		loop_post(g->host->loop, &g->task);
	} else {
		networks_next(g);
	}
	return 0;
}

/* ---- groups of an earlier daemon ---- */

static void file_found(void *opaque, const char *name)
{
	struct vm_host *host = opaque;
	CLEANUP_JS struct json_object *o = NULL;
	char file[sizeof(((struct group_clone *)NULL)->file)], id[GROUP_ID_TEXT];
	struct json_object *clones;
	struct group_clone *g;

	if (!group_file_is(name, FILE_PREFIX, id))
		return;
	snprintf(file, sizeof(file), STORE_GROUPS "/" FILE_PREFIX "%s.json", id);
	o = store_load_file(host->store, NULL, file);
	clones = js_get_array(o, "clones");
	if (!clones || json_object_array_length(clones) > GROUP_VMS_MAX)
		return;
	g = group_new(host, id, json_object_array_length(clones));
	g->failed = true;
	for (size_t i = 0; i < g->n; i++)
		uuid_parse(js_get_str_or(json_object_array_get_idx(clones, i), "uuid", ""), g->twins[i].uuid);
	log_warn("group", "the daemon ended while the clones of group %s were made; removing them", id);
	undo_begin(g);
}

void group_clone_clear_up(struct vm_host *host)
{
	store_each_file(host->store, STORE_GROUPS, file_found, host);
	group_networks_take_back(host);
}
