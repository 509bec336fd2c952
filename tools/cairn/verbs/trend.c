/* trend: draw a VM's figures over time, as a chart in the terminal, an SVG image, or numbers. */
#include "tools/cairn/cli.h"
#include "api/wire/json.h"
#include "base/duration.h"
#include "base/util.h"
#include "tools/cairn/chart.h"
#include "tools/cairn/output.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define NS 1000000000LL
#define LAST_MAX_S (2 * 366 * 24 * 3600LL)
#define ROWS 8	      /* of a chart in the terminal */
#define SVG_POINTS 400
#define POINTS_MAX 1000000 /* of one series */
#define SERIES_MAX 15

/* The options of the question, in ns; 0: not given. */
struct span {
	int64_t from, to, step;
};

static int moment_parse(struct cli *c, const char *name, int64_t *ret_ns)
{
	const char *text = option_value(c, name);

	*ret_ns = 0;
	return !text || time_parse(text, ret_ns) ? 0 : cli_usage(c, "--%s must be 90s, 30m, 2h, 7d or YYYY-MM-DD [HH:MM[:SS]], not \"%s\"", name, text);
}

static int length_parse(struct cli *c, const char *name, int64_t *ret_ns)
{
	const char *text = option_value(c, name);
	int64_t s = 0;

	if (text && (duration_parse_units(text, strlen(text), "ywdhms", LAST_MAX_S, &s) < 0 || !s))
		return cli_usage(c, "--%s must be a time such as 30m, 2h, 1d or 1y, at most two years, not \"%s\"", name, text);
	*ret_ns = s * NS;
	return 0;
}

static int span_parse(struct cli *c, struct span *ret)
{
	int64_t last, now = (int64_t)time(NULL) * NS;
	int r = moment_parse(c, "from", &ret->from);

	if (!r)
		r = moment_parse(c, "to", &ret->to);
	if (!r)
		r = length_parse(c, "last", &last);
	if (!r)
		r = length_parse(c, "step", &ret->step);
	if (r)
		return r;
	if (last && ret->from)
		return cli_usage(c, "--last and --from exclude each other");
	if (!ret->to)
		ret->to = now;
	if (!ret->from)
		ret->from = ret->to - (last ? last : 3600 * NS);
	if (ret->from >= ret->to)
		return cli_usage(c, "--from must be before --to");
	if (ret->step && (ret->to - ret->from) / ret->step > POINTS_MAX)
		return cli_usage(c, "--step would give more than %d points; choose a longer one", POINTS_MAX);
	return 0;
}

static struct json_object *args_of(const struct cli *c, const struct span *s, size_t points)
{
	struct json_object *args = cli_vm_args(c->pos[0]), *series = json_object_new_array();

	for (size_t i = 1; i < c->npos; i++)
		json_object_array_add(series, json_object_new_string(c->pos[i]));
	if (c->npos == 1)
		json_object_array_add(series, json_object_new_string("cpu"));
	js_put(args, "series", series);
	js_put_int(args, "from", s->from);
	js_put_int(args, "to", s->to);
	js_put_uint(args, "points", points);
	if (s->step)
		js_put_int(args, "step", s->step);
	return args;
}

static void array_append(struct json_object *to, struct json_object *from)
{
	for (size_t i = 0; from && i < json_object_array_length(from); i++)
		json_object_array_add(to, json_object_get(json_object_array_get_idx(from, i)));
}

/* Append the points of a further answer. */
static void points_append(struct json_object *to, struct json_object *from)
{
	struct json_object *all = js_get_array(to, "series"), *more = js_get_array(from, "series");

	for (size_t i = 0; all && more && i < json_object_array_length(all) && i < json_object_array_length(more); i++) {
		struct json_object *a = json_object_array_get_idx(all, i), *b = json_object_array_get_idx(more, i);

		array_append(js_get_array(a, "average"), js_get_array(b, "average"));
		array_append(js_get_array(a, "maximum"), js_get_array(b, "maximum"));
	}
}

/* Fetch all points. The caller owns *ret. */
static int trend_fetch(struct cli *c, struct span s, size_t points, struct json_object **ret, struct err *e)
{
	int r = cli_execute(c, "vm-trend", args_of(c, &s, points), ret, NULL, e);
	int64_t next = r < 0 ? 0 : js_get_int(*ret, "next", 0);

	while (next) {
		CLEANUP_JS struct json_object *more = NULL;

		s.from = next;
		s.step = js_get_int(*ret, "step", NS);
		r = cli_execute(c, "vm-trend", args_of(c, &s, points), &more, NULL, e);
		if (r < 0) {
			json_object_put(*ret);
			*ret = NULL;
			return r;
		}
		points_append(*ret, more);
		next = js_get_int(more, "next", 0);
	}
	if (r >= 0)
		json_object_object_del(*ret, "next");
	return r;
}

/* ---- printing ---- */

static double *numbers(struct json_object *list, size_t n)
{
	double *values = must_alloc(calloc(n + 1, sizeof(*values)));

	for (size_t i = 0; i < n; i++) {
		struct json_object *v = json_object_array_get_idx(list, i);

		values[i] = v ? json_object_get_double(v) : NAN;
	}
	return values;
}

/* Make a chart of each series. Returns their number. */
static size_t charts_make(struct json_object *trend, struct chart charts[SERIES_MAX])
{
	struct json_object *all = js_get_array(trend, "series");
	size_t n = all ? MIN(json_object_array_length(all), SERIES_MAX) : 0;

	for (size_t i = 0; i < n; i++) {
		struct json_object *o = json_object_array_get_idx(all, i), *average = js_get_array(o, "average"), *maximum = js_get_array(o, "maximum");
		size_t points = average && maximum ? MIN(json_object_array_length(average), json_object_array_length(maximum)) : 0;

		charts[i] = (struct chart){ .title = js_get_str_or(o, "name", "-"), .unit = js_get_str_or(o, "unit", ""), .n = points,
			.average = numbers(average, points), .maximum = numbers(maximum, points), .from_s = js_get_int(trend, "from", 0) / NS,
			.step_s = MAX(js_get_int(trend, "step", NS) / NS, 1) };
	}
	return n;
}

static void charts_free(struct chart *charts, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		free((double *)charts[i].average);
		free((double *)charts[i].maximum);
	}
}

static void charts_print(struct cli *c, struct json_object *trend, bool svg)
{
	struct chart charts[SERIES_MAX];
	size_t n = charts_make(trend, charts);
	bool utf8 = chart_is_utf8();

	if (svg)
		chart_svg(stdout, c->pos[0], charts, n);
	for (size_t i = 0; !svg && i < n; i++)
		if (charts[i].n)
			chart_draw(stdout, &charts[i], chart_columns(), ROWS, utf8);
	charts_free(charts, n);
}

/* Print a row for each point: its time, and of each series average and maximum. */
static void csv_print(struct json_object *trend)
{
	struct json_object *all = js_get_array(trend, "series");
	int64_t from = js_get_int(trend, "from", 0), step = js_get_int(trend, "step", NS);
	size_t n = all ? json_object_array_length(all) : 0, points = 0;

	printf("time");
	for (size_t i = 0; i < n; i++) {
		struct json_object *o = json_object_array_get_idx(all, i);

		printf(",%s,%s-maximum", js_get_str_or(o, "name", "-"), js_get_str_or(o, "name", "-"));
		points = json_object_array_length(js_get_array(o, "average"));
	}
	printf("\r\n");
	for (size_t k = 0; k < points; k++) {
		printf("%lld", (long long)((from + (int64_t)k * step) / NS));
		for (size_t i = 0; i < n; i++) {
			struct json_object *o = json_object_array_get_idx(all, i);
			struct json_object *a = json_object_array_get_idx(js_get_array(o, "average"), k), *m = json_object_array_get_idx(js_get_array(o, "maximum"), k);

			printf(",%s,%s", a ? json_object_get_string(a) : "", m ? json_object_get_string(m) : "");
		}
		printf("\r\n");
	}
}

int verb_trend(struct cli *c)
{
	const char *format = option_value(c, "format");
	bool svg = format && !strcmp(format, "svg"), numbers_asked = format && !svg && strcmp(format, "table") != 0;
	size_t points = svg ? SVG_POINTS : numbers_asked ? 100 : chart_points(chart_columns(), chart_is_utf8());
	CLEANUP_JS struct json_object *trend = NULL;
	struct span s;
	struct err e;

	if (span_parse(c, &s))
		return CLI_USAGE;
	if (s.step && !numbers_asked)
		return cli_usage(c, "--step needs --format csv, json or yaml");
	if (trend_fetch(c, s, points, &trend, &e) < 0)
		return cli_fail(&e, "failed to get the trends of domain '%s'", c->pos[0]);
	if (!numbers_asked)
		charts_print(c, trend, svg);
	else if (!strcmp(format, "csv"))
		csv_print(trend);
	else
		output_print(stdout, strcmp(format, "yaml") ? CLI_JSON : CLI_YAML, trend);
	return CLI_OK;
}
