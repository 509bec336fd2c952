#include "api/jobs/promote.h"
#include "api/access/authors.h"
#include "api/access/permissions.h"
#include "api/definition/definition.h"
#include "api/net/forward_move.h"
#include "api/net/forwards.h"
#include "api/net/usernet.h"
#include "api/schema/call.h"
#include "api/store/store.h"
#include "api/vm/image_users.h"
#include "api/vm/observer.h"
#include "api/vm/vm.h"
#include "api/vm/vm_gone.h"
#include "api/vm/vm_log.h"
#include "api/vm/vm_socket.h"
#include "api/wire/conn.h"
#include "api/wire/json.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/shell_word.h"
#include "base/util.h"
#include "base/uuid.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define OLD_SUFFIX "-old"
#define RESUME_TIMEOUT_NS (10 * 1000000000ULL)
#define RETURN_AGAIN_NS 50000000u
#define RETURN_TRIES 100

/* Files in a VM's folder that go with its uuid. */
static const char *const kept_files[] = { "schedule.json", "timetable.json", "thresholds.json", "autostart.json" };

/* The identity of a VM. */
struct identity {
	char name[VM_NAME_MAX + 1];
	uint8_t uuid[16];
};

/* What shows whether a request has changed a VM since. */
struct seen {
	uint64_t live_changes;
	bool ran;
};

#define WORKS_MAX 16 /* most at a time: the files, PROMOTED_FILE, two for each folder, and the permissions */

struct promotion {
	struct vm_host *host;
	struct call *call; /* NULL: an earlier daemon received it */
	struct vm *winner, *loser; /* with the owner VM_OP_PROMOTE, so nobody frees them */
	struct identity taken;	/* the loser's, which the winner gets */
	struct identity left;	/* the winner's before */
	struct identity old;	/* the loser's new one */
	bool undo;
	struct json_object *roles; /* owned; for the clone, as before its promotion; NULL: not known */
	struct definition *definition, *live; /* the winner's new ones; live: NULL: it does not run, or the same; owned */
	struct seen winner_seen, loser_seen; /* when these were made; a change may have been under way */
	struct forward_move *ports;
	unsigned nids; /* interfaces of the winner's process */
	char ids[VM_INTERFACES_MAX][16], path[PATH_MAX];
	struct loop_task task;
	struct promotion_work {
		struct store_work work;
		struct promotion *of;
	} works[WORKS_MAX];
	unsigned nworks, busy; /* begun; not done yet */
	struct loop_timer *again; /* owned; NULL: not needed yet */
	unsigned tries; /* to give the ports back */
	struct err why; /* of the first work that failed */
	struct err refusal; /* why it was given up */
	bool failed;
	void (*stored)(struct promotion *p);
};

static unsigned under_way; /* promotions of earlier daemons that are not over */

static void promotion_free(struct promotion *p)
{
	loop_timer_free(p->again);
	forward_move_free(p->ports);
	json_object_put(p->roles);
	definition_free(p->definition);
	definition_free(p->live);
	free(p);
}

static void promotion_end(struct promotion *p, struct json_object *result, const struct err *e)
{
	vm_operation_end(p->winner);
	vm_operation_end(p->loser);
	if (!p->call && e)
		log_error("promote", "VM '%s': %s", p->taken.name, e->msg);
	if (p->call && e)
		call_fail(p->call, e);
	else if (p->call)
		call_return(p->call, result);
	else
		json_object_put(result);
	under_way -= !p->call;
	promotion_free(p);
}

/* The source is stopped, and the clone may have its ports, so the daemon cannot undo the promotion. */
static void promotion_halt(struct promotion *p, const struct err *why)
{
	struct err e;

	err_set(&e, -EIO, ERR_HOST, "%.300s; the next daemon finishes the promotion", why->msg);
	promotion_end(p, NULL, &e);
}

/* ---- writes of the store ---- */

static void work_done(struct store_work *w);

/* Begin to count works; stored() is called when all are done. */
static void works_begin(struct promotion *p, void (*stored)(struct promotion *p))
{
	p->nworks = 0;
	p->busy = 1;
	p->stored = stored;
}

static struct store_work *work_next(struct promotion *p)
{
	struct promotion_work *w = &p->works[p->nworks++];

	*w = (struct promotion_work){ { .done = work_done, .loop = p->host->loop }, p };
	return &w->work;
}

static void work_failed(struct promotion *p, const struct err *e)
{
	if (!p->failed)
		p->why = *e;
	p->failed = true;
}

static void works_end(struct promotion *p)
{
	if (--p->busy == 0)
		p->stored(p);
}

static void work_done(struct store_work *w)
{
	struct promotion *p = container_of(w, struct promotion_work, work)->of;

	if (w->r < 0)
		work_failed(p, &w->e);
	works_end(p);
}

/* r: of the call that got work_next(). */
static void work_begun(struct promotion *p, int r, const struct err *e)
{
	if (!r)
		p->busy++;
	else
		work_failed(p, e);
}

/* ---- giving up ---- */

static void given_up(struct promotion *p)
{
	struct err e = p->refusal;

	if (p->failed)
		err_set(&e, -EIO, ERR_HOST, "%.300s; the next daemon may promote it all the same, because this one cannot forget the promotion: %.200s",
			p->refusal.msg, p->why.msg);
	promotion_end(p, NULL, &e);
}

/* Nothing was changed yet: abort, so that no later daemon continues. */
static void promotion_give_up(struct promotion *p, const struct err *why)
{
	struct err e;

	p->refusal = *why;
	p->failed = false;
	works_begin(p, given_up);
	work_begun(p, store_remove_file(p->host->store, p->winner->def->name, PROMOTE_FILE, STORE_WITH_WORK, work_next(p), &e), &e);
	works_end(p);
}

/* ---- the file that the next daemon reads ---- */

static void identity_put(struct json_object *o, const char *name, const char *uuid, const struct identity *i)
{
	js_put_str(o, name, i->name);
	js_put_uuid(o, uuid, i->uuid);
}

static bool identity_take(struct json_object *o, const char *name, const char *uuid, struct identity *ret)
{
	const char *n = js_get_str(o, name), *u = js_get_str(o, uuid);

	if (!n || !u || strlen(n) > VM_NAME_MAX || uuid_parse(u, ret->uuid) < 0)
		return false;
	snprintf(ret->name, sizeof(ret->name), "%s", n);
	return true;
}

static void definition_put(struct json_object *o, const char *key, const struct definition *d)
{
	struct json_object *text = d ? definition_to_json(d) : NULL;

	if (!d)
		return;
	authors_put(text, d);
	js_put(o, key, text);
}

static struct json_object *promotion_to_json(const struct promotion *p)
{
	struct json_object *o = json_object_new_object();

	identity_put(o, "name", "uuid", &p->taken);
	identity_put(o, "clone", "clone-uuid", &p->left);
	identity_put(o, "old", "old-uuid", &p->old);
	js_put_bool(o, "undo", p->undo);
	if (p->roles)
		js_put(o, "roles", json_object_get(p->roles));
	definition_put(o, "definition", p->definition);
	definition_put(o, "live", p->live);
	return o;
}

/* ---- the definitions ---- */

static struct json_object *forwards_of(struct json_object *interface)
{
	if (!js_get_array(interface, "forwards"))
		js_put(interface, "forwards", json_object_new_array());
	return js_get_array(interface, "forwards");
}

static void forwards_put(struct json_object *o, const struct definition *d, const struct definition *from)
{
	struct json_object *list = js_get_array(o, "interfaces");

	for (unsigned i = 0; i < d->ninterfaces; i++)
		for (unsigned k = 0; k < from->ninterfaces; k++)
			for (unsigned n = 0; n < from->interfaces[k].user.nforwards && !strcmp(d->interfaces[i].id, from->interfaces[k].id); n++) {
				struct json_object *f = json_object_new_object();

				definition_put_forward(f, &from->interfaces[k].user.forwards[n]);
				json_object_array_add(forwards_of(json_object_array_get_idx(list, i)), f);
			}
}

/* Make the winner's definition: d with the loser's name, uuid and forwards, which keep their authors. */
static int definition_with(const struct promotion *p, const struct definition *d, const struct definition *from, struct definition **ret,
	struct err *e)
{
	CLEANUP_JS struct json_object *o = definition_to_json(d);
	int r;

	identity_put(o, "name", "uuid", &p->taken);
	forwards_put(o, d, from);
	r = definition_parse_stored(o, ret, e);
	if (!r)
		authors_restore(*ret, d, from);
	return r;
}

/* Make the loser's definition: that of NAME-old, without forwards. */
static int definition_without(const struct promotion *p, struct definition **ret, struct err *e)
{
	CLEANUP_JS struct json_object *o = definition_to_json(p->loser->def);
	struct json_object *list = js_get_array(o, "interfaces");
	int r;

	identity_put(o, "name", "uuid", &p->old);
	for (size_t i = 0; list && i < json_object_array_length(list); i++)
		json_object_object_del(json_object_array_get_idx(list, i), "forwards");
	r = definition_parse_stored(o, ret, e);
	if (!r)
		authors_copy(p->loser->def, *ret);
	return r;
}

static struct seen seen_now(const struct vm *vm)
{
	return (struct seen){ vm->live_changes, vm->proc };
}

/* The end of the VM's process, which counts as a change, too, is no reason. */
static bool was_changed(const struct vm *vm, const struct seen *then)
{
	return vm->proc && then->ran && then->live_changes != vm->live_changes;
}

static int definitions_make(struct promotion *p, struct err *e)
{
	const struct vm *l = p->loser;
	int r = definition_with(p, p->winner->def, l->def, &p->definition, e);

	p->winner_seen = seen_now(p->winner);
	p->loser_seen = seen_now(l);
	if (!r && p->winner->proc)
		r = definition_with(p, vm_live(p->winner), l->proc ? vm_live(l) : l->def, &p->live, e);
	return r;
}

/* ---- the end ---- */

static void over(struct promotion *p)
{
	struct json_object *o, *lost = p->ports ? forward_move_lost(p->ports) : NULL;

	if (p->failed) {
		json_object_put(lost);
		promotion_end(p, NULL, &p->why);
		return;
	}
	o = json_object_new_object();
	identity_put(o, "name", "uuid", &p->taken);
	identity_put(o, "old", "old-uuid", &p->old);
	if (p->ports)
		js_put_uint(o, "gap", forward_move_gap(p->ports));
	if (lost)
		js_put(o, "warnings", lost);
	log_info("promote", "VM '%s' is now '%s', and '%s' stays as '%s'", p->left.name, p->taken.name, p->taken.name, p->old.name);
	promotion_end(p, o, NULL);
}

static void finish(void *opaque)
{
	struct promotion *p = opaque;
	struct err e;

	works_begin(p, over);
	work_begun(p, store_rename_file(p->host->store, p->taken.name, PROMOTE_FILE, PROMOTED_FILE, STORE_WITH_WORK, work_next(p), &e), &e);
	works_end(p);
}

static void identities_stored(struct promotion *p)
{
	struct vm_host *host = p->host;
	int dir = host->run_dir_fd;

	if (p->failed) {
		promotion_halt(p, &p->why);
		return;
	}
	vm_socket_remove(dir, p->left.name);
	for (unsigned i = 0; i < p->nids; i++)
		usernet_remove_socket(dir, p->left.name, p->ids[i]);
	vm_save(p->winner);
	vm_save(p->loser);
	if (p->ports)
		forward_move_open(p->ports, finish, p);
	else
		finish(p);
}

/* ---- both VMs get their new identities ---- */

static void told(const struct promotion *p, const struct identity *from, const struct identity *to)
{
	struct json_object *gone = json_object_new_object(), *come = json_object_new_object();

	js_put_str(gone, "renamed-to", to->name);
	js_put_str(come, "renamed-from", from->name);
	event_emit(&p->host->sink, EVENT_VM_UNDEFINED, from->name, from->uuid, gone);
	event_emit(&p->host->sink, EVENT_VM_DEFINED, to->name, to->uuid, come);
}

static void definition_set(struct vm *vm, struct definition *d)
{
	definition_free(vm->def);
	vm->def = d;
	vm->live_changes++;
}

/* In memory. identities_change() queues the writes in the same turn of the loop, before any other of these VMs. */
static void loser_switch(struct promotion *p, struct definition *d)
{
	vm_live_drop(p->loser);
	vm_log_rename(p->host->logs, p->taken.name, p->old.name);
	vm_rename(p->loser, p->old.name);
	definition_set(p->loser, d);
	vm_set(p->winner, VM_FACT_AUTOSTART, vm_has(p->loser, VM_FACT_AUTOSTART));
	vm_set(p->loser, VM_FACT_AUTOSTART, false);
	if (p->undo)
		memcpy(p->loser->source, p->taken.uuid, sizeof(p->loser->source));
}

static void winner_switch(struct promotion *p)
{
	struct vm *w = p->winner;

	vm_log_rename(p->host->logs, p->left.name, p->taken.name);
	if (w->proc && !uuid_is_set(w->group))
		memcpy(w->group, w->def->uuid, sizeof(w->group));
	vm_rename(w, p->taken.name);
	definition_set(w, STEAL_PTR(p->definition));
	definition_free(w->live);
	w->live = w->proc ? STEAL_PTR(p->live) : NULL;
	if (w->live && !vm_is_pending(w))
		vm_live_drop(w);
	memset(w->source, 0, sizeof(w->source));
}

/* Rename a VM's folder, and let its definition follow. */
static void folder_move(struct promotion *p, const char *from, const struct vm *vm)
{
	CLEANUP_JS struct json_object *o = definition_to_json(vm->def);
	struct store *s = p->host->store;
	struct err e;
	int r;

	authors_put(o, vm->def);
	r = store_rename(s, work_next(p), from, vm->def->name, o, &e);
	work_begun(p, r, &e);
	if (r < 0)
		return;
	store_rename_end(s, work_next(p), vm->def->name);
	p->busy++;
}

/* On the store's thread. The winner's process and those of its interfaces get sockets of the new name when the loser's
 * folder has lost this name, and before the winner's folder has it. So a daemon that finds the name finds the right
 * processes. */
static void sockets_link(struct store_work *w)
{
	const struct promotion *p = container_of(w, struct promotion_work, work)->of;
	int dir = p->host->run_dir_fd;

	w->r = vm_socket_link(dir, p->left.name, p->taken.name, &w->e);
	for (unsigned i = 0; i < p->nids && !w->r; i++)
		usernet_link(dir, p->left.name, p->taken.name, p->ids[i]);
}

static void links_make(struct promotion *p)
{
	const struct definition *d = vm_live(p->winner);
	struct store_work *w = work_next(p);
	struct err e;

	w->run = sockets_link;
	for (p->nids = 0; p->nids < d->ninterfaces; p->nids++)
		memcpy(p->ids[p->nids], d->interfaces[p->nids].id, sizeof(p->ids[0]));
	work_begun(p, store_run(p->host->store, p->old.name, "", p->path, sizeof(p->path), w, &e), &e);
}

static void file_drop(struct promotion *p, const char *name, const char *file)
{
	struct err e;

	work_begun(p, store_remove_file(p->host->store, name, file, STORE_WITH_WORK, work_next(p), &e), &e);
}

static void identities_change(struct promotion *p)
{
	bool loser = memcmp(p->loser->def->uuid, p->old.uuid, 16) != 0, winner = memcmp(p->winner->def->uuid, p->taken.uuid, 16) != 0;
	struct permissions *roles = &p->host->permissions;
	struct definition *d = NULL;
	struct err e;
	int r = loser ? definition_without(p, &d, &e) : 0;

	if (r < 0) {
		promotion_halt(p, &e);
		return;
	}
	works_begin(p, identities_stored);
	vm_former_add(p->loser, p->taken.uuid);
	vm_former_add(p->winner, p->left.uuid);
	if (loser) {
		loser_switch(p, d);
		folder_move(p, p->taken.name, p->loser);
	}
	if (p->winner->proc)
		links_make(p);
	for (size_t i = 0; i < ARRAY_SIZE(kept_files); i++)
		file_drop(p, p->old.name, kept_files[i]);
	file_drop(p, p->old.name, PROMOTED_FILE);
	if (winner) {
		winner_switch(p);
		folder_move(p, p->left.name, p->winner);
	}
	permissions_promote(roles, p->taken.uuid, p->taken.name, p->left.uuid, p->old.uuid, p->old.name, p->undo ? p->roles : NULL);
	permissions_store(roles, p->host->loop, p->host->store, work_next(p));
	p->busy++;
	if (winner)
		vm_notify(p->winner, promoted, p->loser);
	vm_notify(p->winner, redefined);
	vm_notify(p->loser, redefined);
	if (loser)
		told(p, &p->taken, &p->old);
	if (winner)
		told(p, &p->left, &p->taken);
	works_end(p);
}

/* ---- steps before that ---- */

static void files_put(struct promotion *p);

static void source_gone(struct loop_task *t)
{
	files_put(container_of(t, struct promotion, task));
}

static void loser_gone(struct vm *vm, void *opaque)
{
	struct promotion *p = opaque;

	(void)vm;
	p->task.run = source_gone;
	loop_post(p->host->loop, &p->task);
}

static void ports_returned(void *opaque);

static void ports_again(void *opaque)
{
	struct promotion *p = opaque;

	forward_move_open(p->ports, ports_returned, p);
}

/* The loser has its ports again. Otherwise another process has them, such as that of the winner's network, which ends
 * after the winner. */
static void ports_returned(void *opaque)
{
	struct promotion *p = opaque;
	CLEANUP_JS struct json_object *lost = forward_move_lost(p->ports);
	struct err e = p->why;

	if (lost && p->tries++ < RETURN_TRIES && (p->again || loop_timer_new(p->host->loop, ports_again, p, &p->again) == 0)) {
		loop_timer_arm(p->again, loop_now_ns() + RETURN_AGAIN_NS);
		return;
	}
	if (lost)
		err_set(&e, -EIO, p->why.cls, "%.300s, but without %s", p->why.msg, js_plain_string(json_object_array_get_idx(lost, 0)));
	promotion_give_up(p, &e);
}

/* Check the winner once more before the loser is stopped. A promotion of an earlier daemon may have stopped it. */
static int winner_check(struct promotion *p, struct err *e)
{
	if (p->call && !p->undo && !p->winner->proc)
		return err_set(e, -EPERM, ERR_WRONG_STATE, "VM '%.255s' has ended, so '%.255s' stays as it is", p->left.name, p->taken.name);
	if (p->call && (was_changed(p->winner, &p->winner_seen) || was_changed(p->loser, &p->loser_seen)))
		return err_set(e, -EBUSY, ERR_BUSY, "VM '%.200s' or '%.200s' was changed by another request meanwhile, so both stay as they are; repeat "
			"the promotion", p->left.name, p->taken.name);
	return vm_has(p->winner, VM_FACT_TRANSIENT) ? vm_make_persistent(p->winner, e) : 0;
}

/* The ports lead to the winner: stop the loser. */
static void loser_stop(void *opaque)
{
	struct promotion *p = opaque;
	struct err e;

	if (winner_check(p, &e) < 0) {
		p->why = e;
		forward_move_return(p->ports, ports_returned, p);
		return;
	}
	if (!p->loser->proc) {
		loser_gone(p->loser, p);
		return;
	}
	vm_when_gone(p->loser, loser_gone, p);
	if (vm_state_is_active(p->loser->state))
		vm_destroy(p->loser, NULL);
}

static void files_stored(struct promotion *p)
{
	if (p->failed)
		promotion_halt(p, &p->why);
	else
		identities_change(p);
}

/* Give the winner the loser's files that go with the uuid, unless the loser has lost them already. */
static void files_put(struct promotion *p)
{
	struct store *s = p->host->store;
	const char *from = p->loser->def->name, *to = p->winner->def->name;
	bool had = !memcmp(p->loser->def->uuid, p->taken.uuid, 16);
	struct err e;

	works_begin(p, files_stored);
	for (size_t i = 0; i < ARRAY_SIZE(kept_files) && had; i++) {
		CLEANUP_JS struct json_object *o = store_has_file(s, from, kept_files[i]) ? store_load_file(s, from, kept_files[i]) : NULL;

		if (o)
			work_begun(p, store_put(s, to, kept_files[i], o, STORE_WITH_WORK, work_next(p), &e), &e);
		else
			file_drop(p, to, kept_files[i]);
	}
	works_end(p);
}

static void ports_move(struct promotion *p)
{
	if (p->failed) {
		promotion_give_up(p, &p->why);
		return;
	}
	p->ports = forward_move_new(p->loser, p->winner);
	forward_move_begin(p->ports, loser_stop, p);
}

static int intent_store(struct promotion *p, struct err *e)
{
	CLEANUP_JS struct json_object *o = promotion_to_json(p);
	int r;

	works_begin(p, ports_move);
	r = store_put(p->host->store, p->winner->def->name, PROMOTE_FILE, o, STORE_WITH_WORK, work_next(p), e);
	p->busy -= r < 0;
	return r;
}

/* ---- beginning ---- */

static int claims_check(const struct promotion *p, struct err *e)
{
	const struct vm *w = p->winner, *l = p->loser;
	int r = vm_check_claim(w, VM_CLAIM_ALL, "promote it", e);

	if (!r)
		r = template_check(w, "promote it", e);
	if (!r)
		r = template_check(l, "replace it", e);
	if (!r)
		r = vm_check_claim(l, VM_CLAIM_ALL, "replace it", e);
	if (!r && vm_has(l, VM_FACT_TRANSIENT))
		r = err_set(e, -EPERM, ERR_WRONG_STATE, "VM '%.255s' is transient, so its end would undefine it; make it persistent "
			"with: cairn dumpjson %s | cairn define -", l->def->name, shell_word(l->def->name).s);
	if (!r && (w->scope || l->scope))
		r = err_set(e, -ENOTSUP, ERR_UNSUPPORTED, "VM '%.255s' is in a scope of systemd that has its UUID; turn systemd_scope off, and "
			"start it again", w->scope ? w->def->name : l->def->name);
	return r ? r : forward_move_check(l, w, e);
}

/* The command has checked the role for the VM that it names. */
static int role_check(const struct promotion *p, const struct vm *other, struct err *e)
{
	if (!p->call || server_role(p->host->server, &p->call->who, other->def->uuid) >= ROLE_ADMIN)
		return 0;
	return err_set(e, -EPERM, ERR_PERMISSION, "a promotion requires the role owner for the clone and for its source; an admin can give it with "
		"cairn grant");
}

/* Find the VM that `vm` replaces, or with undo the VM that replaced `vm`. */
static int pair_find(struct promotion *p, struct vm *vm, struct err *e)
{
	const char *name = vm->def->name;

	p->winner = vm;
	if (!uuid_is_set(vm->source))
		return err_set(e, -EPERM, ERR_WRONG_STATE, "VM '%.255s' is not a live clone; make one with: cairn clone --live VM NAME", name);
	p->loser = vm_find_uuid(vm->host, vm->source);
	if (!p->loser || p->loser == vm)
		return err_set(e, -ENOENT, ERR_NOT_FOUND, "the VM that '%.255s' was cloned from does not exist any more; use '%.255s' as it is, or "
			"rename it: cairn domrename", name, name);
	if (role_check(p, p->loser, e) < 0)
		return -EPERM;
	if (!vm->proc || !vm_state_is_active(vm->state))
		return err_set(e, -EPERM, ERR_WRONG_STATE, "VM '%.255s' does not run, so clients of '%.255s' would be refused; start it first: cairn "
			"start %s", name, p->loser->def->name, shell_word(name).s);
	if (snprintf(p->old.name, sizeof(p->old.name), "%s" OLD_SUFFIX, p->loser->def->name) >= (int)sizeof(p->old.name))
		return err_set(e, -EINVAL, ERR_INVALID, "the name '%.255s' is too long for " OLD_SUFFIX, p->loser->def->name);
	return 0;
}

static int undo_find(struct promotion *p, struct vm *vm, struct err *e)
{
	CLEANUP_JS struct json_object *o = store_has_file(vm->host->store, vm->def->name, PROMOTED_FILE) ?
		store_load_file(vm->host->store, vm->def->name, PROMOTED_FILE) : NULL;
	struct identity old;

	p->loser = vm;
	p->undo = true;
	p->roles = json_object_get(js_get_array(o, "roles"));
	if (!o || js_get_bool(o, "undo", false) || !identity_take(o, "old", "old-uuid", &old) || !identity_take(o, "clone", "clone-uuid", &p->old))
		return err_set(e, -EPERM, ERR_WRONG_STATE, "VM '%.255s' was not promoted, so there is nothing to undo", vm->def->name);
	p->winner = vm_find_uuid(vm->host, old.uuid);
	if (!p->winner)
		return err_set(e, -ENOENT, ERR_NOT_FOUND, "VM '%.255s' was undefined, so the promotion of '%.255s' cannot be undone", old.name,
			vm->def->name);
	return role_check(p, p->winner, e);
}

static int names_check(struct promotion *p, struct err *e)
{
	int r = 0;

	if (vm_find_name(p->host, p->old.name))
		return err_set(e, -EEXIST, ERR_EXISTS, "there is a VM '%.255s' already; undefine or rename it first", p->old.name);
	if (!p->undo)
		r = uuid_make(p->old.uuid, e);
	memcpy(p->taken.name, p->loser->def->name, sizeof(p->taken.name));
	memcpy(p->taken.uuid, p->loser->def->uuid, sizeof(p->taken.uuid));
	memcpy(p->left.name, p->winner->def->name, sizeof(p->left.name));
	memcpy(p->left.uuid, p->winner->def->uuid, sizeof(p->left.uuid));
	if (!p->undo)
		p->roles = permissions_of_vm(&p->host->permissions, p->left.uuid);
	return r;
}

static void owners_begin(const struct promotion *p)
{
	vm_operation_begin(p->winner, &(struct vm_operation){ .kind = VM_OP_PROMOTE });
	vm_operation_begin(p->loser, &(struct vm_operation){ .kind = VM_OP_PROMOTE });
}

int promote_begin(struct vm *vm, bool undo, struct call *c, struct err *e)
{
	struct promotion *p = must_alloc(calloc(1, sizeof(*p)));
	int r;

	p->host = vm->host;
	p->call = c;
	r = undo ? undo_find(p, vm, e) : pair_find(p, vm, e);
	if (!r)
		r = names_check(p, e);
	if (!r)
		r = claims_check(p, e);
	if (!r)
		r = definitions_make(p, e);
	if (!r)
		r = intent_store(p, e);
	if (r < 0) {
		promotion_free(p);
		return r;
	}
	owners_begin(p);
	return 0;
}

/* ---- recovery by the next daemon ---- */

static bool promotion_load(struct promotion *p, struct vm *winner)
{
	CLEANUP_JS struct json_object *o = store_load_file(p->host->store, winner->def->name, PROMOTE_FILE);
	struct json_object *def = js_get(o, "definition"), *live = js_get(o, "live");
	struct err e;

	p->winner = winner;
	if (!identity_take(o, "name", "uuid", &p->taken) || !identity_take(o, "clone", "clone-uuid", &p->left) ||
		!identity_take(o, "old", "old-uuid", &p->old) || !def || authors_parse_stored(def, &p->definition, &e) < 0)
		return false;
	p->undo = js_get_bool(o, "undo", false);
	p->roles = json_object_get(js_get_array(o, "roles"));
	if (live && authors_parse_stored(live, &p->live, &e) < 0)
		p->live = NULL;
	p->loser = vm_find_uuid(p->host, p->old.uuid);
	if (!p->loser)
		p->loser = vm_find_uuid(p->host, p->taken.uuid);
	return p->loser && p->loser != winner && !p->loser->operation.kind && !winner->operation.kind;
}

static void promotion_resume(struct vm *winner)
{
	struct promotion *p = must_alloc(calloc(1, sizeof(*p)));
	struct err e;

	p->host = winner->host;
	if (!promotion_load(p, winner)) {
		log_error("promote", "VM '%s': its promotion cannot be finished: " PROMOTE_FILE " is not valid, or the other VM is gone", winner->def->name);
		store_remove_file(p->host->store, winner->def->name, PROMOTE_FILE, STORE_NOW, NULL, &e);
		promotion_free(p);
		return;
	}
	log_info("promote", "VM '%s' was being promoted to '%s' when a daemon ended; continuing", p->left.name, p->taken.name);
	owners_begin(p);
	under_way++;
	forwards_adopted(p->winner);
	forwards_adopted(p->loser);
	ports_move(p);
}

void promote_resume_pending(struct vm_host *host)
{
	uint64_t until = loop_now_ns() + RESUME_TIMEOUT_NS, now;

	for (size_t i = host->nvms; i-- > 0;) /* a promotion may move VMs in the list only later, in the loop */
		if (store_has_file(host->store, host->vms[i]->def->name, PROMOTE_FILE))
			promotion_resume(host->vms[i]);
	while (under_way && (now = loop_now_ns()) < until)
		loop_run_once(host->loop, until - now);
}
