#include "api/vm/vm_medium.h"
#include "api/access/authors.h"
#include "api/access/open_as.h"
#include "api/access/rights.h"
#include "api/schema/call.h"
#include "api/store/store.h"
#include "api/vm/pin_scan.h"
#include "api/vm/pins.h"
#include "api/vm/vm.h"
#include "api/vm/vm_compat.h"
#include "api/vm/vm_disk_free.h"
#include "api/vm/vm_process.h"
#include "api/wire/conn.h"
#include "api/wire/json.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/log.h"
#include "base/util.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MEDIUM_TIMEOUT_NS (30 * 1000000000ULL)

static const char *const of_medium[] = { "path", "format", "data_file", "backing" };

struct change {
	struct call *call;
	struct vm_host *host;
	uint8_t uuid[16];
	uint64_t run;		      /* the VM's run that the medium is for */
	struct definition *next;      /* owned: the definition with the medium; NULL: the VM has it */
	const struct definition *was; /* of the VM when next was made; only compared */
	struct definition *only;      /* owned: a definition with this drive alone */
	struct json_object *old;      /* owned: the drive with the medium that it had */
	struct config config;
	struct file_id image, old_image;
	bool opened;
	struct pin_scan *scan;
	struct open_as *opener;
	struct store_work stored; /* of the definition with the medium */
	char id[16];
};

static void change_free(struct change *w)
{
	definition_free(w->next);
	definition_free(w->only);
	json_object_put(w->old);
	if (w->opened)
		config_done(&w->config);
	pin_scan_free(w->scan);
	free(w);
}

static void change_fail(struct change *w, const struct err *e)
{
	call_fail(w->call, e);
	change_free(w);
}

static int process_check(const struct vm *vm, struct err *e)
{
	int r = vm_live_check(vm, e);

	return r || vm_process_knows(vm->proc, VM_KNOWS_MEDIUM_SET) ? r : vm_compat_refuse(vm->def->name, e);
}

static int disk_find(const struct definition *d, const char *which)
{
	for (unsigned i = 0; i < d->ndisks; i++)
		if (!strcmp(d->disks[i].id, which) || (d->disks[i].nlayers && !strcmp(d->disks[i].layers[0].path, which)))
			return (int)i;
	return -ENOENT;
}

/* Find the drive in the running definition. Returns its index or -errno. */
static int drive_find(const struct vm *vm, const char *which, struct err *e)
{
	int at = disk_find(vm_live(vm), which);

	if (at < 0)
		return err_set(e, -ENOENT, ERR_NOT_FOUND, "VM '%.200s' has no disk '%.40s'; next: cairn domblklist %.60s", vm->def->name, which,
			vm->def->name);
	if (vm_live(vm)->disks[at].device != DEFINITION_CDROM)
		return err_set(e, -EINVAL, ERR_INVALID, "disk %s is no cdrom, so it has no medium to change", vm_live(vm)->disks[at].id);
	if (vm_live(vm)->disks[at].bus != VM_BUS_SCSI)
		return err_set(e, -ENOTSUP, ERR_UNSUPPORTED, "%s is a cdrom with bus virtio, whose guest would not see the medium change: change it "
			"for the next start, with --config, or give the drive bus scsi", vm_live(vm)->disks[at].id);
	return at;
}

/* Make the running definition with the medium, and one with the drive alone, whose files are opened. */
static int change_plan(struct change *w, struct vm *vm, struct err *e)
{
	CLEANUP_JS struct json_object *o = definition_to_json(vm_live(vm)), *was = definition_to_json(vm_live(vm)), *only = NULL;
	struct json_object *medium = js_get(w->call->args, "medium"), *disks = js_get_array(o, "disks"), *disk;
	const char *folder = js_get_str(w->call->args, "folder");
	struct peer who = conn_peer(w->call->conn);
	int at = drive_find(vm, js_get_str(w->call->args, "disk"), e), r;

	if (at < 0)
		return at;
	if (folder && *folder != '/')
		return err_set(e, -EINVAL, ERR_INVALID, "folder: must be an absolute path");
	w->old = json_object_get(json_object_array_get_idx(js_get_array(was, "disks"), (size_t)at));
	disk = json_object_array_get_idx(disks, (size_t)at);
	for (size_t i = 0; i < ARRAY_SIZE(of_medium); i++) {
		json_object_object_del(disk, of_medium[i]);
		if (medium && js_get(medium, of_medium[i]))
			js_put(disk, of_medium[i], json_object_get(js_get(medium, of_medium[i])));
	}
	r = definition_parse(o, folder, &w->next, e);
	if (!r)
		r = rights_of_peer(&who, &w->next->rights, e);
	if (r < 0)
		return r;
	authors_inherit(w->next, vm_live(vm));
	snprintf(w->id, sizeof(w->id), "%s", w->next->disks[at].id);
	only = definition_to_json(w->next);
	disk = json_object_get(json_object_array_get_idx(js_get_array(only, "disks"), (size_t)at));
	disks = json_object_new_array();
	json_object_array_add(disks, disk);
	js_put(only, "disks", disks);
	json_object_object_del(only, "interfaces");
	r = definition_parse_stored(only, &w->only, e);
	if (!r)
		authors_copy(w->next, w->only);
	w->was = vm_live(vm);
	return r;
}

/* Return the VM if it still is in the run that the medium is for; NULL with an error: it has ended, or changed. */
static struct vm *change_vm(struct change *w, struct err *e)
{
	struct vm *vm = vm_find_uuid(w->host, w->uuid);

	w->call->vm = vm;
	if (!vm || vm->run != w->run || process_check(vm, e) < 0) {
		err_set(e, -EPERM, ERR_WRONG_STATE, "the VM has ended meanwhile");
		return NULL;
	}
	if (w->next && vm_live(vm) != w->was) {
		err_set(e, -EBUSY, ERR_BUSY, "VM '%.200s' was changed by another user meanwhile; repeat the change", vm->def->name);
		return NULL;
	}
	return vm;
}

/* Note the image of a drive. Returns the one that it had. */
static struct file_id image_note(struct vm *vm, int at, const struct file_id *image)
{
	struct file_id old = { 0 };

	if (vm->ndisk_ids != vm_live(vm)->ndisks)
		return old; /* not known */
	old = vm->disk_ids[at];
	vm->disk_ids[at] = *image;
	return old;
}

/* The process has refused the medium: the drive has its old one. */
static void old_restore(struct change *w, struct vm *vm)
{
	CLEANUP_JS struct json_object *o = definition_to_json(vm_live(vm));
	int at = disk_find(vm_live(vm), w->id);
	struct definition *d;
	struct err e;

	if (at < 0)
		return;
	json_object_array_put_idx(js_get_array(o, "disks"), (size_t)at, json_object_get(w->old));
	if (definition_parse_stored(o, &d, &e) < 0) {
		log_error("medium", "VM '%s': %s", vm->def->name, e.msg);
		return;
	}
	image_note(vm, at, &w->old_image);
	authors_copy(vm_live(vm), d);
	vm_live_replace(vm, d);
}

static void change_done(void *opaque, int r, const struct vm_answer *a, const struct err *e)
{
	struct change *w = opaque;
	struct vm *vm = vm_find_uuid(w->host, w->uuid);

	(void)a;
	w->call->vm = vm;
	/* After another error the process may have the medium. */
	if (r == -EREMOTEIO && vm && vm->run == w->run)
		old_restore(w, vm);
	if (r < 0) {
		change_fail(w, e);
		return;
	}
	w->call->when_stored = true;
	call_return(w->call, NULL);
	change_free(w);
}

/* The definition with the medium is in the VM's folder. */
static void change_send(struct store_work *work)
{
	struct change *w = container_of(work, struct change, stored);
	struct err e;
	struct vm *vm = change_vm(w, &e);

	if (!vm) {
		vm = vm_find_uuid(w->host, w->uuid);
		if (vm && vm->run == w->run && vm->proc)
			old_restore(w, vm);
		change_fail(w, &e);
		return;
	}
	w->config.vm.images_only = false;
	w->config.vm.disk_more[0].force = js_get_bool(w->call->args, "force", false);
	vm_process_request_fds(vm->proc, VM_MSG_MEDIUM_SET, &w->config.vm, VM_PLUG_BYTES, w->config.fds, w->config.nfds,
		MEDIUM_TIMEOUT_NS, change_done, w);
}

/* Store the definition first: if this daemon is killed, the next one knows of the medium. */
static void change_store(struct change *w)
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
	if (found.added)
		pins_store(w->host); /* before the image is in use, so that its pin is not deleted */
	w->old_image = image_note(vm, disk_find(w->next, w->id), &w->image);
	vm_live_replace(vm, STEAL_PTR(w->next));
	w->stored = (struct store_work){ .done = change_send, .loop = w->host->loop };
	store_after(w->host->store, &w->stored);
}

static void change_scanned(void *opaque)
{
	change_store(opaque);
}

static void change_opened(void *opaque, int r, struct config *c, const struct err *e)
{
	struct change *w = opaque;
	const struct definition_disk *d = &w->only->disks[0];
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
	if (vm && config_identify(&w->config, w->config.vm.disks[0].fd[0], &w->image) < 0) {
		err_set(&own, -EIO, ERR_IO, "%s: cannot identify the image", w->id);
		vm = NULL;
	}
	if (!vm || (d->nlayers && vm_disk_check_free(vm, vm_live(vm), d, &w->image, w->id, &own) < 0)) {
		change_fail(w, &own);
		return;
	}
	w->scan = pin_scan_begin(w->host, w->only, change_scanned, w);
	if (!w->scan)
		change_store(w);
}

void vm_medium_change(struct call *c)
{
	struct change *w = must_alloc(calloc(1, sizeof(*w)));
	struct err e;
	int r = process_check(c->vm, &e);

	w->call = c;
	w->host = c->host;
	memcpy(w->uuid, c->vm->def->uuid, sizeof(w->uuid));
	w->run = c->vm->run;
	if (!r)
		r = change_plan(w, c->vm, &e);
	if (r < 0) {
		change_fail(w, &e);
		return;
	}
	open_as_open(c->host->helpers, w->only, OPEN_AS_IMAGES, change_opened, w, &w->opener);
}
