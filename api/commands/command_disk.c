/* Handlers of disks: the limits and the size of a disk of a running VM, blockcopy, blockcommit and blockpull. */
#include "api/access/authors.h"
#include "api/commands/command.h"
#include "api/jobs/commit.h"
#include "api/jobs/copy.h"
#include "api/jobs/job.h"
#include "api/jobs/pull.h"
#include "api/schema/disk_tune.h"
#include "api/vm/vm.h"
#include "api/vm/vm_compat.h"
#include "api/vm/vm_copy.h"
#include "api/vm/vm_process.h"
#include "api/wire/json.h"
#include "base/err.h"
#include "base/util.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SET_TIMEOUT_NS (20 * 1000000000ULL)
/* The process waits at most 10 s for the disk's requests, and then for the image's file system. */
#define RESIZE_TIMEOUT_NS (60 * 1000000000ULL)

struct limits_change {
	struct call *call;
	char id[16];
};

/* Return the call's value of a limit; NULL: none. Borrowed. */
static struct json_object *value_get(const struct call *c, const char *key)
{
	struct json_object *v = js_get(js_get(c->args, "limits"), key);

	return v ? v : js_get(c->args, key);
}

/* Make the definition of the running VM with the limits that the call wants. The caller owns *ret. Returns 0; -EINVAL;
 * -ENOENT. */
static int definition_change(struct call *c, const char *which, struct definition **ret, struct err *e)
{
	CLEANUP_JS struct json_object *o = definition_to_json(vm_live(c->vm));
	int at = vm_live_disk(c->vm, which, e), r;
	struct json_object *disk;

	if (at < 0)
		return at;
	disk = json_object_array_get_idx(js_get_array(o, "disks"), (size_t)at);
	for (size_t i = 0; i < DISK_TUNE_KEYS; i++) {
		const char *key = disk_tune_names[i];
		struct json_object *v = value_get(c, key);

		if (!v)
			continue;
		json_object_object_del(disk, key);
		if (!json_object_is_type(v, json_type_int) || json_object_get_int64(v)) /* a definition has no 0 */
			js_put(disk, key, json_object_get(v));
	}
	r = definition_parse_stored(o, ret, e);
	if (!r)
		authors_copy(vm_live(c->vm), *ret);
	return r;
}

/* The process has the change: note it in the definition that it runs with, which may have changed meanwhile. */
static void change_done(void *opaque, int r, const struct vm_answer *a, const struct err *e)
{
	struct limits_change *w = opaque;
	struct call *c = w->call;
	struct definition *d;
	struct err own;

	(void)a;
	if (r < 0) {
		call_fail(c, e);
	} else {
		if (!definition_change(c, w->id, &d, &own))
			vm_live_replace(c->vm, d);
		c->when_stored = true;
		call_return(c, NULL);
	}
	free(w);
}

/* Check that the call names a limit, and that all keys of `limits` are limits. */
static int args_check(const struct call *c, struct err *e)
{
	struct json_object *limits = js_get(c->args, "limits");
	size_t known = 0, given = 0;

	for (size_t i = 0; i < DISK_TUNE_KEYS; i++) {
		known += js_get(limits, disk_tune_names[i]) != NULL;
		given += value_get(c, disk_tune_names[i]) != NULL;
	}
	if (limits && known < (size_t)json_object_object_length(limits))
		return err_set(e, -EINVAL, ERR_INVALID, "limits: has a key that is no limit of a disk; docs/definition.md lists them");
	return given ? 0 : err_set(e, -EINVAL, ERR_INVALID, "nothing to change: give iops or bps, or another limit");
}

void command_vm_set_disk(struct call *c)
{
	struct vm_disk_set body = { 0 };
	const struct definition_disk *disk = NULL;
	struct definition *d = NULL;
	struct limits_change *w;
	struct err e;
	int r = vm_compat_check_live(c->vm, VM_KNOWS_DISK_SET, &e);

	if (!r)
		r = args_check(c, &e);
	if (!r)
		r = definition_change(c, js_get_str(c->args, "disk"), &d, &e);
	if (!r)
		disk = &d->disks[vm_live_disk(c->vm, js_get_str(c->args, "disk"), &e)];
	if (!r && definition_tune_is_more(&disk->tune))
		r = vm_compat_check_live(c->vm, VM_KNOWS_DISK_TUNE, &e);
	if (r < 0) {
		definition_free(d);
		call_fail(c, &e);
		return;
	}
	w = must_alloc(calloc(1, sizeof(*w)));
	w->call = c;
	snprintf(w->id, sizeof(w->id), "%s", disk->id);
	memcpy(body.id, w->id, sizeof(body.id));
	body.limits = (struct vm_disk_limits){ disk->tune.iops[0].rate, disk->tune.bps[0].rate };
	body.tune = disk->tune;
	definition_free(d);
	vm_process_request(c->vm->proc, VM_MSG_DISK_SET, &body,
		vm_process_knows(c->vm->proc, VM_KNOWS_DISK_TUNE) ? sizeof(body) : offsetof(struct vm_disk_set, tune), -1, SET_TIMEOUT_NS,
		change_done, w);
}

/* ---- vm-resize-disk ---- */

void command_vm_resize_disk(struct call *c)
{
	struct vm_disk_resize body = { 0 };
	int64_t size = js_get_int(c->args, "size", 0);
	struct err e;
	int r = 0, at = -1;

	if (!c->vm->proc)
		r = err_set(&e, -EPERM, ERR_WRONG_STATE, "VM '%.200s' is %s; use cairn-img resize on its image", c->vm->def->name,
			vm_state_name(c->vm->state));
	if (!r)
		r = vm_compat_check_live(c->vm, VM_KNOWS_DISK_RESIZE, &e);
	if (!r && js_get(c->args, "size") && size < 1) /* 0 means the size of the block device to the process */
		r = err_set(&e, -EINVAL, ERR_INVALID, "size: must be at least 1");
	if (!r)
		at = vm_live_disk(c->vm, js_get_str(c->args, "disk"), &e);
	if (r < 0 || at < 0) {
		call_fail(c, &e);
		return;
	}
	snprintf(body.id, sizeof(body.id), "%s", vm_live(c->vm)->disks[at].id);
	body.size_bytes = (uint64_t)size;
	vm_process_request(c->vm->proc, VM_MSG_DISK_RESIZE, &body, sizeof(body), -1, RESIZE_TIMEOUT_NS, command_answered, c);
}

/* ---- copies and merges ---- */

static int rate_get(const struct call *c, uint64_t *ret, struct err *e)
{
	int64_t rate = js_get_int(c->args, "bandwidth", 0);

	if (rate < 0)
		return err_set(e, -EINVAL, ERR_INVALID, "bandwidth: must not be negative");
	*ret = (uint64_t)rate;
	return 0;
}

void command_vm_blockcopy(struct call *c)
{
	struct disk_copy_opts o = { .disk = js_get_str(c->args, "disk"), .format = js_get_str_or(c->args, "format", "raw"),
		.path = js_get_str(c->args, "path"), .pivot = js_get_bool(c->args, "pivot", false), .job_id = js_get_str(c->args, "job-id") };
	struct job *j;
	struct err e;
	int r = rate_get(c, &o.rate, &e);

	if (!r)
		r = disk_copy(c->vm, &o, &c->file, &j, &e);
	if (r < 0)
		call_fail(c, &e);
	else
		call_return_job(c, j);
}

void command_vm_blockcommit(struct call *c)
{
	struct commit_opts o = { .disk = js_get_str(c->args, "disk"), .top = js_get_str(c->args, "top"), .base = js_get_str(c->args, "base"),
		.shallow = js_get_bool(c->args, "shallow", false), .active = js_get_bool(c->args, "active", false),
		.name.id = js_get_str(c->args, "job-id") };
	struct job *j;
	struct err e;
	int r = rate_get(c, &o.rate, &e);

	if (!r)
		r = disk_commit(c->vm, &o, &j, &e);
	if (r < 0)
		call_fail(c, &e);
	else
		call_return_job(c, j);
}

void command_vm_blockpull(struct call *c)
{
	struct job_name name = { .id = js_get_str(c->args, "job-id") };
	uint64_t rate = 0;
	struct job *j;
	struct err e;
	int r = rate_get(c, &rate, &e);

	if (!r)
		r = disk_pull(c->vm, js_get_str(c->args, "disk"), rate, &name, &j, &e);
	if (r < 0)
		call_fail(c, &e);
	else
		call_return_job(c, j);
}

void command_vm_blockjob_pivot(struct call *c)
{
	vm_copy_pivot(c, NULL);
}
