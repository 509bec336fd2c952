#include "api/vm/pull_mark.h"
#include "api/definition/definition.h"
#include "api/vm/observer.h"
#include "api/vm/vm.h"
#include "api/wire/json.h"
#include "base/util.h"
#include "vmm/vm_msg.h"

#include <string.h>

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

/* ---- the observer ---- */

static void mark_added(struct vm *vm)
{
	vm->pull.images = json_object_new_array();
}

static void mark_removed(struct vm *vm)
{
	json_object_put(vm->pull.images);
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
	if (!json_object_array_length(vm->pull.images))
		return;
	js_put(state, "pulling", json_object_get(vm->pull.images));
	if (vm->pull.rate)
		js_put_uint(state, "pull_rate", vm->pull.rate);
}

static void mark_load(struct vm *vm, struct json_object *state)
{
	struct json_object *all = js_get_array(state, "pulling");

	if (!all)
		return;
	json_object_put(vm->pull.images);
	vm->pull.images = json_object_get(all);
	vm->pull.rate = (uint64_t)MAX(js_get_int(state, "pull_rate", 0), 0);
}

const struct vm_observer pull_mark_observer = { .added = mark_added, .removed = mark_removed, .redefined = mark_redefined,
	.state_changed = mark_state_changed, .state_put = mark_put, .state_load = mark_load };
