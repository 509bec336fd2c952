/* Handlers of define, rename and undefine, of autostart, and of the VM's lifecycle. */
#include "api/commands/command.h"
#include "api/access/rights.h"
#include "api/definition/definition.h"
#include "api/definition/uefi_files.h"
#include "api/jobs/promote.h"
#include "api/jobs/rename.h"
#include "api/jobs/undefine.h"
#include "api/net/forwards.h"
#include "api/net/network.h"
#include "api/net/publish.h"
#include "api/policy/advice.h"
#include "api/policy/autostart.h"
#include "api/policy/disk_room.h"
#include "api/policy/restart.h"
#include "api/policy/start_room.h"
#include "api/policy/timetables.h"
#include "api/policy/transient.h"
#include "api/vm/image_users.h"
#include "api/vm/offline_process.h"
#include "api/vm/owner_claim.h"
#include "api/vm/vm.h"
#include "api/vm/vm_process.h"
#include "api/wire/json.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/shell_word.h"
#include "base/util.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define REQUEST_TIMEOUT_NS (10 * 1000000000ULL)

/* ---- define ---- */

static struct json_object *warnings_of(const struct call *c, const struct vm_defined *what)
{
	struct json_object *list = json_object_new_array();

	/* Other users do not learn which networks exist. */
	if (call_role_for(c, NULL) >= ROLE_VIEWER)
		network_warn_missing(c->host, what->def, list);
	if (what->outdates)
		json_object_array_add(list, json_object_new_string(
			"the VM has a managed save. The next start resumes from it only if the guest would see no "
			"difference; start --force-boot drops the save"));
	return list;
}

static void define_done(void *opaque, int r, const struct vm_defined *what, const struct err *e)
{
	struct json_object *o;
	struct call *c = opaque;

	if (r < 0) {
		call_fail(c, e);
		return;
	}
	o = json_object_new_object();
	js_put_str(o, "name", what->def->name);
	js_put_uuid(o, "uuid", what->def->uuid);
	js_put_bool(o, "created", what->created);
	js_put_bool(o, "pending", what->vm && vm_is_pending(what->vm));
	c->when_stored = what->vm && what->vm->live;
	js_put(o, "warnings", warnings_of(c, what));
	call_return(c, o);
}

/* Parse the call's definition; the caller owns it. Returns 0 or -errno. */
static int definition_of(struct call *c, struct definition **ret, struct err *e)
{
	struct definition *def CLEANUP(definition_free_p) = NULL;
	const char *folder = js_get_str(c->args, "folder");
	const struct vm *old;
	int r = 0;

	if (folder && *folder != '/')
		r = err_set(e, -EINVAL, ERR_INVALID, "folder: must be an absolute path");
	if (!r)
		r = definition_parse(js_get(c->args, "definition"), folder, &def, e);
	old = r ? NULL : vm_find_name(c->host, def->name);
	if (!r)
		r = uefi_choose(uefi_folders, def, old ? old->def : NULL, e);
	if (!r)
		r = rights_of_peer(&c->who, &def->rights, e);
	if (!r)
		*ret = STEAL_PTR(def);
	return r;
}

void command_vm_define(struct call *c)
{
	struct definition *def;
	enum vm_define_mode mode = js_get_bool(c->args, "validate-only", false) ? VM_VALIDATE : VM_DEFINE;
	struct err e;

	if (definition_of(c, &def, &e) < 0) {
		call_fail(c, &e);
		return;
	}
	if (mode == VM_DEFINE && call_role_for(c, NULL) < ROLE_ADMIN && (vm_find_name(c->host, def->name) || !creator_is(c)))
		mode = VM_REDEFINE;
	vm_define(c->host, def, mode, c, json_object_get(js_get(c->args, "was")), define_done, c);
}

/* ---- create ---- */

struct create {
	struct call *call;
	struct vm *vm;
	struct json_object *warnings; /* owned */
};

static void create_undo(struct create *w, const struct err *why)
{
	const struct undefine_opts opts = { .snapshots_metadata = true, .nvram = true, .then_fail = why };
	struct err e;

	if (!w->vm->proc && undefine_begin(w->vm, &opts, w->call, &e) == 0)
		return;
	transient_over(w->vm);
	call_fail(w->call, why);
}

static void create_started(void *opaque, int r, const struct err *e)
{
	struct create *w = opaque;
	struct json_object *o;

	if (r < 0) {
		create_undo(w, e);
	} else {
		o = json_object_new_object();
		js_put_str(o, "name", w->vm->def->name);
		js_put_uuid(o, "uuid", w->vm->def->uuid);
		js_put_int(o, "id", w->vm->id);
		js_put(o, "warnings", json_object_get(w->warnings));
		call_return(w->call, o);
	}
	json_object_put(w->warnings);
	free(w);
}

static void create_defined(void *opaque, int r, const struct vm_defined *what, const struct err *e)
{
	struct call *c = opaque;
	struct vm_start_opts opts = { .state_fd = -1, .paused = js_get_bool(c->args, "paused", false), .done = create_started };
	struct create *w;

	if (r < 0) {
		call_fail(c, e);
		return;
	}
	w = must_alloc(malloc(sizeof(*w)));
	*w = (struct create){ c, what->vm, warnings_of(c, what) };
	opts.opaque = w;
	vm_start(w->vm, &opts);
}

void command_vm_create(struct call *c)
{
	struct definition *def;
	struct err e;

	if (definition_of(c, &def, &e) < 0)
		call_fail(c, &e);
	else
		vm_define(c->host, def, VM_CREATE, c, NULL, create_defined, c);
}

/* ---- promote, rename and undefine ---- */

void command_vm_promote(struct call *c)
{
	struct err e;

	if (promote_begin(c->vm, js_get_bool(c->args, "undo", false), c, &e) < 0)
		call_fail(c, &e);
}

void command_vm_rename(struct call *c)
{
	const char *name = js_get_str(c->args, "name");
	struct err e;

	if (timetables_check_name(c->vm, name, &e) < 0 || rename_begin(c->vm, name, c, &e) < 0)
		call_fail(c, &e);
}

static void undefine_retry(void *opaque)
{
	struct call *c = opaque;
	struct err e;

	if (c->vm) {
		command_vm_undefine(c);
		return;
	}
	err_set(&e, -ENOENT, ERR_NOT_FOUND, "there is no VM '%.255s' any more", js_get_str(c->args, "vm"));
	call_fail(c, &e);
}

void command_vm_undefine(struct call *c)
{
	struct undefine_opts opts = { .storage = js_get_array(c->args, "storage"),
		.remove_all_storage = js_get_bool(c->args, "remove-all-storage", false),
		.managed_save = js_get_bool(c->args, "managed-save", false),
		.snapshots_metadata = js_get_bool(c->args, "snapshots-metadata", false), .backup = true,
		.nvram = js_get_bool(c->args, "nvram", false), .keep_nvram = js_get_bool(c->args, "keep-nvram", false),
		.dry_run = js_get_bool(c->args, "dry-run", false) };
	struct err e;

	if (offline_check(c->vm, &e) < 0) {
		call_fail(c, &e);
		return;
	}
	/* An offline process that lists the VM's snapshots may still exist: wait until it has ended. */
	if (!c->vm->operation.job && offline_wait(c->vm, undefine_retry, c))
		return;
	if (undefine_begin(c->vm, &opts, c, &e) < 0)
		call_fail(c, &e);
}

/* ---- lifecycle ---- */

/* Put the resources that the VM's start lacks into the answer. */
static void warnings_put(struct json_object *o, const struct advice_list *l)
{
	struct json_object *list = json_object_new_array();

	for (size_t i = 0; i < l->n; i++)
		json_object_array_add(list, json_object_new_string(l->list[i].text));
	if (l->n)
		js_put(o, "warnings", list);
	else
		json_object_put(list);
}

/* A start, and the resources that it lacks. */
struct start_call {
	struct call *call;
	struct advice_list room;
	unsigned waits; /* for the start, and for the look at its disks */
	struct json_object *published; /* the ports of the call's forwards; owned; NULL: it has none */
	uint32_t own[DEFINITION_INTERFACES_MAX]; /* with `published`: how many forwards each interface has without them */
	int r;
	struct err e;
	int64_t id;
};

static void start_wait_end(struct start_call *s)
{
	struct json_object *o;

	if (--s->waits)
		return;
	if (s->r < 0) {
		call_fail(s->call, &s->e);
	} else {
		o = json_object_new_object();
		js_put_int(o, "id", s->id);
		if (s->published)
			js_put(o, "published", json_object_get(s->published));
		warnings_put(o, &s->room);
		call_return(s->call, o);
	}
	advice_list_done(&s->room);
	json_object_put(s->published);
	free(s);
}

static void start_room_found(void *opaque, const struct disk_room *low)
{
	struct start_call *s = opaque;
	struct vm *vm = low ? vm_find_uuid(s->call->host, s->call->uuid) : NULL;

	if (vm)
		start_room_disk(vm, s->call, low, &s->room);
	start_wait_end(s);
}

static void start_done(void *opaque, int r, const struct err *e)
{
	struct start_call *s = opaque;

	s->r = r;
	if (r < 0) {
		struct vm *vm = s->published ? vm_find_uuid(s->call->host, s->call->uuid) : NULL;

		s->e = *e;
		if (vm)
			forwards_on_state_change(vm);
	} else {
		s->id = s->call->vm->id;
		if (s->published)
			publish_list(s->call->vm, s->own, s->published);
	}
	start_wait_end(s);
}

/* Make the definition with which the VM runs until it is off: its own with the call's forwards.
 * *ret: the caller's; NULL: there are none. Returns 0; -EPERM; -errno. */
static int start_define(struct call *c, struct definition **ret, struct err *e)
{
	struct json_object *forwards = js_get_array(c->args, "forwards");
	CLEANUP_FREE struct rights *rights = NULL;
	int r;

	*ret = NULL;
	if (!forwards || !json_object_array_length(forwards))
		return 0;
	if (call_role_for(c, c->vm->def->uuid) < ROLE_ADMIN)
		return err_set(e, -EPERM, ERR_PERMISSION, "forwards: to forward ports requires the role owner; an admin can change your role with "
			"cairn grant");
	r = publish_validate(c->host, forwards, c->vm->def, false, e);
	if (!r)
		r = rights_of_peer(&c->who, &rights, e);
	return r ? r : publish_define(forwards, rights, c->vm->def, ret, e);
}

/* Answer whether the VM could start, and which resources the start would lack. */
static void start_check(void *opaque, const struct disk_room *low)
{
	struct call *c = opaque;
	struct vm *vm = vm_find_uuid(c->host, c->uuid);
	struct json_object *o;
	struct advice_list l = { 0 };
	struct err e;
	int r = vm ? vm_check_claim(vm, VM_CLAIM_START, "start it", &e) :
		     err_set(&e, -ENOENT, ERR_NOT_FOUND, "the VM is gone. Next: cairn list --all");

	if (!r)
		r = start_room_check(vm, &e);
	if (r < 0) {
		call_fail(c, &e);
		return;
	}
	start_room_advise(vm, c, true, low, &l);
	o = json_object_new_object();
	warnings_put(o, &l);
	advice_list_done(&l);
	call_return(c, o);
}

void command_vm_start(struct call *c)
{
	struct vm_start_opts opts = { .state_fd = -1, .paused = js_get_bool(c->args, "paused", false),
		.force_boot = js_get_bool(c->args, "force-boot", false),
		.reset_nvram = js_get_bool(c->args, "reset-nvram", false),
		.eager = js_get_bool(c->args, "eager", false),
		.boot = { (enum vm_boot_kind)(field_type_index(FIELD_BOOT_KIND, js_get_str(c->args, "boot")) + 1),
			js_get_bool(c->args, "bootmenu", false) },
		.done = start_done };
	struct start_call *s;
	struct err e;

	if (start_define(c, &opts.definition, &e) < 0) {
		call_fail(c, &e);
		return;
	}
	if (js_get_bool(c->args, "dry-run", false)) {
		definition_free(opts.definition);
		disk_room_find(c->vm, start_check, c);
		return;
	}
	if (opts.definition) {
		/* A start under way needs what is held. */
		if (vm_check_claim(c->vm, VM_CLAIM_START, "start it", &e) < 0) {
			definition_free(opts.definition);
			call_fail(c, &e);
			return;
		}
		forwards_unhold(c->vm, NULL);
	}
	opts.opaque = s = must_alloc(calloc(1, sizeof(*s)));
	*s = (struct start_call){ .call = c, .waits = 2, .published = opts.definition ? json_object_new_array() : NULL };
	for (unsigned i = 0; i < c->vm->def->ninterfaces; i++)
		s->own[i] = c->vm->def->interfaces[i].user.nforwards;
	start_room_advise(c->vm, c, false, NULL, &s->room);
	disk_room_find(c->vm, start_room_found, s);
	vm_start(c->vm, &opts);
}

void command_vm_destroy(struct call *c)
{
	/* The VM is off and a restart is pending: cancel that restart. */
	if (!c->vm->proc && !vm_is_stopping(c->vm) && restart_is_pending(c->vm)) {
		restart_call_off(c->vm);
		call_return(c, NULL);
		return;
	}
	vm_destroy(c->vm, c);
}

/* Answer a lifecycle command after the VM's process has answered the request. If the VM has ended meanwhile, the state
 * table has no row and vm_move() does nothing. The VM cannot have been undefined: only a VM without a process, and thus
 * without requests, can be undefined. */
static void request_done(struct call *c, int r, const struct err *e, enum vm_trigger t,
	enum vm_reason reason)
{
	if (r < 0) {
		call_fail(c, e);
		return;
	}
	vm_move(c->vm, t, reason, NULL, 0);
	call_return(c, NULL);
}

static void suspend_done(void *opaque, int r, const struct vm_answer *a, const struct err *e)
{
	struct call *c = opaque;

	(void)a;
	/* Usually the event of the VM process has moved the state already; then vm_move() does nothing. */
	request_done(c, r, e, VM_SAW_PAUSED, VM_REASON_USER);
}

static void resume_done(void *opaque, int r, const struct vm_answer *a, const struct err *e)
{
	(void)a;
	request_done(opaque, r, e, VM_SAW_RUNNING, VM_REASON_USER);
}

static void reset_done(void *opaque, int r, const struct vm_answer *a, const struct err *e)
{
	struct call *c = opaque;

	(void)a;
	if (r == 0)
		vm_set(c->vm, VM_FACT_REBOOTS, false);
	request_done(c, r, e, VM_ASK_RESET, c->vm->state == VM_PAUSED ? VM_REASON_KEEP : VM_REASON_BOOTED);
}

static void vm_request(struct call *c, enum vm_msg_type type,
	void (*done)(void *opaque, int r, const struct vm_answer *a, const struct err *e))
{
	vm_process_request(c->vm->proc, type, NULL, 0, -1, REQUEST_TIMEOUT_NS, done, c);
}

void command_vm_suspend(struct call *c)
{
	vm_request(c, VM_MSG_STOP, suspend_done);
}

void command_vm_resume(struct call *c)
{
	vm_request(c, VM_MSG_CONT, resume_done);
}

void command_vm_reset(struct call *c)
{
	vm_request(c, VM_MSG_RESET, reset_done);
}

void command_vm_inject_nmi(struct call *c)
{
	vm_request(c, VM_MSG_NMI, command_answered);
}

/* ---- autostart ---- */

struct mark {
	struct store_work work;
	struct call *call;
	bool on;
};

static void mark_stored(struct store_work *work)
{
	struct mark *m = container_of(work, struct mark, work);
	struct call *c = m->call;

	c->vm = vm_find_uuid(c->host, c->uuid); /* the VM may have been undefined meanwhile */
	if (work->r < 0) {
		call_fail(c, &work->e);
	} else {
		if (c->vm)
			vm_set(c->vm, VM_FACT_AUTOSTART, m->on);
		call_return(c, NULL);
	}
	free(m);
}

void command_vm_autostart(struct call *c)
{
	struct mark *m = must_alloc(calloc(1, sizeof(*m)));
	struct err e;
	int r;

	*m = (struct mark){ { .done = mark_stored, .loop = c->host->loop }, c, .on = !js_get_bool(c->args, "disable", false) };
	r = m->on ? template_check(c->vm, "start", &e) : 0;
	if (!r && m->on && vm_has(c->vm, VM_FACT_TRANSIENT))
		r = err_set(&e, -EPERM, ERR_WRONG_STATE, "VM '%s' is transient, so it cannot start with the host; make it persistent with: cairn "
			"dumpjson %s | cairn define -", c->vm->def->name, shell_word(c->vm->def->name).s);
	if (!r)
		r = autostart_store(c->vm, m->on, &m->work, &e);
	if (r < 0) {
		free(m);
		call_fail(c, &e);
	}
}
