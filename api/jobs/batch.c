#include "api/jobs/batch.h"
#include "api/access/authors.h"
#include "api/definition/definition.h"
#include "api/jobs/clone_files.h"
#include "api/jobs/job.h"
#include "api/jobs/pin_release.h"
#include "api/store/store.h"
#include "api/vm/identity.h"
#include "api/vm/owner_claim.h"
#include "api/vm/pins.h"
#include "api/vm/quota_use.h"
#include "api/vm/vm.h"
#include "api/vm/vm_gone.h"
#include "api/wire/json.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/util.h"
#include "base/uuid.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

/* The key of the planned VMs in the batch's file, and its replacement when they are complete. */
#define KEY "vms"
#define KEY_OF_ENDED "end"
#define KEY_REDEFINES "redefines"
#define KEY_FILES "files" /* of a planned VM: the images that its guest may write to */
#define FILES_BYTES (1024 * 1024) /* of plans with files; further ones have none, so the file never gets too large */

struct batch {
	struct vm_host *host;
	struct json_object *planned; /* array of {name, uuid, files, definer, authors}, one for each planned VM */
	size_t planned_bytes;
	struct owner_claim *owners; /* owned; NULL: none, or an earlier daemon began the batch */
	bool owners_storing;
	int owners_r; /* result of storing the owners; -errno: the batch fails with owners_e */
	struct err owners_e;
	struct quota_claim *claim; /* owned; NULL: not claimed yet, or an earlier daemon began the batch */
	/* path of the batch's file, relative to the state folder; empty: not written, or removed */
	char file[sizeof(STORE_BATCHES) + UUID_TEXT + 8];
	/* The n added VMs; made and born_after_ns as in struct clone_files. There is room for all planned VMs. */
	struct vm **vms;
	unsigned *made;
	uint64_t *born_after_ns;
	unsigned n;
	struct definition **defs; /* borrowed definitions, passed to clone_files_remove() */
	struct clone_files_work *removal;
	unsigned leaving; /* number of VM processes whose end is awaited */
	struct loop_task task;
	struct store_work work;
	void (*done)(struct batch *b); /* called when all VMs of the batch are kept, or their removal is over */
	bool failed;
	bool redefines; /* see batch_redefines() */
	bool awaits, over; /* see batch_await(); the job is to conclude */
	bool ending;	   /* batch_end() was called */
	struct err e;
	struct job *job;
	void (*result_put)(void *opaque, struct json_object *o);
	void (*end_put)(void *opaque, struct json_object *o); /* NULL: none */
	void *opaque;
	struct json_object *result; /* owned; NULL: the VMs are not kept yet, or the job has the result */
};

struct batch *batch_new(struct vm_host *host)
{
	struct batch *b = calloc(1, sizeof(*b));

	if (!b)
		abort(); /* otherwise the call that started the job would never be answered */
	b->host = host;
	b->planned = json_object_new_array();
	return b;
}

void batch_redefines(struct batch *b)
{
	b->redefines = true;
}

void batch_free(struct batch *b)
{
	if (!b)
		return;
	clone_files_free(b->removal);
	quota_claim_free(b->claim);
	owner_claim_free(b->owners);
	json_object_put(b->planned);
	json_object_put(b->result);
	free(b->vms);
	free(b->made);
	free(b->born_after_ns);
	free(b->defs);
	free(b);
}

/* ---- creating the VMs of a batch ---- */

static struct json_object *plan_make(const struct definition *def, bool with_files)
{
	struct json_object *o = json_object_new_object(), *files;

	js_put_str(o, "name", def->name);
	js_put_uuid(o, "uuid", def->uuid);
	if (!with_files)
		return o;
	files = json_object_new_array();
	for (uint32_t i = 0; i < def->ndisks; i++)
		if (!def->disks[i].read_only)
			json_object_array_add(files, json_object_new_string(def->disks[i].layers[0].path));
	js_put(o, KEY_FILES, files);
	authors_put(o, def);
	return o;
}

void batch_plan(struct batch *b, const struct definition *def)
{
	struct json_object *o = plan_make(def, true);

	b->planned_bytes += strlen(json_object_to_json_string(o));
	if (b->planned_bytes > FILES_BYTES) {
		json_object_put(o);
		o = plan_make(def, false);
	}
	json_object_array_add(b->planned, o);
}

int batch_claim(struct batch *b, const struct definition *def, const struct quota_new *what, struct err *e)
{
	return quota_claim_new(b->host, def, what, &b->claim, e);
}

int batch_claim_change(struct batch *b, uint64_t image_bytes, uint64_t snapshots, struct err *e)
{
	return quota_claim_change(b->claim, image_bytes, snapshots, e);
}

static void room_make(struct batch *b, size_t n)
{
	b->vms = calloc(n, sizeof(struct vm *));
	b->made = calloc(n, sizeof(*b->made));
	b->born_after_ns = calloc(n, sizeof(*b->born_after_ns));
	b->defs = calloc(n, sizeof(struct definition *));
	if (!b->vms || !b->made || !b->born_after_ns || !b->defs)
		abort(); /* otherwise the call that started the job would never be answered */
}

static int file_put(struct batch *b, struct err *e)
{
	CLEANUP_JS struct json_object *o = json_object_new_object();
	char file[sizeof(b->file)], text[UUID_TEXT];
	uint8_t own[16]; /* random file name; a planned VM's UUID could be in another batch, too */
	int r;

	js_put(o, KEY, json_object_get(b->planned));
	if (b->redefines)
		js_put_bool(o, KEY_REDEFINES, true);
	if (getrandom(own, sizeof(own), 0) != (ssize_t)sizeof(own))
		return err_set_errno(e, -errno, "cannot name a batch");
	uuid_print(own, text);
	snprintf(file, sizeof(file), STORE_BATCHES "/%s.json", text);
	r = store_put(b->host->store, NULL, file, o, STORE_SOON, NULL, e);
	if (!r)
		memcpy(b->file, file, sizeof(file));
	return r;
}

void batch_set_owners(struct batch *b, struct owner_claim *owners)
{
	b->owners = owners;
}

static void batch_finish(struct batch *b);

static void owners_stored(void *opaque, int r, const struct err *e)
{
	struct batch *b = opaque;

	b->owners_storing = false;
	b->owners_r = r;
	if (r < 0)
		b->owners_e = *e;
	if (b->ending)
		batch_finish(b);
}

int batch_begin(struct batch *b, struct err *e)
{
	int r;

	room_make(b, json_object_array_length(b->planned));
	r = file_put(b, e);
	if (!r && b->owners) {
		b->owners_storing = true;
		owner_claim_store(b->owners, owners_stored, b);
	}
	return r;
}

/* Check that no other VM has taken the name, the uuid or a MAC address meanwhile. */
static int taken_check(struct vm_host *host, struct definition *def, struct err *e)
{
	const struct vm *holder;

	if (vm_find(host, def->name))
		return err_set(e, -EEXIST, ERR_EXISTS, "there is a VM '%s' already; choose another name", def->name);
	holder = vm_find_uuid(host, def->uuid);
	if (holder)
		return err_set(e, -EEXIST, ERR_EXISTS, "uuid: is taken by VM '%s'; omit it to have one generated",
			holder->def->name);
	return identity_complete(host, def, NULL, e);
}

static int definition_store(struct vm_host *host, const struct definition *def, bool is_new, struct err *e)
{
	CLEANUP_JS struct json_object *o = definition_to_json(def);

	authors_put(o, def);
	return store_save_definition_soon(host->store, def->name, o, is_new, NULL, e);
}

int batch_redefine(struct batch *b, const struct vm *vm, struct err *e)
{
	return definition_store(b->host, vm->def, false, e);
}

/* No file has the VM's paths yet: rows with these paths are about overlays that somebody has moved. From here on, such
 * rows are the batch's own. */
static int overlays_replace(struct vm_host *host, const struct definition *def, struct err *e)
{
	bool any = false;

	for (uint32_t i = 0; i < def->ndisks; i++)
		if (!def->disks[i].read_only)
			any = pins_replace(host, def->disks[i].layers[0].path) || any;
	return any ? pins_store(host, e) : 0;
}

int batch_add(struct batch *b, struct definition *def, struct job *j, struct vm **ret_vm, struct err *e)
{
	struct vm_host *host = b->host;
	int r = taken_check(host, def, e);

	if (!r)
		r = overlays_replace(host, def, e);
	if (!r)
		r = definition_store(host, def, true, e);
	if (r < 0)
		return r;
	r = vm_add(host, def, ret_vm);
	if (r < 0) {
		store_remove(host->store, def->name, NULL, NULL);
		return err_set_errno(e, r, "VM '%s'", def->name);
	}
	b->vms[b->n++] = *ret_vm;
	quota_claim_take(b->claim, *ret_vm);
	vm_set(*ret_vm, VM_FACT_INCOMPLETE, true);
	owner_claim_give(b->owners, def->uuid);
	job_own(j, *ret_vm, VM_OP_MAKE);
	vm_emit(*ret_vm, EVENT_VM_DEFINED, NULL);
	return 0;
}

void batch_made(struct batch *b, const struct vm *vm, unsigned files)
{
	for (unsigned i = 0; i < b->n; i++)
		if (b->vms[i] == vm)
			b->made[i] = files;
}

/* ---- removing the VMs of a failed batch ---- */

/* Remove the batch's file, if it was written. */
static int file_remove(struct batch *b, struct err *e)
{
	int r = b->file[0] ? store_remove_file(b->host->store, NULL, b->file, STORE_SOON, NULL, e) : 0;

	if (!r)
		b->file[0] = 0;
	return r;
}

static void batch_undo(struct batch *b, void (*done)(struct batch *b));
static void batch_conclude(struct batch *b);

/* If it is unknown whether the batch's file names the VMs after a power cut, the batch fails, because the next daemon
 * would remove them. While they are removed, the file is there again. */
static void file_removal_failed(struct batch *b, const struct err *why)
{
	struct err e;

	batch_fail(b, why);
	if (file_put(b, &e) < 0)
		log_error("batch", "%s", e.msg);
	batch_undo(b, batch_conclude);
}

static const char *planned_name(const struct batch *b, size_t i)
{
	return js_get_str(json_object_array_get_idx(b->planned, i), "name");
}

static void result_begin(struct batch *b)
{
	size_t n = json_object_array_length(b->planned);

	b->result = json_object_new_object();
	js_put_uint(b->result, "count", n);
	js_put_str(b->result, "first", planned_name(b, 0));
	js_put_str(b->result, "last", planned_name(b, n - 1));
	b->result_put(b->opaque, b->result);
}

static void batch_stored(struct store_work *w)
{
	struct batch *b = container_of(w, struct batch, work);

	if (w->r < 0) {
		file_removal_failed(b, &w->e);
		return;
	}
	result_begin(b);
	for (unsigned i = 0; i < b->n; i++) {
		vm_operation_end(b->vms[i]);
		vm_set(b->vms[i], VM_FACT_INCOMPLETE, false);
	}
	b->n = 0; /* from here on, users may remove the VMs */
	owner_claim_free(STEAL_PTR(b->owners));
	b->done(b);
}

static int batch_keep(struct batch *b, void (*done)(struct batch *b), struct err *e)
{
	int r;

	b->done = done;
	b->work = (struct store_work){ .loop = b->host->loop, .done = batch_stored };
	r = store_end_file(b->host->store, b->file, "\"" KEY "\"", "\"" KEY_OF_ENDED "\"", &b->work, e);
	if (!r)
		b->file[0] = 0;
	return r;
}

static bool vm_undefine(struct vm *vm)
{
	struct vm_host *host = vm->host;
	char name[VM_NAME_MAX + 1];
	uint8_t uuid[16];
	struct err e;

	vm_operation_end(vm);
	memcpy(name, vm->def->name, sizeof(name));
	memcpy(uuid, vm->def->uuid, sizeof(uuid));
	if (store_remove(host->store, name, NULL, &e) < 0) {
		log_error("batch", "VM '%s' could not be removed: %s", name, e.msg);
		return false;
	}
	event_emit(&host->sink, EVENT_VM_UNDEFINED, name, uuid, NULL);
	vm_remove(vm);
	if (permissions_remove_vm(&host->permissions, uuid))
		permissions_store(&host->permissions, host->loop, host->store, NULL);
	return true;
}

static bool overlays_remove(const struct vm *vm)
{
	bool any = false;

	for (uint32_t i = 0; i < vm->def->ndisks; i++)
		if (!vm->def->disks[i].read_only)
			any = pins_remove(vm->host, vm->def->disks[i].layers[0].path) || any;
	return any;
}

/* Undefine the VMs after the removal of their disks' files, even if that failed. The files are removed first: after a
 * crash, the VMs' definitions tell the next daemon which files to remove. */
static void files_removed(void *opaque, int r, const struct fork_as_result *res, const struct err *e)
{
	struct batch *b = opaque;
	bool all = true, pins = false;
	struct err own;

	(void)res;
	if (r < 0)
		log_error("batch", "%s", e->msg);
	for (unsigned i = 0; i < b->n; i++) {
		pins = overlays_remove(b->vms[i]) || pins;
		all = vm_undefine(b->vms[i]) && all;
	}
	b->n = 0;
	if (pins)
		pin_release_due(b->host);
	/* If a VM could not be undefined, keep the batch's file, so that the next daemon tries again. */
	if (all && file_remove(b, &own) < 0)
		log_error("batch", "%s", own.msg);
	b->done(b);
}

static void all_ended(struct loop_task *t)
{
	static const struct fork_as_result none;
	struct batch *b = container_of(t, struct batch, task);
	struct clone_files files = { .defs = b->defs, .n = b->n, .made = b->made,
		.born_after_ns = b->born_after_ns };

	for (unsigned i = 0; i < b->n; i++)
		b->defs[i] = b->vms[i]->def;
	if (b->n)
		clone_files_remove(b->host->helpers, &files, files_removed, b, &b->removal);
	else
		files_removed(b, 0, &none, NULL);
}

/* Count a VM's end. After the last one, continue from the loop, not inside the handler of that end. */
static void one_ended(struct vm *vm, void *opaque)
{
	struct batch *b = opaque;

	(void)vm;
	if (!--b->leaving)
		loop_post(b->host->loop, &b->task);
}

static void batch_undo(struct batch *b, void (*done)(struct batch *b))
{
	b->done = done;
	b->task.run = all_ended;
	b->leaving = 1;
	for (unsigned i = 0; i < b->n; i++) {
		struct vm *vm = b->vms[i];

		if (!vm_start_ahead_kill(vm) && !vm->proc)
			continue;
		b->leaving++;
		vm_when_gone(vm, one_ended, b);
		if (vm_state_is_active(vm->state))
			vm_destroy(vm, NULL);
	}
	one_ended(NULL, b);
}

/* ---- the end of the job ---- */

void batch_fail(struct batch *b, const struct err *e)
{
	if (!b->failed)
		b->e = *e;
	b->failed = true;
}

bool batch_has_failed(const struct batch *b)
{
	return b->failed;
}

/* Conclude the job, unless other work of the job continues. */
static void batch_conclude(struct batch *b)
{
	b->over = true;
	if (b->awaits)
		return;
	if (b->failed) {
		job_fail(b->job, &b->e);
		return;
	}
	if (b->end_put)
		b->end_put(b->opaque, b->result);
	job_succeed(b->job, STEAL_PTR(b->result));
}

void batch_await(struct batch *b, bool awaits)
{
	b->awaits = awaits;
	if (b->over)
		batch_conclude(b);
}

/* Keep the VMs, or undo the batch, now that it is known whether their owners are stored. If the batch's file cannot be
 * removed, the batch fails, because the next daemon would remove its VMs. */
static void batch_finish(struct batch *b)
{
	struct err e;

	if (b->owners_r < 0)
		batch_fail(b, &b->owners_e);
	if (!b->failed && batch_keep(b, batch_conclude, &e) < 0)
		batch_fail(b, &e);
	if (b->failed)
		batch_undo(b, batch_conclude);
}

void batch_end(struct batch *b, struct job *j, void (*result_put)(void *opaque, struct json_object *o),
	void (*end_put)(void *opaque, struct json_object *o), void *opaque)
{
	b->job = j;
	b->result_put = result_put;
	b->end_put = end_put;
	b->opaque = opaque;
	b->ending = true;
	if (!b->owners_storing)
		batch_finish(b);
}

/* ---- recovery by the next daemon ---- */

/* Files that are older than born_after_ns were not made for the VM. */
static void half_found(struct batch *b, struct vm *vm, uint64_t born_after_ns)
{
	log_warn("batch", "VM '%s' is an unfinished clone; removing it", vm->def->name);
	vm_set(vm, VM_FACT_INCOMPLETE | VM_FACT_UNDONE, true);
	b->made[b->n] = VM_DISKS_MAX;
	b->born_after_ns[b->n] = born_after_ns;
	b->vms[b->n++] = vm;
}

static void cleared_up(struct batch *b)
{
	batch_free(b);
}

/* Find the VM that has both the planned uuid and the planned name; NULL: none. A VM with only one of them is not the
 * batch's. */
static struct vm *planned_vm(struct vm_host *host, struct json_object *planned)
{
	const char *name = js_get_str(planned, "name"), *text = js_get_str(planned, "uuid");
	uint8_t uuid[16];
	struct vm *vm;

	if (!name || !text || uuid_parse(text, uuid) < 0)
		return NULL;
	vm = vm_find_uuid(host, uuid);
	return vm && !strcmp(vm->def->name, name) ? vm : NULL;
}

/* Return the time before which no file was made for the VM. */
static uint64_t born_after(const struct batch *b, const struct vm *vm)
{
	uint64_t defined_ns = store_file_time(b->host->store, vm->def->name, "definition.json");

	return b->redefines ? MIN(defined_ns, store_file_time(b->host->store, NULL, b->file)) : defined_ns;
}

/* Make a definition that has only what the plan names. Returns NULL on failure. */
static struct definition *plan_to_definition(struct json_object *planned)
{
	CLEANUP_JS struct json_object *o = json_object_new_object();
	struct json_object *disks = json_object_new_array(), *files = js_get_array(planned, KEY_FILES);
	static const char *const keys[] = { "name", "uuid", "definer", "authors" };
	struct definition *def = NULL;
	struct err e;

	for (size_t i = 0; i < ARRAY_SIZE(keys); i++)
		if (js_get(planned, keys[i]))
			js_put(o, keys[i], json_object_get(js_get(planned, keys[i])));
	js_put_str(o, "memory", "32M");
	js_put(o, "disks", disks);
	for (size_t i = 0; files && i < json_object_array_length(files); i++) {
		struct json_object *disk = json_object_new_object();

		js_put(disk, "path", json_object_get(json_object_array_get_idx(files, i)));
		js_put_str(disk, "format", "raw");
		json_object_array_add(disks, disk);
	}
	if (authors_parse_stored(o, &def, &e) < 0)
		log_error("batch", "VM '%s' is an unfinished clone and cannot be removed: %s", js_get_str_or(planned, "name", ""), e.msg);
	return def;
}

/* A power cut may leave a planned VM's definition damaged, because it is synced after it was renamed into place. Add
 * such a VM with what the plan names, so that it is removed as the others are. */
static void damaged_find(struct batch *b, struct json_object *planned)
{
	const char *name = js_get_str(planned, "name"), *uuid = js_get_str(planned, "uuid");
	uint64_t begun_ns = store_file_time(b->host->store, NULL, b->file);
	struct definition *def;
	uint8_t bytes[16];
	struct vm *vm;

	if (!name || !uuid || uuid_parse(uuid, bytes) < 0 || vm_find_name(b->host, name) || vm_find_uuid(b->host, bytes) ||
		!store_is_damaged_since(b->host->store, name, uuid, begun_ns))
		return;
	def = plan_to_definition(planned);
	if (!def)
		return;
	if (vm_add(b->host, def, &vm) < 0)
		definition_free(def);
	else
		half_found(b, vm, begun_ns);
}

static void planned_find(struct batch *b)
{
	for (size_t i = 0; i < json_object_array_length(b->planned); i++) {
		struct json_object *planned = json_object_array_get_idx(b->planned, i);
		struct vm *vm = planned_vm(b->host, planned);

		if (!vm)
			damaged_find(b, planned);
		else if (!vm_has(vm, VM_FACT_UNDONE)) /* two files may name it: see file_removal_failed() */
			half_found(b, vm, born_after(b, vm));
	}
}

static void newer_found(void *opaque, const char *file_name)
{
	struct vm_host *host = opaque;
	CLEANUP_JS struct json_object *o = NULL;
	struct json_object *planned;
	char file[NAME_MAX + sizeof(STORE_BATCHES) + 1];
	struct err e;

	snprintf(file, sizeof(file), STORE_BATCHES "/%s", file_name);
	o = store_read_newer(host->store, file, &e);
	planned = js_get_array(o, KEY);
	for (size_t i = 0; planned && i < json_object_array_length(planned); i++) {
		struct vm *vm = planned_vm(host, json_object_array_get_idx(planned, i));

		if (!vm)
			continue;
		store_leave_vm(host->store, vm->def->name, file, e.msg);
		vm_remove(vm);
	}
}

void batch_leave_newer(struct vm_host *host)
{
	store_each_file(host->store, STORE_BATCHES, newer_found, host);
}

static void file_found(void *opaque, const char *name)
{
	struct vm_host *host = opaque;
	CLEANUP_JS struct json_object *o = NULL;
	struct batch *b = batch_new(host);
	struct err e;

	if (snprintf(b->file, sizeof(b->file), STORE_BATCHES "/%s", name) < (int)sizeof(b->file))
		o = store_load_file(host->store, NULL, b->file);
	if (!js_get_array(o, KEY)) {
		if (js_get_array(o, KEY_OF_ENDED) && file_remove(b, &e) < 0)
			log_error("batch", "%s", e.msg);
		batch_free(b);
		return;
	}
	json_object_put(b->planned);
	b->planned = json_object_get(js_get_array(o, KEY));
	b->redefines = js_get_bool(o, KEY_REDEFINES, false);
	room_make(b, json_object_array_length(b->planned));
	planned_find(b);
	batch_undo(b, cleared_up);
}

/* Whether the VM is an unfinished clone of an older version, which marked each clone by a file instead of writing a
 * batch's file. */
static bool is_marked(struct vm_host *host, const struct vm *vm)
{
	return store_has_file(host->store, vm->def->name, "clone.pending") ||
		store_has_file(host->store, vm->def->name, "fork.pending");
}

static void half_marked(void *opaque, const char *file_name)
{
	struct vm_host *host = opaque;
	CLEANUP_JS struct json_object *o = NULL;
	struct json_object *planned;
	char file[NAME_MAX + sizeof(STORE_BATCHES) + 1];

	snprintf(file, sizeof(file), STORE_BATCHES "/%s", file_name);
	o = store_load_file(host->store, NULL, file);
	planned = js_get_array(o, KEY);
	for (size_t i = 0; planned && i < json_object_array_length(planned); i++) {
		struct vm *vm = planned_vm(host, json_object_array_get_idx(planned, i));

		if (vm)
			vm_set(vm, VM_FACT_INCOMPLETE, true);
	}
}

void batch_mark(struct vm_host *host)
{
	store_each_file(host->store, STORE_BATCHES, half_marked, host);
}

void batch_clear_up(struct vm_host *host)
{
	store_each_file(host->store, STORE_BATCHES, file_found, host);
	for (size_t i = 0; i < host->nvms; i++) {
		struct batch *b;

		if (!is_marked(host, host->vms[i]))
			continue;
		b = batch_new(host);
		room_make(b, 1);
		half_found(b, host->vms[i], born_after(b, host->vms[i]));
		batch_undo(b, cleared_up);
	}
}
