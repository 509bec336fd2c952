/* QMP handlers for snapshot jobs, and for jobs in general. */
#include "api/jobs/commit.h"
#include "api/jobs/commit_ready.h"
#include "api/jobs/job.h"
#include "api/jobs/job_owner.h"
#include "api/jobs/pull.h"
#include "api/jobs/snapshot_job.h"
#include "api/qmp/qmp.h"
#include "api/qmp/qmp_device.h"
#include "api/qmp/qmp_handler.h"
#include "api/vm/vm.h"
#include "api/vm/vm_layers.h"
#include "api/wire/json.h"
#include "base/err.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

/* ---- reading arguments ---- */

/* Check that the argument `devices` names all writable disks and no other: a snapshot covers all of them, because it
 * captures one instant. */
static int check_devices(struct call *c, struct err *e)
{
	struct json_object *devices = js_get_array(c->args, "devices");
	const struct definition *def = vm_live(c->vm);
	bool named[VM_DISKS_MAX] = { false };

	for (size_t i = 0; i < json_object_array_length(devices); i++) {
		const char *id = js_plain_string(json_object_array_get_idx(devices, i));
		const struct definition_disk *disk = qmp_disk_find(c->vm, id);

		if (!disk)
			return err_set(e, -ENOENT, ERR_NOT_FOUND, "No block device node '%.40s'", id ? id : "");
		if (disk->read_only)
			return err_set(e, -EROFS, ERR_INVALID, "Device '%.40s' is read-only; omit it", id);
		if (named[disk - def->disks])
			return err_set(e, -EINVAL, ERR_INVALID, "devices: '%.40s' is there twice", id);
		named[disk - def->disks] = true;
	}
	for (uint32_t i = 0; i < def->ndisks; i++)
		if (!def->disks[i].read_only && !named[i])
			return err_set(e, -EINVAL, ERR_INVALID, "devices: '%s' is missing; a snapshot needs all writable disks",
				qmp_node_name(c->vm, &def->disks[i]));
	return 0;
}

static int check_vmstate(struct call *c, struct err *e)
{
	const char *vmstate = js_get_str(c->args, "vmstate");
	const struct definition *def = vm_live(c->vm);

	for (uint32_t i = 0; i < def->ndisks; i++) {
		const struct definition_disk *d = &def->disks[i];

		if (d->read_only || d->layers[0].format != DEFINITION_FORMAT_QCOW2)
			continue;
		return qmp_disk_find(c->vm, vmstate) == d ? 0 : err_set(e, -EINVAL, ERR_INVALID, "vmstate: the memory is stored in "
			"'%s', not in '%.40s'", qmp_node_name(c->vm, d), vmstate);
	}
	return err_set(e, -EINVAL, ERR_UNSUPPORTED, "vmstate: the VM has no qcow2 disk to store memory in");
}

static int arg_tag(struct call *c, char tag[VM_SNAPSHOT_NAME_MAX + 1], struct err *e)
{
	const char *s = js_get_str(c->args, "tag");

	if (!*s || strlen(s) > VM_SNAPSHOT_NAME_MAX)
		return err_set(e, -EINVAL, ERR_INVALID, "tag: 1 to %d bytes", VM_SNAPSHOT_NAME_MAX);
	for (const char *p = s; *p; p++)
		if ((unsigned char)*p < 0x20 || *p == 0x7f)
			return err_set(e, -EINVAL, ERR_INVALID,
				"tag: must be one line without control characters");
	snprintf(tag, VM_SNAPSHOT_NAME_MAX + 1, "%s", s);
	return 0;
}

static int check_args(struct call *c, bool vmstate, char tag[VM_SNAPSHOT_NAME_MAX + 1], struct err *e)
{
	int r = vm_is_stopping(c->vm) ? vm_check_claim(c->vm, VM_CLAIM_CONTROL, "try again", e) : arg_tag(c, tag, e);

	if (!r && !*js_get_str(c->args, "job-id"))
		r = err_set(e, -EINVAL, ERR_INVALID, "job-id: must not be empty");
	if (!r)
		r = check_devices(c, e);
	if (!r && vmstate)
		r = check_vmstate(c, e);
	return r;
}

/* ---- snapshots ---- */

static void job_begun(struct call *c, int r, struct job *j, const struct err *e)
{
	if (!r)
		job_owner_set(j, c);
	call_done(c, r, e);
}

void qmp_snapshot_save(struct call *c)
{
	struct job_name name = { .qmp_id = js_get_str(c->args, "job-id") };
	struct vm_snapshot_create body = { .disks_only = false };
	struct job *j = NULL;
	struct err e;
	int r = check_args(c, true, body.name, &e);

	if (!r)
		r = snapshot_create(c->vm, &body, &name, &j, &e);
	job_begun(c, r, j, &e);
}

/* Handler of snapshot-load. As in QEMU, the VM runs afterwards if it ran before. */
void qmp_snapshot_load(struct call *c)
{
	struct job_name name = { .qmp_id = js_get_str(c->args, "job-id") };
	struct snapshot_revert opts = { .with_memory = true,
		.then = c->vm->state == VM_PAUSED || c->vm->state == VM_PRESERVED ? SAVE_THEN_PAUSED :
										     SAVE_THEN_RUNNING };
	struct job *j = NULL;
	struct err e;
	int r = check_args(c, true, opts.name, &e);

	if (!r)
		r = snapshot_revert(c->vm, &opts, &name, &j, &e);
	job_begun(c, r, j, &e);
}

void qmp_snapshot_delete(struct call *c)
{
	struct job_name name = { .qmp_id = js_get_str(c->args, "job-id") };
	char tag[VM_SNAPSHOT_NAME_MAX + 1];
	struct job *j = NULL;
	struct err e;
	int r = check_args(c, false, tag, &e);

	if (!r)
		r = snapshot_delete(c->vm, tag, SNAPSHOT_ALONE, false, &name, &j, &e);
	job_begun(c, r, j, &e);
}

/* Return the id of the disk that `device` names, or the argument itself if there is none: it may be a path. */
static const char *device_arg(const struct call *c)
{
	const char *device = js_get_str(c->args, "device");
	const struct definition_disk *disk = qmp_disk_find(c->vm, device);

	return disk ? disk->id : device;
}

/* Get a layer's path: the argument `path_key`, or the path of the node that `node_key` names. *ret: NULL: neither is
 * there. */
static int layer_arg(const struct call *c, const char *path_key, const char *node_key, const char **ret, struct err *e)
{
	const char *node = js_get_str(c->args, node_key);

	*ret = js_get_str(c->args, path_key);
	if (node && *ret)
		return err_set(e, -EINVAL, ERR_GENERIC, "'%s' and '%s' are mutually exclusive", node_key, path_key);
	if (node && !(*ret = qmp_node_path(c->vm, node)))
		return err_set(e, -ENOENT, ERR_GENERIC, "Cannot find device='' nor node-name='%.40s'", node);
	return 0;
}

/* Check what block-stream and block-commit have in common. Without a job-id, QEMU names the job after the device. */
static int block_job_args(const struct call *c, struct job_name *ret_name, uint64_t *ret_speed, struct err *e)
{
	const char *id = js_get_str(c->args, "job-id");
	int64_t speed = js_get_int(c->args, "speed", 0);

	if (id && !*id)
		return err_set(e, -EINVAL, ERR_INVALID, "job-id: must not be empty");
	if (speed < 0)
		return err_set(e, -EINVAL, ERR_INVALID, "speed: must not be negative");
	if (!js_get_bool(c->args, "auto-finalize", true))
		return err_set(e, -ENOTSUP, ERR_UNSUPPORTED, "auto-finalize: only true, since there is no job-finalize");
	*ret_speed = (uint64_t)speed;
	ret_name->qmp_id = id ? id : js_get_str(c->args, "device");
	ret_name->keeps_qmp_id = !js_get_bool(c->args, "auto-dismiss", true);
	return vm_is_stopping(c->vm) ? vm_check_claim(c->vm, VM_CLAIM_CONTROL, "try again", e) : 0;
}

void qmp_block_stream(struct call *c)
{
	struct job_name name = { 0 };
	struct job *j = NULL;
	uint64_t speed;
	struct err e;
	int r = block_job_args(c, &name, &speed, &e);

	if (!r)
		r = disk_pull(c->vm, device_arg(c), speed, &name, &j, &e);
	job_begun(c, r, j, &e);
}

/* Handler of block-commit. As in QEMU, the job of a commit of the active layer becomes ready, for job-complete. */
void qmp_block_commit(struct call *c)
{
	struct commit_opts o = { .disk = device_arg(c), .active = true, .ready = true };
	struct job *j = NULL;
	struct err e;
	int r = block_job_args(c, &o.name, &o.rate, &e);

	if (!r)
		r = layer_arg(c, "top", "top-node", &o.top, &e);
	if (!r)
		r = layer_arg(c, "base", "base-node", &o.base, &e);
	if (!r)
		r = disk_commit(c->vm, &o, &j, &e);
	job_begun(c, r, j, &e);
}

/* Handler of blockdev-snapshot-sync, for an overlay that its client has made. */
void qmp_blockdev_snapshot_sync(struct call *c)
{
	struct json_object *disks = json_object_new_array(), *o = json_object_new_object();
	const char *device = device_arg(c), *node = js_get_str(c->args, "node-name");
	const struct definition_disk *disk = qmp_disk_find(c->vm, node);
	struct err e;

	js_put_str(o, "disk", disk ? disk->id : device);
	js_put_str(o, "path", js_get_str(c->args, "snapshot-file"));
	json_object_array_add(disks, o);
	js_put(c->args, "disks", disks);
	if (!device == !node)
		err_set(&e, -EINVAL, ERR_INVALID, "give either device or node-name, as query-block has them");
	else if (node && !disk)
		err_set(&e, -ENOENT, ERR_GENERIC, "Cannot find device='' nor node-name='%.40s'", node);
	else if (strcmp(js_get_str_or(c->args, "format", "qcow2"), "qcow2"))
		err_set(&e, -EINVAL, ERR_INVALID, "format: only qcow2");
	else if (strcmp(js_get_str_or(c->args, "mode", "absolute-paths"), "existing"))
		err_set(&e, -ENOTSUP, ERR_UNSUPPORTED, "mode: only existing, because the definition must name the overlay first; cairn "
			"snapshot-create-as --disk-only --external makes it and does both");
	else
		return vm_layers_snapshot(c);
	call_fail(c, &e);
}

/* ---- programs in the guest ---- */

void qmp_agent_exec(struct call *c)
{
	const struct job_name name = { .qmp_id = js_get_str(c->args, "job-id") };
	struct job *j = NULL;
	struct err e;
	int r = *name.qmp_id ? command_exec_begin(c, &name, &j, &e) : err_set(&e, -EINVAL, ERR_INVALID, "job-id: must not be empty");

	job_begun(c, r, j, &e);
}

void qmp_agent_exec_output(struct call *c)
{
	command_exec_output(c, job_find_qmp(c->vm, js_get_str(c->args, "id")));
}

/* ---- jobs ---- */

static struct json_object *as_qemu(const struct job *j)
{
	static const char *const keys[] = { "status", "current-progress", "total-progress", "error" };
	struct json_object *all = job_to_json(j), *o = json_object_new_object(), *v;

	js_put_str(o, "id", j->qmp_id);
	js_put_str(o, "type", job_qmp_type(j));
	for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++)
		if (json_object_object_get_ex(all, keys[i], &v))
			js_put(o, keys[i], json_object_get(v));
	json_object_put(all);
	return o;
}

/* Remove the oldest jobs if the answer would be too long, because QMP has no paging. */
static void list_shorten(struct json_object *list)
{
	size_t bytes = 0, i = json_object_array_length(list);

	while (i && bytes <= JS_ANSWER_MAX)
		bytes += js_line_bytes(json_object_array_get_idx(list, --i));
	if (bytes > JS_ANSWER_MAX)
		json_object_array_del_idx(list, 0, i + 1);
}

void qmp_query_jobs(struct call *c)
{
	struct json_object *list = json_object_new_array();

	jobs_trim(c->host);
	for (struct job *j = c->host->jobs; j; j = j->next)
		if (j->qmp_id[0] && job_is_of(j, c->vm))
			json_object_array_add(list, as_qemu(j));
	list_shorten(list);
	call_return(c, list);
}

void qmp_query_block_jobs(struct call *c)
{
	struct json_object *list = json_object_new_array(), *o;

	for (struct job *j = c->host->jobs; j; j = j->next) {
		if (!j->qmp_id[0] || !job_is_of(j, c->vm) || !job_qmp_is_block(j) || j->status == JOB_CONCLUDED)
			continue;
		o = qmp_block_job_to_json(j);
		json_object_array_add(list, o);
		js_put_str(o, "status", job_status_name(j));
		js_put_bool(o, "busy", j->status != JOB_READY);
		js_put_bool(o, "ready", j->status == JOB_READY);
		js_put_bool(o, "paused", false);
		js_put_str(o, "io-status", "ok");
		js_put_bool(o, "auto-finalize", true);
		js_put_bool(o, "auto-dismiss", !j->keeps_qmp_id);
		js_put_str(o, "error", j->failed ? j->e.msg : NULL);
	}
	list_shorten(list);
	call_return(c, list);
}

static void job_act(struct call *c, int (*act)(struct job *j, const char *name, struct err *e))
{
	struct job *j = job_find_qmp(c->vm, js_get_str(c->args, "id"));
	struct err e;

	if (!j)
		err_set(&e, -ENOENT, ERR_NOT_FOUND, "Job not found");
	call_done(c, j ? act(j, js_get_str(c->args, "id"), &e) : -ENOENT, &e);
}

void qmp_job_cancel(struct call *c)
{
	job_act(c, job_cancel_named);
}

void qmp_job_complete(struct call *c)
{
	struct job *j = job_find_qmp(c->vm, js_get_str(c->args, "id"));
	struct err e;

	if (j) {
		commit_ready_complete(c, j);
		return;
	}
	err_set(&e, -ENOENT, ERR_NOT_FOUND, "Job not found");
	call_fail(c, &e);
}

/* Return the job of block-commit or block-stream that the call names; NULL: answered with QEMU's error. */
static struct job *block_job_find(struct call *c)
{
	const char *id = js_get_str(c->args, "device");
	struct job *j = job_find_qmp(c->vm, id);
	char text[128];

	if (j && j->status != JOB_CONCLUDED && job_qmp_is_block(j))
		return j;
	snprintf(text, sizeof(text), "Block job '%.60s' not found", id);
	call_fail_class(c, "DeviceNotActive", text);
	return NULL;
}

void qmp_block_job_complete(struct call *c)
{
	struct job *j = block_job_find(c);

	if (j)
		commit_ready_complete(c, j);
}

void qmp_block_job_cancel(struct call *c)
{
	struct job *j = block_job_find(c);
	struct err e;

	if (!j)
		return;
	if (j->status == JOB_READY && !js_get_bool(c->args, "force", false))
		commit_ready_leave(c, j);
	else
		call_done(c, job_cancel_named(j, j->qmp_id, &e), &e);
}

void qmp_job_dismiss(struct call *c)
{
	job_act(c, job_dismiss_named);
}
