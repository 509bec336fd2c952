#include "api/vm/vm_layers.h"
#include "api/definition/definition.h"
#include "api/schema/call.h"
#include "api/vm/disk_change.h"
#include "api/vm/vm.h"
#include "api/wire/json.h"
#include "base/err.h"
#include "base/util.h"

#include <errno.h>
#include <string.h>

static const char *const of_layer[] = { "path", "format", "data_file" };

static struct json_object *layer_copy(struct json_object *from)
{
	struct json_object *to = json_object_new_object();

	for (size_t i = 0; i < ARRAY_SIZE(of_layer); i++)
		if (js_get(from, of_layer[i]))
			js_put(to, of_layer[i], json_object_get(js_get(from, of_layer[i])));
	return to;
}

/* Give the disk these layers. layers: taken. */
static void layers_set(struct json_object *disk, struct json_object *layers)
{
	struct json_object *top = json_object_array_get_idx(layers, 0), *backing = json_object_new_array();

	for (size_t i = 0; i < ARRAY_SIZE(of_layer); i++) {
		json_object_object_del(disk, of_layer[i]);
		if (js_get(top, of_layer[i]))
			js_put(disk, of_layer[i], json_object_get(js_get(top, of_layer[i])));
	}
	for (size_t i = 1; i < json_object_array_length(layers); i++)
		json_object_array_add(backing, json_object_get(json_object_array_get_idx(layers, i)));
	json_object_object_del(disk, "backing");
	if (json_object_array_length(backing))
		js_put(disk, "backing", backing);
	else
		json_object_put(backing);
	json_object_put(layers);
}

static struct json_object *layers_of(struct json_object *disk)
{
	struct json_object *layers = json_object_new_array(), *backing = js_get_array(disk, "backing");

	json_object_array_add(layers, layer_copy(disk));
	for (size_t i = 0; backing && i < json_object_array_length(backing); i++)
		json_object_array_add(layers, layer_copy(json_object_array_get_idx(backing, i)));
	return layers;
}

void vm_layers_drop(struct json_object *disk, unsigned top, unsigned base)
{
	struct json_object *layers = layers_of(disk);

	json_object_array_del_idx(layers, top, base - top);
	layers_set(disk, layers);
}

const struct definition_disk *vm_layers_next(const struct vm *vm, const char *id, const char *path)
{
	int at = definition_disk_find(vm->def, id);
	const struct definition_disk *d = at < 0 ? NULL : &vm->def->disks[at];

	for (unsigned i = 0; d && i < d->nlayers; i++)
		if (!strcmp(d->layers[i].path, path))
			return d;
	return NULL;
}

/* ---- external snapshots ---- */

static int overlay_check(const struct vm *vm, const struct definition_disk *d, const char *path, bool check_only, struct err *e)
{
	const struct definition_disk *next = d->nlayers ? vm_layers_next(vm, d->id, d->layers[0].path) : NULL;

	if (!path || *path != '/')
		return err_set(e, -EINVAL, ERR_INVALID, "disks: path must be an absolute path");
	if (!d->nlayers || d->read_only)
		return err_set(e, -ENOTSUP, ERR_UNSUPPORTED, "disk %s is read-only, so it needs no snapshot", d->id);
	if (d->nlayers == VM_DISK_LAYERS_MAX)
		return err_set(e, -ENOTSUP, ERR_UNSUPPORTED, "disk %s has %d layers, and cannot have more; merge some with cairn blockcommit or "
			"blockpull", d->id, VM_DISK_LAYERS_MAX);
	if (!check_only && next && strcmp(next->layers[0].path, path))
		return err_set(e, -EBUSY, ERR_WRONG_STATE, "the definition of the next start has the image %.300s for disk %s; define it with the "
			"overlay first, as cairn snapshot-create-as --external does, or complete an interrupted snapshot with its --reuse-external",
			next->layers[0].path, d->id);
	return 0;
}

static void overlay_put(struct json_object *disk, const char *path)
{
	struct json_object *old = layers_of(disk), *layers = json_object_new_array(), *top = json_object_new_object();

	js_put_str(top, "path", path);
	js_put_str(top, "format", "qcow2");
	json_object_array_add(layers, top);
	for (size_t i = 0; i < json_object_array_length(old); i++)
		json_object_array_add(layers, json_object_get(json_object_array_get_idx(old, i)));
	json_object_put(old);
	layers_set(disk, layers);
}

static int snapshot_plan(const struct call *c, const struct vm *vm, struct json_object *disks, unsigned *ret_at, struct err *e)
{
	struct json_object *list = js_get_array(c->args, "disks");
	size_t n = list ? json_object_array_length(list) : 0;
	bool check_only = js_get_bool(c->args, "check-only", false);

	if (!n || n > VM_DISKS_MAX)
		return err_set(e, -EINVAL, ERR_INVALID, "disks: 1 to %d disks", VM_DISKS_MAX);
	for (size_t i = 0; i < n; i++) {
		struct json_object *o = json_object_array_get_idx(list, i);
		const char *path = js_get_str(o, "path");
		int at = vm_live_disk(vm, js_get_str_or(o, "disk", ""), e);
		int r = at < 0 ? at : overlay_check(vm, &vm_live(vm)->disks[at], path, check_only, e);

		for (size_t k = 0; k < i && !r; k++)
			if (ret_at[k] == (unsigned)at)
				r = err_set(e, -EINVAL, ERR_INVALID, "disks: disk %s is there twice", vm_live(vm)->disks[at].id);
		if (r < 0)
			return r;
		overlay_put(json_object_array_get_idx(disks, (size_t)at), path);
		ret_at[i] = (unsigned)at;
	}
	return (int)n;
}

void vm_layers_snapshot(struct call *c)
{
	static const struct disk_change_kind kind = { .type = VM_MSG_DISK_LAYERS, .known = VM_KNOWS_DISK_LAYERS, .plan = snapshot_plan };

	disk_change_begin(c, &kind, NULL);
}
