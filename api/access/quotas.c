#include "api/access/quotas.h"
#include "api/access/rights.h"
#include "api/store/store.h"
#include "api/wire/json.h"
#include "api/wire/peer.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/util.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define ITEMS_ALL ((1u << QUOTA_ITEM_COUNT) - 1)

/* A change of the table that waits or is being stored. */
struct quota_change {
	struct queued_change change;
	struct quotas *quotas;
	struct quota what;
	unsigned given;
	struct quotas table; /* the changed table, while it is being stored */
};

void quotas_done(struct quotas *q)
{
	change_queue_done(&q->changes);
	free(q->list);
	*q = (struct quotas){ 0 };
}

/* ---- looking up quotas ---- */

const char *quota_item_name(enum quota_item i)
{
	static const char *const names[QUOTA_ITEM_COUNT] = { "vms", "running", "memory", "vcpus", "disk", "snapshots" };

	return names[i];
}

static struct quota *find(const struct quotas *q, enum quota_kind kind, uint32_t id)
{
	for (size_t i = 0; i < q->n; i++)
		if (q->list[i].kind == kind && q->list[i].id == id)
			return &q->list[i];
	return NULL;
}

const struct quota *quotas_find(const struct quotas *q, enum quota_kind kind, uint32_t id)
{
	return find(q, kind, id);
}

/* Return whether a definer is in the group. */
static bool quotas_is_member(const struct rights *definer, gid_t group)
{
	struct peer who = rights_peer(definer);

	return peer_is_in_group(&who, group);
}

bool quotas_bind(const struct quotas *q, const struct quota *one, const struct rights *definer)
{
	if (!definer)
		return false;
	switch (one->kind) {
	case QUOTA_USER:
		return one->id == definer->uid;
	case QUOTA_GROUP:
		return quotas_is_member(definer, one->id);
	case QUOTA_DEFAULT:
		return !find(q, QUOTA_USER, definer->uid);
	}
	return false;
}

/* ---- JSON ---- */

void quota_put_subject(struct json_object *o, const struct quota *q)
{
	if (q->kind == QUOTA_DEFAULT)
		js_put_bool(o, "default", true);
	else
		js_put_int(o, q->kind == QUOTA_USER ? "user" : "group", q->id);
}

struct json_object *quota_values_to_json(const uint64_t values[QUOTA_ITEM_COUNT])
{
	struct json_object *o = json_object_new_object();

	for (unsigned i = 0; i < QUOTA_ITEM_COUNT; i++)
		if (values[i] != QUOTA_NO_LIMIT)
			js_put_uint(o, quota_item_name(i), values[i]);
	return o;
}

static struct json_object *table_to_json(const struct quotas *q)
{
	struct json_object *o = json_object_new_object(), *list = json_object_new_array();

	for (size_t i = 0; i < q->n; i++) {
		struct json_object *row = json_object_new_object();

		quota_put_subject(row, &q->list[i]);
		js_put(row, "limits", quota_values_to_json(q->list[i].limits));
		json_object_array_add(list, row);
	}
	js_put(o, "quotas", list);
	return o;
}

/* ---- changing the table ---- */

/* Return the entry, which is added if it is missing; NULL: the table is full. The list has room for one more. */
static struct quota *entry_of(struct quotas *q, const struct quota *like)
{
	struct quota *one = find(q, like->kind, like->id);

	if (one || q->n == QUOTAS_MAX)
		return one;
	one = &q->list[q->n++];
	*one = (struct quota){ .kind = like->kind, .id = like->id };
	for (unsigned i = 0; i < QUOTA_ITEM_COUNT; i++)
		one->limits[i] = QUOTA_NO_LIMIT;
	return one;
}

static int table_change(struct quotas *q, const struct quota *what, unsigned given, struct err *e)
{
	struct quota *one = given ? entry_of(q, what) : find(q, what->kind, what->id);

	if (!one && given)
		return err_set(e, -ENOSPC, ERR_GENERIC, "the table of quotas is full: %d entries", QUOTAS_MAX);
	if (!one)
		return err_set(e, -ENOENT, ERR_NOT_FOUND, "there is no such quota. Next: cairn quota");
	for (unsigned i = 0; i < QUOTA_ITEM_COUNT; i++)
		if (given & 1u << i)
			one->limits[i] = what->limits[i];
	if (!given)
		*one = q->list[--q->n];
	return 0;
}

/* Copy the table, with room for one more entry. */
static void table_copy(struct quotas *to, const struct quotas *from)
{
	to->list = must_alloc(calloc(from->n + 1, sizeof(*to->list)));
	to->n = from->n;
	if (from->n)
		memcpy(to->list, from->list, from->n * sizeof(*to->list));
}

static int change_make(struct queued_change *change, struct json_object **ret, struct err *e)
{
	struct quota_change *c = container_of(change, struct quota_change, change);
	const struct quotas *q = c->quotas;
	int r;

	table_copy(&c->table, q);
	r = q->keeps_file ? err_set(e, -EIO, ERR_HOST, "%s", q->unknown) : table_change(&c->table, &c->what, c->given, e);
	if (!r)
		*ret = table_to_json(&c->table);
	return r;
}

static void change_apply(struct queued_change *change)
{
	struct quota_change *c = container_of(change, struct quota_change, change);
	struct quotas *q = c->quotas;

	free(q->list);
	q->list = STEAL_PTR(c->table.list);
	q->n = c->table.n;
	q->unknown = NULL;
}

static void change_release(struct queued_change *change)
{
	struct quota_change *c = container_of(change, struct quota_change, change);

	free(c->table.list);
	free(c);
}

void quotas_change(struct quotas *q, struct loop *l, struct store *s, const struct quota *change, unsigned given,
	void (*done)(void *opaque, int r, const struct err *e), void *opaque)
{
	static const struct queued_change_ops ops = { QUOTAS_FILE, change_make, change_apply, change_release };
	struct quota_change *c = must_alloc(calloc(1, sizeof(*c)));

	*c = (struct quota_change){ .change = { .ops = &ops, .done = done, .opaque = opaque }, .quotas = q, .what = *change, .given = given };
	change_queue_add(&q->changes, &c->change, l, s);
}

/* ---- loading the table ---- */

static bool id_of(struct json_object *o, struct quota *ret)
{
	int64_t user = js_get_int(o, "user", -1), group = js_get_int(o, "group", -1), id = MAX(user, group);

	*ret = (struct quota){ .kind = user >= 0 ? QUOTA_USER : group >= 0 ? QUOTA_GROUP : QUOTA_DEFAULT };
	if (ret->kind == QUOTA_DEFAULT)
		return js_get_bool(o, "default", false);
	ret->id = (uint32_t)id;
	return id < UINT32_MAX && (user < 0 || group < 0);
}

/* Load limits; a missing one is no limit. Returns whether they are valid. */
static bool limits_load(struct json_object *limits, struct quota *one)
{
	if (!json_object_is_type(limits, json_type_object))
		return false;
	for (unsigned i = 0; i < QUOTA_ITEM_COUNT; i++) {
		const char *name = quota_item_name(i);
		int64_t v = js_get_int(limits, name, -1);

		if (v < 0 && json_object_object_get_ex(limits, name, NULL))
			return false;
		one->limits[i] = v < 0 ? QUOTA_NO_LIMIT : (uint64_t)v;
	}
	return true;
}

/* Returns whether the whole table is valid. */
static bool table_load(struct quotas *q, struct json_object *list)
{
	size_t n = list ? json_object_array_length(list) : 0;
	struct quota one;

	if (!list || n > QUOTAS_MAX)
		return false;
	q->list = must_alloc(calloc(n + 1, sizeof(*q->list)));
	for (size_t i = 0; i < n; i++) {
		struct json_object *o = json_object_array_get_idx(list, i);

		if (!id_of(o, &one) || !limits_load(js_get(o, "limits"), &one) || table_change(q, &one, ITEMS_ALL, NULL) < 0)
			return false;
	}
	return true;
}

void quotas_load(struct quotas *q, struct store *s)
{
	CLEANUP_JS struct json_object *o = store_load_file(s, NULL, QUOTAS_FILE);

	if (o && table_load(q, js_get_array(o, "quotas")))
		return;
	q->n = 0;
	if (o)
		store_set_aside(s, QUOTAS_FILE, "an entry is not a quota");
	if (store_is_newer(s, QUOTAS_FILE)) {
		q->unknown = "a newer Cairn wrote " QUOTAS_FILE "; root can use that Cairn, or remove the file and restart cairnd";
	} else if (store_has_side_file(s, QUOTAS_FILE)) {
		q->unknown = QUOTAS_FILE " cannot be read; root can repair or remove it, and restart cairnd";
		q->keeps_file = true;
	} else if (store_has_side_file(s, QUOTAS_FILE ".damaged")) {
		q->unknown = QUOTAS_FILE " was damaged; root can set the quotas again, or repair " QUOTAS_FILE
			".damaged, restore its name and restart cairnd";
	}
}
