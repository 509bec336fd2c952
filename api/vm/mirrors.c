#include "api/vm/mirrors.h"
#include "api/definition/definition.h"
#include "api/vm/observer.h"
#include "api/vm/vm.h"
#include "api/wire/json.h"
#include "base/util.h"
#include "vmm/vm_msg.h"

#include <stdio.h>
#include <string.h>

#define STATE_KEY "mirrors"

static size_t note_find(const struct vm *vm, const char *disk)
{
	size_t n = json_object_array_length(vm->mirrors), i = 0;

	while (i < n && strcmp(js_get_str_or(json_object_array_get_idx(vm->mirrors, i), "disk", ""), disk) != 0)
		i++;
	return i;
}

struct json_object *mirrors_find(const struct vm *vm, const char *disk)
{
	return json_object_array_get_idx(vm->mirrors, note_find(vm, disk)); /* NULL: beyond the end */
}

static bool note_drop(struct vm *vm, const char *disk)
{
	return json_object_array_del_idx(vm->mirrors, note_find(vm, disk), 1) == 0;
}

void mirrors_add(struct vm *vm, const char *disk, const char *type, const char *path, const char *format, uid_t uid)
{
	struct json_object *o = json_object_new_object();

	note_drop(vm, disk);
	js_put_str(o, "disk", disk);
	js_put_str(o, "type", type);
	if (path) {
		js_put_str(o, "path", path);
		js_put_str(o, "format", format);
		js_put_uint(o, "user", uid);
	}
	json_object_array_add(vm->mirrors, o);
}

/* ---- the observer ---- */

static void mirrors_added(struct vm *vm)
{
	vm->mirrors = json_object_new_array();
}

static void mirrors_removed(struct vm *vm)
{
	json_object_put(vm->mirrors);
}

static void copy_ended(struct vm *vm, const char *disk)
{
	if (note_drop(vm, disk))
		vm_save(vm);
}

/* The caller saves. */
static void mirrors_state_changed(struct vm *vm, enum vm_trigger t)
{
	(void)t;
	if (!vm_state_is_active(vm->state))
		json_object_array_del_idx(vm->mirrors, 0, json_object_array_length(vm->mirrors));
}

static void mirrors_put(const struct vm *vm, struct json_object *state)
{
	if (json_object_array_length(vm->mirrors))
		js_put(state, STATE_KEY, json_object_get(vm->mirrors));
}

static void mirrors_load(struct vm *vm, struct json_object *state)
{
	struct json_object *all = js_get_array(state, STATE_KEY);

	if (!all)
		return;
	json_object_put(vm->mirrors);
	vm->mirrors = json_object_get(all);
}

/* The earlier daemon may have ended between a change in the process and its note. An older process does not tell. */
static void mirrors_adopted(struct vm *vm, const struct vm_info *info)
{
	for (uint32_t i = 0; i < MIN(info->ndisks, VM_DISKS_MAX); i++) {
		char id[sizeof(info->disks[i].id)];
		bool is_noted;

		snprintf(id, sizeof(id), "%.*s", (int)sizeof(id) - 1, info->disks[i].id);
		is_noted = mirrors_find(vm, id);
		if (info->mirrored[i] == VM_MIRRORED && !is_noted)
			mirrors_add(vm, id, "blockcopy", NULL, NULL, 0);
		else if (info->mirrored[i] == VM_NOT_MIRRORED && is_noted)
			note_drop(vm, id);
	}
}

const struct vm_observer mirrors_observer = { .added = mirrors_added, .removed = mirrors_removed, .state_changed = mirrors_state_changed,
	.state_put = mirrors_put, .state_load = mirrors_load, .adopted = mirrors_adopted, .copy_ended = copy_ended };
