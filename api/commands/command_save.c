/* Handlers of save, managed save, restart-process and restore. */
#include "api/commands/command.h"
#include "api/access/client_file.h"
#include "api/access/fork_as.h"
#include "api/access/rights.h"
#include "api/definition/definition.h"
#include "api/definition/definition_fit.h"
#include "api/jobs/job.h"
#include "api/jobs/restart_process.h"
#include "api/jobs/save.h"
#include "api/store/store.h"
#include "api/vm/quota_use.h"
#include "api/vm/vm.h"
#include "api/wire/json.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/shell_word.h"
#include "base/util.h"
#include "base/uuid.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

void command_vm_save(struct call *c)
{
	struct job *j;
	struct err e;

	if (save_to_file(c->vm, &c->file, js_get_str(c->args, "job-id"), &j, &e) < 0)
		call_fail(c, &e);
	else
		call_return_job(c, j);
}

enum save_then save_then_asked(const struct call *c)
{
	const char *then = js_get_str(c->args, "then");

	return !then ? SAVE_THEN_AS_IT_WAS : strcmp(then, "paused") ? SAVE_THEN_RUNNING : SAVE_THEN_PAUSED;
}

void command_vm_managed_save(struct call *c)
{
	struct job *j;
	struct err e;

	if (save_managed(c->vm, save_then_asked(c), js_get_str(c->args, "job-id"), c, &j, &e) < 0)
		call_fail(c, &e);
}

void command_vm_restart_process(struct call *c)
{
	struct err e;

	if (restart_process(c->vm, js_get_str(c->args, "job-id"), c, &e) < 0)
		call_fail(c, &e);
}

struct drop {
	struct store_work work;
	struct call *call;
};

static void drop_done(struct store_work *work)
{
	struct drop *d = container_of(work, struct drop, work);

	save_dropped(d->call->vm, work->r);
	call_done(d->call, work->r, &work->e);
	free(d);
}

void command_vm_managed_save_remove(struct call *c)
{
	struct drop *d = must_alloc(calloc(1, sizeof(*d)));
	struct err e;
	int r = vm_check_claim(c->vm, VM_CLAIM_ALL, "remove its managed save", &e);

	*d = (struct drop){ { .done = drop_done, .loop = c->host->loop }, c };
	if (!r)
		r = save_drop_managed(c->vm, &d->work, &e);
	if (r < 0) {
		free(d);
		call_fail(c, &e);
	}
}

/* ---- restore ---- */

struct restore {
	struct call *call;
	struct vm *vm; /* NULL: is not defined yet */
	struct definition *def; /* to define the VM with, or to run it with until it is off; owned. NULL: none */
	bool created; /* this restore defined the VM */
	struct err differs; /* how the VM's definition differs from def */
};

static void vm_undefine(struct vm *vm)
{
	struct vm_host *host = vm->host;
	char name[VM_NAME_MAX + 1];
	uint8_t uuid[16];
	struct err e;

	memcpy(name, vm->def->name, sizeof(name));
	memcpy(uuid, vm->def->uuid, sizeof(uuid));
	if (store_remove(host->store, name, NULL, &e) < 0)
		return;
	event_emit(&host->sink, EVENT_VM_UNDEFINED, name, uuid, NULL);
	vm_remove(vm);
	if (permissions_remove_vm(&host->permissions, uuid))
		permissions_store(&host->permissions, host->loop, host->store, NULL);
}

static void restore_done(void *opaque, int r, const struct err *e)
{
	struct restore *w = opaque;
	struct json_object *o;
	struct err ignored;

	if (r < 0) {
		/* If this restore defined the VM, remove it again, unless something else uses the VM by now, such as a
		 * job that another client has begun, or its process is stuck: then the VM stays until a user undefines
		 * it. */
		if (w->created && !w->vm->proc && vm_check_claim(w->vm, VM_CLAIM_ALL, "undefine it", &ignored) == 0)
			vm_undefine(w->vm);
		call_fail(w->call, e);
	} else {
		o = json_object_new_object();
		js_put_str(o, "name", w->vm->def->name);
		js_put_int(o, "id", w->vm->id);
		js_put_bool(o, "created", w->created);
		if (w->differs.msg[0])
			js_put_str(o, "differs", w->differs.msg);
		call_return(w->call, o);
	}
	free(w);
}

static int state_file_check(const struct client_file *file, struct err *e)
{
	if (!S_ISREG(client_file_facts(file)->mode))
		return err_set(e, -EINVAL, ERR_INVALID, "the file is not a regular file, so it is no saved state");
	return 0;
}

static int existing_check(struct vm *vm, struct err *e)
{
	int r = vm_check_claim(vm, VM_CLAIM_ALL, "restore it", e);

	if (!r)
		r = vm_state_check(vm->def->name, vm->state, VM_ASK_START, e);
	if (!r && vm->state == VM_SAVED)
		r = err_set(e, -EPERM, ERR_WRONG_STATE,
			"VM '%s' has a managed save; drop the save first: cairn managedsave-remove %s",
			vm->def->name, shell_word(vm->def->name).s);
	return r;
}

static void restore_start(struct restore *w)
{
	struct call *c = w->call;
	struct vm_start_opts opts = { .state_fd = -1, .state_file = STEAL_PTR(c->file),
		.definition = STEAL_PTR(w->def), .paused = js_get_bool(c->args, "paused", false),
		.eager = js_get_bool(c->args, "eager", false), .done = restore_done, .opaque = w };

	vm_start(w->vm, &opts);
}

static void restore_defined(void *opaque, int r, const struct vm_defined *what, const struct err *e)
{
	struct restore *w = opaque;
	struct err own;

	if (!r && what->to_run) {
		w->def = what->to_run;
		r = what->vm ? existing_check(what->vm, &own) :
			       err_set(&own, -ENOENT, ERR_NOT_FOUND, "another user has undefined VM '%s' meanwhile", w->def->name);
		e = &own;
	}
	if (r < 0) {
		definition_free(w->def);
		call_fail(w->call, e);
		free(w);
		return;
	}
	w->vm = what->vm;
	w->created = what->created;
	restore_start(w);
}

/* Prepare the definition of a VM that exists, but with another one. */
static int other_prepare(struct restore *w, struct err *e)
{
	struct call *c = w->call;

	if (call_role_for(c, w->vm->def->uuid) < ROLE_ADMIN)
		return err_set(e, -EPERM, ERR_PERMISSION, "%s; to run the VM with the definition in the saved state requires the role owner; "
			"an admin can change your role with cairn grant",
			w->differs.msg);
	memcpy(w->def->name, w->vm->def->name, sizeof(w->def->name)); /* the VM may have been renamed */
	return rights_of_peer(&c->who, &w->def->rights, e);
}

static int new_prepare(struct restore *w, struct err *e)
{
	struct call *c = w->call;
	int r;

	if (call_role_for(c, NULL) < ROLE_ADMIN)
		return err_set(e, -EPERM, ERR_PERMISSION,
			"the VM of the saved state is not defined here, and defining a VM requires the role admin; "
			"an admin can change your role with cairn grant");
	r = rights_of_peer(&c->who, &w->def->rights, e);
	return r ? r : quota_check_new(c->host, w->def, &(struct quota_new){ .n = 1, .runs = true }, e);
}

static bool is_moved(struct json_object *moved, const char *disk)
{
	for (size_t i = 0; moved && i < json_object_array_length(moved); i++)
		if (!strcmp(json_object_get_string(json_object_array_get_idx(moved, i)), disk))
			return true;
	return false;
}

/* Refuse to run the saved memory with other images, such as those of a promoted clone: the guest would damage its file
 * systems. Both definitions have the same disks. */
static int images_check(const struct restore *w, struct err *e)
{
	for (unsigned i = 0; i < w->def->ndisks; i++) {
		const struct definition_disk *then = &w->def->disks[i], *now = &w->vm->def->disks[i];

		if (then->read_only || !then->nlayers || !now->nlayers || !strcmp(then->layers[0].path, now->layers[0].path) ||
			is_moved(js_get_array(w->call->args, "moved"), now->id))
			continue;
		return err_set(e, -EPERM, ERR_WRONG_STATE, "disk %s had the image %.300s at the save, and VM '%.200s' now has %.300s, whose content may "
			"not fit the saved memory. If that is the same image, which was moved: cairn restore --moved %s", now->id, then->layers[0].path,
			w->vm->def->name, now->layers[0].path, now->id);
	}
	return 0;
}

/* Find the VM of the saved state, and the definition that it needs. */
static int restore_prepare(struct restore *w, struct err *e)
{
	struct call *c = w->call;
	int r = definition_parse(js_get(c->args, "definition"), NULL, &w->def, e);

	if (r < 0)
		return r;
	if (!uuid_is_set(w->def->uuid))
		return err_set(e, -EINVAL, ERR_INVALID, "uuid: is missing");
	w->vm = vm_find_uuid(c->host, w->def->uuid);
	if (!w->vm)
		return new_prepare(w, e);
	r = existing_check(w->vm, e);
	if (r < 0)
		return r;
	if (definition_check_fits(w->def, w->vm->def, &w->differs) < 0)
		return other_prepare(w, e);
	r = images_check(w, e);
	if (!r)
		definition_free(STEAL_PTR(w->def));
	return r;
}

void command_vm_restore(struct call *c)
{
	struct restore *w = must_alloc(calloc(1, sizeof(*w)));
	struct err e;
	int r;

	w->call = c;
	r = state_file_check(c->file, &e);
	if (!r)
		r = restore_prepare(w, &e);
	if (r < 0) {
		definition_free(w->def);
		free(w);
		call_fail(c, &e);
	} else if (w->def) {
		vm_define(c->host, STEAL_PTR(w->def), w->vm ? VM_RUN : js_get_bool(c->args, "transient", false) ? VM_CREATE : VM_DEFINE, c,
			NULL, restore_defined, w);
	} else {
		restore_start(w);
	}
}
