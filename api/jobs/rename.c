#include "api/jobs/rename.h"
#include "api/access/authors.h"
#include "api/access/permissions.h"
#include "api/definition/definition.h"
#include "api/schema/call.h"
#include "api/store/store.h"
#include "api/vm/image_users.h"
#include "api/vm/offline_process.h"
#include "api/vm/vm.h"
#include "api/wire/json.h"
#include "base/err.h"
#include "base/log.h"
#include "base/util.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct rename {
	struct store_work work;
	struct call *call;
	struct vm *vm; /* with the owner VM_OP_RENAME, so nobody frees it */
	const char *name; /* the new one; borrowed */
	char old[VM_NAME_MAX + 1];
};

static void rename_end(struct rename *w, int r, const struct err *e)
{
	vm_operation_end(w->vm);
	call_done(w->call, r, e);
	free(w);
}

/* Rename the VM in memory and in the permissions, so that all writes from here on go to the new folder. */
static void take_name(struct vm *vm, const char *name)
{
	struct vm_host *host = vm->host;
	char old[VM_NAME_MAX + 1];

	memcpy(old, vm->def->name, sizeof(old));
	vm_rename(vm, name);
	permissions_rename_vm(&host->permissions, old, name);
}

/* Emit events for clients that track VMs by name: one VM disappears, another appears. */
static void rename_emit(struct rename *w)
{
	struct json_object *from = json_object_new_object(), *to = json_object_new_object();
	const char *name = w->vm->def->name;

	js_put_str(from, "renamed-to", name);
	js_put_str(to, "renamed-from", w->old);
	event_emit(&w->vm->host->sink, EVENT_VM_UNDEFINED, w->old, w->vm->def->uuid, from);
	event_emit(&w->vm->host->sink, EVENT_VM_DEFINED, name, w->vm->def->uuid, to);
}

static void in_force(struct store_work *work)
{
	struct rename *w = container_of(work, struct rename, work);

	if (!work->r)
		rename_emit(w);
	rename_end(w, work->r, &work->e);
}

static void permissions_stored(struct store_work *work)
{
	struct rename *w = container_of(work, struct rename, work);

	if (work->r < 0) {
		rename_end(w, work->r, &work->e); /* the next daemon finishes the rename */
		return;
	}
	work->done = in_force;
	store_rename_end(w->vm->host->store, work, w->vm->def->name);
}

static void folder_renamed(struct store_work *work)
{
	struct rename *w = container_of(work, struct rename, work);

	if (work->r < 0) {
		take_name(w->vm, w->old);
		permissions_store(&w->vm->host->permissions, w->vm->host->loop, w->vm->host->store, NULL);
		vm_save(w->vm); /* writes to state.json during the rename went to the new folder, which does not exist */
		rename_end(w, work->r, &work->e);
		return;
	}
	work->done = permissions_stored;
	permissions_store(&w->vm->host->permissions, w->vm->host->loop, w->vm->host->store, work);
}

static int name_check(struct vm *vm, const char *name, struct err *e)
{
	int r = definition_check_name(name, e);

	if (r < 0) {
		err_prefix(e, "name");
		return r;
	}
	if (!strcmp(name, vm->def->name))
		return err_set(e, -EINVAL, ERR_INVALID, "VM '%s' has that name", name);
	if (vm_find(vm->host, name))
		return err_set(e, -EEXIST, ERR_EXISTS, "there is a VM '%s' already; choose another name", name);
	r = store_check_vm(vm->host->store, name, e); /* names the file that was not loaded */
	if (r < 0)
		return r;
	if (store_has_folder(vm->host->store, name))
		return err_set(e, -EEXIST, ERR_EXISTS, "the name '%s' has the folder of a VM that was not loaded; choose another name", name);
	return 0;
}

/* Store the new definition beside the old one, and rename the folder. */
static int folder_rename(struct rename *w, struct err *e)
{
	CLEANUP_JS struct json_object *o = definition_to_json(w->vm->def);

	js_put_str(o, "name", w->name);
	authors_put(o, w->vm->def);
	return store_rename(w->vm->host->store, &w->work, w->old, w->name, o, e);
}

/* Begin when no offline process has the VM's name any more. Another VM may get the new name until then. */
static void rename_go(void *opaque)
{
	struct rename *w = opaque;
	struct err e;
	int r = offline_check(w->vm, &e);

	if (!r && offline_wait(w->vm, rename_go, w))
		return;
	if (!r)
		r = name_check(w->vm, w->name, &e);
	if (!r)
		r = folder_rename(w, &e);
	if (r < 0)
		rename_end(w, r, &e);
	else
		take_name(w->vm, w->name);
}

int rename_begin(struct vm *vm, const char *name, struct call *c, struct err *e)
{
	struct rename *w;
	int r = template_check(vm, "rename it", e);

	if (!r)
		r = vm_check_claim(vm, VM_CLAIM_AFTER_READ, "rename it", e);
	if (r < 0)
		return r;
	w = must_alloc(calloc(1, sizeof(*w)));
	*w = (struct rename){ { .done = folder_renamed, .loop = vm->host->loop }, c, vm, name, "" };
	memcpy(w->old, vm->def->name, sizeof(w->old));
	vm_operation_begin(vm, &(struct vm_operation){ .kind = VM_OP_RENAME });
	rename_go(w);
	return 0;
}

/* ---- recovery by the next daemon ---- */

static int rename_step(struct vm_host *host, const char *old, const char *name, struct err *e)
{
	CLEANUP_JS struct json_object *o = NULL;
	int r;

	permissions_rename_vm(&host->permissions, old, name);
	o = permissions_to_file(&host->permissions);
	r = store_put(host->store, NULL, PERMISSIONS_FILE, o, STORE_NOW, NULL, e);
	return r < 0 ? r : store_rename_file(host->store, name, STORE_RENAMED, "definition.json", STORE_NOW, NULL, e);
}

static void rename_find(void *opaque, const char *folder)
{
	struct vm_host *host = opaque;
	CLEANUP_JS struct json_object *was = store_load_file(host->store, folder, "definition.json");
	CLEANUP_JS struct json_object *is = store_load_file(host->store, folder, STORE_RENAMED);
	const char *old = js_get_str(was, "name"), *name = js_get_str(is, "name");
	struct err e;
	int r;

	if (store_check_vm(host->store, folder, NULL) < 0)
		return; /* written by a newer Cairn */
	store_drain(host->store); /* an upgrade of the files loaded above may still be writing into the folder */
	if (old && name && !strcmp(name, folder))
		r = rename_step(host, old, name, &e);
	else
		r = store_remove_file(host->store, folder, STORE_RENAMED, STORE_NOW, NULL, &e);
	if (r < 0)
		log_error("rename", "VM '%s': %s", folder, e.msg);
}

void rename_resume_pending(struct vm_host *host)
{
	store_each_with(host->store, STORE_RENAMED, rename_find, host);
}
