#include "api/vm/disk_change.h"
#include "api/access/authors.h"
#include "api/access/open_as.h"
#include "api/access/rights.h"
#include "api/schema/call.h"
#include "api/store/store.h"
#include "api/vm/former_files.h"
#include "api/vm/image_users.h"
#include "api/vm/pin_scan.h"
#include "api/vm/pins.h"
#include "api/vm/vm.h"
#include "api/vm/vm_compat.h"
#include "api/vm/vm_disk_free.h"
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

#define CHANGE_TIMEOUT_NS (30 * 1000000000ULL)
#define AGAIN_NS 100000000ULL

struct disk_change {
	const struct disk_change_kind *kind;
	struct call *call; /* NULL: answered */
	void (*answer)(void *call, int r, const struct err *e);
	struct vm_host *host;
	uint8_t uuid[16];
	uint64_t run;		   /* the VM's run that the disk is for */
	uint64_t changes;	   /* vm.live_changes when next was made */
	struct definition *before; /* owned: the definition that the VM ran with then; NULL: the VM has it */
	struct definition *next;   /* owned: the definition with the disk; NULL: the VM has it */
	struct definition *only;   /* owned: a definition with the changed disks alone */
	struct config config;
	bool opened;
	bool check_only;
	struct pin_scan *scan;
	struct open_as *opener;
	struct loop_timer *again; /* of change_fence(); NULL: none */
	struct store_work stored; /* of the definition with the disk */
	unsigned n, at[VM_DISKS_MAX]; /* the changed disks */
	struct vm_changed_disk disks[VM_DISKS_MAX];
};

static void change_free(struct disk_change *w)
{
	definition_free(w->before);
	definition_free(w->next);
	definition_free(w->only);
	if (w->opened)
		config_done(&w->config);
	pin_scan_free(w->scan);
	loop_timer_free(w->again);
	free(w);
}

/* Return the VM in the run that the disk is for; NULL: that run has ended. */
static struct vm *run_find(const struct disk_change *w)
{
	struct vm *vm = vm_find_uuid(w->host, w->uuid);

	return vm && vm->run == w->run && vm->proc ? vm : NULL;
}

/* A client that lost its role meanwhile learns nothing about the VM from the error. */
static void call_answer(struct disk_change *w, int r, const struct err *e)
{
	struct call *c = STEAL_PTR(w->call);
	struct err own;

	c->vm = vm_find_uuid(w->host, w->uuid);
	if (r < 0 && call_check_role(c, ROLE_ADMIN, c->vm, &own) < 0)
		e = &own;
	w->answer(c, r, e);
}

static void change_fail(struct disk_change *w, const struct err *e)
{
	call_answer(w, -EIO, e);
	change_free(w);
}

/* ---- the definition that the VM runs with ---- */

/* Note the image of a disk: of a further one, of one that has another, or of one that is removed (image NULL). Returns
 * the image that it had. */
static struct file_id image_note(struct vm *vm, unsigned at, const struct file_id *image)
{
	unsigned n = vm_live(vm)->ndisks;
	struct file_id old = { 0 };

	if (vm->ndisk_ids != n || at >= VM_DISKS_MAX)
		return old; /* the previous bounds are unknown */
	if (at < n)
		old = vm->disk_ids[at];
	if (image) {
		vm->disk_ids[at] = *image;
		vm->ndisk_ids = MAX(n, at + 1);
	} else {
		memmove(&vm->disk_ids[at], &vm->disk_ids[at + 1], (n - at - 1) * sizeof(vm->disk_ids[0]));
		vm->ndisk_ids--;
	}
	return old;
}

/* Change a disk of the running definition. disk: taken; NULL: remove the disk. before: has the authors of files that
 * the running definition lacks. image: NULL: only with disk NULL. */
static void live_change(struct vm *vm, unsigned at, struct json_object *disk, const struct definition *before,
	const struct file_id *image)
{
	CLEANUP_JS struct json_object *o = definition_to_json(vm_live(vm));
	struct json_object *disks = js_get_array(o, "disks");
	struct definition *d;
	struct err e;

	if (disk)
		json_object_array_put_idx(disks, at, disk);
	else
		json_object_array_del_idx(disks, at, 1);
	if (definition_parse_stored(o, &d, &e) < 0) {
		log_error("plug", "VM '%s': %s", vm->def->name, e.msg);
		return;
	}
	image_note(vm, at, image);
	authors_restore(d, vm_live(vm), before);
	vm_live_change(vm, d);
}

void disk_change_remove(struct vm *vm, const char *id)
{
	int at = definition_disk_find(vm_live(vm), id);

	if (at >= 0)
		live_change(vm, (unsigned)at, NULL, vm_live(vm), NULL);
}

/* Make the disk as it was in c->before, or remove it. Other parts of the definition may have changed since. */
static void disk_restore(struct vm *vm, const struct vm_disk_change *c, const struct vm_changed_disk *d)
{
	CLEANUP_JS struct json_object *o = definition_to_json(c->before);
	int at = definition_disk_find(vm_live(vm), d->id), was = definition_disk_find(c->before, d->id);

	if (at >= 0 && was >= 0)
		live_change(vm, (unsigned)at, json_object_get(json_object_array_get_idx(js_get_array(o, "disks"), (size_t)was)),
			c->before, &d->old_image);
	else
		disk_change_remove(vm, d->id);
}

/* ---- the disk in doubt ---- */

static bool disk_has(const struct definition_disk *d, const char *path)
{
	for (unsigned i = 0; i < d->nlayers; i++)
		if (!strcmp(d->layers[i].path, path))
			return true;
	return false;
}

/* Note the layers that a disk has lost to a copy or to its base, which has the same content. An exchanged medium is no
 * such file: the user may insert it again. */
static void former_note(struct vm *vm, const struct definition *before, const char *id)
{
	int at = definition_disk_find(vm_live(vm), id), was = definition_disk_find(before, id);
	const struct definition_disk *d = was < 0 ? NULL : &before->disks[was];

	if (at < 0 || !d || d->device == DEFINITION_CDROM)
		return;
	for (unsigned i = 0; i < d->nlayers; i++)
		if (!disk_has(&vm_live(vm)->disks[at], d->layers[i].path))
			former_files_add(vm, before, d, i, i + 1);
}

/* has: the process has the disk. Then state.json may keep the doubt until the VM's next change: a daemon that finds it
 * there resolves it likewise. */
static void doubt_resolve(struct vm *vm, bool has)
{
	struct vm_disk_change c = vm->disk_change;

	vm->disk_change = (struct vm_disk_change){ 0 };
	if (!c.before)
		return;
	for (unsigned i = 0; i < c.n; i++) {
		if (has)
			former_note(vm, c.before, c.disks[i].id);
		else
			disk_restore(vm, &c, &c.disks[i]);
	}
	definition_free(c.before);
}

static int info_find(const struct vm_info *info, const char *id)
{
	for (unsigned i = 0; i < MIN(info->ndisks, VM_DISKS_MAX); i++)
		if (!strncmp(info->disks[i].id, id, sizeof(info->disks[i].id)))
			return (int)i;
	return -ENOENT;
}

/* The process has all of the changed disks or none of them. */
static bool process_has(const struct vm_info *info, const struct vm_disk_change *c)
{
	const struct vm_changed_disk *d = &c->disks[0];
	int at = info_find(info, d->id);

	return at >= 0 && info->images[at].dev == d->image.dev && info->images[at].ino == d->image.ino;
}

static bool is_in_doubt(const struct vm_disk_change *c, const char *id)
{
	for (unsigned i = 0; c->before && i < c->n; i++)
		if (!strcmp(c->disks[i].id, id))
			return true;
	return false;
}

static void process_compare(struct vm *vm, const struct vm_info *info)
{
	struct vm_disk_change *c = &vm->disk_change;

	if (!info->plugs)
		return;
	if (c->before && !c->answer_follows)
		doubt_resolve(vm, process_has(info, c));
	for (unsigned i = vm_live(vm)->ndisks; i-- > 0;) {
		char id[sizeof(c->disks[0].id)];

		snprintf(id, sizeof(id), "%s", vm_live(vm)->disks[i].id);
		if (info_find(info, id) >= 0 || is_in_doubt(c, id))
			continue;
		log_info("plug", "VM '%s' has no disk %s any more", vm->def->name, id);
		disk_change_remove(vm, id);
	}
}

/* ---- planning ---- */

/* Make a definition with the changed disks alone, whose files are opened. */
static int only_make(struct disk_change *w, struct err *e)
{
	CLEANUP_JS struct json_object *o = definition_to_json(w->next);
	struct json_object *disks = json_object_new_array();
	int r;

	for (unsigned i = 0; i < w->n; i++)
		json_object_array_add(disks, json_object_get(json_object_array_get_idx(js_get_array(o, "disks"), w->at[i])));
	js_put(o, "disks", disks);
	json_object_object_del(o, "interfaces");
	r = definition_parse_stored(o, &w->only, e);
	if (!r)
		authors_copy(w->next, w->only);
	return r;
}

static int change_plan(struct disk_change *w, const struct vm *vm, struct err *e)
{
	CLEANUP_JS struct json_object *o = definition_to_json(vm_live(vm));
	struct json_object *disks = js_get_array(o, "disks");
	const char *folder = js_get_str(w->call->args, "folder");
	int n, r;

	if (folder && *folder != '/')
		return err_set(e, -EINVAL, ERR_INVALID, "folder: must be an absolute path");
	if (!disks) {
		disks = json_object_new_array();
		js_put(o, "disks", disks);
	}
	n = w->kind->plan(w->call, vm, disks, w->at, e);
	r = n < 0 ? n : definition_parse(o, folder, &w->next, e);
	if (!r)
		r = rights_of_peer(&w->call->who, &w->next->rights, e);
	if (r < 0)
		return r;
	authors_inherit(w->next, vm_live(vm));
	w->n = (unsigned)n;
	w->changes = vm->live_changes;
	for (unsigned i = 0; i < w->n; i++)
		snprintf(w->disks[i].id, sizeof(w->disks[i].id), "%s", w->next->disks[w->at[i]].id);
	r = authors_definition_copy(vm_live(vm), &w->before, e);
	return r ? r : only_make(w, e);
}

/* ---- the steps ---- */

/* Return the VM if the client may still change it, and it is in the run that the disk is for; NULL with an error: it
 * may not, or the VM has ended, or changed. */
static struct vm *change_vm(struct disk_change *w, struct err *e)
{
	struct vm *vm = vm_find_uuid(w->host, w->uuid);

	w->call->vm = vm;
	if (call_check_role(w->call, ROLE_ADMIN, vm, e) < 0)
		return NULL;
	if (!run_find(w) || vm_compat_check_live(vm, w->kind->known, e) < 0) {
		err_set(e, -EPERM, ERR_WRONG_STATE, "the VM has ended meanwhile");
		return NULL;
	}
	if (w->next && (vm->live_changes != w->changes || vm->disk_change.before)) {
		err_set(e, -EBUSY, ERR_BUSY, "VM '%.200s' was changed by another user meanwhile; repeat the change", vm->def->name);
		return NULL;
	}
	return vm;
}

static void change_queried(void *opaque, int r, const struct vm_answer *a, const struct err *e)
{
	struct disk_change *w = opaque;
	struct vm *vm = run_find(w);

	if (vm)
		vm->disk_change.answer_follows = false;
	if (vm && r < 0 && r != -ESRCH)
		log_warn("plug", "VM '%s': it is not known whether its process has disk %s: %s", vm->def->name, w->disks[0].id, e->msg);
	if (vm && !r)
		process_compare(vm, a->info);
	change_free(w);
}

static void change_fence(struct disk_change *w);

static void fence_again(void *opaque)
{
	struct disk_change *w = opaque;

	if (run_find(w))
		change_fence(w);
	else
		change_free(w);
}

/* The process is busy, perhaps with the change. */
static bool fence_later(struct disk_change *w)
{
	if (!w->again && loop_timer_new(w->host->loop, fence_again, w, &w->again) < 0)
		return false;
	loop_timer_arm(w->again, loop_now_ns() + AGAIN_NS);
	return true;
}

static void fence_passed(void *opaque, int r, const struct vm_answer *a, const struct err *e)
{
	struct disk_change *w = opaque;
	struct vm *vm = run_find(w);

	(void)a;
	if (vm && r == -EREMOTEIO && e->cls == ERR_BUSY && fence_later(w))
		return;
	if (vm && r == -ETIMEDOUT)
		change_fence(w);
	else if (vm)
		vm_process_request(vm->proc, VM_MSG_QUERY, NULL, 0, -1, VM_PROCESS_NO_TIMEOUT, change_queried, w);
	else
		change_free(w);
}

/* Ask for the removal of no device, which the process refuses once it has handled the change: it answers VM_MSG_QUERY
 * also while a change waits for other jobs, but keeps changes in order. */
static void change_fence(struct disk_change *w)
{
	static const struct vm_unplug none = { .force = true };

	vm_process_request(run_find(w)->proc, VM_MSG_UNPLUG, &none, sizeof(none), -1, CHANGE_TIMEOUT_NS, fence_passed, w);
}

void disk_change_compare(struct vm *vm, const struct vm_info *info)
{
	struct disk_change *w;

	/* A process of before VM_CHECKS_ABOVE does not tell whether it works. */
	bool works = info->works || (info->plugs && info->copies_disks < VM_CHECKS_ABOVE);

	if (!vm->disk_change.before || vm->disk_change.answer_follows || !works) {
		process_compare(vm, info);
		return;
	}
	/* Perhaps the process still makes the change for an earlier daemon. */
	w = must_alloc(calloc(1, sizeof(*w)));
	w->host = vm->host;
	memcpy(w->uuid, vm->def->uuid, sizeof(w->uuid));
	w->run = vm->run;
	w->disks[0] = vm->disk_change.disks[0]; /* for the log */
	vm->disk_change.answer_follows = true;
	change_fence(w);
}

/* The answer is lost, or comes late. Query whether the process has the disk. */
static void change_query(struct disk_change *w, const struct err *e)
{
	call_answer(w, -EIO, e);
	if (run_find(w))
		change_fence(w);
	else
		change_free(w);
}

static void change_done(void *opaque, int r, const struct vm_answer *a, const struct err *e)
{
	struct disk_change *w = opaque;
	struct vm *vm = run_find(w);

	(void)a;
	if (r < 0 && r != -EREMOTEIO) {
		change_query(w, e);
		return;
	}
	if (vm)
		doubt_resolve(vm, !r);
	w->call->when_stored = !r;
	call_answer(w, r, e);
	change_free(w);
}

static void process_ask(struct disk_change *w, struct vm *vm,
	void (*done)(void *opaque, int r, const struct vm_answer *a, const struct err *e))
{
	size_t bytes = VM_PLUG_BYTES;

	w->config.vm.images_only = false;
	w->config.vm.firmware = VM_FIRMWARE_NONE; /* the message names no files of a UEFI, which the process has */
	w->config.vm.disk_more[0].force = js_get_bool(w->call->args, "force", false);
	w->config.vm.disk_more[0].check_only = w->check_only;
	if (w->kind->type == VM_MSG_PLUG && vm_process_knows(vm->proc, VM_KNOWS_DISK_TUNE))
		bytes = VM_PLUG_TUNE_BYTES;
	vm_process_request_fds(vm->proc, w->kind->type, &w->config.vm, bytes, w->config.fds, w->config.nfds,
		CHANGE_TIMEOUT_NS, done, w);
}

/* The definition with the disk is in the VM's folder. */
static void change_send(struct store_work *work)
{
	struct disk_change *w = container_of(work, struct disk_change, stored);
	struct err e = work->e;
	struct vm *vm = work->r < 0 ? NULL : change_vm(w, &e);

	if (!vm) {
		vm = run_find(w);
		if (vm)
			doubt_resolve(vm, false);
		change_fail(w, &e);
		return;
	}
	process_ask(w, vm, change_done);
}

static void checked(void *opaque, int r, const struct vm_answer *a, const struct err *e)
{
	struct disk_change *w = opaque;

	(void)a;
	call_answer(w, r, e);
	change_free(w);
}

/* Store the definition first: if this daemon is killed, the next one knows of the disk. */
static void change_store(struct disk_change *w)
{
	struct pin_scan_result found = { 0 };
	struct vm *vm;
	struct err e;

	vm = change_vm(w, &e);
	if (!vm) {
		change_fail(w, &e);
		return;
	}
	if (w->scan)
		pin_scan_take(w->scan, &found);
	/* Before the image is in use, so that its pin is not deleted. */
	if ((found.added || found.replaced || (w->scan && pins_are_unsaved(w->host))) && pins_store(w->host, &e) < 0) {
		change_fail(w, &e);
		return;
	}
	for (unsigned i = 0; i < w->n; i++)
		w->disks[i].old_image = image_note(vm, w->at[i], &w->disks[i].image);
	vm->disk_change = (struct vm_disk_change){ .before = STEAL_PTR(w->before), .answer_follows = true, .n = w->n };
	memcpy(vm->disk_change.disks, w->disks, sizeof(w->disks));
	vm_live_change(vm, STEAL_PTR(w->next));
	w->stored = (struct store_work){ .done = change_send, .loop = w->host->loop };
	vm_save_first(vm, &w->stored);
}

static void change_scanned(void *opaque)
{
	change_store(opaque);
}

static int images_check(struct disk_change *w, const struct vm *vm, struct err *e)
{
	int r = 0;

	for (unsigned i = 0; i < w->n && !r; i++) {
		const struct definition_disk *d = &w->only->disks[i];
		struct vm_changed_disk *x = &w->disks[i];

		if (config_identify(&w->config, w->config.vm.disks[i].fd[0], &x->image) < 0)
			r = err_set(e, -EIO, ERR_IO, "%s: cannot identify the image", x->id);
		else if (d->nlayers)
			r = vm_disk_check_free(vm, vm_live(vm), d, &x->image, x->id, e);
		if (!r && d->nlayers && !d->read_only)
			r = image_check_added(vm, x->id, d->layers[0].path, e);
	}
	return r;
}

static void change_opened(void *opaque, int r, struct config *c, const struct err *e)
{
	struct disk_change *w = opaque;
	struct vm *vm;
	struct err own;

	w->opener = NULL;
	if (r < 0) {
		change_fail(w, e);
		return;
	}
	w->config = *c;
	w->opened = true;
	vm = change_vm(w, &own);
	if (!vm || images_check(w, vm, &own) < 0) {
		change_fail(w, &own);
		return;
	}
	if (w->check_only) {
		process_ask(w, vm, checked);
		return;
	}
	w->scan = pin_scan_begin(w->host, w->only, change_scanned, w);
	if (!w->scan)
		change_store(w);
}

void disk_change_begin(struct call *c, const struct disk_change_kind *kind, void (*answer)(void *call, int r, const struct err *e))
{
	struct disk_change *w = must_alloc(calloc(1, sizeof(*w)));
	struct err e;
	int r = vm_compat_check_live(c->vm, kind->known, &e);

	w->kind = kind;
	w->call = c;
	w->answer = answer ? answer : call_done;
	w->host = c->host;
	memcpy(w->uuid, c->vm->def->uuid, sizeof(w->uuid));
	w->run = c->vm->run;
	w->check_only = js_get_bool(c->args, "check-only", false);
	if (!r && c->vm->commit && (kind->type == VM_MSG_DISK_LAYERS || kind->type == VM_MSG_DISK_PIVOT))
		r = err_set(&e, -EBUSY, ERR_BUSY, "a commit of a disk of VM '%.200s' is under way; try again afterwards", c->vm->def->name);
	if (!r)
		r = change_plan(w, c->vm, &e);
	if (r < 0) {
		change_fail(w, &e);
		return;
	}
	open_as_open(c->host->helpers, w->only, OPEN_AS_IMAGES, change_opened, w, &w->opener);
}
