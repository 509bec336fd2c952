/* Handlers of pools. */
#include "api/commands/command.h"
#include "api/policy/pool_space.h"
#include "api/store/pools.h"
#include "api/vm/vm_host.h"
#include "api/wire/json.h"
#include "base/clock.h"
#include "base/err.h"

#include <string.h>

static void pools_changed(void *opaque, int r, const struct err *e)
{
	struct call *c = opaque;

	pool_space_soon(c->host->pool_space);
	call_done(c, r, e);
}

/* Add the figures of the pool's file system. */
static void space_put(struct json_object *o, const struct pool_state *s)
{
	const struct pool_point *p = &s->history->points[s->history->n - 1];
	double growth, days = pool_history_days_left(s->history);

	js_put_int(o, "looked", p->time_s * (int64_t)CLOCK_NS_PER_S);
	js_put_uint(o, "used", p->used_bytes);
	js_put_uint(o, "total", p->total_bytes);
	if (pool_history_growth(s->history, &growth))
		js_put_int(o, "growth", (int64_t)growth);
	if (days >= 0)
		js_put_int(o, "days-left", days < 1e6 ? (int64_t)days : 1000000);
	if (s->low)
		js_put_bool(o, "low", true);
}

void command_pool_define(struct call *c)
{
	struct vm_host *h = c->host;

	pool_change(&h->pools, h->loop, h->store, js_get_str(c->args, "name"), js_get_str(c->args, "target"), pools_changed, c);
}

void command_pool_undefine(struct call *c)
{
	struct vm_host *h = c->host;

	pool_change(&h->pools, h->loop, h->store, js_get_str(c->args, "name"), NULL, pools_changed, c);
}

void command_query_pools(struct call *c)
{
	const struct pools *p = &c->host->pools;
	const char *after = js_get_str(c->args, "after");
	struct json_object *o = json_object_new_object(), *list = json_object_new_array();
	struct pool_state state;
	size_t i = after ? (size_t)(pool_find(p, after) + 1) : 0, bytes = 0;

	for (; i < p->n && bytes < COMMAND_PAGE_BYTES; i++) {
		struct json_object *one = json_object_new_object();

		js_put_str(one, "name", p->list[i].name);
		js_put_str(one, "target", p->list[i].target);
		if (pool_space_state(c->host->pool_space, p->list[i].name, &state))
			space_put(one, &state);
		json_object_array_add(list, one);
		bytes += 400 + 6 * strlen(p->list[i].target);
	}
	js_put(o, "pools", list);
	if (i < p->n)
		js_put_str(o, "next", p->list[i - 1].name);
	call_return(c, o);
}
