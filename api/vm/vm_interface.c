#include "api/vm/vm_interface.h"
#include "api/access/authors.h"
#include "api/vm/observer.h"
#include "api/vm/vm.h"
#include "api/wire/json.h"
#include "base/err.h"
#include "base/log.h"
#include "base/util.h"

#include <stdio.h>
#include <string.h>

void vm_interface_remove(struct vm *vm, const char *id)
{
	CLEANUP_JS struct json_object *o = definition_to_json(vm_live(vm));
	unsigned at = 0, n = vm_live(vm)->ninterfaces;
	struct definition *d;
	struct err e;

	while (at < n && strcmp(vm_live(vm)->interfaces[at].id, id))
		at++;
	if (at == n)
		return;
	json_object_array_del_idx(js_get_array(o, "interfaces"), at, 1);
	if (definition_parse_stored(o, &d, &e) < 0) {
		log_error("plug", "VM '%s': %s", vm->def->name, e.msg);
		return;
	}
	vm_notify(vm, interface_gone, at);
	authors_copy(vm_live(vm), d);
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
