#include "api/net/interface_plug.h"
#include "api/access/authors.h"
#include "api/access/rights.h"
#include "api/definition/vm_config.h"
#include "api/net/forwards.h"
#include "api/net/network_ports.h"
#include "api/schema/call.h"
#include "api/store/store.h"
#include "api/vm/identity.h"
#include "api/vm/vm.h"
#include "api/vm/vm_compat.h"
#include "api/vm/vm_interface.h"
#include "api/vm/vm_process.h"
#include "api/wire/json.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/shell_word.h"
#include "base/util.h"

#include <errno.h>
#include <stdlib.h>
#include <stdio.h>
#include <string.h>

#define PLUG_TIMEOUT_NS (30 * 1000000000ULL)

struct plug {
	struct call *call;
	struct vm_host *host;
	uint8_t uuid[16];
	uint64_t run;		 /* the VM's run that the interface is for */
	struct definition *next; /* owned: the definition with the interface; NULL: the VM has it */
	struct definition *only; /* owned: one with this interface alone */
	struct config config;	 /* of `only`, with the interface's files */
	struct store_work stored;
	char id[16];
};

static void plug_free(struct plug *w)
{
	definition_free(w->next);
	definition_free(w->only);
	config_done(&w->config);
	free(w);
}

/* Return the VM in the run that the interface is for; NULL: that run has ended. */
static struct vm *run_find(const struct plug *w)
{
	struct vm *vm = vm_find_uuid(w->host, w->uuid);

	return vm && vm->run == w->run && vm->proc && vm_state_is_active(vm->state) ? vm : NULL;
}

/* Answer the call. has: the VM's process may have the interface, so it stays in the running definition. */
static void plug_end(struct plug *w, int r, bool has, const struct err *e)
{
	struct vm *vm = run_find(w);
	char mac[DEFINITION_MAC_TEXT];

	if (vm && !has && !w->next)
		vm_interface_remove(vm, w->id);
	w->call->vm = vm_find_uuid(w->host, w->uuid);
	if (r < 0) {
		call_fail(w->call, e);
	} else {
		struct json_object *o = json_object_new_object();

		mac_print(w->only->interfaces[0].mac, mac);
		js_put_str(o, "interface", w->id);
		js_put_str(o, "mac", mac);
		w->call->when_stored = true;
		if (!w->call->command->returns) {
			json_object_put(o);
			o = NULL; /* device_add of QEMU */
		}
		call_return(w->call, o);
	}
	plug_free(w);
}

/* ---- planning ---- */

static int interface_check(const struct vm *vm, const struct definition_interface *i, struct err *e)
{
	if (i->user.nforwards)
		return err_set(e, -ENOTSUP, ERR_UNSUPPORTED, "forwards: an interface is attached without forwards; add them afterwards: cairn "
			"forward-add %s --interface %s", shell_word(vm->def->name).s, i->id);
	if (i->slot)
		return err_set(e, -ENOTSUP, ERR_UNSUPPORTED, "slot: a device that is attached while the VM runs gets a free slot; remove slot, or "
			"attach the interface with --config");
	if (definition_disk_find(vm_live(vm), i->id) >= 0)
		return err_set(e, -EEXIST, ERR_EXISTS, "target %s already exists", i->id);
	return 0;
}

/* Make the definition with the interface, and one with the interface alone. */
static int plug_plan(struct plug *w, struct vm *vm, struct err *e)
{
	CLEANUP_JS struct json_object *o = definition_to_json(vm_live(vm)), *only = NULL;
	struct json_object *face = js_get(w->call->args, "interface"), *list = js_get_array(o, "interfaces");
	int r;

	if (!list) {
		list = json_object_new_array();
		js_put(o, "interfaces", list);
	}
	json_object_array_add(list, json_object_get(face));
	r = definition_parse(o, NULL, &w->next, e);
	if (!r)
		r = rights_of_peer(&w->call->who, &w->next->rights, e);
	if (!r)
		r = identity_complete(w->host, w->next, vm, e);
	if (r < 0)
		return r;
	authors_inherit(w->next, vm_live(vm));
	only = definition_to_json(w->next);
	face = json_object_get(json_object_array_get_idx(js_get_array(only, "interfaces"), w->next->ninterfaces - 1));
	list = json_object_new_array();
	json_object_array_add(list, face);
	js_put(only, "interfaces", list);
	json_object_object_del(only, "disks");
	r = definition_parse_stored(only, &w->only, e);
	if (r < 0)
		return r;
	w->only->interfaces[0].vhost = false; /* VM_MSG_PLUG has no member for it; it takes effect at the next start */
	authors_copy(w->next, w->only);
	snprintf(w->id, sizeof(w->id), "%s", w->only->interfaces[0].id);
	return interface_check(vm, &w->only->interfaces[0], e);
}

/* ---- the steps ---- */

static void slot_told(void *opaque, int r, const struct vm_answer *a, const struct err *e)
{
	struct plug *w = opaque;
	struct vm *vm = run_find(w);

	for (unsigned i = 0; r >= 0 && vm && i < a->pci->n; i++)
		if (!strcmp(a->pci->devices[i].id, w->id))
			vm_interface_slot(vm, w->id, a->pci->devices[i].slot);
	plug_end(w, 0, true, e); /* the guest has it, whatever the process answers */
}

static void plug_done(void *opaque, int r, const struct vm_answer *a, const struct err *e)
{
	struct plug *w = opaque;
	struct vm *vm = run_find(w);
	struct err own;

	(void)a;
	if (r >= 0 && vm && vm_compat_check_live(vm, VM_KNOWS_PCI, &own) >= 0)
		vm_process_request(vm->proc, VM_MSG_PCI, NULL, 0, -1, PLUG_TIMEOUT_NS, slot_told, w);
	else /* after another error than a refusal the process may have it; a later daemon compares */
		plug_end(w, r, r != -EREMOTEIO, e);
}

/* The definition with the interface is in the VM's folder. */
static void plug_send(struct store_work *work)
{
	struct plug *w = container_of(work, struct plug, stored);
	struct vm *vm = run_find(w);
	struct err e = work->e;
	int r = work->r < 0 ? work->r : vm ? vm_compat_check_live(vm, VM_KNOWS_PLUG, &e) : err_set(&e, -EPERM, ERR_WRONG_STATE, "the VM has ended meanwhile");

	/* The store, and the network's rules, may have taken long. */
	if (!r)
		r = call_check_role(w->call, ROLE_ADMIN, vm, &e);
	/* vm_interfaces_compare() removes the interface if the process reports its own ones before it gets this one. */
	if (!r && vm_live_interface(vm, w->id, &e) < 0)
		r = err_set(&e, -EBUSY, ERR_BUSY, "interface %s: the connection to the VM's process was lost meanwhile; attach it again", w->id);
	if (r < 0) {
		plug_end(w, r, false, &e);
		return;
	}
	w->config.vm.images_only = false;
	w->config.vm.firmware = VM_FIRMWARE_NONE; /* the message names no files of a UEFI, which the process has */
	vm_process_request_fds(vm->proc, VM_MSG_PLUG, &w->config.vm, VM_PLUG_BYTES, w->config.fds, w->config.nfds, PLUG_TIMEOUT_NS,
		plug_done, w);
}

/* The network filters the interface's frames. */
static void plug_store(void *opaque, int r, const struct err *e)
{
	struct plug *w = opaque;
	struct vm *vm = run_find(w);

	if (r < 0) {
		plug_end(w, r, false, e);
		return;
	}
	w->stored = (struct store_work){ .done = plug_send, .loop = w->host->loop };
	if (vm)
		vm_save_first(vm, &w->stored);
	else
		plug_send(&w->stored);
}

void interface_plug(struct call *c)
{
	struct plug *w = must_alloc(calloc(1, sizeof(*w)));
	struct vm *vm = c->vm;
	struct config_files files;
	struct err e;
	int r = vm_compat_check_live(vm, VM_KNOWS_PLUG, &e);

	w->call = c;
	w->host = c->host;
	memcpy(w->uuid, vm->def->uuid, sizeof(w->uuid));
	w->run = vm->run;
	if (!r)
		r = plug_plan(w, vm, &e);
	if (!r)
		r = config_prepare(w->only, true, &w->config, &files, &e);
	if (!r)
		r = forwards_plug(vm, w->only, &w->config, &e);
	if (r < 0) {
		plug_end(w, r, false, &e);
		return;
	}
	vm_live_change(vm, STEAL_PTR(w->next));
	network_ports_plug(vm, vm_live(vm)->ninterfaces - 1, &w->config, plug_store, w);
}
