#include "api/jobs/commit.h"
#include "api/access/authors.h"
#include "api/access/open_as.h"
#include "api/definition/definition.h"
#include "api/definition/vm_config.h"
#include "api/jobs/archiver.h"
#include "api/jobs/commit_ready.h"
#include "api/jobs/job_recover.h"
#include "api/jobs/snapshots.h"
#include "api/store/store.h"
#include "api/vm/former_files.h"
#include "api/vm/image_users.h"
#include "api/vm/mirrors.h"
#include "api/vm/observer.h"
#include "api/vm/vm.h"
#include "api/vm/vm_compat.h"
#include "api/vm/vm_layers.h"
#include "api/vm/vm_process.h"
#include "api/wire/json.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/shell_word.h"
#include "base/util.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define AGAIN_NS 100000000ULL
#define TRIES 100

struct commit {
	struct job *job;
	struct vm *vm;
	struct open_as *opener;
	struct definition *only; /* owned: the disk from its base on, and the layer above top; NULL: opened */
	struct vm_disk_commit body;
	char id[16];
	char path[4096]; /* of the disk's image when the job began */
	unsigned top, base;
	bool ready; /* as in struct commit_opts */
	bool live; /* the VM ran when the job began */
	bool resumed; /* an earlier commit of the same layers may have dropped them */
	struct loop_timer *retry_timer; /* NULL: none */
	struct loop_timer *again; /* for a commit of an earlier daemon, which the process may still be ending; else NULL */
	struct store_work stored; /* of the mark, and later of the definitions */
	unsigned tries;
	bool failed; /* because of `why` */
	struct err why;
};

static void commit_free(struct commit *x)
{
	loop_timer_free(x->retry_timer);
	loop_timer_free(x->again);
	open_as_free(x->opener);
	definition_free(x->only);
	free(x);
}

static void commit_fail(struct commit *x, const struct err *e)
{
	job_fail(x->job, e);
	commit_free(x);
}

/* ---- the mark ---- */

/* While the process of a running VM may drop layers, state.json has the commit: if this daemon ends, the next one
 * begins the commit again, and so learns whether the layers are gone. */
static void mark_set(struct commit *x, const struct definition_disk *d)
{
	struct json_object *o = json_object_new_object();

	js_put_str(o, "disk", d->id);
	js_put_str(o, "top", d->layers[x->top].path);
	js_put_str(o, "base", d->layers[x->base].path);
	js_put_uint(o, "rate", x->body.rate_bytes_per_s);
	json_object_put(x->vm->commit);
	x->vm->commit = o;
}

static void mark_drop(struct vm *vm)
{
	json_object_put(vm->commit);
	vm->commit = NULL;
}

static void mark_put(const struct vm *vm, struct json_object *state)
{
	if (vm->commit)
		js_put(state, "committing", json_object_get(vm->commit));
}

static void mark_load(struct vm *vm, struct json_object *state)
{
	vm->commit = json_object_get(js_get(state, "committing"));
}

/* Refuse another commit while it is not known whether an earlier one has dropped layers. */
static int mark_check(const struct vm *vm, const struct commit_opts *o, struct err *e)
{
	const char *disk = js_get_str_or(vm->commit, "disk", ""), *top = js_get_str_or(vm->commit, "top", ""),
		   *base = js_get_str_or(vm->commit, "base", "");

	if (!vm->commit || (!strcmp(o->disk, disk) && o->top && !strcmp(o->top, top) && o->base && !strcmp(o->base, base)))
		return 0;
	return err_set(e, -EBUSY, ERR_BUSY, "it is not known how an earlier commit has ended; repeat it first: cairn blockcommit %s %s "
		"--top %s --base %s", shell_word(vm->def->name).s, disk, shell_word(top).s, shell_word(base).s);
}

/* The caller saves. */
static void mark_state_changed(struct vm *vm, enum vm_trigger t)
{
	(void)t;
	if (!vm_state_is_active(vm->state))
		mark_drop(vm);
}

/* ---- the definition ---- */

static void definition_update(void *opaque);

static bool update_later(struct commit *x)
{
	if (x->tries++ >= TRIES)
		return false;
	if (!x->retry_timer && loop_timer_new(x->vm->host->loop, definition_update, x, &x->retry_timer) < 0)
		return false;
	loop_timer_arm(x->retry_timer, loop_now_ns() + AGAIN_NS);
	return true;
}

/* Return the index of the disk in a definition; -1: it is not there, or has other layers. ret_image: the number of the
 * layer that was the image; the next start may have overlays above. */
static int disk_find(const struct commit *x, const struct definition *of, unsigned *ret_image)
{
	int at = definition_disk_find(of, x->id);
	const struct definition_disk *d = at < 0 ? NULL : &of->disks[at];

	for (unsigned i = 0; d && i + x->base < d->nlayers; i++) {
		*ret_image = i;
		if (!strcmp(d->layers[i].path, x->path) && !strcmp(d->layers[i + x->base].path, x->only->disks[0].layers[0].path))
			return at;
	}
	return -1;
}

/* Return a copy of a definition without the layers that were committed; NULL: it has others for the disk. */
static struct definition *definition_without(const struct commit *x, const struct definition *of)
{
	CLEANUP_JS struct json_object *o = definition_to_json(of);
	unsigned image = 0;
	int at = disk_find(x, of, &image);
	struct definition *def;
	struct err e;

	if (at < 0)
		return NULL;
	vm_layers_drop(json_object_array_get_idx(js_get_array(o, "disks"), (size_t)at), image + x->top, image + x->base);
	if (definition_parse_stored(o, &def, &e) < 0)
		return NULL;
	return def;
}

/* A client that is notified of the end finds both definitions changed, also after a kill of the daemon. */
static void live_stored(struct store_work *work)
{
	struct commit *x = container_of(work, struct commit, stored);

	if (x->failed) {
		commit_fail(x, &x->why);
		return;
	}
	job_succeed(x->job, NULL);
	commit_free(x);
}

static void end_store(struct commit *x)
{
	mark_drop(x->vm);
	vm_save(x->vm);
	x->stored = (struct store_work){ .done = live_stored, .loop = x->vm->host->loop };
	store_after(x->vm->host->store, &x->stored);
}

/* Fail: the disk has its layers, and no later daemon begins the commit again. */
static void unchanged_fail(struct commit *x, const struct err *e)
{
	if (!x->vm->commit) {
		commit_fail(x, e);
		return;
	}
	x->failed = true;
	x->why = *e;
	end_store(x);
}

static void live_update(struct commit *x)
{
	struct vm *vm = x->vm;
	struct definition *def = x->live && vm->proc ? definition_without(x, vm_live(vm)) : NULL;

	if (def) {
		authors_copy(vm_live(vm), def);
		vm_live_replace(vm, def);
	}
	end_store(x);
}

static void definition_defined(void *opaque, int r, const struct vm_defined *what, const struct err *e)
{
	struct commit *x = opaque;

	(void)what;
	if (r == -EBUSY && update_later(x))
		return;
	x->failed = r < 0;
	if (r < 0)
		err_set(&x->why, r, e->cls, "all data is in %.300s, but the definition still names the layers above it: %.300s",
			x->only->disks[0].layers[0].path, e->msg);
	live_update(x);
}

/* Drop the layers from the definition. If the daemon dies before, the disk reads the same with them. */
static void definition_update(void *opaque)
{
	struct commit *x = opaque;
	struct vm *vm = x->vm;
	struct definition *def = definition_without(x, vm->def);
	unsigned image;
	int at = disk_find(x, vm_live(vm), &image);

	if (at >= 0 && !image)
		former_files_add(vm, vm_live(vm), &vm_live(vm)->disks[at], x->top, x->base);
	if (def) {
		authors_copy(vm->def, def);
		vm_define(vm->host, def, VM_REDEFINE, NULL, definition_to_json(vm->def), definition_defined, x);
		return;
	}
	live_update(x);
}

/* ---- the job ---- */

/* Do nothing: commit_opened() checks for the cancel. */
static void cancel_early(struct job *j)
{
	(void)j;
}

static void commit_done(void *opaque, int r, const struct vm_answer *a, const struct err *e)
{
	struct commit *x = opaque;

	(void)a;
	if (x->resumed && r == -EREMOTEIO && (e->cls == ERR_BUSY || e->cls == ERR_WRONG_STATE)) { /* the answer tells nothing about the layers */
		if (e->cls == ERR_BUSY && x->again && x->tries++ < TRIES) {
			x->job->cancel = cancel_early; /* only a commit that has begun can tell */
			loop_timer_arm(x->again, loop_now_ns() + AGAIN_NS);
		} else {
			commit_fail(x, e);
		}
	} else if (r == -EREMOTEIO) {
		unchanged_fail(x, e);
	} else if (r < 0) {
		commit_fail(x, e);
	} else if (x->live && !x->top) { /* both images get each change */
		const struct definition_layer *base = &x->only->disks[0].layers[0];
		const char *format = definition_format_name(base->format);

		mirrors_add(x->vm, x->id, x->job->type, base->path, format, 0);
		vm_save(x->vm);
		if (x->ready)
			commit_ready(x->job, x->vm, x->id, x->path, base->path, format);
		else
			job_succeed(x->job, NULL);
		commit_free(x);
	} else {
		definition_update(x);
	}
}

static void commit_opened(void *opaque, int r, struct config *c, const struct err *e)
{
	struct commit *x = opaque;
	bool opened = !r;
	struct err own;

	x->opener = NULL;
	if (!r && x->job->cancelling && !x->resumed)
		r = err_set(&own, -ECANCELED, ERR_CANCELLED, "the job was cancelled; disk %s keeps its layers", x->id);
	else if (!r && x->live && !x->vm->proc)
		r = err_set(&own, -EPERM, ERR_WRONG_STATE, "the VM has ended meanwhile");
	else if (r < 0)
		own = *e;
	if (!r) {
		c->vm.images_only = false;
		c->vm.firmware = VM_FIRMWARE_NONE;
		memcpy(x->body.config, &c->vm, VM_PLUG_BYTES);
		x->job->cancel = snapshots_cancel;
		snapshots_request_fds(x->vm, VM_MSG_DISK_COMMIT, &x->body, sizeof(x->body), c->fds, c->nfds, VM_PROCESS_NO_TIMEOUT,
			commit_done, x);
		if (x->job->cancelling) /* the process may have dropped the layers; its answer tells */
			snapshots_cancel(x->job);
	}
	if (opened)
		config_done(c);
	if (r < 0 && x->resumed)
		commit_fail(x, &own);
	else if (r < 0)
		unchanged_fail(x, &own);
}

static void commit_open(void *opaque)
{
	struct commit *x = opaque;

	open_as_open(x->vm->host->helpers, x->only, OPEN_AS_IMAGES, commit_opened, x, &x->opener);
}

static void mark_stored(struct store_work *work)
{
	struct commit *x = container_of(work, struct commit, stored);
	struct err e = work->e;

	if (work->r < 0)
		unchanged_fail(x, &e);
	else
		commit_open(x);
}

/* ---- the layers to commit ---- */

static int layer_find(const struct definition_disk *d, const char *path, struct err *e)
{
	for (unsigned i = 0; i < d->nlayers; i++)
		if (!strcmp(d->layers[i].path, path))
			return (int)i;
	return err_set(e, -ENOENT, ERR_NOT_FOUND, "disk %s has no layer %.300s; cairn domblklist --format json and cairn-img info --backing-chain show "
		"them", d->id, path);
}

static int layers_choose(struct commit *x, const struct definition_disk *d, const struct commit_opts *o, struct err *e)
{
	int top = o->top ? layer_find(d, o->top, e) : 0, base;

	if (top < 0)
		return top;
	base = o->base ? layer_find(d, o->base, e) : o->shallow ? top + 1 : d->nlayers - 1;
	if (base < 0)
		return base;
	if (o->base && base <= top)
		return err_set(e, -EINVAL, ERR_INVALID, "%.190s is not below %.190s in disk %s; see cairn domblklist --format json", o->base,
			d->layers[top].path, d->id);
	if (d->nlayers < 2 || base <= top || base >= d->nlayers)
		return err_set(e, -EINVAL, ERR_INVALID, "disk %s has no layer below %.300s to commit to", d->id, d->layers[top].path);
	if (!top && x->live && !o->active)
		return err_set(e, -EINVAL, ERR_INVALID, "%.300s is the active layer of disk %s, to which the guest writes; to commit it, give --active or "
			"--pivot to cairn blockcommit", d->layers[0].path, d->id);
	x->top = (unsigned)top;
	x->base = (unsigned)base;
	return 0;
}

/* Check that the next start reads the base through the layers that are committed, or not at all: with another overlay
 * on the base, it would read the committed data. */
static int next_check(const struct commit *x, const struct definition_disk *d, struct err *e)
{
	const struct definition_disk *next = vm_layers_next(x->vm, d->id, d->layers[x->base].path);
	unsigned at = 0, n = x->base - x->top;

	while (next && strcmp(next->layers[at].path, d->layers[x->base].path))
		at++;
	for (unsigned i = 1; next && i <= n; i++)
		if (i > at || strcmp(next->layers[at - i].path, d->layers[x->base - i].path))
			return err_set(e, -EPERM, ERR_WRONG_STATE, "disk %s: the definition of the next start has the image %.190s, which reads "
				"%.190s, so that must not change; change the definition first, with cairn edit", d->id, next->layers[0].path,
				d->layers[x->base].path);
	return 0;
}

static int commit_check(struct commit *x, const struct commit_opts *o, const struct definition_disk **ret, struct err *e)
{
	const struct vm *vm = x->vm;
	const struct definition_disk *d = NULL;
	int r = vm_check_claim(vm, VM_CLAIM_SNAPSHOTS, "commit its disk", e);

	x->live = vm->proc && vm_state_is_active(vm->state);
	if (!r && vm->disk_change.before)
		r = err_set(e, -EBUSY, ERR_BUSY, "disk %s of VM '%.200s' is being changed; try again", vm->disk_change.disks[0].id, vm->def->name);
	if (!r)
		r = mark_check(vm, o, e);
	if (!r)
		r = x->live ? vm_compat_check_live(vm, VM_KNOWS_DISK_LAYERS, e) : image_check_writable(vm, "commit its disk", e);
	if (r < 0)
		return r;
	for (unsigned i = 0; i < vm_live(vm)->ndisks; i++) {
		const struct definition_disk *y = &vm_live(vm)->disks[i];

		if (y->nlayers && (!strcmp(y->id, o->disk) || !strcmp(y->layers[0].path, o->disk)))
			d = y;
	}
	if (!d)
		return err_set(e, -ENOENT, ERR_NOT_FOUND, "VM '%s' has no disk '%.200s'; see cairn domblklist", vm->def->name, o->disk);
	if (d->read_only)
		return err_set(e, -ENOTSUP, ERR_UNSUPPORTED, "disk '%s' of VM '%s' is read-only", d->id, vm->def->name);
	*ret = d;
	r = layers_choose(x, d, o, e);
	if (!r && !x->resumed) /* then the definition may lack the layers already */
		r = next_check(x, d, e);
	return r < 0 ? r : image_check_base(vm, d->id, d->layers[x->base].path, e);
}

/* A definition with the disk from its base on, and a disk that begins with the layer whose header changes. Its files
 * are opened, each with the rights of its author. */
static int only_make(struct commit *x, struct err *e)
{
	CLEANUP_JS struct json_object *o = definition_to_json(vm_live(x->vm));
	struct json_object *all = js_get_array(o, "disks"), *disks = json_object_new_array(), *above = NULL, *disk;
	bool knows = x->live && vm_process_knows(x->vm->proc, VM_KNOWS_COMMIT_ABOVE);
	int r;

	disk = json_object_get(json_object_array_get_idx(all, (size_t)definition_disk_find(vm_live(x->vm), x->id)));
	if (x->top > 1 || (x->top && knows)) {
		json_object_deep_copy(disk, &above, NULL);
		js_put_str(above, "id", "above");
		json_object_object_del(above, "serial");
		json_object_object_del(above, "wwn");
		vm_layers_drop(above, 0, x->top - 1);
	}
	vm_layers_drop(disk, 0, x->base);
	json_object_array_add(disks, disk);
	if (above)
		json_object_array_add(disks, above);
	js_put(o, "disks", disks);
	json_object_object_del(o, "interfaces");
	r = definition_parse_stored(o, &x->only, e);
	if (!r)
		authors_copy(vm_live(x->vm), x->only);
	return r;
}

static int commit_new(struct vm *vm, const struct commit_opts *o, struct commit **ret, const struct definition_disk **ret_d, struct err *e)
{
	struct commit *x = must_alloc(calloc(1, sizeof(*x)));
	const struct definition_disk *d = NULL;
	int r;

	*ret = x;
	x->vm = vm;
	x->ready = o->ready;
	x->resumed = vm->commit != NULL;
	r = commit_check(x, o, &d, e);
	*ret_d = d;
	if (!r) {
		snprintf(x->id, sizeof(x->id), "%s", d->id);
		snprintf(x->path, sizeof(x->path), "%s", d->layers[0].path);
		x->body.rate_bytes_per_s = o->rate;
		x->body.top = (uint8_t)x->top;
		x->body.base = (uint8_t)x->base;
		if (strlen(d->layers[x->base].path) >= sizeof(x->body.backing_name))
			r = err_set(e, -ENAMETOOLONG, ERR_UNSUPPORTED, "the path of the base is too long for a header");
		snprintf(x->body.backing_name, sizeof(x->body.backing_name), "%s", d->layers[x->base].path);
	}
	return r ? r : only_make(x, e);
}

static void commit_begin(struct commit *x, const struct definition_disk *d, struct job *j)
{
	x->job = j;
	snprintf(j->disk, sizeof(j->disk), "%s", d->id);
	j->speed = x->body.rate_bytes_per_s;
	j->cancel = cancel_early;
	if (!x->live || !x->top) {
		commit_open(x);
		return;
	}
	mark_set(x, d);
	x->stored = (struct store_work){ .done = mark_stored, .loop = x->vm->host->loop };
	vm_save_first(x->vm, &x->stored);
}

int disk_commit(struct vm *vm, const struct commit_opts *o, struct job **ret_j, struct err *e)
{
	const struct definition_disk *d;
	struct commit *x;
	int r = commit_new(vm, o, &x, &d, e);

	if (!r)
		r = job_new_named(vm, "blockcommit", &o->name, ret_j, e);
	if (r < 0) {
		commit_free(x);
		return r;
	}
	commit_begin(x, d, *ret_j);
	return 0;
}

static bool has_layer(const struct vm *vm, const char *disk, const char *path)
{
	int at = definition_disk_find(vm_live(vm), disk);
	struct err e;

	return at >= 0 && path && layer_find(&vm_live(vm)->disks[at], path, &e) >= 0;
}

/* Begin the commit of an earlier daemon again, as the same job. The VM's process has completed it, or cancels it
 * because the earlier daemon's connection is gone. */
static void commit_resume(struct vm *vm, const struct vm_info *info)
{
	struct commit_opts o = { .disk = js_get_str_or(vm->commit, "disk", ""), .top = js_get_str(vm->commit, "top"),
		.base = js_get_str(vm->commit, "base"), .rate = (uint64_t)MAX(js_get_int(vm->commit, "rate", 0), 0) };
	const struct definition_disk *d;
	struct commit *x;
	struct job *j;
	struct err e;
	int r;

	(void)info;
	if (!vm->commit)
		return;
	r = commit_new(vm, &o, &x, &d, &e);
	if (r == -ENOENT && has_layer(vm, o.disk, o.base)) { /* the earlier daemon had stored the definition without the layers */
		mark_drop(vm);
		vm_save(vm);
		if (!job_adopt(vm, "blockcommit", &j, &e))
			job_succeed(j, NULL);
		commit_free(x);
		return;
	}
	if (!r)
		r = job_adopt(vm, "blockcommit", &j, &e);
	if (r < 0) {
		log_warn("commit", "VM '%s': the commit of disk %s does not begin again: %s", vm->def->name, o.disk, e.msg);
		commit_free(x);
		return;
	}
	log_info("commit", "VM '%s': the commit of disk %s begins again as %s, because the daemon ended", vm->def->name, d->id, j->id);
	if (loop_timer_new(vm->host->loop, commit_open, x, &x->again) < 0)
		x->again = NULL;
	commit_begin(x, d, j);
}

const struct vm_observer commit_observer = { .removed = mark_drop, .adopted = commit_resume, .state_changed = mark_state_changed,
	.state_put = mark_put, .state_load = mark_load };
