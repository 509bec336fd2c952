#include "api/store/pools.h"
#include "api/store/store.h"
#include "api/wire/json.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/log.h"
#include "base/util.h"

#include <ctype.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool name_is_good(const char *name)
{
	size_t n = strlen(name);

	if (!n || n > POOL_NAME_MAX || !isalnum((unsigned char)name[0]))
		return false;
	for (size_t i = 0; i < n; i++)
		if (!isalnum((unsigned char)name[i]) && !strchr("._-", name[i]))
			return false;
	return true;
}

/* Return whether the path is absolute, has no control characters, and has no part that is empty, "." or "..". */
static bool target_is_good(const char *path)
{
	const char *part = path;

	if (*path != '/' || strlen(path) > POOL_TARGET_MAX || !path[1])
		return false;
	for (const char *p = path; *p; p++)
		if ((unsigned char)*p < 0x20 || *p == 0x7f)
			return false;
	while (*part) {
		size_t n = strcspn(++part, "/");

		if (!n || (n == 1 && part[0] == '.') || (n == 2 && part[0] == '.' && part[1] == '.'))
			return false;
		part += n;
	}
	return true;
}

int pool_find(const struct pools *p, const char *name)
{
	for (size_t i = 0; i < p->n; i++)
		if (!strcmp(p->list[i].name, name))
			return (int)i;
	return -1;
}

static const struct pool *pool_of_target(const struct pools *p, const char *target)
{
	for (size_t i = 0; i < p->n; i++)
		if (!strcmp(p->list[i].target, target))
			return &p->list[i];
	return NULL;
}

static void pool_add(struct pools *p, const char *name, const char *target)
{
	p->list = must_alloc(reallocarray(p->list, p->n + 1, sizeof(*p->list)));
	snprintf(p->list[p->n].name, sizeof(p->list[p->n].name), "%s", name);
	snprintf(p->list[p->n].target, sizeof(p->list[p->n].target), "%s", target);
	p->n++;
}

static void pool_drop(struct pools *p, size_t i)
{
	p->n--;
	memmove(&p->list[i], &p->list[i + 1], (p->n - i) * sizeof(*p->list));
}

static struct json_object *pools_to_json(const struct pools *p)
{
	struct json_object *o = json_object_new_object(), *list = json_object_new_array();

	for (size_t i = 0; i < p->n; i++) {
		struct json_object *one = json_object_new_object();

		js_put_str(one, "name", p->list[i].name);
		js_put_str(one, "target", p->list[i].target);
		json_object_array_add(list, one);
	}
	js_put(o, "pools", list);
	return o;
}

void pools_load(struct pools *p, struct store *s)
{
	CLEANUP_JS struct json_object *o = store_load_file(s, NULL, POOLS_FILE);
	struct json_object *list = js_get_array(o, "pools");

	for (size_t i = 0; list && i < json_object_array_length(list); i++) {
		struct json_object *one = json_object_array_get_idx(list, i);
		const char *name = js_get_str_or(one, "name", ""), *target = js_get_str_or(one, "target", "");

		if (name_is_good(name) && target_is_good(target) && pool_find(p, name) < 0 && p->n < POOLS_MAX)
			pool_add(p, name, target);
		else
			log_error("pools", POOLS_FILE ": entry %zu is invalid and not used", i);
	}
}

/* ---- changes ---- */

struct pool_change {
	struct queued_change change;
	struct pools *pools;
	char *name, *target; /* owned; target NULL: the pool is removed */
	struct pools after; /* the list with the change; owned */
};

void pools_done(struct pools *p)
{
	change_queue_done(&p->changes);
	free(p->list);
	*p = (struct pools){ 0 };
}

static int define(struct pools *p, const char *name, const char *target, struct err *e)
{
	const struct pool *same = pool_of_target(p, target);

	if (!name_is_good(name))
		return err_set(e, -EINVAL, ERR_INVALID, "name: \"%.80s\" is no name of a pool; give up to %d letters, digits, '.', '_' and '-'", name,
			POOL_NAME_MAX);
	if (!target_is_good(target))
		return err_set(e, -EINVAL, ERR_INVALID, "target: \"%.200s\" is no absolute path of a folder without . and ..", target);
	if (pool_find(p, name) >= 0)
		return err_set(e, -EEXIST, ERR_EXISTS, "pool '%s' exists already; give another name, or remove that one first: cairn pool-undefine %s", name,
			name);
	if (same)
		return err_set(e, -EEXIST, ERR_EXISTS, "%.200s is the folder of pool '%s'", target, same->name);
	if (p->n == POOLS_MAX)
		return err_set(e, -ENOSPC, ERR_QUOTA, "there are %d pools, which is the most; remove one: cairn pool-undefine NAME", POOLS_MAX);
	pool_add(p, name, target);
	return 0;
}

static int undefine(struct pools *p, const char *name, struct err *e)
{
	int i = pool_find(p, name);

	if (i < 0)
		return err_set(e, -ENOENT, ERR_NOT_FOUND, "there is no pool '%.63s'. Next: cairn pool-list", name);
	pool_drop(p, (size_t)i);
	return 0;
}

static int change_make(struct queued_change *change, struct json_object **ret, struct err *e)
{
	struct pool_change *c = container_of(change, struct pool_change, change);
	const struct pools *p = c->pools;
	int r;

	for (size_t i = 0; i < p->n; i++)
		pool_add(&c->after, p->list[i].name, p->list[i].target);
	r = c->target ? define(&c->after, c->name, c->target, e) : undefine(&c->after, c->name, e);
	if (!r)
		*ret = pools_to_json(&c->after);
	return r;
}

static void change_apply(struct queued_change *change)
{
	struct pool_change *c = container_of(change, struct pool_change, change);

	free(c->pools->list);
	c->pools->list = STEAL_PTR(c->after.list);
	c->pools->n = c->after.n;
}

static void change_release(struct queued_change *change)
{
	struct pool_change *c = container_of(change, struct pool_change, change);

	free(c->name);
	free(c->target);
	free(c->after.list);
	free(c);
}

void pool_change(struct pools *p, struct loop *l, struct store *s, const char *name, const char *target,
	void (*done)(void *opaque, int r, const struct err *e), void *opaque)
{
	static const struct queued_change_ops ops = { POOLS_FILE, change_make, change_apply, change_release };
	struct pool_change *c = must_alloc(calloc(1, sizeof(*c)));

	*c = (struct pool_change){ .change = { .ops = &ops, .done = done, .opaque = opaque }, .pools = p, .name = must_alloc(strdup(name)),
		.target = target ? must_alloc(strdup(target)) : NULL };
	change_queue_add(&p->changes, &c->change, l, s);
}
