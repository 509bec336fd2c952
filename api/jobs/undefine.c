#include "api/jobs/undefine.h"
#include "api/access/fork_as.h"
#include "api/jobs/import.h"
#include "api/jobs/pin_release.h"
#include "api/jobs/snapshots.h"
#include "api/jobs/volumes.h"
#include "api/schema/call.h"
#include "api/store/store.h"
#include "api/vm/former_files.h"
#include "api/vm/image_users.h"
#include "api/vm/offline_process.h"
#include "api/vm/pins.h"
#include "api/vm/quota_use.h"
#include "api/vm/vm.h"
#include "api/vm/vm_process.h"
#include "api/wire/json.h"
#include "base/err.h"
#include "base/log.h"
#include "base/util.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define LIST_TIMEOUT_NS (30 * 1000000000ULL)

static const struct vm_operation undefining = { .kind = VM_OP_UNDEFINE };

struct undefine {
	struct store_work work;
	struct call *call; /* the client's call; NULL: an earlier daemon received it */
	struct vm_host *host;
	struct vm *vm; /* with the owner VM_OP_UNDEFINE, so only this module frees it */
	bool dry_run, snapshots_metadata, backup; /* options of struct undefine_opts */
	bool has_permissions; /* the VM had permissions */
	bool fails;   /* answer with `why` when the VM is gone */
	struct volumes volumes;
	unsigned removed; /* images removed so far */
	struct fork_as *helper;
	struct err why; /* of `fails`; with images to remove: the error of plan_dropped() */
};

/* ---- the end of the undefine ---- */

static void undefine_free(struct undefine *u)
{
	volumes_done(&u->volumes);
	free(u);
}

static void give_up(struct undefine *u, const struct err *e)
{
	vm_operation_end(u->vm);
	if (u->call)
		call_fail(u->call, e);
	else
		log_error("undefine", "VM '%s' is not undefined: %s", u->vm->def->name, e->msg);
	undefine_free(u);
}

static void undefine_answer(struct undefine *u)
{
	struct json_object *o;

	if (!u->call)
		return;
	if (u->fails) {
		call_fail(u->call, &u->why);
		return;
	}
	o = json_object_new_object();
	if (u->volumes.n)
		js_put(o, "volumes", volumes_to_json(&u->volumes));
	call_return(u->call, o);
}

/* The VM is gone, so a failure to store the permissions is no failure of the undefine: they name a UUID that no VM has
 * any more, and the daemon stores them again. */
static void permissions_removed(struct store_work *work)
{
	struct undefine *u = container_of(work, struct undefine, work);

	if (work->r < 0)
		permissions_store(&u->host->permissions, u->host->loop, u->host->store, NULL);
	undefine_answer(u);
	undefine_free(u);
}

static void vm_undefined(struct store_work *work)
{
	struct undefine *u = container_of(work, struct undefine, work);
	struct permissions *p = &u->host->permissions;

	if (work->r < 0 && u->call) {
		if (u->has_permissions)
			permissions_store(p, u->host->loop, u->host->store, NULL);
		call_fail(u->call, &work->e);
		undefine_free(u);
	} else if (u->has_permissions) {
		u->work.done = permissions_removed;
		permissions_store(p, u->host->loop, u->host->store, &u->work);
	} else {
		undefine_answer(u);
		undefine_free(u);
	}
}

static void plan_dropped(struct store_work *work)
{
	struct undefine *u = container_of(work, struct undefine, work);

	if (work->r < 0)
		log_error("undefine", "%s", work->e.msg);
	give_up(u, &u->why);
}

/* Remove the stored list of images, then fail. Otherwise the next daemon would remove files that have these paths
 * then. */
static void plan_drop(struct undefine *u, const struct err *why)
{
	struct err e;

	u->why = *why;
	if (u->removed)
		err_set(&u->why, -EIO, ERR_IO, "%.400s; %u of the VM's images were removed, and the VM stays defined", why->msg, u->removed);
	u->work.loop = u->host->loop;
	u->work.done = plan_dropped;
	if (store_remove_file(u->host->store, u->vm->def->name, UNDEFINE_FILE, STORE_WITH_WORK, &u->work, &e) < 0) {
		log_error("undefine", "%s", e.msg);
		give_up(u, &u->why);
	}
}

/* Release the pins that the removed images read. A pin that another image reads stays, and so does that of an image
 * that is not removed, such as one behind a symbolic link. */
static void overlays_remove(const struct undefine *u)
{
	bool any = false;

	for (unsigned i = 0; i < u->volumes.n; i++) {
		const struct volume *v = &u->volumes.list[i];

		if (v->kind != VOLUME_FILE && v->kind != VOLUME_MISSING)
			continue;
		any = pins_remove(u->host, v->path) || any;
		any = pins_remove_image(u->host, v->path) || any;
	}
	if (any)
		pin_release_due(u->host);
}

static void vm_undefine(void *opaque)
{
	char name[VM_NAME_MAX + 1];
	uint8_t uuid[16];
	struct undefine *u = opaque;
	struct vm_host *host = u->host;
	struct err e;

	if (offline_check(u->vm, &e) < 0) {
		if (u->volumes.n)
			plan_drop(u, &e);
		else
			give_up(u, &e);
		return;
	}
	if (offline_wait(u->vm, vm_undefine, u)) /* a client's query has started an offline process for the VM */
		return;
	overlays_remove(u);
	u->work.loop = host->loop;
	u->work.done = vm_undefined;
	if (store_remove(host->store, u->vm->def->name, &u->work, &e) < 0) {
		plan_drop(u, &e);
		return;
	}
	memcpy(name, u->vm->def->name, sizeof(name));
	memcpy(uuid, u->vm->def->uuid, sizeof(uuid));
	event_emit(&host->sink, EVENT_VM_UNDEFINED, name, uuid, NULL); /* while the VM's viewers are known */
	vm_remove(u->vm);
	u->has_permissions = permissions_remove_vm(&host->permissions, uuid);
	if (u->has_permissions && host->permissions.changed)
		host->permissions.changed(host->permissions.opaque);
}

/* ---- removing the VM's images ---- */

static void volumes_removed(void *opaque, int r, const struct fork_as_result *res, const struct err *e)
{
	struct undefine *u = opaque;

	u->helper = NULL;
	u->removed = res->count;
	u->volumes.folder_errno = (int)res->bytes;
	if (r < 0) {
		plan_drop(u, e);
		return;
	}
	volumes_take(&u->volumes, res); /* a plan of an earlier daemon does not say which were there */
	vm_undefine(u);
}

static void removal_stored(struct store_work *work)
{
	struct undefine *u = container_of(work, struct undefine, work);
	struct err e = work->e;
	int r = work->r;

	if (!r)
		r = volumes_check_or_remove(&u->volumes, u->vm, true, volumes_removed, u, &u->helper, &e);
	if (r < 0)
		plan_drop(u, &e);
}

static int removal_begin(struct undefine *u, struct err *e)
{
	CLEANUP_JS struct json_object *kept = volumes_keep(&u->volumes);

	u->work.loop = u->host->loop;
	u->work.done = removal_stored;
	return store_put(u->host->store, u->vm->def->name, UNDEFINE_FILE, kept, STORE_WITH_WORK, &u->work, e);
}

static void volumes_seen(void *opaque, int r, const struct fork_as_result *res, const struct err *e)
{
	struct undefine *u = opaque;
	struct err own;

	u->helper = NULL;
	if (!r) {
		volumes_take(&u->volumes, res);
		if (u->dry_run) {
			vm_operation_end(u->vm);
			undefine_answer(u);
			undefine_free(u);
			return;
		}
		r = removal_begin(u, &own);
		e = &own;
	}
	if (r < 0)
		give_up(u, e);
}

static void volumes_look(void *opaque)
{
	struct undefine *u = opaque;
	struct err e;

	if (volumes_check_or_remove(&u->volumes, u->vm, false, volumes_seen, u, &u->helper, &e) < 0)
		give_up(u, &e);
}

static void volumes_check(struct undefine *u)
{
	if (!u->volumes.n && !u->dry_run)
		vm_undefine(u);
	/* The process that has looked for snapshots has the images open. */
	else if (!offline_wait(u->vm, volumes_look, u))
		volumes_look(u);
}

/* ---- looking for snapshots ---- */

static void snapshots_seen(void *opaque, int r, const struct vm_answer *a, const struct err *e)
{
	struct undefine *u = opaque;
	struct err own;

	if (r >= 0)
		quota_snapshots_set(u->vm, a->snapshots->total);
	(void)e;
	/* A VM can be undefined although the snapshots of its images cannot be listed. If an image does not answer, the
	 * VM stays until the process that reads the image has ended. */
	if (r == -ETIMEDOUT) {
		offline_hung_set(u->vm, &own);
		give_up(u, &own);
		return;
	}
	if (r < 0 || !a->snapshots->total) {
		volumes_check(u);
		return;
	}
	err_set(&own, -EPERM, ERR_WRONG_STATE,
		"cannot delete inactive domain with %u snapshots, which are in its images; to undefine it anyway, use "
		"--snapshots-metadata", a->snapshots->total);
	give_up(u, &own);
}

/* A backup is known by its snapshot only, so nobody could end its servers without the VM. */
static void backups_seen(void *opaque, int r, const struct snapshots *s, const struct err *e)
{
	struct undefine *u = opaque;
	struct err own;

	(void)e; /* as in snapshots_seen() */
	if (r == -ETIMEDOUT)
		offline_hung_set(u->vm, &own);
	if (r == -ETIMEDOUT || (!r && snapshots_check_backup(s, u->vm, &own) < 0))
		give_up(u, &own);
	else
		volumes_check(u);
}

static bool may_have_snapshots(const struct definition *def)
{
	for (uint32_t i = 0; i < def->ndisks; i++)
		if (!def->disks[i].read_only && def->disks[i].layers[0].format == DEFINITION_FORMAT_QCOW2)
			return true;
	return false;
}

static void snapshots_check(struct undefine *u)
{
	struct vm_snapshot_list body = { 0 };

	if (!may_have_snapshots(u->vm->def) || (u->snapshots_metadata && !u->backup))
		volumes_check(u);
	else if (u->snapshots_metadata)
		snapshots_fetch(u->vm, backups_seen, u);
	else
		offline_request(u->vm, VM_MSG_SNAPSHOT_LIST, &body, sizeof(body), LIST_TIMEOUT_NS, snapshots_seen, u);
}

/* ---- beginning the undefine ---- */

static int undefine_check(const struct vm *vm, const struct undefine_opts *opts, struct err *e)
{
	char clones[360];
	int r = vm_check_claim(vm, VM_CLAIM_ALL, "undefine it", e);

	if (r < 0)
		return r;
	if (vm->state == VM_SAVED && !opts->managed_save)
		return err_set(e, -EPERM, ERR_WRONG_STATE,
			"VM '%s' has a managed save; start the VM, or use --managed-save to drop the save",
			vm->def->name);
	if (!opts->dry_run && (!opts->nvram || opts->keep_nvram) && store_has_file(vm->host->store, vm->def->name, STORE_NVRAM))
		return err_set(e, -EPERM, ERR_WRONG_STATE, "%s; to remove the UEFI variables, use --nvram", opts->keep_nvram ? "cannot keep the nvram, which is in the VM's state folder" :
			"cannot undefine domain with nvram");
	if (vm_has(vm, VM_FACT_TEMPLATE) && image_clones(vm, clones, sizeof(clones)))
		return err_set(e, -EPERM, ERR_WRONG_STATE,
			"VM '%.120s' is the template of linked clones (%s); undefine them first",
			vm->def->name, clones);
	return 0;
}

static int volumes_wanted(const struct vm *vm, const struct undefine_opts *opts, struct volumes *v, struct err *e)
{
	struct store *store = vm->host->store;
	CLEANUP_JS struct json_object *imported = NULL;

	*v = (struct volumes){ 0 };
	if (opts->storage && opts->remove_all_storage)
		return err_set(e, -EINVAL, ERR_INVALID, "--storage and --remove-all-storage exclude each other");
	if (!opts->storage && !opts->remove_all_storage)
		return 0;
	if (store_has_file(store, vm->def->name, IMPORTED_FILE))
		imported = store_load_file(store, vm->def->name, IMPORTED_FILE);
	return volumes_of(vm, opts->storage, js_get_str(imported, "folder"), v, e);
}

int undefine_begin(struct vm *vm, const struct undefine_opts *opts, struct call *c, struct err *e)
{
	struct undefine *u;
	struct volumes v;
	int r = undefine_check(vm, opts, e);

	if (!r)
		r = volumes_wanted(vm, opts, &v, e);
	if (r < 0)
		return r;
	u = calloc(1, sizeof(*u));
	if (!u)
		abort(); /* otherwise the client would never get an answer */
	*u = (struct undefine){ .call = c, .host = vm->host, .vm = vm, .dry_run = opts->dry_run,
		.snapshots_metadata = opts->snapshots_metadata, .backup = opts->backup, .volumes = v };
	u->volumes.unless_open = c;
	u->fails = opts->then_fail;
	if (u->fails)
		u->why = *opts->then_fail;
	vm_operation_begin(vm, &undefining);
	snapshots_check(u);
	return 0;
}

/* ---- recovery by the next daemon ---- */

static void undefine_step(struct vm *vm, struct json_object *kept)
{
	struct undefine *u = must_alloc(calloc(1, sizeof(*u)));
	struct err e;

	volumes_load(kept, &u->volumes);
	log_info("undefine", "VM '%s' was being undefined with its images when a daemon ended; continuing",
		vm->def->name);
	u->host = vm->host;
	u->vm = vm;
	vm_operation_begin(vm, &undefining);
	if (volumes_check_or_remove(&u->volumes, vm, true, volumes_removed, u, &u->helper, &e) < 0)
		plan_drop(u, &e);
}

/* The VM was started after an undefine whose plan could not be removed: it uses the images. */
static void plan_forget(const struct vm *vm)
{
	struct err e;

	log_warn("undefine", "VM '%s' was being undefined when a daemon ended, but runs now; its images stay", vm->def->name);
	if (store_remove_file(vm->host->store, vm->def->name, UNDEFINE_FILE, STORE_SOON, NULL, &e) < 0)
		log_error("undefine", "%s", e.msg);
}

void undefine_resume_pending(struct vm_host *host)
{
	for (size_t i = 0; i < host->nvms; i++) {
		CLEANUP_JS struct json_object *kept = NULL;
		struct vm *vm = host->vms[i];

		if (vm->operation.kind || !store_has_file(host->store, vm->def->name, UNDEFINE_FILE))
			continue;
		if (vm->proc || vm_state_is_active(vm->state)) {
			plan_forget(vm);
			continue;
		}
		kept = store_load_file(host->store, vm->def->name, UNDEFINE_FILE);
		if (kept)
			undefine_step(vm, kept);
	}
}
