#include "api/policy/pool_space.h"
#include "api/access/fork_as.h"
#include "api/schema/event.h"
#include "api/schema/schema.h"
#include "api/store/pools.h"
#include "api/store/store.h"
#include "api/vm/vm_host.h"
#include "api/wire/json.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/util.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>

#define FILE_NAME "pool-space.json"
#define MEASURE_NS (600 * CLOCK_NS_PER_S)
#define STORE_NS (3600 * CLOCK_NS_PER_S)

struct watched {
	struct watched *next;
	struct pool_space *all;
	struct pool pool;
	struct pool_history history;
	bool low;
	struct fork_as *look; /* under way; NULL: none */
};

struct pool_space {
	struct vm_host *host;
	struct loop_timer *timer;
	struct watched *first;
	uint64_t store_ns; /* not stored before this time */
};

static struct watched *watched_find(const struct pool_space *s, const char *pool)
{
	struct watched *w = s->first;

	while (w && strcmp(w->pool.name, pool) != 0)
		w = w->next;
	return w;
}

static void space_store(struct pool_space *s)
{
	CLEANUP_JS struct json_object *o = json_object_new_object();
	struct json_object *list = json_object_new_array();

	for (const struct watched *w = s->first; w; w = w->next) {
		struct json_object *one = json_object_new_object();

		js_put_str(one, "name", w->pool.name);
		js_put_str(one, "target", w->pool.target);
		js_put_bool(one, "low", w->low);
		js_put(one, "points", pool_history_to_json(&w->history));
		json_object_array_add(list, one);
	}
	js_put(o, "pools", list);
	store_put(s->host->store, NULL, FILE_NAME, o, STORE_EVENTUALLY, NULL, NULL);
	s->store_ns = clock_monotonic_ns() + STORE_NS;
}

static void change_emit(const struct watched *w)
{
	const struct pool_point *p = &w->history.points[w->history.n - 1];
	struct json_object *data = json_object_new_object();
	double growth, days = pool_history_days_left(&w->history);

	js_put_str(data, "pool", w->pool.name);
	js_put_str(data, "state", w->low ? "low" : "enough");
	js_put_uint(data, "used", p->used_bytes);
	js_put_uint(data, "total", p->total_bytes);
	if (pool_history_growth(&w->history, &growth))
		js_put_int(data, "growth", (int64_t)growth);
	if (days >= 0)
		js_put_int(data, "days-left", (int64_t)days);
	event_emit(&w->all->host->sink, EVENT_POOL_SPACE, NULL, NULL, data);
	if (w->low)
		log_warn("pools", "pool '%s' has little space: %llu of %llu MiB are used", w->pool.name, (unsigned long long)(p->used_bytes >> 20),
			(unsigned long long)(p->total_bytes >> 20));
}

/* ---- looking ---- */

/* On a thread. arg: the path. */
static int measure_run(const void *arg, struct fork_as_result *out, struct err *e)
{
	struct statvfs s;

	if (statvfs(arg, &s) < 0)
		return err_set_errno(e, -errno, "%s", (const char *)arg);
	out->sizes[0] = (uint64_t)s.f_blocks * s.f_frsize;
	out->sizes[1] = (uint64_t)s.f_bavail * s.f_frsize;
	return 0;
}

static void *measure_copy(const void *arg)
{
	return strdup(arg);
}

static void measure_done(void *opaque, int r, const struct fork_as_result *res, const struct err *e)
{
	struct watched *w = opaque;
	struct pool_point p = { .time_s = (int64_t)(clock_realtime_ns() / CLOCK_NS_PER_S) };
	bool low;

	(void)e; /* pool-info reports the fault of the folder */
	w->look = NULL;
	if (r < 0 || !res->sizes[0])
		return;
	p.total_bytes = res->sizes[0];
	p.used_bytes = res->sizes[0] - MIN(res->sizes[1], res->sizes[0]);
	pool_history_add(&w->history, &p);
	low = pool_history_is_low(&w->history, w->low);
	if (low != w->low) {
		w->low = low;
		change_emit(w);
		space_store(w->all);
	} else if (clock_monotonic_ns() >= w->all->store_ns) {
		space_store(w->all);
	}
}

static void measure_begin(struct watched *w)
{
	struct fork_as_spec spec = { .run = measure_run, .arg = w->pool.target, .what = "looking at a pool", .timeout_ns = FORK_AS_NO_TIMEOUT,
		.copy = measure_copy, .drop = free, .done = measure_done, .opaque = w };
	struct err e;

	if (!w->look && fork_as_begin(w->all->host->helpers, &spec, &w->look, &e) < 0)
		log_warn("pools", "pool '%s': %s", w->pool.name, e.msg);
}

static void watched_free(struct watched *w)
{
	fork_as_free(w->look);
	free(w);
}

static struct watched *watched_add(struct pool_space *s, const struct pool *pool)
{
	struct watched *w = must_alloc(calloc(1, sizeof(*w)));

	w->all = s;
	w->pool = *pool;
	w->next = s->first;
	s->first = w;
	return w;
}

/* Forget pools that are gone, or have another folder, and watch new ones. */
static void watched_compare(struct pool_space *s)
{
	const struct pools *pools = &s->host->pools;
	struct watched **at = &s->first;

	while (*at) {
		struct watched *w = *at;
		int i = pool_find(pools, w->pool.name);

		if (i >= 0 && !strcmp(pools->list[i].target, w->pool.target)) {
			at = &w->next;
			continue;
		}
		*at = w->next;
		watched_free(w);
	}
	for (size_t i = 0; i < pools->n; i++)
		if (!watched_find(s, pools->list[i].name))
			watched_add(s, &pools->list[i]);
}

static void timer_fire(void *opaque)
{
	struct pool_space *s = opaque;

	watched_compare(s);
	for (struct watched *w = s->first; w; w = w->next)
		measure_begin(w);
	if (s->first)
		loop_timer_arm(s->timer, loop_now_ns() + MEASURE_NS);
}

void pool_space_soon(struct pool_space *s)
{
	if (s)
		loop_timer_arm(s->timer, loop_now_ns());
}

bool pool_space_state(const struct pool_space *s, const char *pool, struct pool_state *ret)
{
	const struct watched *w = s ? watched_find(s, pool) : NULL;

	if (!w || !w->history.n)
		return false;
	*ret = (struct pool_state){ &w->history, w->low };
	return true;
}

/* ---- start and end ---- */

struct pool_space *pool_space_new(struct vm_host *host)
{
	CLEANUP_JS struct json_object *o = store_load_file(host->store, NULL, FILE_NAME);
	struct json_object *list = js_get_array(o, "pools");
	struct pool_space *s = must_alloc(calloc(1, sizeof(*s)));

	s->host = host;
	if (loop_timer_new(host->loop, timer_fire, s, &s->timer) < 0)
		abort();
	for (size_t i = 0; list && i < json_object_array_length(list); i++) {
		struct json_object *one = json_object_array_get_idx(list, i);
		int k = pool_find(&host->pools, js_get_str_or(one, "name", ""));
		struct watched *w;

		if (k < 0 || strcmp(host->pools.list[k].target, js_get_str_or(one, "target", "")) != 0 || watched_find(s, host->pools.list[k].name))
			continue;
		w = watched_add(s, &host->pools.list[k]);
		w->low = js_get_bool(one, "low", false);
		pool_history_from_json(js_get(one, "points"), &w->history);
	}
	if (host->pools.n)
		pool_space_soon(s);
	return s;
}

void pool_space_free(struct pool_space *s)
{
	struct watched *w;

	if (!s)
		return;
	while ((w = s->first)) {
		s->first = w->next;
		watched_free(w);
	}
	loop_timer_free(s->timer);
	free(s);
}
