/* Handlers of quotas. */
#include "api/access/quotas.h"
#include "api/access/rights.h"
#include "api/commands/command.h"
#include "api/vm/quota_use.h"
#include "api/vm/vm.h"
#include "api/wire/json.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/util.h"

#include <errno.h>
#include <stdlib.h>
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

struct listed {
	struct quota quota;
	const uint64_t *limits; /* in effect */
	bool is_default; /* they are those of the default */
};

/* Return whether the client may see the use of that user or group. */
static bool sees(const struct call *c, const struct quota *q)
{
	if (call_role_for(c, NULL) >= ROLE_ADMIN || q->kind == QUOTA_DEFAULT)
		return true;
	return q->kind == QUOTA_USER ? q->id == c->who.uid : peer_is_in_group(&c->who, q->id);
}

/* Ascending in the list: users, groups, and then the default. */
static uint64_t key_of(const struct quota *q)
{
	return (uint64_t)(q->kind == QUOTA_DEFAULT ? QUOTA_GROUP + 1 : q->kind) << 32 | q->id;
}

static int listed_compare(const void *a, const void *b)
{
	uint64_t x = key_of(&((const struct listed *)a)->quota), y = key_of(&((const struct listed *)b)->quota);

	return (x > y) - (x < y);
}

static struct json_object *entry_show(const struct call *c, const struct listed *l)
{
	struct json_object *o = json_object_new_object();
	uint64_t used[QUOTA_ITEM_COUNT];

	quota_put_subject(o, &l->quota);
	if (l->is_default)
		js_put_bool(o, "default", true);
	js_put(o, "limits", quota_values_to_json(l->limits));
	if (l->quota.kind != QUOTA_DEFAULT) {
		quota_use_sum(c->host, &l->quota, used);
		js_put(o, "used", quota_values_to_json(used));
	}
	return o;
}

/* List the definers of VMs that have no quota of their own; one of several VMs comes several times. Returns their
 * number. */
static size_t definers_list(const struct vm_host *host, struct listed *list)
{
	static const uint64_t none[QUOTA_ITEM_COUNT] = { [0 ... QUOTA_ITEM_COUNT - 1] = QUOTA_NO_LIMIT };
	const struct quota *of_all = quotas_find(&host->quotas, QUOTA_DEFAULT, 0);
	size_t n = 0;

	for (size_t i = 0; i < host->nvms; i++) {
		const struct rights *definer = host->vms[i]->def->rights;

		if (definer && !quotas_find(&host->quotas, QUOTA_USER, definer->uid))
			list[n++] = (struct listed){ { .kind = QUOTA_USER, .id = definer->uid }, of_all ? of_all->limits : none, true };
	}
	return n;
}

/* Return all entries by key, owned by the caller. */
static struct listed *entries_list(const struct vm_host *host, size_t *ret_n)
{
	const struct quotas *q = &host->quotas;
	struct listed *list = must_alloc(calloc(q->n + host->nvms + 1, sizeof(*list)));

	for (size_t i = 0; i < q->n; i++)
		list[i] = (struct listed){ q->list[i], q->list[i].limits, false };
	*ret_n = q->n + definers_list(host, list + q->n);
	qsort(list, *ret_n, sizeof(*list), listed_compare);
	return list;
}

void command_query_quotas(struct call *c)
{
	struct json_object *o = json_object_new_object(), *page = json_object_new_array();
	int64_t from = js_get_int(c->args, "from", 0);
	size_t n, shown = 0, i = 0;
	CLEANUP_FREE struct listed *list = entries_list(c->host, &n);

	for (; i < n && json_object_array_length(page) < PAGE_ENTRIES; i++) {
		if (!sees(c, &list[i].quota) || (i && !listed_compare(&list[i - 1], &list[i])))
			continue;
		if (!command_is_before(from, shown++, key_of(&list[i].quota)))
			json_object_array_add(page, entry_show(c, &list[i]));
	}
	js_put(o, "quotas", page);
	if (i < n)
		js_put_int(o, "next", COMMAND_PAGE_KEYS + (int64_t)key_of(&list[i - 1].quota));
	call_return(c, o);
}
