#include "api/vm/owner_claim.h"
#include "api/access/authors.h"
#include "api/access/permissions.h"
#include "api/definition/definition.h"
#include "api/schema/call.h"
#include "api/store/store.h"
#include "api/vm/vm.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/util.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct claimed {
	uint8_t uuid[16];
	uint64_t serial; /* of the entry */
	bool given;
};

struct owner_claim {
	struct vm_host *host;
	uid_t uid;
	struct claimed *list; /* owned */
	size_t n;
	bool promised; /* a file may have the entries */
	bool storing;
	bool freed; /* the claim is freed once the write ends */
	struct store_work work;
	void (*done)(void *opaque, int r, const struct err *e);
	void *opaque;
};

/* ---- the right to make VMs ---- */

bool creator_is(const struct call *c)
{
	return call_role_for(c, NULL) < ROLE_ADMIN && permissions_creates(&c->host->permissions, &c->who);
}

int creator_check(const struct call *c, struct err *e)
{
	struct vm_host *host = c ? c->host : NULL;

	if (!c || call_role_for(c, NULL) >= ROLE_ADMIN)
		return 0;
	if (!creator_is(c))
		return err_set(e, -EPERM, ERR_PERMISSION, "%s makes VMs, which requires the role admin for all VMs, or creator for VMs of your "
			"own; an admin can change your role with cairn grant", c->command->name);
	permissions_note_use(&host->permissions, host->loop, host->store, &c->who, NULL, ROLE_CREATOR, false);
	return 0;
}

int creator_check_copy(const struct call *c, const struct vm *source, struct err *e)
{
	int r = creator_check(c, e);

	if (r < 0 || !creator_is(c) || (authors_are_user(source->def, c->uid) && authors_are_user(vm_live(source), c->uid)))
		return r;
	return err_set(e, -EPERM, ERR_PERMISSION, "VM '%.255s' has parts that another user has defined, so only an admin for all VMs may copy it; "
		"you may copy the VMs that you defined yourself", source->def->name);
}

/* ---- claims ---- */

struct owner_claim *owner_claim_new(const struct call *c)
{
	struct owner_claim *o;

	if (!creator_is(c))
		return NULL;
	o = must_alloc(calloc(1, sizeof(*o)));
	*o = (struct owner_claim){ .host = c->host, .uid = c->uid };
	return o;
}

static int reserve_failed(int r, struct err *e)
{
	switch (r) {
	case -EDQUOT:
		return err_set(e, r, ERR_QUOTA, "you have made %d VMs, and a creator may have no more; undefine some first, or let an admin define "
			"the VM", PERMISSIONS_CREATOR_MAX);
	case -ENOSPC:
		return err_set(e, r, ERR_QUOTA, "the table of permissions has no room for another VM of a creator; an admin can revoke roles that "
			"nobody uses: cairn permissions-review");
	default:
		return err_set_errno(e, r, "permissions");
	}
}

static int name_taken(const char *name, struct err *e)
{
	return err_set(e, -EEXIST, ERR_EXISTS, "name: '%s' is taken; choose another name", name);
}

int creator_name_taken(const struct vm *vm, struct err *e)
{
	return name_taken(vm->def->name, e);
}

int creator_uuid_chosen(struct err *e)
{
	return err_set(e, -EINVAL, ERR_INVALID, "uuid: a creator cannot choose the UUID of a new VM; omit it");
}

int owner_claim_add(struct owner_claim *o, const struct definition *def, struct err *e)
{
	const struct permission_vm vm = { def->name, def->uuid };
	struct claimed one = { .given = false };
	int r;

	if (!o)
		return 0;
	/* A VM with a damaged definition may still run, and the new VM would get its files and its process. */
	if (store_has_folder(o->host->store, def->name))
		return name_taken(def->name, e);
	r = permissions_reserve(&o->host->permissions, o->uid, &vm, &one.serial);
	if (r < 0)
		return reserve_failed(r, e);
	memcpy(one.uuid, def->uuid, sizeof(one.uuid));
	o->list = must_alloc(reallocarray(o->list, o->n + 1, sizeof(*o->list)));
	o->list[o->n++] = one;
	return 0;
}

static struct claimed *claimed_find(const struct owner_claim *o, const uint8_t uuid[16])
{
	for (size_t i = 0; o && i < o->n; i++)
		if (!memcmp(o->list[i].uuid, uuid, sizeof(o->list[i].uuid)))
			return &o->list[i];
	return NULL;
}

static void entries_stored(struct store_work *work)
{
	struct owner_claim *o = container_of(work, struct owner_claim, work);

	o->storing = false;
	if (o->freed)
		owner_claim_free(o);
	else
		o->done(o->opaque, work->r, &work->e);
}

void owner_claim_store(struct owner_claim *o, void (*done)(void *opaque, int r, const struct err *e), void *opaque)
{
	const struct permission_origin from = { .since_ns = (int64_t)clock_realtime_ns(), .by = o->uid };
	struct permissions *p = &o->host->permissions;

	for (size_t i = 0; i < o->n; i++)
		permissions_promise_reserved(p, o->list[i].serial, &from);
	o->promised = o->storing = true;
	o->done = done;
	o->opaque = opaque;
	o->work = (struct store_work){ .loop = o->host->loop, .done = entries_stored };
	permissions_store(p, o->host->loop, o->host->store, &o->work);
}

void owner_claim_give(struct owner_claim *o, const uint8_t uuid[16])
{
	struct claimed *one = claimed_find(o, uuid);

	if (!one || one->given)
		return;
	one->given = true;
	permissions_promise_end(&o->host->permissions, one->serial, ROLE_ADMIN, true);
}

/* Tell the connections of the user, and store the table without the entries of VMs that were not made. */
static void claim_end(struct owner_claim *o)
{
	struct permissions *p = &o->host->permissions;
	bool all = true;

	for (size_t i = 0; i < o->n; i++) {
		all = all && o->list[i].given;
		if (!o->list[i].given)
			permissions_promise_end(p, o->list[i].serial, ROLE_ADMIN, false);
	}
	o->n = 0;
	if (!o->promised)
		return;
	if (!all)
		permissions_store(p, o->host->loop, o->host->store, NULL);
	else if (p->changed)
		p->changed(p->opaque);
}

void owner_claim_free(struct owner_claim *o)
{
	if (!o)
		return;
	claim_end(o);
	o->promised = false;
	o->freed = true;
	if (o->storing)
		return;
	free(o->list);
	free(o);
}
