#include "api/vm/identity.h"
#include "api/definition/definition.h"
#include "api/vm/vm.h"
#include "api/wire/json.h"
#include "base/err.h"
#include "base/machine_version.h"

#include <errno.h>
#include <string.h>

static const struct definition_interface *mac_in(const struct definition *def, const uint8_t *mac)
{
	for (unsigned i = 0; i < def->ninterfaces; i++)
		if (!memcmp(def->interfaces[i].mac, mac, DEFINITION_MAC_BYTES))
			return &def->interfaces[i];
	return NULL;
}

/* Return a VM other than `but` that has the address; NULL: none. A VM that was redefined while it runs has the
 * addresses of both definitions. */
static const struct vm *mac_holder(const struct vm_host *host, const uint8_t *mac, const struct vm *but)
{
	for (size_t i = 0; i < host->nvms; i++)
		if (host->vms[i] != but &&
			(mac_in(host->vms[i]->def, mac) || mac_in(vm_live(host->vms[i]), mac)))
			return host->vms[i];
	return NULL;
}

static bool slot_in(const struct definition *def, unsigned slot)
{
	for (unsigned i = 0; i < def->ninterfaces; i++)
		if (def->interfaces[i].slot == slot)
			return true;
	return false;
}

static int mac_make(struct vm_host *host, const struct definition *def, struct definition_interface *i,
	struct err *e)
{
	struct definition_interface made = *i;

	do {
		if (definition_make_mac(&made, e) < 0)
			return -EIO;
	} while (mac_in(def, made.mac) || mac_holder(host, made.mac, NULL));
	*i = made;
	return 0;
}

static void mac_keep(const struct definition *def, const struct vm *old, struct definition_interface *i)
{
	for (unsigned k = 0; old && k < old->def->ninterfaces; k++)
		if (!strcmp(old->def->interfaces[k].id, i->id) &&
			!mac_in(def, old->def->interfaces[k].mac))
			memcpy(i->mac, old->def->interfaces[k].mac, sizeof(i->mac));
}

/* Set the slot of an interface that would otherwise leave the one that it has in `old`, if the key can name that.
 * Returns whether it was set. */
static bool slot_keep(struct definition *def, struct definition_interface *n, unsigned has, const struct definition *old, const uint8_t *had)
{
	for (unsigned k = 0; k < old->ninterfaces && !n->slot; k++)
		if (!strcmp(n->id, old->interfaces[k].id) && had[k] && had[k] <= MACHINE_SLOT_MAX && had[k] != has && !slot_in(def, had[k]))
			n->slot = had[k];
	return n->slot;
}

void identity_keep_slots(struct definition *def, const struct definition *old)
{
	uint8_t had[DEFINITION_INTERFACES_MAX], has[DEFINITION_INTERFACES_MAX];
	bool again = machine_version_keeps_slots(def->machine) && machine_version_keeps_slots(old->machine);

	definition_interface_slots(old, had);
	while (again) { /* each slot that is set may change those of the other interfaces */
		again = false;
		definition_interface_slots(def, has);
		for (unsigned i = 0; i < def->ninterfaces && !again; i++)
			again = !def->interfaces[i].slot && slot_keep(def, &def->interfaces[i], has[i], old, had);
	}
}

void identity_take_slots(struct definition *def, const struct definition *live)
{
	for (unsigned i = 0; machine_version_keeps_slots(def->machine) && i < def->ninterfaces; i++) {
		struct definition_interface *n = &def->interfaces[i];
		const struct definition_interface *there = mac_in(live, n->mac);

		if (!n->slot && there && !strcmp(there->id, n->id) && !slot_in(def, there->slot))
			n->slot = there->slot;
	}
}

int identity_complete(struct vm_host *host, struct definition *def, const struct vm *old, struct err *e)
{
	for (unsigned i = 0; i < def->ninterfaces; i++) {
		struct definition_interface *n = &def->interfaces[i];
		const struct vm *holder;

		if (!definition_has_mac(n))
			mac_keep(def, old, n);
		if (!definition_has_mac(n) && mac_make(host, def, n, e) < 0)
			return -EIO;
		holder = mac_holder(host, n->mac, old);
		if (holder && !permissions_seen_together(&host->permissions, def->uuid, holder->def->uuid))
			return err_set(e, -EEXIST, ERR_EXISTS,
				"interfaces[%u].mac: is taken by another VM; omit it to have one generated", i);
		if (holder)
			return err_set(e, -EEXIST, ERR_EXISTS,
				"interfaces[%u].mac: is taken by VM '%s'; omit it to have one generated", i,
				holder->def->name);
	}
	return 0;
}

void identity_drop_forwards(struct json_object *o)
{
	struct json_object *list = js_get_array(o, "interfaces"), *vsock = js_get(o, "vsock");

	for (size_t i = 0; i < json_object_array_length(list); i++)
		json_object_object_del(json_object_array_get_idx(list, i), "forwards");
	if (vsock)
		json_object_object_del(vsock, "path");
	json_object_object_del(o, "vnc");
}

void identity_put_forwards(const struct definition *source, struct json_object *result)
{
	struct json_object *list = json_object_new_array();
	char text[DEFINITION_FORWARD_TEXT];

	for (unsigned i = 0; i < source->ninterfaces; i++)
		for (unsigned k = 0; k < source->interfaces[i].user.nforwards; k++) {
			definition_forward_print(&source->interfaces[i].user.forwards[k], text);
			json_object_array_add(list, json_object_new_string(text));
		}
	if (json_object_array_length(list))
		js_put(result, "forwards-left-out", list);
	else
		json_object_put(list);
}

int identity_differ(struct vm_host *host, struct definition *def, const struct definition *other, struct err *e)
{
	for (unsigned i = 0; i < def->ninterfaces; i++)
		while (mac_in(other, def->interfaces[i].mac))
			if (mac_make(host, def, &def->interfaces[i], e) < 0)
				return -EIO;
	return 0;
}
