#include "api/vm/vm_plug.h"
#include "api/schema/call.h"
#include "api/schema/disk_tune.h"
#include "api/vm/disk_change.h"
#include "api/vm/observer.h"
#include "api/vm/release_wait.h"
#include "api/vm/vm.h"
#include "api/vm/vm_compat.h"
#include "api/vm/vm_interface.h"
#include "api/vm/vm_process.h"
#include "api/wire/json.h"
#include "base/err.h"
#include "base/loop.h"
#include "base/shell_word.h"

#include <errno.h>
#include <limits.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

/* ---- attach ---- */

static int attach_plan(const struct call *c, const struct vm *vm, struct json_object *disks, unsigned *ret_at, struct err *e)
{
	struct json_object *disk = js_get(c->args, "disk");
	const char *id = js_get_str(disk, "id");

	if (id && definition_disk_find(vm_live(vm), id) >= 0)
		return err_set(e, -EEXIST, ERR_EXISTS, "target %.40s already exists", id);
	for (size_t i = 0; i < DISK_TUNE_KEYS; i++) {
		bool more = js_get(disk, disk_tune_names[i]) && strcmp(disk_tune_names[i], "iops") && strcmp(disk_tune_names[i], "bps");

		if (more && vm_compat_check_live(vm, VM_KNOWS_DISK_TUNE, e) < 0)
			return -ENOTSUP;
	}
	*ret_at = (unsigned)json_object_array_length(disks);
	json_object_array_add(disks, json_object_get(disk));
	return 1;
}

void vm_plug_attach(struct call *c)
{
	static const struct disk_change_kind kind = { .type = VM_MSG_PLUG, .known = VM_KNOWS_PLUG, .plan = attach_plan };

	disk_change_begin(c, &kind, NULL);
}

/* ---- detach ---- */

static bool is_attached(const struct vm *vm, const char *id)
{
	struct err e;

	return definition_disk_find(vm_live(vm), id) >= 0 || vm_live_interface(vm, id, &e) >= 0;
}

static bool device_is_over(const struct release_wait *w)
{
	return !w->seconds || !is_attached(w->vm, w->id);
}

static void device_is_late(const struct release_wait *w, struct err *e)
{
	err_set(e, -ETIMEDOUT, ERR_TIMEOUT, "the guest has not released %s within %u s, so it stays attached; a guest without ACPI "
		"hot-plug never does. If the guest still releases it, it is detached then, and the event DEVICE_DELETED reports that",
		w->id, w->seconds);
}

static const struct release_kind device_kind = { .role = ROLE_ADMIN, .stored = true, .is_over = device_is_over, .late = device_is_late };

/* End the waits for this device that the process has answered. */
static void waits_end(struct vm *vm, const char *id, int r, const struct err *e)
{
	struct release_wait *next;

	for (struct release_wait *w = vm->release_waits; w; w = next) {
		next = w->next;
		if (w->kind == &device_kind && !w->asking && !strcmp(w->id, id))
			release_wait_end(w, r, e);
	}
}

static unsigned disk_rank(const struct definition_disk *d)
{
	return d->boot_order && d->device != DEFINITION_CDROM ? d->boot_order : UINT_MAX;
}

/* Return the first disk in a firmware's boot order; without one, the first disk of all. CD drives do not count: a guest
 * is installed from one, and runs without it. NULL: there is no disk. */
static const struct definition_disk *boot_disk(const struct definition *d)
{
	unsigned best = 0;

	for (unsigned i = 1; i < d->ndisks && d->firmware; i++)
		best = disk_rank(&d->disks[i]) < disk_rank(&d->disks[best]) ? i : best;
	return d->ndisks ? &d->disks[best] : NULL;
}

static bool is_disk(const struct definition_disk *d, const char *id)
{
	return d && !strcmp(d->id, id);
}

/* The guest runs from the first disk of the definition or of the boot order, and the former may hold the VM's
 * snapshots. A disk that only the running VM has was attached later. */
static int disk_check(const struct vm *vm, unsigned at, struct err *e)
{
	const struct definition *live = vm_live(vm), *next = vm->def;
	const char *id = live->disks[at].id;
	bool first = !at && next->ndisks && is_disk(&next->disks[0], id);

	if (!first && !(is_disk(boot_disk(live), id) && is_disk(boot_disk(next), id)))
		return 0;
	return err_set(e, -EPERM, ERR_WRONG_STATE, "%s is the first disk %s VM '%.200s', from which its guest runs; shut the VM down, and "
		"detach the disk with --config", id, first ? "of" : "in the boot order of", next->name);
}

/* Find the disk or the interface that `which` names, and check that it may go. id: gets its id. Returns 0; -errno. */
static int device_find(const struct vm *vm, const char *which, char id[16], struct err *e)
{
	const struct definition *d = vm_live(vm);
	int disk = definition_disk_find(d, which), face = disk < 0 ? vm_live_interface(vm, which, e) : -1;

	if (disk < 0 && face < 0)
		return err_set(e, -ENOENT, ERR_NOT_FOUND, "VM '%.200s' has no disk and no interface '%.40s'; next: cairn domblklist %s, or "
			"cairn domiflist", vm->def->name, which, shell_word(vm->def->name).s);
	snprintf(id, 16, "%s", disk >= 0 ? d->disks[disk].id : d->interfaces[face].id);
	return disk >= 0 ? disk_check(vm, (unsigned)disk, e) : 0;
}

/* seconds: 0: do not wait for the guest. */
static void release_ask(struct call *c, const char *which, unsigned seconds)
{
	struct release_wait what = { .kind = &device_kind, .seconds = seconds };
	struct vm_unplug body = { 0 };
	struct err e;
	int r = vm_compat_check_live(c->vm, VM_KNOWS_PLUG, &e);

	if (!r)
		r = device_find(c->vm, which, body.id, &e);
	if (r < 0) {
		call_fail(c, &e);
		return;
	}
	memcpy(what.id, body.id, sizeof(what.id));
	release_wait_begin(c, &what, VM_MSG_UNPLUG, &body, sizeof(body));
}

void vm_plug_detach(struct call *c)
{
	int64_t seconds = js_get_int(c->args, "timeout", RELEASE_DEFAULT_S);
	struct err e;

	if (release_timeout_check(seconds, &e) < 0)
		call_fail(c, &e);
	else
		release_ask(c, js_get_str(c->args, "device"), (unsigned)seconds);
}

void vm_plug_ask(struct call *c, const char *id)
{
	release_ask(c, id, 0);
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
	if (gone) {
		disk_change_remove(vm, ev->device);
		vm_interface_remove(vm, ev->device);
	}
	vm_emit(vm, gone ? EVENT_DEVICE_DELETED : EVENT_DEVICE_UNPLUG_GUEST_ERROR, data);
	if (gone && !ev->detail[0]) {
		waits_end(vm, ev->device, 0, NULL);
		return;
	}
	if (gone)
		err_set(&e, -EIO, ERR_IO, "%s is detached, but not whole: %s", ev->device, ev->detail);
	else
		err_set(&e, -EBUSY, ERR_BUSY, "the guest refuses to release %s, so it stays attached; end its use in the guest, and try again",
			ev->device);
	waits_end(vm, ev->device, -EBUSY, &e);
}
