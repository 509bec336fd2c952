/* The handler of vm-trend. */
#include "api/commands/command.h"
#include "api/policy/trends.h"
#include "api/vm/vm.h"
#include "api/wire/json.h"
#include "api/wire/json_writer.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/util.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Most points of all series of an answer: some clients read lines of at most 64 KiB, and a point has two numbers. */
#define POINTS_MAX 2000
#define POINTS_DEFAULT 100
#define DEFAULT_S 3600

struct trend_call {
	struct call *call;
	enum trend_series series[TREND_SERIES];
	unsigned nseries;
	uint32_t from, to, step_s; /* in seconds */
	size_t npoints;
	bool more; /* not all points fit */
};

static int series_add(struct trend_call *t, struct json_object *name, struct err *e)
{
	const char *text = js_plain_string(name);
	int series = text ? trend_series_find(text) : -1;

	if (!text)
		return err_set(e, -EINVAL, ERR_INVALID, "series: must be an array of names");
	if (series < 0)
		return err_set(e, -EINVAL, ERR_INVALID, "series: there is no series '%.40s'; use cpu, memory, used, balloon, rd-bytes, wr-bytes, "
			"rd-reqs, wr-reqs, rd-latency, wr-latency, io-errors, rx-bytes, tx-bytes, rx-packets or tx-packets", text);
	for (unsigned i = 0; i < t->nseries; i++)
		if (t->series[i] == (enum trend_series)series)
			return err_set(e, -EINVAL, ERR_INVALID, "series: '%s' is there twice", text);
	t->series[t->nseries++] = (enum trend_series)series;
	return 0;
}

static int series_parse(struct trend_call *t, struct err *e)
{
	struct json_object *list = js_get(t->call->args, "series");
	int r = 0;

	for (size_t i = 0; list && !r && i < json_object_array_length(list); i++)
		r = series_add(t, json_object_array_get_idx(list, i), e);
	for (unsigned i = 0; !t->nseries && !r && i < TREND_SERIES; i++)
		t->series[i] = (enum trend_series)i;
	if (!t->nseries)
		t->nseries = TREND_SERIES;
	return r;
}

/* Return a time in seconds since 1970. */
static uint32_t time_of(int64_t ns)
{
	return ns < 0 ? 0 : (uint32_t)MIN((uint64_t)ns / CLOCK_NS_PER_S, UINT32_MAX - 1);
}

static int times_parse(struct trend_call *t, struct err *e)
{
	struct json_object *args = t->call->args;
	uint32_t now = (uint32_t)(clock_realtime_ns() / CLOCK_NS_PER_S);
	int64_t points = js_get_int(args, "points", POINTS_DEFAULT), step = js_get_int(args, "step", 0);
	size_t most = POINTS_MAX / t->nseries;
	uint32_t seconds;

	t->to = js_get(args, "to") ? MIN(time_of(js_get_int(args, "to", 0)), now) : now;
	t->from = js_get(args, "from") ? time_of(js_get_int(args, "from", 0)) : t->to - MIN(t->to, DEFAULT_S);
	if (t->from >= t->to)
		return err_set(e, -EINVAL, ERR_INVALID, "from: must be before `to`, and in the past");
	if (points < 1 || points > POINTS_MAX)
		return err_set(e, -EINVAL, ERR_INVALID, "points: must be 1 to %d", POINTS_MAX);
	if (js_get(args, "step") && step < (int64_t)CLOCK_NS_PER_S)
		return err_set(e, -EINVAL, ERR_INVALID, "step: must be at least one second, that is 1000000000");
	seconds = t->to - t->from;
	t->step_s = step ? time_of(step) : (uint32_t)DIV_ROUND_UP(seconds, (uint64_t)MIN((size_t)points, most));
	t->npoints = (size_t)DIV_ROUND_UP((uint64_t)seconds, t->step_s);
	t->more = t->npoints > most;
	t->npoints = MIN(t->npoints, most);
	return 0;
}

/* Write a number, which is not negative, without needless digits. */
static void number_put(struct json_writer *w, double v)
{
	char text[64];

	if (isnan(v))
		snprintf(text, sizeof(text), "null");
	else
		snprintf(text, sizeof(text), v >= 1e5 ? "%.0f" : "%.6g", v);
	jw_text(w, NULL, text, strlen(text));
}

static void series_put(struct json_writer *w, const struct trend_view *v, enum trend_series series)
{
	jw_object(w, NULL);
	jw_str(w, "name", trend_names[series].name);
	jw_str(w, "unit", trend_names[series].unit);
	jw_array(w, "average");
	for (size_t i = 0; i < v->npoints; i++)
		number_put(w, trend_view_average(v, series, i));
	jw_array_end(w);
	jw_array(w, "maximum");
	for (size_t i = 0; i < v->npoints; i++)
		number_put(w, trend_view_maximum(v, series, i));
	jw_array_end(w);
	jw_object_end(w);
}

static void trend_answer(void *opaque, const struct trend_view *v, const struct err *e)
{
	struct trend_call *t = opaque;
	struct json_writer w = { 0 };

	if (!v) {
		call_fail(t->call, e);
		free(t);
		return;
	}
	jw_object(&w, NULL);
	jw_uint(&w, "from", v->from * CLOCK_NS_PER_S);
	jw_uint(&w, "step", v->step_s * CLOCK_NS_PER_S);
	if (t->more)
		jw_uint(&w, "next", (v->from + (uint64_t)v->npoints * v->step_s) * CLOCK_NS_PER_S);
	jw_array(&w, "series");
	for (unsigned i = 0; i < t->nseries; i++)
		series_put(&w, v, t->series[i]);
	jw_array_end(&w);
	jw_object_end(&w);
	call_return(t->call, jw_value(&w));
	free(t);
}

void command_vm_trend(struct call *c)
{
	struct trend_call *t = must_alloc(calloc(1, sizeof(*t)));
	struct err e;
	int r;

	t->call = c;
	r = series_parse(t, &e);
	if (!r)
		r = times_parse(t, &e);
	if (r < 0) {
		call_fail(c, &e);
		free(t);
		return;
	}
	trends_query(c->vm, t->from, t->step_s, t->npoints, trend_answer, t);
}
