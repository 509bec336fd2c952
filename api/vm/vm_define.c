/* Defines a new VM or redefines one: checks the definition, stores it and applies it. */
#include "api/vm/vm.h"
#include "api/access/authors.h"
#include "api/access/fork_as.h"
#include "api/access/open_as.h"
#include "api/access/rights.h"
#include "api/schema/call.h"
#include "api/schema/disk_tune.h"
#include "api/store/store.h"
#include "api/vm/identity.h"
#include "api/vm/image_aliases.h"
#include "api/vm/image_users.h"
#include "api/vm/observer.h"
#include "api/vm/owner_claim.h"
#include "api/vm/pin_scan.h"
#include "api/vm/pins.h"
#include "api/vm/quota_use.h"
#include "api/wire/json.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/machine_version.h"
#include "base/shell_word.h"
#include "base/util.h"
#include "base/uuid.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define ALIASES_TIMEOUT_NS (10 * 1000000000ULL)

static int vm_exists(const struct vm *vm, struct err *e)
{
	const char *name = vm->def->name;

	if (vm_state_is_active(vm->state))
		return err_set(e, -EEXIST, ERR_EXISTS, "VM '%s' exists already and is %s", name, vm_state_name(vm->state));
	return err_set(e, -EEXIST, ERR_EXISTS, "VM '%s' exists already; start it: cairn start %s", name, shell_word(name).s);
}

/* Check that the definition may be stored beside those of the existing VMs, and complete its uuid, machine version and
 * MAC addresses.
 * *ret_old: the VM of that name; NULL: none. */
static int define_check(struct vm_host *host, struct definition *def, enum vm_define_mode mode, struct vm **ret_old, struct err *e)
{
	struct vm *old = vm_find_name(host, def->name), *holder;
	int r;

	*ret_old = old;
	if (!old && definition_check_name(def->name, e) < 0) {
		err_prefix(e, "name");
		return -EINVAL;
	}
	if (old && mode == VM_CREATE)
		return vm_exists(old, e);
	if (old && vm_check_claim(old, VM_CLAIM_DEFINE, "define it", e) < 0)
		return -EBUSY;
	if (old && template_check(old, "change its definition", e) < 0)
		return -EPERM;
	if (!uuid_is_set(def->uuid) && old)
		memcpy(def->uuid, old->def->uuid, sizeof(def->uuid));
	if (!uuid_is_set(def->uuid) && uuid_make(def->uuid, e) < 0)
		return -EIO;
	if (old && memcmp(old->def->uuid, def->uuid, sizeof(def->uuid)))
		return err_set(e, -EEXIST, ERR_EXISTS,
			"uuid: VM '%s' exists with another UUID; rename or undefine that VM first, or omit uuid in a new definition",
			def->name);
	holder = vm_find_uuid(host, def->uuid);
	if (holder && holder != old)
		return err_set(e, -EEXIST, ERR_EXISTS,
			"uuid: is taken by VM '%s'; omit it to have one generated", holder->def->name);
	if (!def->machine)
		def->machine = old && old->def->firmware == def->firmware ? old->def->machine : (uint16_t)machine_version_newest(def->firmware);
	if (!old && quota_check_new(host, def, &(struct quota_new){ .n = 1 }, e) < 0)
		return -EDQUOT;
	r = identity_complete(host, def, old, e);
	if (!r && old) {
		identity_keep_slots(def, old->def);
		identity_take_slots(def, vm_live(old));
	}
	return r;
}

struct define {
	struct store_work work;
	struct vm_host *host;
	struct definition *def; /* owned until the VM takes it */
	uint8_t uuid[16];
	enum vm_define_mode mode;
	const struct call *by;
	struct json_object *was; /* owned; the old definition that the client expects; NULL: any */
	struct json_object *owners; /* owned; definer and authors of the VM that is redefined, or of the new one */
	struct owner_claim *claim; /* owned; of a creator who makes the VM; NULL: none */
	bool redefines;
	bool created, outdates;
	bool waited; /* for the running definition to be stored */
	struct pin_scan *scan; /* finished when define_go() runs; NULL: none was begun */
	void (*done)(void *opaque, int r, const struct vm_defined *what, const struct err *e);
	void *opaque;
};

/* Report the result to the caller and free w. what: ignored and may be NULL when r < 0. */
static void define_end(struct define *w, int r, const struct vm_defined *what, const struct err *e)
{
	w->done(w->opaque, r, what, e);
	definition_free(w->def);
	json_object_put(w->was);
	json_object_put(w->owners);
	pin_scan_free(w->scan);
	owner_claim_free(w->claim);
	free(w);
}

/* Check that the definition has not changed since the client read it, so that no client's change is lost. */
static int was_check(const struct define *w, struct err *e)
{
	CLEANUP_JS struct json_object *is = NULL;
	const struct vm *vm = vm_find(w->host, w->def->name);

	if (!w->was)
		return 0;
	is = vm ? definition_to_json(vm->def) : NULL;
	if (is && json_object_equal(is, w->was))
		return 0;
	if (!vm)
		return err_set(e, -ENOENT, ERR_NOT_FOUND, "VM '%s' was undefined meanwhile", w->def->name);
	return err_set(e, -EBUSY, ERR_BUSY,
		"VM '%s' was changed by another user meanwhile; read its definition again and repeat the change",
		w->def->name);
}

static struct json_object *owners_of(const struct definition *def)
{
	struct json_object *o = json_object_new_object();

	authors_put(o, def);
	return o;
}

/* Let the definer of the VM that is redefined stay, and remember who that is. The daemon's own definitions have their
 * authors already: nobody gains anything by them. */
static void owners_take(struct define *w)
{
	const struct vm *old = vm_find_name(w->host, w->def->name);

	w->redefines = old;
	if (old && w->by)
		authors_inherit(w->def, old->def);
	w->owners = owners_of(old ? old->def : w->def);
}

/* Check that the VM's definer and authors are those that owners_take() saw: the files were checked with their rights.
 * old: NULL: there is no such VM. */
static int owners_check(const struct define *w, const struct vm *old, struct err *e)
{
	CLEANUP_JS struct json_object *is = old ? owners_of(old->def) : NULL;

	if (old ? json_object_equal(is, w->owners) : !w->redefines)
		return 0;
	return err_set(e, -EBUSY, ERR_BUSY, "VM '%s' was changed by another user meanwhile; repeat the change",
		w->def->name);
}

/* Repeat the checks whose results may have changed while files were checked or the draft was written. Check the
 * client's role first, so that the other errors reveal nothing about another user's VM. */
static int may_define(const struct define *w, struct err *e)
{
	const struct vm *vm = vm_find_name(w->host, w->def->name);
	int r;

	if (vm && w->claim)
		return creator_name_taken(vm, e);
	r = w->claim ? creator_check(w->by, e) : call_check_role(w->by, ROLE_ADMIN, vm, e);
	return r < 0 ? r : was_check(w, e);
}

/* If a creator is to make the VM, check its name, and claim its entry before any other check: these then reveal no
 * other VM. */
static int claim_begin(struct define *w, struct err *e)
{
	const struct vm *old = vm_find_name(w->host, w->def->name);

	if (!w->by || w->mode == VM_REDEFINE || w->mode == VM_RUN || !creator_is(w->by))
		return 0;
	if (old && call_role_for(w->by, old->def->uuid) < ROLE_VIEWER)
		return creator_name_taken(old, e);
	if (old)
		return w->mode == VM_CREATE ? vm_exists(old, e) : 0;
	if (uuid_is_set(w->def->uuid))
		return creator_uuid_chosen(e);
	if (uuid_make(w->def->uuid, e) < 0)
		return -EIO;
	w->claim = owner_claim_new(w->by);
	return owner_claim_add(w->claim, w->def, e);
}

static void define_synced(struct store_work *work)
{
	struct define *w = container_of(work, struct define, work);
	struct vm *vm = vm_find_uuid(w->host, w->uuid);
	struct vm_defined what = { .vm = vm, .created = w->created, .outdates = w->outdates };
	struct err e;
	int r = work->r;

	if (r < 0) {
		e = work->e;
	} else if (!vm) {
		r = err_set(&e, -ENOENT, ERR_NOT_FOUND, "another user has undefined the VM meanwhile");
	} else {
		what.def = vm->def;
	}
	define_end(w, r, &what, &e);
}

static void keys_drop(struct json_object *o, const char *const *keys, size_t n)
{
	for (size_t i = 0; i < n; i++)
		json_object_object_del(o, keys[i]);
}

/* Return the definition without the keys that a managed save does not depend on; the caller owns it. */
static struct json_object *machine_of(const struct definition *def)
{
	static const char *const own[] = { "title", "description", "machine", "memory_max", "hugepages", "small_pages", "reclaim_on_pressure", "cpu_shares", "cpu_quota", "balance", "systemd_scope", "on_poweroff", "on_reboot", "on_crash",
		"restart", "shutdown", "idle", "order", "start_delay", "stop_action" };
	static const char *const interface[] = { "forwards", "restrict", "host_loopback", "egress", "filter", "isolated", "bandwidth" };
	struct json_object *o = definition_to_json(def), *interfaces = js_get_array(o, "interfaces"), *disks = js_get_array(o, "disks");

	keys_drop(o, own, ARRAY_SIZE(own));
	for (size_t i = 0; disks && i < json_object_array_length(disks); i++)
		keys_drop(json_object_array_get_idx(disks, i), disk_tune_names, DISK_TUNE_KEYS);
	for (size_t i = 0; interfaces && i < json_object_array_length(interfaces); i++)
		keys_drop(json_object_array_get_idx(interfaces, i), interface, ARRAY_SIZE(interface));
	return o;
}

static bool definition_outdates_save(const struct vm *vm, const struct definition *def)
{
	CLEANUP_JS struct json_object *was = machine_of(vm->def), *is = machine_of(def);

	return vm->state == VM_SAVED && !json_object_equal(was, is);
}

static void text_copy(char **to, const char *from)
{
	free(*to);
	*to = from ? strdup(from) : NULL;
}

static void definition_replace(struct vm *vm, struct definition *def)
{
	if (vm->proc && !vm->live)
		vm->live = vm->def;
	else
		definition_free(vm->def);
	vm->def = def;
	vm->live_changes++;
	vm_notify(vm, redefined);
	if (!vm->live)
		return;
	/* These texts have no effect on the process, so they apply at once. */
	text_copy(&vm->live->title, def->title);
	text_copy(&vm->live->description, def->description);
	vm_save(vm);
}

/* Return the paths of the images to which the VM writes, owned by the caller. */
static struct json_object *images_written(const struct vm *vm)
{
	struct json_object *list = json_object_new_array();

	for (uint32_t i = 0; i < vm->def->ndisks; i++)
		if (vm->def->disks[i].nlayers && !vm->def->disks[i].read_only)
			json_object_array_add(list, json_object_new_string(vm->def->disks[i].layers[0].path));
	return list;
}

int vm_make_transient(struct vm *vm, bool ephemeral, struct err *e)
{
	CLEANUP_JS struct json_object *o = json_object_new_object();
	int r;

	js_put_bool(o, "ephemeral", ephemeral);
	if (ephemeral)
		js_put(o, "images", images_written(vm));
	r = store_put(vm->host->store, vm->def->name, VM_TRANSIENT_FILE, o, STORE_SOON, NULL, e);
	if (!r)
		vm_set(vm, VM_FACT_TRANSIENT | (ephemeral ? VM_FACT_EPHEMERAL : 0), true);
	return r;
}

int vm_make_persistent(struct vm *vm, struct err *e)
{
	int r = store_remove_file(vm->host->store, vm->def->name, VM_TRANSIENT_FILE, STORE_SOON, NULL, e);

	if (!r)
		vm_set(vm, VM_FACT_TRANSIENT | VM_FACT_EPHEMERAL, false);
	return r;
}

void vm_load_transient(struct vm *vm)
{
	CLEANUP_JS struct json_object *o = NULL;

	vm_set(vm, VM_FACT_TRANSIENT, store_has_file(vm->host->store, vm->def->name, VM_TRANSIENT_FILE));
	if (vm_has(vm, VM_FACT_TRANSIENT))
		o = store_load_file(vm->host->store, vm->def->name, VM_TRANSIENT_FILE);
	vm_set(vm, VM_FACT_EPHEMERAL, js_get_bool(o, "ephemeral", false));
}

struct json_object *vm_ephemeral_images(const struct vm *vm)
{
	CLEANUP_JS struct json_object *o = store_load_file(vm->host->store, vm->def->name, VM_TRANSIENT_FILE);
	CLEANUP_JS struct json_object *now = images_written(vm);
	struct json_object *made = js_get_array(o, "images"), *list = json_object_new_array();

	/* An earlier version did not store them. The overlays on pins are the clone's own; others may be a user's. */
	for (size_t k = 0; !made && k < json_object_array_length(now); k++)
		if (pins_has_overlay(vm->host, json_object_get_string(json_object_array_get_idx(now, k))))
			json_object_array_add(list, json_object_get(json_object_array_get_idx(now, k)));
	for (size_t i = 0; made && i < json_object_array_length(made); i++)
		for (size_t k = 0; k < json_object_array_length(now); k++)
			if (json_object_equal(json_object_array_get_idx(made, i), json_object_array_get_idx(now, k)))
				json_object_array_add(list, json_object_get(json_object_array_get_idx(made, i)));
	return list;
}

static bool definition_is(const struct definition *def, struct json_object *o)
{
	CLEANUP_JS struct json_object *is = definition_to_json(def);

	return json_object_equal(is, o);
}

/* Replace or create the VM's definition, in memory and in the state folder. Returns 0; -EAGAIN: it has to be written
 * again first; -errno. */
static int define_store(struct define *w, struct err *e)
{
	CLEANUP_JS struct json_object *draft = definition_to_json(w->def);
	struct vm_host *host = w->host;
	struct vm *vm = NULL;
	int r = may_define(w, e);

	if (!r)
		r = define_check(host, w->def, w->mode, &vm, e);
	if (!r)
		r = owners_check(w, vm, e);
	if (!r && !vm && w->mode == VM_REDEFINE)
		r = err_set(e, -ENOENT, ERR_NOT_FOUND, "another user has undefined VM '%s' meanwhile", w->def->name);
	if (!r && !definition_is(w->def, draft))
		return -EAGAIN; /* another change of the VM has led to another slot meanwhile */
	/* An edit with `was` leaves a transient VM transient. */
	if (!r && vm && vm_has(vm, VM_FACT_TRANSIENT) && !w->was)
		r = vm_make_persistent(vm, e);
	if (!r)
		r = store_keep_draft(host->store, &w->work, w->def->name, !vm, e);
	if (r < 0)
		return r;
	w->created = !vm;
	if (vm) {
		w->outdates = definition_outdates_save(vm, w->def);
		definition_replace(vm, STEAL_PTR(w->def));
		return 0;
	}
	r = vm_add(host, w->def, &vm);
	if (r < 0)
		return err_set_errno(e, r, "VM '%s'", w->def->name);
	w->def = NULL;
	owner_claim_give(w->claim, w->uuid);
	vm_save(vm);
	return w->mode == VM_CREATE ? vm_make_transient(vm, false, e) : 0;
}

/* Store the definition that the VM runs with before its file gets the next start's. Returns false: work->done() is
 * called again when that is stored. Each redefinition of a running VM waits for that, so that none overtakes another
 * one, whose was_check() would then miss it. */
static bool live_is_stored(struct define *w)
{
	struct vm *vm = vm_find(w->host, w->def->name);

	if (!vm || !vm->proc || (w->waited && vm->live))
		return true;
	vm_live_keep(vm);
	w->waited = vm->live;
	if (vm->live)
		vm_save_first(vm, &w->work);
	return !vm->live;
}

static void draft_write(struct define *w);

static void define_drafted(struct store_work *work)
{
	struct define *w = container_of(work, struct define, work);
	const struct definition *def = w->def; /* the VM takes it */
	struct err e = work->e;
	int r = work->r;

	if (!r && !live_is_stored(w))
		return;
	if (!r)
		r = define_store(w, &e);
	if (r == -EAGAIN) {
		store_drop_draft(w->host->store, work);
		draft_write(w);
		return;
	}
	if (r < 0) {
		store_drop_draft(w->host->store, work);
		define_end(w, r, NULL, &e);
		return;
	}
	work->done = define_synced;
	store_sync_file(w->host->store, work, def->name, "definition.json");
	event_emit(&w->host->sink, EVENT_VM_DEFINED, def->name, def->uuid, NULL);
}

/* Add the overlays that the scan has found to the list of pins, so that their pins are in use. The list is on stable
 * storage before any work that is queued in the store afterwards. If the definition is not kept in the end, the rows
 * stay, as after an undefine without images. */
static int pins_complete(struct define *w, struct err *e)
{
	struct pin_scan_result found = { 0 };

	if (w->scan)
		pin_scan_take(w->scan, &found);
	return found.added || found.replaced || (w->scan && pins_are_unsaved(w->host)) ? pins_store(w->host, e) : 0;
}

static void draft_write(struct define *w)
{
	CLEANUP_JS struct json_object *o = definition_to_json(w->def);

	authors_put(o, w->def);
	w->work.loop = w->host->loop;
	w->work.done = define_drafted;
	store_write_draft(w->host->store, &w->work, o);
}

static void claim_stored(void *opaque, int r, const struct err *e)
{
	struct define *w = opaque;

	if (r < 0)
		define_end(w, r, NULL, e);
	else
		draft_write(w);
}

/* Continue after the definition's files were checked and the scan for overlays has ended: answer with the result of the
 * checks, or begin to store. */
static void define_go(void *opaque)
{
	struct define *w = opaque;
	struct vm_defined what;
	struct vm *old = NULL;
	struct err e;
	int r = may_define(w, &e);

	if (!r)
		r = define_check(w->host, w->def, w->mode, &old, &e);
	if (!r)
		r = owners_check(w, old, &e);
	/* Before the draft, so that no power cut leaves a VM whose pin may be deleted. */
	if (!r && w->mode != VM_VALIDATE)
		r = pins_complete(w, &e);
	if (r < 0 || w->mode == VM_VALIDATE || w->mode == VM_RUN) {
		what = (struct vm_defined){ .def = w->def, .vm = old, .created = !old };
		if (!r && w->mode == VM_RUN)
			what.to_run = STEAL_PTR(w->def);
		define_end(w, r, &what, &e);
		return;
	}
	memcpy(w->uuid, w->def->uuid, sizeof(w->uuid));
	if (w->claim)
		owner_claim_store(w->claim, claim_stored, w);
	else
		draft_write(w);
}

static void define_finish(struct define *w, int r, const struct err *e)
{
	if (r < 0) {
		define_end(w, r, NULL, e);
		return;
	}
	if (w->mode != VM_VALIDATE)
		w->scan = pin_scan_begin(w->host, w->def, define_go, w);
	if (!w->scan)
		define_go(w);
}

/* Without an answer of a file system, the paths decide. */
static void aliases_checked(void *opaque, int r, const struct fork_as_result *res, const struct err *e)
{
	(void)res;
	define_finish(opaque, r == -ETIMEDOUT ? 0 : r, e);
}

static void define_checked(void *opaque, int r, const struct fork_as_result *res, const struct err *e)
{
	struct define *w = opaque;
	const struct rights *rights = w->def->rights;
	struct image_aliases a = { w->host, w->def };
	struct fork_as_spec s = { .rights = rights, .of_client = w->by && rights && rights->uid == w->by->uid, .run = image_aliases_check,
		.arg = &a, .what = "comparing its files", .timeout_ns = ALIASES_TIMEOUT_NS, .done = aliases_checked, .opaque = w };
	struct fork_as *x;
	struct err own;

	(void)res;
	if (r < 0 || !image_aliases_possible(&a)) {
		define_finish(w, r, e);
		return;
	}
	r = fork_as_begin(w->host->helpers, &s, &x, &own);
	if (r < 0)
		define_finish(w, r, &own);
}

void vm_define(struct vm_host *host, struct definition *def, enum vm_define_mode mode, const struct call *by,
	struct json_object *was, void (*done)(void *opaque, int r, const struct vm_defined *what, const struct err *e),
	void *opaque)
{
	struct define *w = must_alloc(calloc(1, sizeof(*w)));
	const struct vm *old = was ? vm_find_name(host, def->name) : NULL; /* a change of it */
	struct err e;
	int r;

	*w = (struct define){ .host = host, .def = def, .mode = mode, .by = by, .was = was, .done = done, .opaque = opaque };
	r = claim_begin(w, &e);
	if (r < 0) {
		define_finish(w, r, &e);
		return;
	}
	owners_take(w);
	r = open_as_check(host->helpers, def, old ? old->def : NULL, by ? by->uid : 0, define_checked, w, &e);
	if (r < 0)
		define_finish(w, r, &e);
}
