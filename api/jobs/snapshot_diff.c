#include "api/jobs/snapshot_diff.h"
#include "api/access/authors.h"
#include "api/access/open_as.h"
#include "api/definition/vm_config.h"
#include "api/jobs/archiver.h"
#include "api/jobs/job.h"
#include "api/vm/offline_process.h"
#include "api/vm/vm.h"
#include "api/wire/json.h"
#include "base/err.h"
#include "base/loop.h"
#include "base/shell_word.h"
#include "base/util.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct diff {
	struct vm *vm;
	struct definition *def; /* a copy, since the VM may be redefined meanwhile */
	struct job *job;
	struct json_object *spec; /* arguments for cairn-diff, and then its whole specification */
	struct open_as *opener;
	struct archiver *archiver;
	struct loop_task task; /* reports an immediate failure from the loop */
	struct err e;
};

static void diff_release(struct job *j)
{
	struct diff *x = j->opaque;

	definition_free(x->def);
	open_as_free(x->opener);
	archiver_free(x->archiver);
	json_object_put(x->spec);
	free(x);
}

/* ---- the cairn-diff process ---- */

static void diff_done(void *opaque, int r, struct json_object *result, const struct err *e)
{
	struct diff *x = opaque;
	struct err named;

	if (r < 0)
		job_fail(x->job, offline_name_user(x->vm, e, &named));
	else
		job_succeed(x->job, json_object_get(result));
}

static const struct archiver_ops diff_ops = { .done = diff_done };

/* List the disks that the VM writes to: those that snapshots have. */
static void disks_put(struct diff *x, const struct config *c)
{
	const char *only = js_get_str(x->spec, "disk");
	struct json_object *list = json_object_new_array();

	for (uint32_t i = 0; i < x->def->ndisks; i++) {
		const struct definition_disk *d = &x->def->disks[i];
		struct json_object *o;

		if (!d->nlayers || d->read_only || (only && strcmp(d->id, only) != 0))
			continue;
		o = json_object_new_object();
		js_put_str(o, "id", d->id);
		js_put(o, "layers", archiver_layers(d, &c->vm.disks[i], ARCHIVER_FD));
		json_object_array_add(list, o);
	}
	js_put(x->spec, "disks", list);
}

static int process_start(struct diff *x, const struct config *c, struct err *e)
{
	disks_put(x, c);
	if (c->nheld) {
		js_put_int(x->spec, "held", (int)c->nheld);
		js_put_int(x->spec, "relays", c->vm.relays);
	}
	return archiver_start(x->vm->host->loop, x->vm->host->paths->diff_program, "diff", x->spec, c->fds, c->nfds,
		x->def->rights, &diff_ops, x, &x->archiver, e);
}

static void diff_failed(struct loop_task *t)
{
	struct diff *x = container_of(t, struct diff, task);

	diff_done(x, -EIO, NULL, &x->e);
}

/* Fail from the loop, after the command that started the job was answered. */
static void diff_fail_later(struct diff *x)
{
	x->task.run = diff_failed;
	loop_post(x->vm->host->loop, &x->task);
}

static void files_opened(void *opaque, int r, struct config *c, const struct err *e)
{
	struct diff *x = opaque;

	x->opener = NULL;
	if (r < 0) {
		x->e = *e;
	} else {
		r = x->job->cancelling ? err_set(&x->e, -ECANCELED, ERR_CANCELLED, "cancelled") : process_start(x, c, &x->e);
		config_done(c);
	}
	if (r < 0)
		diff_fail_later(x);
}

static void diff_start(void *opaque)
{
	struct diff *x = opaque;

	if (offline_check(x->vm, &x->e) < 0)
		diff_fail_later(x);
	else
		open_as_open(x->vm->host->helpers, x->def, OPEN_AS_WRITTEN_READ, files_opened, x, &x->opener);
}

static void diff_cancel(struct job *j)
{
	struct diff *x = j->opaque;

	if (x->archiver)
		archiver_cancel(x->archiver);
}

/* ---- starting the job ---- */

static int name_check(const char *key, const char *name, struct err *e)
{
	return !name || (*name && strlen(name) <= 255) ? 0 : err_set(e, -EINVAL, ERR_INVALID, "%s: must have 1 to 255 bytes", key);
}

static int disk_check(const struct vm *vm, const char *disk, struct err *e)
{
	int at = vm_live_disk(vm, disk, e);

	return at < 0 ? at : !vm_live(vm)->disks[at].read_only ? 0 :
		err_set(e, -EINVAL, ERR_INVALID, "disk: %.40s is read-only, so it has no snapshots and does not change", disk);
}

static int args_check(const struct vm *vm, struct json_object *args, struct err *e)
{
	const char *disk = js_get_str(args, "disk"), *from = js_get_str(args, "from"), *name = vm->def->name;
	int r = name_check("from", from, e);

	if (!r)
		r = name_check("to", js_get_str(args, "to"), e);
	if (!r && js_get_int(args, "limit", 1) < 1)
		r = err_set(e, -EINVAL, ERR_INVALID, "limit: must be 1 or more");
	if (!r && disk)
		r = disk_check(vm, disk, e);
	if (!r && !js_get_str(args, "to"))
		r = vm_state_refuse_kept(name, vm->state, "compare its disks", e);
	if (!r && !js_get_str(args, "to") && (vm_state_is_active(vm->state) || vm->proc))
		r = err_set(e, -EPERM, ERR_WRONG_STATE, "VM '%s' is %s, and its disks change; compare with a snapshot: cairn "
			"snapshot-create-as %s NEW --disk-only, cairn snapshot-diff %s %s NEW", name, vm_state_name(vm->state), shell_word(name).s, shell_word(name).s, shell_word(from).s);
	return r;
}

/* Copy the arguments that are for cairn-diff too. */
static void spec_begin(struct diff *x, struct json_object *args)
{
	static const char *const keys[] = { "from", "to", "extents", "page", "limit" };
	const char *disk = js_get_str(args, "disk");
	int at = disk ? definition_disk_find(x->def, disk) : -1;

	x->spec = json_object_new_object();
	for (size_t i = 0; i < ARRAY_SIZE(keys); i++)
		if (js_get(args, keys[i]))
			js_put(x->spec, keys[i], json_object_get(js_get(args, keys[i])));
	js_put_bool(x->spec, "files", !strcmp(x->job->type, SNAPSHOT_DIFF_FILES));
	if (at >= 0) /* the argument may be the path of its image */
		js_put_str(x->spec, "disk", x->def->disks[at].id);
}

static int definition_take(struct diff *x, const struct definition *d, struct err *e)
{
	struct json_object *o = definition_to_json(d);
	int r = definition_parse_stored(o, &x->def, e);

	if (!r)
		authors_copy(d, x->def);
	json_object_put(o);
	return r;
}

static void diff_go(struct diff *x, struct json_object *args)
{
	if (definition_take(x, vm_live(x->vm), &x->e) < 0) {
		diff_fail_later(x);
		return;
	}
	spec_begin(x, args);
	/* An offline process of the VM holds the image locks: wait for its end. */
	if (!offline_wait(x->vm, diff_start, x))
		diff_start(x);
}

int snapshot_diff_begin(struct vm *vm, const char *type, struct json_object *args, struct job **ret_j, struct err *e)
{
	struct diff *x;
	int r = vm_check_claim(vm, js_get_str(args, "to") ? VM_CLAIM_JOB : VM_CLAIM_SNAPSHOTS, "compare its snapshots", e);

	if (!r)
		r = args_check(vm, args, e);
	if (!r)
		r = offline_check(vm, e);
	if (!r)
		r = job_new(vm, type, js_get_str(args, "job-id"), ret_j, e);
	if (r < 0)
		return r;
	x = must_alloc(calloc(1, sizeof(*x)));
	*x = (struct diff){ .vm = vm, .job = *ret_j };
	x->job->opaque = x;
	x->job->release = diff_release;
	x->job->cancel = diff_cancel;
	diff_go(x, args);
	return 0;
}
