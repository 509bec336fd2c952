#include "api/vm/pull_mark.h"
#include "api/definition/definition.h"
#include "api/vm/observer.h"
#include "api/vm/vm.h"
#include "api/wire/json.h"
#include "base/clock.h"
#include "base/util.h"
#include "vmm/vm_msg.h"

#include <string.h>

#define LEFT_MAX 64

static const char *image_at(const struct vm *vm, size_t i)
{
	const char *image = js_plain_string(json_object_array_get_idx(vm->pull.images, i));

	return image ? image : "";
}

/* Return the index of the image's mark; the number of marks, if the image has none. */
static size_t mark_find(const struct vm *vm, const char *image)
{
	size_t i = 0, n = json_object_array_length(vm->pull.images);

	while (i < n && strcmp(image_at(vm, i), image))
		i++;
	return i;
}

static bool is_marked(const struct vm *vm, const char *image)
{
	return vm->pull.images && mark_find(vm, image) < json_object_array_length(vm->pull.images);
}

static bool has_backing(const struct definition *def, const char *image)
{
	for (uint32_t i = 0; i < def->ndisks; i++)
		if (def->disks[i].nlayers > 1 && !strcmp(def->disks[i].layers[0].path, image))
			return true;
	return false;
}

void pull_mark(struct vm *vm, const char *image, uint64_t rate_bytes_per_s)
{
	vm->pull.rate = rate_bytes_per_s;
	if (has_backing(vm->def, image) && !is_marked(vm, image))
		json_object_array_add(vm->pull.images, json_object_new_string(image));
	vm_save(vm);
}

const char *pull_marked(const struct vm *vm)
{
	return json_object_array_length(vm->pull.images) ? image_at(vm, 0) : NULL;
}

void pull_unmark(struct vm *vm, const char *image)
{
	if (!is_marked(vm, image))
		return;
	json_object_array_del_idx(vm->pull.images, mark_find(vm, image), 1);
	vm_save(vm);
}

void pull_mark_add(const struct vm *vm, struct vm_config *c)
{
	const struct definition *d = vm_live(vm);

	for (uint32_t i = 0; i < d->ndisks && i < c->ndisks; i++)
		c->disks[i].may_stand_alone = d->disks[i].nlayers && is_marked(vm, d->disks[i].layers[0].path);
}

/* ---- files that were backing files ---- */

static void left_remove(struct vm *vm, const char *path)
{
	for (size_t i = json_object_array_length(vm->pull.left); i--;)
		if (!strcmp(js_get_str_or(json_object_array_get_idx(vm->pull.left, i), "path", ""), path))
			json_object_array_del_idx(vm->pull.left, i, 1);
}

static void left_add(struct vm *vm, const char *disk, const char *path)
{
	struct json_object *o;

	if (!path)
		return;
	left_remove(vm, path);
	if (json_object_array_length(vm->pull.left) == LEFT_MAX)
		json_object_array_del_idx(vm->pull.left, 0, 1);
	o = json_object_new_object();
	js_put_str(o, "path", path);
	js_put_str(o, "disk", disk);
	js_put_uint(o, "time", clock_realtime_ns());
	json_object_array_add(vm->pull.left, o);
}

void pull_left_add(struct vm *vm, const struct definition_disk *d)
{
	for (unsigned i = 1; i < d->nlayers; i++) {
		left_add(vm, d->id, d->layers[i].path);
		left_add(vm, d->id, d->layers[i].data_file);
	}
}

const char *pull_left_at(const struct vm *vm, size_t i, const char **ret_disk, uint64_t *ret_ns)
{
	bool is_there = vm->pull.left && i < json_object_array_length(vm->pull.left);
	struct json_object *o = is_there ? json_object_array_get_idx(vm->pull.left, i) : NULL;

	if (!o)
		return NULL;
	*ret_disk = js_get_str_or(o, "disk", "");
	*ret_ns = (uint64_t)MAX(js_get_int(o, "time", 0), 0);
	return js_get_str_or(o, "path", "");
}

/* ---- the observer ---- */

static void mark_added(struct vm *vm)
{
	vm->pull.images = json_object_new_array();
	vm->pull.left = json_object_new_array();
}

static void mark_removed(struct vm *vm)
{
	json_object_put(vm->pull.images);
	json_object_put(vm->pull.left);
}

/* Returns whether any mark was removed. live: the definition that the VM runs with counts, too. */
static bool marks_drop(struct vm *vm, bool live)
{
	size_t n = json_object_array_length(vm->pull.images);

	for (size_t i = n; i--;)
		if (!has_backing(vm->def, image_at(vm, i)) && !(live && has_backing(vm_live(vm), image_at(vm, i))))
			json_object_array_del_idx(vm->pull.images, i, 1);
	return json_object_array_length(vm->pull.images) < n;
}

static void mark_redefined(struct vm *vm)
{
	if (marks_drop(vm, true))
		vm_save(vm);
}

/* The caller saves. */
static void mark_state_changed(struct vm *vm, enum vm_trigger t)
{
	(void)t;
	if (!vm_state_is_active(vm->state))
		marks_drop(vm, false);
}

static void mark_put(const struct vm *vm, struct json_object *state)
{
	if (json_object_array_length(vm->pull.left))
		js_put(state, "pulled", json_object_get(vm->pull.left));
	if (!json_object_array_length(vm->pull.images))
		return;
	js_put(state, "pulling", json_object_get(vm->pull.images));
	if (vm->pull.rate)
		js_put_uint(state, "pull_rate", vm->pull.rate);
}

static void mark_load(struct vm *vm, struct json_object *state)
{
	struct json_object *all = js_get_array(state, "pulling"), *left = js_get_array(state, "pulled");

	if (left) {
		json_object_put(vm->pull.left);
		vm->pull.left = json_object_get(left);
	}
	if (!all)
		return;
	json_object_put(vm->pull.images);
	vm->pull.images = json_object_get(all);
	vm->pull.rate = (uint64_t)MAX(js_get_int(state, "pull_rate", 0), 0);
}

const struct vm_observer pull_mark_observer = { .added = mark_added, .removed = mark_removed, .redefined = mark_redefined,
	.state_changed = mark_state_changed, .state_put = mark_put, .state_load = mark_load };
