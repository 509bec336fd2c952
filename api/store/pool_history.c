#include "api/store/pool_history.h"
#include "api/wire/json.h"
#include "base/util.h"

#include <string.h>

#define DAY_S 86400.0
#define WEEK_S (7 * 86400)
#define GROWTH_SPAN_S (6 * 3600)
#define GROWTH_POINTS 3
#define LOW_PERCENT 90
#define LOW_DAYS 7
#define WELL_PERCENT 85
#define WELL_DAYS 10

void pool_history_add(struct pool_history *h, const struct pool_point *p)
{
	while (h->n && h->points[h->n - 1].time_s >= p->time_s)
		h->n--;
	if (h->n > 1 && p->time_s - h->points[h->n - 2].time_s <= POOL_HISTORY_STEP_S)
		h->n--;
	if (h->n == POOL_HISTORY_POINTS)
		memmove(&h->points[0], &h->points[1], --h->n * sizeof(h->points[0]));
	h->points[h->n++] = *p;
}

bool pool_history_line(const struct pool_history *h, int64_t last_s, struct line_fit *ret)
{
	const struct pool_point *last = h->n ? &h->points[h->n - 1] : NULL;
	double x[POOL_HISTORY_POINTS], y[POOL_HISTORY_POINTS];
	size_t first = 0;

	while (last && last->time_s - h->points[first].time_s > last_s)
		first++;
	if (!last || h->n - first < GROWTH_POINTS || last->time_s - h->points[first].time_s < GROWTH_SPAN_S)
		return false;
	for (size_t i = first; i < h->n; i++) {
		x[i] = (double)(h->points[i].time_s - last->time_s) / DAY_S;
		y[i] = (double)h->points[i].used_bytes;
	}
	return line_fit(x + first, y + first, h->n - first, ret);
}

bool pool_history_growth(const struct pool_history *h, double *ret)
{
	struct line_fit line;

	if (!pool_history_line(h, WEEK_S, &line))
		return false;
	*ret = line.slope;
	return true;
}

double pool_history_days_left(const struct pool_history *h)
{
	const struct pool_point *last = h->n ? &h->points[h->n - 1] : NULL;
	double growth;

	if (!pool_history_growth(h, &growth) || growth < 1)
		return -1;
	return last->used_bytes >= last->total_bytes ? 0 : (double)(last->total_bytes - last->used_bytes) / growth;
}

bool pool_history_is_low(const struct pool_history *h, bool was)
{
	const struct pool_point *last = h->n ? &h->points[h->n - 1] : NULL;
	double days = pool_history_days_left(h), percent;

	if (!last || !last->total_bytes)
		return was;
	percent = 100 * (double)last->used_bytes / (double)last->total_bytes;
	if (was)
		return percent >= WELL_PERCENT || (days >= 0 && days < WELL_DAYS);
	return percent > LOW_PERCENT || (days >= 0 && days < LOW_DAYS);
}

/* ---- JSON ---- */

struct json_object *pool_history_to_json(const struct pool_history *h)
{
	struct json_object *list = json_object_new_array();

	for (size_t i = 0; i < h->n; i++) {
		struct json_object *p = json_object_new_array();

		json_object_array_add(p, json_object_new_int64(h->points[i].time_s));
		json_object_array_add(p, json_object_new_int64((int64_t)MIN(h->points[i].used_bytes, (uint64_t)INT64_MAX)));
		json_object_array_add(p, json_object_new_int64((int64_t)MIN(h->points[i].total_bytes, (uint64_t)INT64_MAX)));
		json_object_array_add(list, p);
	}
	return list;
}

void pool_history_from_json(struct json_object *list, struct pool_history *ret)
{
	ret->n = 0;
	for (size_t i = 0; json_object_is_type(list, json_type_array) && i < json_object_array_length(list); i++) {
		struct json_object *p = json_object_array_get_idx(list, i);
		int64_t v[3];
		bool good = json_object_is_type(p, json_type_array) && json_object_array_length(p) == 3;

		for (size_t k = 0; good && k < 3; k++) {
			good = json_object_is_type(json_object_array_get_idx(p, k), json_type_int);
			v[k] = good ? json_object_get_int64(json_object_array_get_idx(p, k)) : 0;
			good = good && v[k] >= 0;
		}
		if (good && (!ret->n || v[0] > ret->points[ret->n - 1].time_s))
			pool_history_add(ret, &(struct pool_point){ v[0], (uint64_t)v[1], (uint64_t)v[2] });
	}
}
