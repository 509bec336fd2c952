#include "api/vm/vm_copy.h"
#include "api/definition/definition.h"
#include "api/schema/call.h"
#include "api/vm/disk_change.h"
#include "api/vm/mirrors.h"
#include "api/vm/observer.h"
#include "api/vm/vm.h"
#include "api/vm/vm_compat.h"
#include "api/vm/vm_layers.h"
#include "api/wire/json.h"
#include "base/err.h"
#include "base/shell_word.h"
#include "base/util.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define END_TIMEOUT_NS (60 * 1000000000ULL)

/* Check that the next start does not miss what the guest writes after the pivot to `path`: its disk has the copy, or
 * an image of its own that does not need the files. */
static int pivot_check_next(const struct vm *vm, const struct definition_disk *d, const char *path, struct err *e)
{
	const struct definition_disk *next = d->nlayers ? vm_layers_next(vm, d->id, d->layers[0].path) : NULL;
	const char *image;

	if (!next)
		next = vm_layers_next(vm, d->id, path);
	if (!next || !strcmp(next->layers[0].path, path))
		return 0;
	image = next->layers[0].path;
	if (d->nlayers && !strcmp(image, d->layers[0].path))
		return err_set(e, -EBUSY, ERR_WRONG_STATE, "the definition of the next start has the image %.300s for disk %s; define it with the copy "
			"first, as cairn blockjob --pivot does", image, d->id);
	return err_set(e, -EBUSY, ERR_BUSY, "the definition of the next start has the image %.300s for disk %s, which reads a file that the disk has "
		"now; change that first, with cairn edit", image, d->id);
}

/* Check that the next start does not have the copy, which the end of the mirror leaves as it is at that moment. */
static int end_check_next(const struct vm *vm, const struct definition_disk *d, struct err *e)
{
	const char *copy = js_get_str(mirrors_find(vm, d->id), "path");
	int at = definition_disk_find(vm->def, d->id);
	const struct definition_disk *next = at < 0 ? NULL : &vm->def->disks[at];

	if (!d->nlayers || !next || !next->nlayers || !strcmp(next->layers[0].path, d->layers[0].path))
		return 0;
	if (copy && strcmp(next->layers[0].path, copy))
		return 0;
	return err_set(e, -EBUSY, ERR_WRONG_STATE, "the definition of the next start has the image %.300s for disk %s; change that back first, with "
		"cairn edit, or continue with it: cairn blockjob %s %s --pivot", next->layers[0].path, d->id, shell_word(vm->def->name).s, d->id);
}

/* Let the disk begin with its layer `path`, the base of a commit, if it has that layer. */
static void layers_cut(struct json_object *disk, const char *path)
{
	struct json_object *backing = js_get_array(disk, "backing"), *left = json_object_new_array();
	size_t n = backing ? json_object_array_length(backing) : 0, i = 0;

	while (i < n && strcmp(js_get_str_or(json_object_array_get_idx(backing, i), "path", ""), path))
		i++;
	for (size_t k = i + 1; k < n; k++)
		json_object_array_add(left, json_object_get(json_object_array_get_idx(backing, k)));
	json_object_object_del(disk, "backing");
	if (json_object_array_length(left))
		js_put(disk, "backing", left);
	else
		json_object_put(left);
}

static int pivot_plan(const struct call *c, const struct vm *vm, struct json_object *disks, unsigned *ret_at, struct err *e)
{
	const char *path = js_get_str(c->args, "path");
	int at = vm_live_disk(vm, js_get_str(c->args, "disk"), e), r;
	struct json_object *disk;

	if (at < 0)
		return at;
	if (!path || *path != '/')
		return err_set(e, -EINVAL, ERR_INVALID, "path: must be an absolute path");
	r = js_get_bool(c->args, "check-only", false) ? 0 : pivot_check_next(vm, &vm_live(vm)->disks[at], path, e);
	if (r < 0)
		return r;
	disk = json_object_array_get_idx(disks, (size_t)at);
	json_object_object_del(disk, "data_file");
	layers_cut(disk, path);
	js_put_str(disk, "path", path);
	js_put_str(disk, "format", js_get_str(c->args, "format"));
	js_put_str(c->args, "disk", vm_live(vm)->disks[at].id); /* for pivot_answer(): it may be a path, which changes */
	*ret_at = (unsigned)at;
	return 1;
}

static void copy_over(struct vm *vm, const char *id)
{
	char own[16]; /* the hook may free the owner of id */

	snprintf(own, sizeof(own), "%s", id);
	vm_notify(vm, copy_ended, own);
}

/* The process says that there is no copy; an earlier daemon may have ended before it noted that. */
static bool is_gone(int r, const struct err *e)
{
	return r == -EREMOTEIO && e->cls == ERR_NOT_FOUND;
}

static void pivot_answer(void *opaque, int r, const struct err *e)
{
	struct call *c = opaque;

	if (c->vm && (is_gone(r, e) || (!r && !js_get_bool(c->args, "check-only", false))))
		copy_over(c->vm, js_get_str(c->args, "disk"));
	call_done(c, r, e);
}

void vm_copy_pivot(struct call *c, void (*answer)(void *call, int r, const struct err *e))
{
	static const struct disk_change_kind kind = { .type = VM_MSG_DISK_PIVOT, .known = VM_KNOWS_DISK_COPY, .plan = pivot_plan };

	disk_change_begin(c, &kind, answer ? answer : pivot_answer);
}

/* ---- aborting ---- */

struct copy_end {
	struct vm_host *host;
	uint8_t uuid[16];
	char disk[16];
	void (*done)(void *opaque, int r, const struct err *e);
	void *opaque;
};

static void abort_done(void *opaque, int r, const struct vm_answer *a, const struct err *e)
{
	struct copy_end *x = opaque;
	struct vm *vm = vm_find_uuid(x->host, x->uuid);

	(void)a;
	if ((!r || is_gone(r, e)) && vm)
		copy_over(vm, x->disk);
	x->done(x->opaque, r, e);
	free(x);
}

int vm_copy_end(struct vm *vm, const char *disk, void (*done)(void *opaque, int r, const struct err *e), void *opaque, struct err *e)
{
	struct vm_disk_copy body = { 0 };
	const struct definition_disk *d;
	struct copy_end *x;
	int r = vm_compat_check_live(vm, VM_KNOWS_DISK_COPY, e), at = r ? r : vm_live_disk(vm, disk, e);

	d = at < 0 ? NULL : &vm_live(vm)->disks[at];
	if (d)
		at = MIN(at, end_check_next(vm, d, e));
	if (at < 0)
		return at;
	snprintf(body.disk, sizeof(body.disk), "%s", d->id);
	x = must_alloc(calloc(1, sizeof(*x)));
	*x = (struct copy_end){ .host = vm->host, .done = done, .opaque = opaque };
	memcpy(x->uuid, vm->def->uuid, sizeof(x->uuid));
	snprintf(x->disk, sizeof(x->disk), "%s", d->id);
	vm_process_request(vm->proc, VM_MSG_DISK_COPY_END, &body, sizeof(body), -1, END_TIMEOUT_NS, abort_done, x);
	return 0;
}

void vm_copy_abort(struct call *c)
{
	const struct vm *vm = c->vm;
	struct err e;
	int r;

	if (vm->proc && vm_state_is_active(vm->state))
		r = vm_copy_end(c->vm, js_get_str(c->args, "disk"), call_done, c, &e);
	else
		r = err_set(&e, -ENOENT, ERR_NOT_FOUND, "VM '%.200s' is %s, so no disk of it has a copy under way", vm->def->name, vm_state_name(vm->state));
	if (r < 0)
		call_fail(c, &e);
}
