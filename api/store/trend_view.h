/* trend_view: rows of several ranges as points of equal distance (pure).
 *
 * A point is computed from the rows of the coarsest range whose step is not longer than the point. If that range has
 * no row for a time, because its step is not over, or only part of the row is known, rows of finer ranges are used.
 * For times before the oldest row of the finer ranges, which keep fewer rows, rows of coarser ranges are used.
 * Threading: none. */
#ifndef CAIRN_API_STORE_TREND_VIEW_H
#define CAIRN_API_STORE_TREND_VIEW_H

#include "api/store/trend_row.h"

struct trend_point {
	double sum, weight; /* weight: number of seconds that are known */
	float maximum;
};

struct trend_view {
	uint32_t from, step_s; /* point i is about the time from `from` + i x step_s on */
	size_t npoints;
	struct trend_point *points; /* of TREND_SERIES series, npoints each; owned */
};

/* Compute the points of all series. rows: of each range, in the order of trend_file_read(). */
void trend_view_make(struct trend_view *v, uint32_t from, uint32_t step_s, size_t npoints, const struct trend_rows rows[TREND_RANGES]);
/* The average of a point; NAN: not known. */
double trend_view_average(const struct trend_view *v, enum trend_series series, size_t i);
double trend_view_maximum(const struct trend_view *v, enum trend_series series, size_t i);
void trend_view_done(struct trend_view *v);

#endif
