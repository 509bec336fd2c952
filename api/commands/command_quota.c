/* Handlers of quotas. */
#include "api/access/quotas.h"
#include "api/access/rights.h"
#include "api/commands/command.h"
#include "api/vm/quota_use.h"
#include "api/vm/vm.h"
#include "api/wire/json.h"
#include "base/err.h"
#include "base/util.h"

#include <errno.h>
#include <unistd.h>

#define PAGE_ENTRIES 50 /* fit into one answer: an entry has at most 400 bytes */

/* ---- changing quotas ---- */

/* The role admin is not enough: quotas bind users with that role, too. */
static int check_root(const struct call *c, struct err *e)
{
	if (uid_is_root_or_own(c->uid))
		return 0;
	return err_set(e, -EPERM, ERR_PERMISSION, "only root changes quotas, because they bind users with the role admin, too");
}

static int arg_subject(struct call *c, struct quota *ret, struct err *e)
{
	int64_t user = js_get_int(c->args, "user", -1), group = js_get_int(c->args, "group", -1), id = MAX(user, group);
	bool is_default = js_get_bool(c->args, "default", false);

	if ((user >= 0) + (group >= 0) + is_default != 1 || id >= UINT32_MAX)
		return err_set(e, -EINVAL, ERR_INVALID, "give the number of a user, the number of a group, or default");
	if (user >= 0 && uid_is_root_or_own((uid_t)user))
		return err_set(e, -EINVAL, ERR_INVALID, "root and the daemon's own user have no quota");
	*ret = (struct quota){ .kind = is_default ? QUOTA_DEFAULT : user >= 0 ? QUOTA_USER : QUOTA_GROUP,
		.id = is_default ? 0 : (uint32_t)id };
	return 0;
}

static int arg_limits(struct call *c, struct quota *q, unsigned *ret_given, struct err *e)
{
	*ret_given = 0;
	for (unsigned i = 0; i < QUOTA_ITEM_COUNT; i++) {
		const char *name = quota_item_name(i);
		int64_t v = js_get_int(c->args, name, -1);

		if (!js_get(c->args, name))
			continue;
		if (v < -1)
			return err_set(e, -EINVAL, ERR_INVALID, "%s: must be -1 (no limit), 0 or more", name);
		q->limits[i] = v < 0 ? QUOTA_NO_LIMIT : (uint64_t)v;
		*ret_given |= 1u << i;
	}
	return *ret_given ? 0 : err_set(e, -EINVAL, ERR_INVALID, "give at least one limit");
}

static void change_done(void *opaque, int r, const struct err *e)
{
	call_done(opaque, r, e);
}

static void quota_change(struct call *c, bool removes)
{
	struct quota q = { 0 };
	unsigned given = 0;
	struct err e;
	int r = check_root(c, &e);

	if (!r)
		r = arg_subject(c, &q, &e);
	if (!r && !removes)
		r = arg_limits(c, &q, &given, &e);
	if (r < 0)
		call_fail(c, &e);
	else
		quotas_change(&c->host->quotas, c->host->loop, c->host->store, &q, given, change_done, c);
}

void command_quota_set(struct call *c)
{
	quota_change(c, false);
}

void command_quota_remove(struct call *c)
{
	quota_change(c, true);
}

/* ---- listing quotas ---- */

struct listing {
	struct call *call;
	struct json_object *list;
	int64_t from, at; /* index of the page's first entry; that of the next entry */
	bool more;
};

/* Whether the client may see the use of that user or group. */
static bool sees(const struct call *c, const struct quota *q)
{
	if (call_role_for(c, NULL) >= ROLE_ADMIN || q->kind == QUOTA_DEFAULT)
		return true;
	return q->kind == QUOTA_USER ? q->id == c->who.uid : peer_is_in_group(&c->who, q->id);
}

/* limits: those in effect. is_default: they are those of the default. */
static void entry_add(struct listing *l, const struct quota *q, const uint64_t limits[QUOTA_ITEM_COUNT], bool is_default)
{
	uint64_t used[QUOTA_ITEM_COUNT];
	struct json_object *o;

	if (!sees(l->call, q) || l->at++ < l->from)
		return;
	if (l->at > l->from + PAGE_ENTRIES) {
		l->more = true;
		return;
	}
	o = json_object_new_object();
	quota_put_subject(o, q);
	if (is_default)
		js_put_bool(o, "default", true);
	js_put(o, "limits", quota_values_to_json(limits));
	if (q->kind != QUOTA_DEFAULT) {
		quota_use_sum(l->call->host, q, used);
		js_put(o, "used", quota_values_to_json(used));
	}
	json_object_array_add(l->list, o);
}

/* Whether no VM before this one has the same definer. */
static bool is_first_of_definer(const struct vm_host *host, size_t vm)
{
	for (size_t i = 0; i < vm; i++)
		if (host->vms[i]->def->rights && host->vms[i]->def->rights->uid == host->vms[vm]->def->rights->uid)
			return false;
	return true;
}

/* Add the definers of VMs that have no quota of their own. */
static void definers_add(struct listing *l)
{
	static const struct quota none = { .limits = { [0 ... QUOTA_ITEM_COUNT - 1] = QUOTA_NO_LIMIT } };
	const struct vm_host *host = l->call->host;
	const struct quota *of_all = quotas_find(&host->quotas, QUOTA_DEFAULT, 0);

	for (size_t i = 0; i < host->nvms; i++) {
		const struct rights *definer = host->vms[i]->def->rights;
		struct quota q = { .kind = QUOTA_USER };

		if (!definer || quotas_find(&host->quotas, QUOTA_USER, definer->uid) || !is_first_of_definer(host, i))
			continue;
		q.id = definer->uid;
		entry_add(l, &q, of_all ? of_all->limits : none.limits, true);
	}
}

void command_query_quotas(struct call *c)
{
	struct listing l = { .call = c, .list = json_object_new_array(), .from = MAX(js_get_int(c->args, "from", 0), 0) };
	const struct quotas *q = &c->host->quotas;
	struct json_object *o = json_object_new_object();

	for (size_t i = 0; i < q->n; i++)
		entry_add(&l, &q->list[i], q->list[i].limits, false);
	definers_add(&l);
	js_put(o, "quotas", l.list);
	if (l.more)
		js_put_int(o, "next", l.from + PAGE_ENTRIES);
	call_return(c, o);
}
