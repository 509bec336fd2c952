#include "api/policy/threshold.h"
#include "api/access/rights.h"
#include "api/policy/timetable.h"
#include "api/schema/schema.h"
#include "api/wire/json.h"
#include "base/err.h"
#include "base/size.h"
#include "base/util.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LATENCY_MAX_NS 3.6e12
#define LIMIT_BEYOND 1e19 /* no limit is so high */

static bool is_percent(enum threshold_measure m)
{
	return m == THRESHOLD_CPU || m == THRESHOLD_MEMORY || m == THRESHOLD_DISK_SPACE;
}

/* ---- limits ---- */

/* Parse a number that is not negative, and return its end; NULL: it is none. */
static const char *number_parse(const char *text, double *ret)
{
	char *end;

	if (*text < '0' || *text > '9' || strlen(text) > 20 || text[1] == 'x' || text[1] == 'X')
		return NULL;
	*ret = strtod(text, &end);
	return *ret < LIMIT_BEYOND ? end : NULL;
}

static int percent_parse(const char *key, const char *text, double *ret, struct err *e)
{
	const char *end = number_parse(text, ret);

	if (!end || (*end && strcmp(end, "%") != 0))
		return err_set(e, -EINVAL, ERR_INVALID, "%s: \"%.40s\" is no percentage; give a number such as 90", key, text);
	if (*ret >= 100)
		return err_set(e, -EINVAL, ERR_INVALID, "%s: no figure is above 100 %%; give less than 100, not %.40s", key, text);
	return 0;
}

static int latency_parse(const char *key, const char *text, double *ret, struct err *e)
{
	static const struct {
		const char *unit;
		double ns;
	} units[] = { { "us", 1e3 }, { "ms", 1e6 }, { "s", 1e9 } };
	const char *end = number_parse(text, ret);

	for (size_t i = 0; end && i < ARRAY_SIZE(units); i++) {
		if (strcmp(end, units[i].unit) != 0)
			continue;
		*ret *= units[i].ns;
		if (*ret <= LATENCY_MAX_NS)
			return 0;
	}
	return err_set(e, -EINVAL, ERR_INVALID, "%s: \"%.40s\" is no latency; give a time such as 500us, 20ms or 1s, at most an hour", key, text);
}

static int limit_parse(enum threshold_measure m, const char *key, const char *text, double *ret, struct err *e)
{
	uint64_t bytes;
	const char *end;

	if (is_percent(m))
		return percent_parse(key, text, ret, e);
	if (m == THRESHOLD_LATENCY)
		return latency_parse(key, text, ret, e);
	if (m == THRESHOLD_IO_ERRORS) {
		end = number_parse(text, ret);
		return end && !*end ? 0 : err_set(e, -EINVAL, ERR_INVALID, "%s: \"%.40s\" is no number of errors a second; give for example 0 or 0.5", key, text);
	}
	if (size_parse(text, 1, &bytes) < 0 || bytes > INT64_MAX)
		return err_set(e, -EINVAL, ERR_INVALID, "%s: \"%.40s\" is no number of bytes a second; give for example 100M", key, text);
	*ret = (double)bytes;
	return 0;
}

int threshold_set_limits(struct threshold *t, const char *above, const char *below, struct err *e)
{
	int r = limit_parse(t->measure, "above", above, &t->above, e);

	if (!r && below)
		r = limit_parse(t->measure, "below", below, &t->below, e);
	if (r < 0)
		return r;
	if (!below)
		t->below = t->above;
	if (t->below > t->above)
		return err_set(e, -EINVAL, ERR_INVALID, "below: must not be more than `above`");
	return 0;
}

const char *threshold_text(enum threshold_measure m, double v, char buf[THRESHOLD_TEXT])
{
	if (isnan(v))
		snprintf(buf, THRESHOLD_TEXT, "-");
	else if (is_percent(m))
		snprintf(buf, THRESHOLD_TEXT, "%.4g%%", v);
	else if (m == THRESHOLD_LATENCY)
		snprintf(buf, THRESHOLD_TEXT, v < 1e6 ? "%.4gus" : "%.4gms", v < 1e6 ? v / 1e3 : v / 1e6);
	else if (m == THRESHOLD_NET)
		snprintf(buf, THRESHOLD_TEXT, "%.0fB/s", v);
	else
		snprintf(buf, THRESHOLD_TEXT, "%.4g/s", v);
	return buf;
}

/* ---- the decision ---- */

enum threshold_change threshold_update(struct threshold *t, double value, double seconds, int64_t now_s)
{
	bool other;

	if (isnan(value))
		return THRESHOLD_SAME;
	t->value = value;
	other = t->raised_s ? value <= t->below : value > t->above;
	t->held_s = other ? t->held_s + seconds : 0;
	if (!other || t->held_s < t->for_s)
		return THRESHOLD_SAME;
	t->held_s = 0;
	t->raised_s = t->raised_s ? 0 : MAX(now_s, 1);
	return t->raised_s ? THRESHOLD_RAISED : THRESHOLD_CLEARED;
}

/* ---- lists ---- */

void threshold_free(struct threshold *t)
{
	if (t)
		free(t->maker);
	free(t);
}

void thresholds_done(struct thresholds *all)
{
	for (size_t i = 0; all && i < all->n; i++)
		threshold_free(all->list[i]);
	free(all);
}

int threshold_find(const struct thresholds *all, const char *name)
{
	for (size_t i = 0; all && i < all->n; i++)
		if (!strcmp(all->list[i]->name, name))
			return (int)i;
	return -1;
}

/* ---- JSON ---- */

static struct json_object *threshold_to_json(const struct threshold *t)
{
	struct json_object *o = json_object_new_object();

	js_put_str(o, "name", t->name);
	js_put_str(o, "measure", field_type_word(FIELD_MEASURE, t->measure));
	js_put(o, "above", json_object_new_double(t->above));
	js_put(o, "below", json_object_new_double(t->below));
	js_put_int(o, "for_s", t->for_s);
	if (t->then != THRESHOLD_NOTHING)
		js_put_str(o, "then", field_type_word(FIELD_THRESHOLD_ACTION, (unsigned)t->then));
	js_put_int(o, "uid", t->uid);
	if (t->maker)
		js_put(o, "maker", rights_to_json(t->maker));
	if (t->raised_s)
		js_put_int(o, "raised_s", t->raised_s);
	return o;
}

struct json_object *thresholds_to_json(const struct thresholds *all)
{
	struct json_object *o = json_object_new_object(), *list = json_object_new_array();

	for (size_t i = 0; all && i < all->n; i++)
		json_object_array_add(list, threshold_to_json(all->list[i]));
	js_put(o, "thresholds", list);
	return o;
}

/* Read a number that is not negative; NAN: it is none. */
static double number_of(struct json_object *o, const char *key)
{
	struct json_object *v = js_get(o, key);
	double d = v && (json_object_is_type(v, json_type_double) || json_object_is_type(v, json_type_int)) ? json_object_get_double(v) : NAN;

	return d >= 0 && d < LIMIT_BEYOND ? d : NAN;
}

static struct threshold *threshold_from_json(struct json_object *o)
{
	const char *name = js_get_str_or(o, "name", ""), *then = js_get_str(o, "then");
	int measure = field_type_index(FIELD_MEASURE, js_get_str(o, "measure")),
	    action = then ? field_type_index(FIELD_THRESHOLD_ACTION, then) : THRESHOLD_NOTHING;
	int64_t uid = js_get_int(o, "uid", -1), for_s = js_get_int(o, "for_s", -1), raised = js_get_int(o, "raised_s", 0);
	double above = number_of(o, "above"), below = number_of(o, "below");
	struct json_object *maker = js_get(o, "maker");
	struct threshold *t;
	struct err e;

	if (!timetable_name_is_good(name) || measure < 0 || (then && action < 0) || uid < 0 || uid >= UINT32_MAX || for_s < 0 ||
		for_s > THRESHOLD_FOR_MAX_S || raised < 0 || !(below <= above))
		return NULL;
	t = must_alloc(calloc(1, sizeof(*t)));
	*t = (struct threshold){ .measure = (enum threshold_measure)measure, .above = above, .below = below, .for_s = (uint32_t)for_s,
		.then = (enum threshold_action)action, .uid = (uid_t)uid, .raised_s = raised, .value = NAN };
	snprintf(t->name, sizeof(t->name), "%s", name);
	/* Without the rights of its maker, the action must not run with those of root. */
	if (maker && (rights_parse(maker, &t->maker, &e) < 0 || t->maker->uid != t->uid)) {
		threshold_free(t);
		return NULL;
	}
	return t;
}

void thresholds_from_json(struct json_object *o, struct thresholds **ret, unsigned *ret_bad)
{
	struct json_object *list = js_get_array(o, "thresholds");
	struct thresholds *all = must_alloc(calloc(1, sizeof(*all)));

	*ret_bad = 0;
	for (size_t i = 0; list && i < json_object_array_length(list); i++) {
		struct threshold *t = threshold_from_json(json_object_array_get_idx(list, i));

		if (t && all->n < THRESHOLDS_MAX && threshold_find(all, t->name) < 0) {
			all->list[all->n++] = t;
			continue;
		}
		threshold_free(t);
		++*ret_bad;
	}
	if (!all->n) {
		free(all);
		all = NULL;
	}
	*ret = all;
}
