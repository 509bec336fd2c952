#include "api/jobs/export.h"
#include "api/access/authors.h"
#include "api/access/client_file.h"
#include "api/access/fork_as.h"
#include "api/access/open_as.h"
#include "api/definition/vm_config.h"
#include "api/jobs/archiver.h"
#include "api/jobs/job.h"
#include "api/jobs/snapshot_devices.h"
#include "api/jobs/snapshots.h"
#include "api/vm/nvram.h"
#include "api/vm/offline_process.h"
#include "api/vm/vm.h"
#include "api/wire/json.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/loop.h"
#include "base/shell_word.h"
#include "base/util.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* Names in the archive: "vda.qcow2", its backing file "vda-1.raw", its external data file "vda.data". */
#define NAME_BYTES 32

struct export {
	struct vm *vm;
	struct definition *def; /* a copy, since the VM may be redefined meanwhile */
	struct job *job;
	struct client_file *file;
	char snapshot[256], since[256], compress[8];
	int64_t level;
	struct open_as *opener;
	struct archiver *archiver;
	struct json_object *definition, *spec, *files;
	struct json_object *left_out; /* disks of the snapshot that the VM lacks; NULL: none */
	struct loop_task task; /* reports an immediate failure from the loop */
	struct err e;
};

static void export_release(struct job *j)
{
	struct export *x = j->opaque;

	definition_free(x->def);
	open_as_free(x->opener);
	archiver_free(x->archiver);
	json_object_put(x->definition);
	json_object_put(x->left_out);
	json_object_put(x->spec);
	client_file_free(x->file);
	free(x);
}

/* ---- the archive's content ---- */

static void name_make(const char *id, unsigned layer, const char *kind, char ret[NAME_BYTES])
{
	/* A name in an archive must not begin with '-' or '_'. */
	const char *first = *id == '-' || *id == '_' ? "disk" : "";

	if (layer)
		snprintf(ret, NAME_BYTES, "%s%.15s-%u.%s", first, id, layer, kind);
	else
		snprintf(ret, NAME_BYTES, "%s%.15s.%s", first, id, kind);
}

/* Find a file in the list by its path; NULL: not listed yet. So an image that several disks share is exported once. */
static struct json_object *file_find(struct export *x, const char *path)
{
	for (size_t i = 0; i < json_object_array_length(x->files); i++) {
		struct json_object *f = json_object_array_get_idx(x->files, i);

		if (!strcmp(js_get_str(f, "path"), path))
			return f;
	}
	return NULL;
}

static struct json_object *file_add(struct export *x, const char *name, const char *path, unsigned fd)
{
	struct json_object *f = json_object_new_object();

	js_put_str(f, "name", name);
	js_put_str(f, "path", path);
	js_put_int(f, "fd", ARCHIVER_FD + 1 + (int)fd);
	json_object_array_add(x->files, f);
	return f;
}

/* List layer k of a disk's chain and the layers behind it. Returns layer k's name in the archive. */
static const char *layer_add(struct export *x, const struct definition_disk *d, const struct vm_disk *v,
	unsigned k)
{
	const struct definition_layer *y = &d->layers[k];
	struct json_object *f = file_find(x, y->path);
	char name[NAME_BYTES];

	if (f)
		return js_get_str(f, "name");
	name_make(d->id, k, definition_format_name(y->format), name);
	f = file_add(x, name, y->path, v->fd[k]);
	if (y->format == DEFINITION_FORMAT_QCOW2)
		js_put_str(f, "format", "qcow2");
	if (y->data_file) {
		name_make(d->id, k, "data", name);
		file_add(x, name, y->data_file, v->data_fd[k]);
		js_put_str(f, "data_file", name);
	}
	if (k + 1u < d->nlayers) {
		js_put_str(f, "backing", layer_add(x, d, v, k + 1));
		js_put_str(f, "backing_format", definition_format_name(d->layers[k + 1].format));
	}
	return js_get_str(f, "name");
}

/* Replace a path in the definition by the file's name in the archive, if the file is listed. */
static void path_put(struct export *x, struct json_object *o, const char *key, const char *path)
{
	struct json_object *f = path ? file_find(x, path) : NULL;

	if (f)
		js_put_str(o, key, js_get_str(f, "name"));
}

static void disk_whole(struct export *x, const struct definition_disk *d, const struct vm_disk *v,
	struct json_object *o)
{
	struct json_object *backing = js_get_array(o, "backing");

	layer_add(x, d, v, 0);
	path_put(x, o, "path", d->layers[0].path);
	path_put(x, o, "data_file", d->layers[0].data_file);
	for (unsigned k = 1; k < d->nlayers; k++) {
		struct json_object *b = json_object_array_get_idx(backing, k - 1);

		path_put(x, b, "path", d->layers[k].path);
		path_put(x, b, "data_file", d->layers[k].data_file);
	}
}

/* Return whether the path is an image that another VM's process may write to. */
static bool is_written(const struct vm *vm, const char *path)
{
	for (size_t i = 0; i < vm->host->nvms; i++) {
		const struct vm *other = vm->host->vms[i];
		const struct definition *d = vm_live(other);

		for (uint32_t k = 0; other != vm && other->proc && k < d->ndisks; k++)
			if (d->disks[k].nlayers && !d->disks[k].read_only && !strcmp(d->disks[k].layers[0].path, path))
				return true;
	}
	return false;
}

/* Return whether a VM that runs writes to a backing file of the disk, as a live clone's source does. The disk reads
 * that file at a pin, and no archive can have the whole file now. */
static bool is_written_below(const struct vm *vm, const struct definition_disk *d)
{
	for (unsigned k = 1; k < d->nlayers; k++)
		if (is_written(vm, d->layers[k].path))
			return true;
	return false;
}

/* List a disk as one qcow2 image, which gets the disk's whole content. The layers are listed as its sources.
 * present: the content of now instead of that of the snapshot. */
static void disk_as_one_image(struct export *x, bool present, const struct definition_disk *d, const struct vm_disk *v,
	struct json_object *o)
{
	struct json_object *f;
	char name[NAME_BYTES];

	name_make(d->id, 0, "qcow2", name);
	f = file_add(x, name, d->layers[0].path, v->fd[0]);
	js_put_str(f, "format", "qcow2");
	js_put(f, "layers", archiver_layers(d, v, ARCHIVER_FD + 1));
	js_put_bool(f, "present", present);
	js_put_str(o, "path", name);
	json_object_object_del(o, "backing");
}

static struct json_object *boot_add(struct export *x, const char *key, uint16_t fd)
{
	js_put_str(js_get(x->definition, "boot"), key, key);
	return file_add(x, key, key, fd);
}

static void spec_make(struct export *x, const struct definition *d, const struct vm_config *v)
{
	struct json_object *disks = js_get_array(x->definition, "disks");

	x->spec = json_object_new_object();
	x->files = json_object_new_array();
	js_put_int(x->spec, "output", ARCHIVER_FD);
	js_put_bool(x->spec, ARCHIVER_RELAYED, true);
	js_put_str(x->spec, "compress", x->compress);
	if (x->level)
		js_put_int(x->spec, "level", x->level);
	if (x->snapshot[0])
		js_put_str(x->spec, "snapshot", x->snapshot);
	if (x->since[0])
		js_put_str(x->spec, "since", x->since);
	js_put(x->spec, "files", x->files);
	if (d->kernel)
		boot_add(x, "kernel", v->kernel_fd);
	if (d->initrd)
		boot_add(x, "initrd", v->initrd_fd);
	if (d->loader)
		boot_add(x, "loader", v->kernel_fd);
	for (uint32_t i = 0; i < d->ndisks; i++) {
		struct json_object *o = json_object_array_get_idx(disks, i);

		bool of_snapshot = x->snapshot[0] && !d->disks[i].read_only;

		if (!d->disks[i].nlayers)
			continue; /* a drive without a medium */
		if (of_snapshot || is_written_below(x->vm, &d->disks[i]))
			disk_as_one_image(x, !of_snapshot, &d->disks[i], &v->disks[i], o);
		else
			disk_whole(x, &d->disks[i], &v->disks[i], o);
	}
	if (d->firmware == VM_FIRMWARE_UEFI)
		js_put_bool(boot_add(x, "nvram_template", v->nvram_template_fd), "variables", true);
	for (size_t i = 0; i < json_object_array_length(x->files); i++)
		json_object_object_del(json_object_array_get_idx(x->files, i), "path");
	js_put(x->spec, "definition", json_object_get(x->definition));
}

/* ---- the cairn-archive process ---- */

static void export_progress(void *opaque, uint64_t done, uint64_t total)
{
	struct export *x = opaque;

	job_progress(x->job, done, total);
}

static void export_succeed(struct export *x, struct json_object *result)
{
	if (x->left_out)
		js_put(result, "disks-left-out", STEAL_PTR(x->left_out));
	job_succeed(x->job, result);
}

static void archiver_over(struct export *x, int r, struct json_object *result, const struct err *e)
{
	struct job *j = x->job;
	struct err named;

	if (r < 0)
		job_fail(j, offline_name_user(x->vm, e, &named));
	else
		export_succeed(x, json_object_get(result));
}

static void archive_done(void *opaque, int r, struct json_object *result, const struct err *e)
{
	archiver_over(opaque, r, result, e);
}

static const struct archiver_ops export_ops = { .progress = export_progress, .done = archive_done };

static int archive_start(struct export *x, const struct config *c, struct err *e)
{
	const struct definition *d = x->def;
	int fds[CHANNEL_FDS_MAX + 2] = { client_file_relay(x->file) };
	CLEANUP_CLOSE int nvram = -1;
	size_t nfds = c->nfds + 1;
	int r = x->snapshot[0] ? 0 : nvram_open(x->vm, &nvram, e);

	if (r < 0)
		return r;
	spec_make(x, d, &c->vm);
	if (c->nheld) {
		js_put_int(x->spec, "held", (int)c->nheld);
		js_put_int(x->spec, "relays", c->vm.relays);
	}
	memcpy(fds + 1, c->fds, c->nfds * sizeof(*fds));
	if (nvram >= 0) {
		js_put_int(x->spec, "nvram", ARCHIVER_FD + (int)nfds);
		fds[nfds++] = nvram;
	}
	return archiver_start(x->vm->host->loop, x->vm->host->paths->archive_program, "export", x->spec, fds, nfds,
		d->rights, &export_ops, x, &x->archiver, e);
}

static void export_failed(struct loop_task *t)
{
	struct export *x = container_of(t, struct export, task);

	archiver_over(x, -EIO, NULL, &x->e);
}

/* Fail from the loop, after the command that started the job was answered. */
static void export_fail_later(struct export *x)
{
	x->task.run = export_failed;
	loop_post(x->vm->host->loop, &x->task);
}

static void files_opened(void *opaque, int r, struct config *c, const struct err *e)
{
	struct export *x = opaque;

	x->opener = NULL;
	if (r < 0) {
		x->e = *e;
	} else if (x->job->cancelling) {
		r = err_set(&x->e, -ECANCELED, ERR_CANCELLED, "cancelled");
		config_done(c);
	} else {
		r = archive_start(x, c, &x->e);
		config_done(c);
	}
	if (r < 0)
		export_fail_later(x);
}

static void export_start(void *opaque)
{
	struct export *x = opaque;

	if (offline_check(x->vm, &x->e) < 0)
		export_fail_later(x);
	else
		open_as_open(x->vm->host->helpers, x->def, OPEN_AS_ALL, files_opened, x, &x->opener);
}

static void export_cancel(struct job *j)
{
	struct export *x = j->opaque;

	if (x->archiver)
		archiver_cancel(x->archiver);
}

/* ---- starting the job ---- */

static int state_check(const struct vm *vm, const struct export_opts *opts, struct err *e)
{
	if (opts->snapshot)
		return 0;
	if (vm->state == VM_SAVED)
		return err_set(e, -EPERM, ERR_WRONG_STATE,
			"VM '%s' has a managed save, which an archive does not include; start the VM and shut it down, "
			"or drop the save with: cairn managedsave-remove %s", vm->def->name, shell_word(vm->def->name).s);
	if (vm_state_refuse_kept(vm->def->name, vm->state, "export it", e) < 0)
		return -EPERM;
	if (vm_state_is_active(vm->state) || vm->proc)
		return err_set(e, -EPERM, ERR_WRONG_STATE,
			"VM '%s' is %s; shut it down, or export a snapshot of it: cairn snapshot-create-as %s "
			"NAME, cairn export %s FILE --snapshotname NAME",
			vm->def->name, vm_state_name(vm->state), shell_word(vm->def->name).s, shell_word(vm->def->name).s);
	return 0;
}

/* Check that the file is open for writing, and is a pipe, a socket, a character device or an empty regular file. A file
 * with content may be one of the VM's own disks. */
static int file_check(const struct client_file *file, struct err *e)
{
	const struct fork_as_file *is = client_file_facts(file);

	if ((is->flags & O_ACCMODE) == O_RDONLY)
		return err_set(e, -EINVAL, ERR_INVALID, "the file must be open for writing");
	if (!S_ISREG(is->mode) && !S_ISFIFO(is->mode) && !S_ISSOCK(is->mode) && !S_ISCHR(is->mode))
		return err_set(e, -EINVAL, ERR_INVALID, "the file must be a regular file or a pipe");
	if (S_ISREG(is->mode) && is->bytes)
		return err_set(e, -EEXIST, ERR_EXISTS, "the file is not empty");
	return 0;
}

static int opts_check(const struct export_opts *opts, struct err *e)
{
	if (opts->level < 0 || opts->level > 19)
		return err_set(e, -EINVAL, ERR_INVALID, "level: must be 1 to 19 with zstd, 1 to 9 with gzip");
	if (opts->snapshot && (!*opts->snapshot || strlen(opts->snapshot) > 255))
		return err_set(e, -EINVAL, ERR_INVALID, "snapshot: must have 1 to 255 bytes");
	if (opts->since && (!*opts->since || strlen(opts->since) > 255))
		return err_set(e, -EINVAL, ERR_INVALID, "since: must have 1 to 255 bytes");
	if (opts->since && !opts->snapshot)
		return err_set(e, -EINVAL, ERR_INVALID, "since: needs a later snapshot to export; take one: cairn snapshot-create-as VM "
			"NAME, and give it with --snapshotname NAME");
	return 0;
}

static int definition_take(struct export *x, const struct definition *d, struct err *e)
{
	int r;

	x->definition = definition_to_json(d);
	r = definition_parse_stored(x->definition, &x->def, e);
	if (!r)
		authors_copy(d, x->def);
	return r;
}

static void export_go(struct export *x)
{
	if (definition_take(x, vm_live(x->vm), &x->e) < 0)
		export_fail_later(x);
	/* An offline process of the VM holds the image locks: wait for its end. */
	else if (!offline_wait(x->vm, export_start, x))
		export_start(x);
}

/* A list that cannot be read stops no export: cairn-archive looks for the snapshot itself. */
static void snapshot_listed(void *opaque, int r, const struct snapshots *s, const struct err *e)
{
	struct export *x = opaque;
	struct err unknown;
	size_t i;

	(void)e;
	if (!r && !snapshots_find(s, x->vm->def->name, x->snapshot, &i, &unknown))
		x->left_out = snapshot_devices_lacking(x->vm, s->list[i].id);
	export_go(x);
}

int export_begin(struct vm *vm, struct client_file **file, const struct export_opts *opts, const char *job_id,
	struct job **ret_j, struct err *e)
{
	struct export *x;
	int r = vm_check_claim(vm, opts->snapshot ? VM_CLAIM_JOB : VM_CLAIM_SNAPSHOTS, "export it", e);

	if (!r)
		r = file_check(*file, e);
	if (!r)
		r = opts_check(opts, e);
	if (!r)
		r = state_check(vm, opts, e);
	if (!r)
		r = offline_check(vm, e);
	if (!r)
		r = job_new(vm, "export", job_id, ret_j, e);
	if (r < 0)
		return r;
	x = must_alloc(calloc(1, sizeof(*x)));
	*x = (struct export){ .vm = vm, .job = *ret_j, .level = opts->level, .file = STEAL_PTR(*file) };
	snprintf(x->snapshot, sizeof(x->snapshot), "%s", opts->snapshot ? opts->snapshot : "");
	snprintf(x->since, sizeof(x->since), "%s", opts->since ? opts->since : "");
	snprintf(x->compress, sizeof(x->compress), "%s", opts->compress ? opts->compress : "zstd");
	x->job->opaque = x;
	x->job->release = export_release;
	x->job->cancel = export_cancel;
	if (x->snapshot[0])
		snapshots_fetch(vm, snapshot_listed, x);
	else
		export_go(x);
	return 0;
}
