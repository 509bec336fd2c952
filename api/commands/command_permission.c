/* Handlers of permissions. */
#include "api/commands/command.h"
#include "api/access/permissions.h"
#include "api/store/store.h"
#include "api/vm/consoles.h"
#include "api/vm/vm.h"
#include "api/wire/conn.h"
#include "api/wire/json.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/util.h"
#include "base/uuid.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* A grant or revoke that is being stored. */
struct keep {
	struct store_work work;
	struct call *call;
	enum role role; /* ROLE_NONE: a revoke, which is in effect */
	uint64_t serial; /* of the entry with the granted role */
	bool of_vm;      /* for the VM with this uuid; false: for all VMs */
	uint8_t uuid[16];
};

static void keep_return(const struct keep *k)
{
	struct json_object *o = json_object_new_object(), *left =
		k->role < ROLE_OPERATOR && k->role != ROLE_CREATOR ? consoles_left(k->call->host, k->of_vm ? k->uuid : NULL) : NULL;

	if (left)
		js_put(o, "warnings", left);
	call_return(k->call, o);
}

static void store_done(struct store_work *work)
{
	struct keep *k = container_of(work, struct keep, work);
	struct vm_host *host = k->call->host;
	struct permissions *p = &host->permissions;
	struct err e;
	int r = work->r;

	if (k->role != ROLE_NONE) {
		permissions_promise_end(p, k->serial, k->role, !r);
		if (!r && p->changed)
			p->changed(p->opaque);
		e = work->e;
	} else if (r < 0) {
		err_set(&e, r, work->e.cls, "the permission is revoked, but this is not stored yet, so a restarted daemon would "
			"grant it again; this daemon retries the write: %.300s", work->e.msg);
	}
	if (r < 0)
		permissions_store(p, host->loop, host->store, NULL);
	if (r < 0)
		call_fail(k->call, &e);
	else
		keep_return(k);
	free(k);
}

static void table_store(struct call *c, const struct keep *what)
{
	struct keep *k = must_alloc(calloc(1, sizeof(*k)));

	*k = *what;
	k->work = (struct store_work){ .done = store_done, .loop = c->host->loop };
	k->call = c;
	permissions_store(&c->host->permissions, c->host->loop, c->host->store, &k->work);
}

static int arg_subject(struct call *c, bool *ret_group, uid_t *ret_id, struct err *e)
{
	int64_t user = js_get_int(c->args, "user", -1), group = js_get_int(c->args, "group", -1);

	*ret_group = group >= 0;
	*ret_id = (uid_t)(group >= 0 ? group : user);
	if ((user < 0) == (group < 0) || user >= UINT32_MAX || group >= UINT32_MAX)
		return err_set(e, -EINVAL, ERR_INVALID, "give the number of a user or of a group");
	return 0;
}

/* Read the argument `vm`. A VM that does not exist is accepted only for revoking.
 * *ret_vm: points to buf, or NULL: all VMs. */
static int arg_vm(struct call *c, bool granting, struct permission_vm *buf, const struct permission_vm **ret_vm, struct err *e)
{
	const char *name = js_get_str(c->args, "vm");
	struct vm *vm = name ? vm_find(c->host, name) : NULL;

	*buf = (struct permission_vm){ vm ? vm->def->name : name, vm ? vm->def->uuid : NULL };
	*ret_vm = name ? buf : NULL;
	if (name && !vm && granting)
		return err_set(e, -ENOENT, ERR_NOT_FOUND,
			"there is no VM '%.255s'. Next: cairn list --all", name);
	return 0;
}

static void keep_vm(struct keep *k, const struct permission_vm *vm)
{
	k->of_vm = vm;
	if (vm && vm->uuid)
		memcpy(k->uuid, vm->uuid, sizeof(k->uuid));
}

static int role_invalid(const char *word, bool of_vm, struct err *e)
{
	if (of_vm && !strcmp(word, role_name(ROLE_CREATOR)))
		return err_set(e, -EINVAL, ERR_INVALID, "role: creator is a role for all VMs, and lets a user define VMs and own them; omit the VM");
	return err_set(e, -EINVAL, ERR_INVALID, of_vm ? "role: \"%.40s\" is not a role for one VM; use viewer, guest, operator or owner" :
		"role: \"%.40s\" is not a role for all VMs; use viewer, guest, operator, admin or creator; owner is for one VM", word);
}

int command_arg_role(const struct call *c, bool of_vm, enum role *ret, struct err *e)
{
	const char *word = js_get_str_or(c->args, "role", "");

	*ret = permissions_role_from_word(word, of_vm);
	return *ret == ROLE_NONE ? role_invalid(word, of_vm, e) : 0;
}

void command_permission_grant(struct call *c)
{
	struct permission_origin from = { .since_ns = (int64_t)clock_realtime_ns(), .by = c->uid };
	const struct permission_vm *vm;
	struct permission_vm buf;
	struct keep k = { 0 };
	bool is_group;
	struct err e;
	uid_t id;
	int r = arg_vm(c, true, &buf, &vm, &e);

	if (!r)
		r = command_arg_role(c, vm, &k.role, &e);
	if (!r)
		r = arg_subject(c, &is_group, &id, &e);
	keep_vm(&k, vm);
	if (!r && permissions_promise(&c->host->permissions, is_group, id, vm, k.role, &from, &k.serial) < 0)
		r = err_set(&e, -ENOSPC, ERR_GENERIC, "the table is full: %d entries", PERMISSIONS_MAX);
	if (r < 0)
		call_fail(c, &e);
	else
		table_store(c, &k);
}

void command_permission_revoke(struct call *c)
{
	const struct permission_vm *vm;
	struct permission_vm buf;
	enum role only = ROLE_NONE;
	struct keep k = { 0 };
	bool is_group;
	struct err e;
	uid_t id;
	int r = arg_vm(c, false, &buf, &vm, &e);

	if (!r && js_get_str(c->args, "role"))
		r = command_arg_role(c, vm, &only, &e);
	if (!r)
		r = arg_subject(c, &is_group, &id, &e);
	keep_vm(&k, vm);
	if (!r && permissions_remove(&c->host->permissions, is_group, id, vm, only) < 0)
		r = err_set(&e, -ENOENT, ERR_NOT_FOUND, "%s %u has no such permission. Next: cairn permissions", is_group ? "group" : "user",
			(unsigned)id);
	if (r < 0)
		call_fail(c, &e);
	else
		table_store(c, &k);
}

/* ---- listing permissions ---- */

#define PAGE_ENTRIES 25 /* fit into one answer: a name has at most 255 bytes, each printed as at most six */
#define PAGE_LOOKS 256	/* entries that one call of a user looks at: each may need a look at all others */

/* i: the index of the entry behind the page. */
static void next_put(struct json_object *o, const struct permissions *p, size_t i)
{
	if (i < p->n)
		js_put_int(o, "next", COMMAND_PAGE_KEYS + (int64_t)p->list[i - 1].serial);
}

void command_query_permissions(struct call *c)
{
	const struct permissions *p = &c->host->permissions;
	struct json_object *o = json_object_new_object(), *list = json_object_new_array(), *one;
	int64_t from = js_get_int(c->args, "from", 0);
	size_t i = 0, shown = 0;

	for (; i < p->n && json_object_array_length(list) < PAGE_ENTRIES; i++) {
		one = permission_to_json(&p->list[i]);
		if (one && !command_is_before(from, shown++, p->list[i].serial))
			json_object_array_add(list, one);
		else
			json_object_put(one);
	}
	js_put(o, "permissions", list);
	next_put(o, p, i);
	call_return(c, o);
}

/* Whether the client may see the entry: an admin sees all, an owner those for the VM, and a user the user's own. */
static bool review_may_show(const struct call *c, const struct permission *e)
{
	return call_role_for(c, NULL) >= ROLE_ADMIN || permission_is_about(e, &c->who) ||
		(e->vm && uuid_is_set(e->uuid) && call_role_for(c, e->uuid) >= ROLE_ADMIN);
}

/* Append the role of the socket's group, which has no entry. */
static void review_add_operators(const struct call *c, struct json_object *list)
{
	gid_t operators = server_operators(c->host->server);
	struct json_object *o;

	if (operators == (gid_t)-1 || (call_role_for(c, NULL) < ROLE_ADMIN && !peer_is_in_group(&c->who, operators)))
		return;
	o = json_object_new_object();
	js_put_int(o, "group", operators);
	js_put_str(o, "role", role_name(ROLE_OPERATOR));
	js_put_bool(o, "socket", true);
	json_object_array_add(list, o);
}

void command_query_permissions_review(struct call *c)
{
	const struct permissions *p = &c->host->permissions;
	struct json_object *o = json_object_new_object(), *list = json_object_new_array(), *one;
	int64_t from = js_get_int(c->args, "from", 0), limit = js_get_int(c->args, "unused-for", 0), now = (int64_t)clock_realtime_ns();
	size_t i = 0, looks = 0;

	for (; i < p->n && looks < PAGE_LOOKS && json_object_array_length(list) < PAGE_ENTRIES; i++) {
		const struct permission *e = &p->list[i];

		if (command_is_before(from, i, e->serial))
			continue;
		looks++;
		if (permission_unused_ns(p, e, now) >= limit && review_may_show(c, e) && (one = permission_to_review(p, e, now)))
			json_object_array_add(list, one);
	}
	next_put(o, p, i);
	if (i == p->n && limit <= 0)
		review_add_operators(c, list);
	js_put(o, "permissions", list);
	call_return(c, o);
}
