#include "api/vm/former_files.h"
#include "api/access/authors.h"
#include "api/access/rights.h"
#include "api/definition/definition.h"
#include "api/store/store.h"
#include "api/vm/observer.h"
#include "api/vm/vm.h"
#include "api/wire/json.h"
#include "base/clock.h"
#include "base/util.h"

#include <string.h>

#define FILES_MAX 64
#define STATE_KEY "former_files"

static void file_remove(struct vm *vm, const char *path)
{
	for (size_t i = json_object_array_length(vm->former_files); i--;)
		if (!strcmp(js_get_str_or(json_object_array_get_idx(vm->former_files, i), "path", ""), path))
			json_object_array_del_idx(vm->former_files, i, 1);
}

/* author_of() gives the definer for a path that the definition has lost, so another user's path is not kept. */
static void file_add(struct vm *vm, const struct definition *def, const char *disk, const char *path)
{
	struct json_object *o;

	if (!path || !rights_are_same(author_of(def, path), vm->def->rights))
		return;
	file_remove(vm, path);
	if (json_object_array_length(vm->former_files) == FILES_MAX)
		json_object_array_del_idx(vm->former_files, 0, 1);
	o = json_object_new_object();
	js_put_str(o, "path", path);
	js_put_str(o, "disk", disk);
	js_put_uint(o, "time", clock_realtime_ns());
	json_object_array_add(vm->former_files, o);
}

void former_files_add(struct vm *vm, const struct definition *def, const struct definition_disk *d, unsigned from, unsigned to)
{
	if (from >= to || !store_has_file(vm->host->store, vm->def->name, IMPORTED_FILE))
		return;
	for (unsigned i = from; i < to; i++) {
		file_add(vm, def, d->id, d->layers[i].path);
		file_add(vm, def, d->id, d->layers[i].data_file);
	}
	vm_save(vm);
}

const char *former_files_at(const struct vm *vm, size_t i, const char **ret_disk, uint64_t *ret_ns)
{
	bool is_there = vm->former_files && i < json_object_array_length(vm->former_files);
	struct json_object *o = is_there ? json_object_array_get_idx(vm->former_files, i) : NULL;

	if (!o)
		return NULL;
	*ret_disk = js_get_str_or(o, "disk", "");
	*ret_ns = (uint64_t)MAX(js_get_int(o, "time", 0), 0);
	return js_get_str_or(o, "path", "");
}

/* ---- the observer ---- */

static void files_added(struct vm *vm)
{
	vm->former_files = json_object_new_array();
}

static void files_removed(struct vm *vm)
{
	json_object_put(vm->former_files);
}

static void files_put(const struct vm *vm, struct json_object *state)
{
	if (json_object_array_length(vm->former_files))
		js_put(state, STATE_KEY, json_object_get(vm->former_files));
}

static void files_load(struct vm *vm, struct json_object *state)
{
	struct json_object *all = js_get_array(state, STATE_KEY);

	if (!all)
		return;
	json_object_put(vm->former_files);
	vm->former_files = json_object_get(all);
}

const struct vm_observer former_files_observer = { .added = files_added, .removed = files_removed, .state_put = files_put,
	.state_load = files_load };
