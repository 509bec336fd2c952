#include "api/store/trend_view.h"
#include "base/util.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* The times that have points already, in order and not adjacent. */
struct filled {
	struct span {
		uint32_t from, to;
	} * list;
	size_t n, cap;
};

static void filled_add(struct filled *f, uint32_t from, uint32_t to)
{
	if (f->n && f->list[f->n - 1].to == from) {
		f->list[f->n - 1].to = to;
		return;
	}
	if (f->n == f->cap) {
		f->cap = f->cap ? f->cap * 2 : 16;
		f->list = must_alloc(realloc(f->list, f->cap * sizeof(*f->list)));
	}
	f->list[f->n++] = (struct span){ from, to };
}

/* Add a row for the time from `from` to `to`, which lies in the view. known: the part of it that the row knows. */
static void points_add(struct trend_view *v, const struct trend_row *row, uint32_t from, uint32_t to, double known)
{
	while (from < to) {
		size_t i = (from - v->from) / v->step_s;
		uint32_t end = (uint32_t)MIN(to, v->from + (i + 1) * (uint64_t)v->step_s);

		for (unsigned s = 0; s < TREND_SERIES; s++) {
			struct trend_point *p = &v->points[s * v->npoints + i];
			double weight = (end - from) * known;

			if (isnan(row->average[s]))
				continue;
			p->maximum = p->weight > 0 ? MAX(p->maximum, row->maximum[s]) : row->maximum[s];
			p->sum += (double)row->average[s] * weight;
			p->weight += weight;
		}
		from = end;
	}
}

/* Add a row where nothing is filled yet. *at: number of the first span that may touch the row; rows come in order. */
static void row_add(struct trend_view *v, const struct trend_row *row, double known, uint32_t end, const struct filled *f, size_t *at,
	struct filled *ret)
{
	uint32_t from = MAX(row->time - row->span, v->from), to = MIN(row->time, end);

	while (*at < f->n && f->list[*at].to <= from)
		filled_add(ret, f->list[*at].from, f->list[*at].to), ++*at;
	while (from < to) {
		bool inside = *at < f->n && f->list[*at].from <= from;
		uint32_t until = inside ? f->list[*at].to : *at < f->n ? MIN(to, f->list[*at].from) : to;

		if (!inside) {
			points_add(v, row, from, until, known);
			filled_add(ret, from, until);
		} else if (until <= to) {
			filled_add(ret, f->list[*at].from, until);
			++*at;
		}
		from = until;
	}
}

/* Add the rows of a range. whole: only the rows of which each second is known. before: nothing from this time on. */
static void range_add(struct trend_view *v, enum trend_range range, bool whole, uint32_t before, const struct trend_rows *rows,
	struct filled *f)
{
	uint32_t end = (uint32_t)MIN(v->from + (uint64_t)v->npoints * v->step_s, before);
	struct filled next = { 0 };
	size_t at = 0;

	for (size_t i = 0; i < rows->n; i++)
		if (!whole || rows->list[i].covered == trend_steps[range].step_s)
			row_add(v, &rows->list[i], (double)rows->list[i].covered / trend_steps[range].step_s, end, f, &at, &next);
	while (at < f->n) {
		filled_add(&next, f->list[at].from, f->list[at].to);
		at++;
	}
	free(f->list);
	*f = next;
}

void trend_view_make(struct trend_view *v, uint32_t from, uint32_t step_s, size_t npoints, const struct trend_rows rows[TREND_RANGES])
{
	struct filled filled = { 0 };
	uint32_t begin = UINT32_MAX;
	int base = TREND_RANGES - 1;

	*v = (struct trend_view){ from, step_s, npoints, must_alloc(calloc(npoints * TREND_SERIES + 1, sizeof(*v->points))) };
	while (base > TREND_SECONDS && trend_steps[base].step_s > step_s)
		base--;
	range_add(v, (enum trend_range)base, true, UINT32_MAX, &rows[base], &filled);
	for (int i = base - 1; i >= TREND_SECONDS; i--)
		range_add(v, (enum trend_range)i, false, UINT32_MAX, &rows[i], &filled);
	for (int i = base; i < TREND_RANGES; i++) {
		range_add(v, (enum trend_range)i, false, i == base ? UINT32_MAX : begin, &rows[i], &filled);
		begin = MIN(begin, rows[i].begin);
	}
	free(filled.list);
}

static const struct trend_point *point_of(const struct trend_view *v, enum trend_series series, size_t i)
{
	return &v->points[series * v->npoints + i];
}

double trend_view_average(const struct trend_view *v, enum trend_series series, size_t i)
{
	const struct trend_point *p = point_of(v, series, i);

	return p->weight > 0 ? p->sum / p->weight : NAN;
}

double trend_view_maximum(const struct trend_view *v, enum trend_series series, size_t i)
{
	const struct trend_point *p = point_of(v, series, i);

	return p->weight > 0 ? (double)p->maximum : NAN;
}

void trend_view_done(struct trend_view *v)
{
	free(v->points);
	v->points = NULL;
}
