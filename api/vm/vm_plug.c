#include "api/vm/vm_plug.h"
#include "api/access/authors.h"
#include "api/access/open_as.h"
#include "api/access/rights.h"
#include "api/schema/call.h"
#include "api/store/store.h"
#include "api/vm/observer.h"
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
#include "base/loop.h"
#include "base/util.h"

#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PLUG_TIMEOUT_NS (30 * 1000000000ULL)
#define RELEASE_DEFAULT_S 5
#define RELEASE_MAX_S 600

/* ---- the definition that the VM runs with ---- */

static int disk_find(const struct definition *d, const char *which)
{
	for (unsigned i = 0; i < d->ndisks; i++)
		if (!strcmp(d->disks[i].id, which) || (d->disks[i].nlayers && !strcmp(d->disks[i].layers[0].path, which)))
			return (int)i;
	return -ENOENT;
}

static void live_drop(struct vm *vm, const char *id)
{
	CLEANUP_JS struct json_object *o = definition_to_json(vm_live(vm));
	int at = disk_find(vm_live(vm), id);
	struct definition *next;
	struct err e;

	if (at < 0)
		return;
	json_object_array_del_idx(js_get_array(o, "disks"), (size_t)at, 1);
	if (definition_parse_stored(o, &next, &e) < 0) {
		log_error("plug", "VM '%s': %s", vm->def->name, e.msg);
		return;
	}
	if (vm->ndisk_ids == vm_live(vm)->ndisks) {
		memmove(&vm->disk_ids[at], &vm->disk_ids[at + 1], (vm->ndisk_ids - (unsigned)at - 1) * sizeof(vm->disk_ids[0]));
		vm->ndisk_ids--;
	}
	authors_copy(vm_live(vm), next);
	vm_live_replace(vm, next);
}

static int process_check(const struct vm *vm, struct err *e)
{
	int r = vm_live_check(vm, e);

	return r || vm_process_knows(vm->proc, VM_KNOWS_PLUG) ? r : vm_compat_refuse(vm->def->name, e);
}

/* ---- attach ---- */

struct attach {
	struct call *call;
	struct vm_host *host;
	uint8_t uuid[16];
	uint64_t run;		   /* the VM's run that the disk is for */
	struct definition *next;   /* owned: the definition with the disk; NULL: the VM has it */
	const struct definition *was; /* of the VM when next was made; only compared */
	struct definition *only;   /* owned: a definition with this disk alone */
	struct config config;
	struct file_id image;
	bool opened;
	struct pin_scan *scan;
	struct open_as *opener;
	struct store_work stored; /* of the definition with the disk */
	char id[16];
};

static void attach_free(struct attach *w)
{
	definition_free(w->next);
	definition_free(w->only);
	if (w->opened)
		config_done(&w->config);
	pin_scan_free(w->scan);
	free(w);
}

static void attach_fail(struct attach *w, const struct err *e)
{
	call_fail(w->call, e);
	attach_free(w);
}

/* Make the running definition with the disk, and one with the disk alone, whose files are opened. */
static int attach_plan(struct attach *w, struct vm *vm, struct err *e)
{
	CLEANUP_JS struct json_object *o = definition_to_json(vm_live(vm)), *only = NULL;
	struct json_object *disk = js_get(w->call->args, "disk"), *disks = js_get_array(o, "disks");
	const char *folder = js_get_str(w->call->args, "folder"), *id = js_get_str(disk, "id");
	struct peer who = conn_peer(w->call->conn);
	int r;

	if (folder && *folder != '/')
		return err_set(e, -EINVAL, ERR_INVALID, "folder: must be an absolute path");
	if (id && disk_find(vm_live(vm), id) >= 0)
		return err_set(e, -EEXIST, ERR_EXISTS, "target %.40s already exists", id);
	if (!disks) {
		disks = json_object_new_array();
		js_put(o, "disks", disks);
	}
	json_object_array_add(disks, json_object_get(disk));
	r = definition_parse(o, folder, &w->next, e);
	if (!r)
		r = rights_of_peer(&who, &w->next->rights, e);
	if (r < 0)
		return r;
	authors_inherit(w->next, vm_live(vm));
	snprintf(w->id, sizeof(w->id), "%s", w->next->disks[w->next->ndisks - 1].id);
	only = definition_to_json(w->next);
	disks = json_object_new_array();
	json_object_array_add(disks, json_object_get(json_object_array_get_idx(js_get_array(only, "disks"), w->next->ndisks - 1)));
	js_put(only, "disks", disks);
	json_object_object_del(only, "interfaces");
	r = definition_parse_stored(only, &w->only, e);
	if (!r)
		authors_copy(w->next, w->only);
	w->was = vm_live(vm);
	return r;
}

/* Return the VM if it still is in the run that the disk is for; NULL with an error: it has ended, or changed. */
static struct vm *attach_vm(struct attach *w, struct err *e)
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

static void attach_done(void *opaque, int r, const struct vm_answer *a, const struct err *e)
{
	struct attach *w = opaque;
	struct vm *vm = vm_find_uuid(w->host, w->uuid);

	(void)a;
	w->call->vm = vm;
	/* The process has refused the disk. After another error it may have it. */
	if (r == -EREMOTEIO && vm && vm->run == w->run)
		live_drop(vm, w->id);
	if (r < 0) {
		attach_fail(w, e);
		return;
	}
	w->call->when_stored = true;
	call_return(w->call, NULL);
	attach_free(w);
}

/* The definition with the disk is in the VM's folder. */
static void attach_send(struct store_work *work)
{
	struct attach *w = container_of(work, struct attach, stored);
	struct err e;
	struct vm *vm = attach_vm(w, &e);

	if (!vm) {
		vm = vm_find_uuid(w->host, w->uuid);
		if (vm && vm->run == w->run && vm->proc)
			live_drop(vm, w->id);
		attach_fail(w, &e);
		return;
	}
	w->config.vm.images_only = false;
	w->config.vm.firmware = VM_FIRMWARE_NONE; /* the message names no files of a UEFI, which the process has */
	vm_process_request_fds(vm->proc, VM_MSG_PLUG, &w->config.vm, VM_PLUG_BYTES, w->config.fds, w->config.nfds,
		PLUG_TIMEOUT_NS, attach_done, w);
}

/* Store the definition first: if this daemon is killed, the next one knows of the disk. */
static void attach_store(struct attach *w)
{
	struct pin_scan_result found = { 0 };
	struct vm *vm;
	struct err e;

	vm = attach_vm(w, &e);
	if (!vm) {
		attach_fail(w, &e);
		return;
	}
	if (w->scan)
		pin_scan_take(w->scan, &found);
	if (found.added)
		pins_store(w->host); /* before the image is in use, so that its pin is not deleted */
	if (vm->ndisk_ids == vm_live(vm)->ndisks && vm->ndisk_ids < VM_DISKS_MAX)
		vm->disk_ids[vm->ndisk_ids++] = w->image;
	vm_live_replace(vm, STEAL_PTR(w->next));
	w->stored = (struct store_work){ .done = attach_send, .loop = w->host->loop };
	store_after(w->host->store, &w->stored);
}

static void attach_scanned(void *opaque)
{
	attach_store(opaque);
}

static void attach_opened(void *opaque, int r, struct config *c, const struct err *e)
{
	struct attach *w = opaque;
	struct vm *vm;
	struct err own;

	w->opener = NULL;
	if (r < 0) {
		attach_fail(w, e);
		return;
	}
	w->config = *c;
	w->opened = true;
	vm = attach_vm(w, &own);
	if (vm && config_identify(&w->config, w->config.vm.disks[0].fd[0], &w->image) < 0)
		err_set(&own, -EIO, ERR_IO, "%s: cannot identify the image", w->id);
	if (!vm || vm_disk_check_free(vm, vm_live(vm), &w->only->disks[0], &w->image, w->id, &own) < 0) {
		attach_fail(w, &own);
		return;
	}
	w->scan = pin_scan_begin(w->host, w->only, attach_scanned, w);
	if (!w->scan)
		attach_store(w);
}

void vm_plug_attach(struct call *c)
{
	struct attach *w = must_alloc(calloc(1, sizeof(*w)));
	struct err e;
	int r = process_check(c->vm, &e);

	w->call = c;
	w->host = c->host;
	memcpy(w->uuid, c->vm->def->uuid, sizeof(w->uuid));
	w->run = c->vm->run;
	if (!r)
		r = attach_plan(w, c->vm, &e);
	if (r < 0) {
		attach_fail(w, &e);
		return;
	}
	open_as_open(c->host->helpers, w->only, OPEN_AS_IMAGES, attach_opened, w, &w->opener);
}

/* ---- detach ---- */

struct unplug_wait {
	struct unplug_wait *next;
	struct vm *vm;
	struct call *call;
	struct loop_timer *timer;
	char id[16];
	unsigned seconds;
	bool asking; /* the process has not answered the request yet */
};

/* Answer a call that waits. r < 0: with e. */
static void wait_end(struct unplug_wait *w, int r, const struct err *e)
{
	struct unplug_wait **at = &w->vm->unplugs;

	while (*at != w)
		at = &(*at)->next;
	*at = w->next;
	if (r < 0) {
		call_fail(w->call, e);
	} else {
		w->call->when_stored = true;
		call_return(w->call, NULL);
	}
	loop_timer_free(w->timer);
	free(w);
}

static void waits_end(struct vm *vm, const char *id, int r, const struct err *e)
{
	struct unplug_wait *next;

	for (struct unplug_wait *w = vm->unplugs; w; w = next) {
		next = w->next;
		if (!id || (!w->asking && !strcmp(w->id, id)))
			wait_end(w, r, e);
	}
}

static void wait_timeout(void *opaque)
{
	struct unplug_wait *w = opaque;
	struct err e;

	err_set(&e, -ETIMEDOUT, ERR_TIMEOUT, "the guest has not released %s within %u s, so it stays attached; a guest without ACPI "
		"hot-plug never does. If the guest still releases it, it is detached then, and the event DEVICE_DELETED reports that",
		w->id, w->seconds);
	wait_end(w, -ETIMEDOUT, &e);
}

static void asked(void *opaque, int r, const struct vm_answer *a, const struct err *e)
{
	struct unplug_wait *w = opaque;

	(void)a;
	w->asking = false;
	if (r < 0 || disk_find(vm_live(w->vm), w->id) < 0)
		wait_end(w, r, e);
	else
		loop_timer_arm(w->timer, loop_now_ns() + w->seconds * 1000000000ULL);
}

/* The guest runs from the first disk of the definition, and that disk may hold the VM's snapshots. */
static int detach_check(const struct vm *vm, int at, struct err *e)
{
	const struct definition_disk *d = &vm_live(vm)->disks[at];

	if (at || !vm->def->ndisks || strcmp(vm->def->disks[0].id, d->id))
		return 0;
	return err_set(e, -EPERM, ERR_WRONG_STATE, "%s is the first disk of VM '%.200s', from which its guest runs; shut the VM down, and "
		"detach the disk with --config", d->id, vm->def->name);
}

void vm_plug_detach(struct call *c)
{
	const char *which = js_get_str(c->args, "device");
	int64_t seconds = js_get_int(c->args, "timeout", RELEASE_DEFAULT_S);
	struct vm_unplug body = { 0 };
	struct unplug_wait *w;
	struct err e;
	int at = disk_find(vm_live(c->vm), which), r = process_check(c->vm, &e);

	if (!r && at < 0)
		r = err_set(&e, -ENOENT, ERR_NOT_FOUND, "VM '%.200s' has no disk '%.40s'; next: cairn domblklist %.60s", c->vm->def->name, which,
			c->vm->def->name);
	if (!r && (seconds < 1 || seconds > RELEASE_MAX_S))
		r = err_set(&e, -EINVAL, ERR_INVALID, "timeout: must be 1 to %d seconds", RELEASE_MAX_S);
	if (!r)
		r = detach_check(c->vm, at, &e);
	if (r < 0) {
		call_fail(c, &e);
		return;
	}
	w = must_alloc(calloc(1, sizeof(*w)));
	w->vm = c->vm;
	w->call = c;
	w->seconds = (unsigned)seconds;
	w->asking = true;
	snprintf(w->id, sizeof(w->id), "%s", vm_live(c->vm)->disks[at].id);
	r = loop_timer_new(c->host->loop, wait_timeout, w, &w->timer);
	if (r < 0) {
		free(w);
		err_set_errno(&e, r, "timer");
		call_fail(c, &e);
		return;
	}
	w->next = c->vm->unplugs;
	c->vm->unplugs = w;
	memcpy(body.id, w->id, sizeof(body.id));
	vm_process_request(c->vm->proc, VM_MSG_UNPLUG, &body, sizeof(body), -1, PLUG_TIMEOUT_NS, asked, w);
}

/* ---- events of the process ---- */

void vm_plug_event(struct vm *vm, const struct vm_event *ev)
{
	bool gone = ev->kind == VM_EVENT_UNPLUGGED;
	struct json_object *data = json_object_new_object();
	struct err e;

	js_put_str(data, "device", ev->device);
	if (ev->detail[0])
		js_put_str(data, "detail", ev->detail);
	if (gone)
		live_drop(vm, ev->device);
	vm_emit(vm, gone ? EVENT_DEVICE_DELETED : EVENT_DEVICE_UNPLUG_GUEST_ERROR, data);
	if (gone && !ev->detail[0]) {
		waits_end(vm, ev->device, 0, NULL);
		return;
	}
	if (gone)
		err_set(&e, -EIO, ERR_IO, "%s is detached, but not whole: %s", ev->device, ev->detail);
	else
		err_set(&e, -EBUSY, ERR_BUSY, "the guest refuses to release %s, so it stays attached; unmount it in the guest, and try again",
			ev->device);
	waits_end(vm, ev->device, -EBUSY, &e);
}

void vm_plug_gone(struct vm *vm)
{
	struct err e;

	err_set(&e, -ESRCH, ERR_WRONG_STATE, "the VM has ended meanwhile");
	waits_end(vm, NULL, -ESRCH, &e);
}

void vm_plug_adopted(struct vm *vm, const struct vm_info *info)
{
	for (unsigned i = vm_live(vm)->ndisks; info->plugs && info->ndisks && i-- > 0;) {
		char id[16];
		unsigned k = 0;

		snprintf(id, sizeof(id), "%s", vm_live(vm)->disks[i].id);
		while (k < info->ndisks && k < VM_DISKS_MAX && strncmp(info->disks[k].id, id, sizeof(id)))
			k++;
		if (k < info->ndisks && k < VM_DISKS_MAX)
			continue;
		log_info("plug", "VM '%s' has no disk %s any more", vm->def->name, id);
		live_drop(vm, id);
	}
}
