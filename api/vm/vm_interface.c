#include "api/vm/vm_interface.h"
#include "api/access/authors.h"
#include "api/vm/observer.h"
#include "api/vm/vm.h"
#include "api/wire/json.h"
#include "base/err.h"
#include "base/log.h"
#include "base/machine_version.h"
#include "base/util.h"

#include <stdio.h>
#include <string.h>

/* Return the index of the interface of the running definition; its number of interfaces: it has none with this id. */
static unsigned find(const struct vm *vm, const char *id)
{
	unsigned at = 0;

	while (at < vm_live(vm)->ninterfaces && strcmp(vm_live(vm)->interfaces[at].id, id))
		at++;
	return at;
}

/* Parse the running definition's JSON after a change. Returns NULL with a line of the log if that fails. */
static struct definition *parse_changed(const struct vm *vm, struct json_object *o)
{
	struct definition *d;
	struct err e;

	if (definition_parse_stored(o, &d, &e) < 0) {
		log_error("plug", "VM '%s': %s", vm->def->name, e.msg);
		return NULL;
	}
	authors_copy(vm_live(vm), d);
	return d;
}

void vm_interface_remove(struct vm *vm, const char *id)
{
	CLEANUP_JS struct json_object *o = definition_to_json(vm_live(vm));
	unsigned at = find(vm, id);
	struct definition *d;

	if (at == vm_live(vm)->ninterfaces)
		return;
	json_object_array_del_idx(js_get_array(o, "interfaces"), at, 1);
	d = parse_changed(vm, o);
	if (!d)
		return;
	vm_notify(vm, interface_gone, at);
	vm_live_change(vm, d);
}

void vm_interface_slot(struct vm *vm, const char *id, unsigned slot)
{
	CLEANUP_JS struct json_object *o = definition_to_json(vm_live(vm));
	unsigned at = find(vm, id);
	struct definition *d;

	if (at == vm_live(vm)->ninterfaces || slot > MACHINE_SLOT_MAX)
		return;
	js_put_uint(json_object_array_get_idx(js_get_array(o, "interfaces"), at), "slot", slot);
	d = parse_changed(vm, o);
	if (d)
		vm_live_replace(vm, d);
}

void vm_interfaces_compare(struct vm *vm, const struct vm_info *info)
{
	for (unsigned i = vm_live(vm)->ninterfaces; info->plugs && i-- > 0;) {
		const struct definition_interface *face = &vm_live(vm)->interfaces[i];
		char id[sizeof(face->id)];
		unsigned k = 0;

		while (k < MIN(info->ninterfaces, VM_INTERFACES_MAX) && strncmp(info->interfaces[k].id, face->id, sizeof(face->id)))
			k++;
		if (k < MIN(info->ninterfaces, VM_INTERFACES_MAX))
			continue;
		snprintf(id, sizeof(id), "%s", face->id);
		log_info("plug", "VM '%s' has no interface %s any more", vm->def->name, id);
		vm_interface_remove(vm, id);
	}
}
