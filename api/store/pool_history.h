/* pool_history: how the taken space of a pool's file system grew, and when it will be full (pure).
 * Threading: none. */
#ifndef CAIRN_API_STORE_POOL_HISTORY_H
#define CAIRN_API_STORE_POOL_HISTORY_H

#include "api/store/line_fit.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct json_object;

#define POOL_HISTORY_POINTS 336 /* an hour apart: two weeks */
#define POOL_HISTORY_STEP_S 3600

struct pool_point {
	int64_t time_s; /* since 1970 */
	uint64_t used_bytes, total_bytes;
};

struct pool_history {
	struct pool_point points[POOL_HISTORY_POINTS]; /* oldest first */
	size_t n;
};

/* Add a measurement of the file system. The last point is replaced if the one before is at most an hour old. If the
 * clock was set back, the points in the future are dropped. */
void pool_history_add(struct pool_history *h, const struct pool_point *p);
/* Fit a line through the points of the last `last_s` seconds: bytes over days, of which the last point is 0. Returns
 * false if the points are fewer than three, or span less than six hours. */
bool pool_history_line(const struct pool_history *h, int64_t last_s, struct line_fit *ret);
/* Compute the growth of the last week as the slope of a line through its points. Returns false if they are fewer than
 * three, or span less than six hours. */
bool pool_history_growth(const struct pool_history *h, double *ret_bytes_a_day);
/* Return the days until the file system is full; -1: it does not grow, or that is not known. */
double pool_history_days_left(const struct pool_history *h);
/* Whether the space is low: above 90 %, or full in less than a week. was: whether it was low before; then it is until
 * it falls below 85 % and has ten days. */
bool pool_history_is_low(const struct pool_history *h, bool was);

/* Return the points, [time, used, total] each. The caller owns them. */
struct json_object *pool_history_to_json(const struct pool_history *h);
/* Read the points that are valid and in order. */
void pool_history_from_json(struct json_object *list, struct pool_history *ret);

#endif
