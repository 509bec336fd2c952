#include "api/store/trend_row.h"
#include "base/util.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Most rows that wait for their file. */
#define CLOSED_MAX 4096

const struct trend_name trend_names[TREND_SERIES] = {
	[TREND_CPU] = { "cpu", "percent" },
	[TREND_MEMORY] = { "memory", "bytes" },
	[TREND_USED] = { "used", "bytes" },
	[TREND_BALLOON] = { "balloon", "bytes" },
	[TREND_RD_BYTES] = { "rd-bytes", "bytes/s" },
	[TREND_WR_BYTES] = { "wr-bytes", "bytes/s" },
	[TREND_RD_REQS] = { "rd-reqs", "1/s" },
	[TREND_WR_REQS] = { "wr-reqs", "1/s" },
	[TREND_RD_LATENCY] = { "rd-latency", "ns" },
	[TREND_WR_LATENCY] = { "wr-latency", "ns" },
	[TREND_IO_ERRORS] = { "io-errors", "1/s" },
	[TREND_RX_BYTES] = { "rx-bytes", "bytes/s" },
	[TREND_TX_BYTES] = { "tx-bytes", "bytes/s" },
	[TREND_RX_PACKETS] = { "rx-packets", "1/s" },
	[TREND_TX_PACKETS] = { "tx-packets", "1/s" },
};

/* Two years of 366 days. */
const struct trend_step trend_steps[TREND_RANGES] = { { 1, 3600 }, { 60, 7 * 24 * 60 }, { 3600, 2 * 366 * 24 } };

int trend_series_find(const char *name)
{
	for (int i = 0; i < TREND_SERIES; i++)
		if (!strcmp(trend_names[i].name, name))
			return i;
	return -1;
}

/* ---- lists of rows ---- */

/* Remove the first n rows. */
static void trend_rows_remove(struct trend_rows *rows, size_t n)
{
	n = MIN(n, rows->n);
	rows->n -= n;
	if (rows->n)
		memmove(rows->list, rows->list + n, rows->n * sizeof(*rows->list));
}

void trend_rows_add(struct trend_rows *rows, const struct trend_row *row, size_t max)
{
	if (rows->n >= max) {
		size_t n = MAX(max / 4, 1U);

		trend_rows_remove(rows, n);
		rows->dropped += n;
	}
	if (rows->n == rows->cap) {
		rows->cap = rows->cap ? rows->cap * 2 : 8;
		rows->list = must_alloc(realloc(rows->list, rows->cap * sizeof(*rows->list)));
	}
	rows->list[rows->n++] = *row;
}

void trend_rows_done(struct trend_rows *rows)
{
	free(rows->list);
	*rows = (struct trend_rows){ 0 };
}

/* ---- equal rows ---- */

/* All unknown values are the same NAN, so that rows can be compared. */
static bool values_are_equal(const struct trend_row *a, const struct trend_row *b)
{
	return !memcmp(a->average, b->average, sizeof(a->average)) && !memcmp(a->maximum, b->maximum, sizeof(a->maximum));
}

/* Return whether b continues a and has the same values, so that one row can stand for both. */
static bool trend_row_continues(const struct trend_row *a, const struct trend_row *b, uint32_t step_s)
{
	return a->span && a->time == b->time - b->span && a->covered == b->covered && a->span <= UINT32_MAX - b->span &&
		(step_s > 1 || a->covered == 1) && values_are_equal(a, b);
}

bool trend_row_merge(struct trend_row *to, const struct trend_row *row, uint32_t step_s)
{
	uint32_t covered = to->covered + row->covered;

	if (step_s == 1 || to->time != row->time || to->span != step_s || row->span != step_s || covered > step_s || !covered)
		return false;
	for (unsigned i = 0; i < TREND_SERIES; i++) {
		float a = to->average[i], b = row->average[i];

		to->average[i] = isnan(a) ? b : isnan(b) ? a : (float)(((double)a * to->covered + (double)b * row->covered) / covered);
		if (isnan(to->maximum[i]) || row->maximum[i] > to->maximum[i])
			to->maximum[i] = row->maximum[i];
	}
	to->covered = covered;
	return true;
}

/* ---- the recorder ---- */

static void row_close(struct trend_recorder *r, enum trend_range range)
{
	if (r->open[range].span)
		trend_rows_add(&r->closed[range], &r->open[range], CLOSED_MAX);
	r->open[range].span = 0;
}

/* Add a row to a range: extend the open one, or close it. */
static void row_add(struct trend_recorder *r, enum trend_range range, const struct trend_row *row)
{
	struct trend_row *open = &r->open[range];

	if (trend_row_continues(open, row, trend_steps[range].step_s)) {
		open->span += row->span;
		open->time = row->time;
		return;
	}
	row_close(r, range);
	*open = *row;
}

/* End a step of a coarse range. */
static void sum_end(struct trend_recorder *r, enum trend_range range)
{
	struct trend_sum *s = &r->sums[range];
	uint32_t step = trend_steps[range].step_s;
	struct trend_row row = { .time = s->begin + step, .span = step, .covered = MIN(s->covered, step) };

	if (!s->covered)
		return;
	for (unsigned i = 0; i < TREND_SERIES; i++) {
		row.average[i] = s->weight[i] ? (float)(s->sum[i] / s->weight[i]) : NAN;
		row.maximum[i] = s->weight[i] ? s->maximum[i] : NAN;
	}
	row_add(r, range, &row);
	*s = (struct trend_sum){ 0 };
}

/* Add a part of a sample that lies in one step of a coarse range. */
static void sum_add(struct trend_recorder *r, enum trend_range range, uint32_t begin, uint32_t seconds, const float *values)
{
	struct trend_sum *s = &r->sums[range];

	if (s->covered && s->begin != begin)
		sum_end(r, range);
	s->begin = begin;
	s->covered += seconds;
	for (unsigned i = 0; i < TREND_SERIES; i++) {
		if (isnan(values[i]))
			continue;
		s->maximum[i] = s->weight[i] ? MAX(s->maximum[i], values[i]) : values[i];
		s->sum[i] += (double)values[i] * seconds;
		s->weight[i] += seconds;
	}
}

/* Divide a sample among the steps of a coarse range. */
static void sums_add(struct trend_recorder *r, enum trend_range range, uint32_t from, uint32_t to, const float *values)
{
	uint32_t step = trend_steps[range].step_s;

	while (from < to) {
		uint32_t begin = from / step * step, end = to - begin > step ? begin + step : to;

		sum_add(r, range, begin, end - from, values);
		from = end;
	}
}

void trend_record(struct trend_recorder *r, uint32_t time, uint32_t span, const float values[TREND_SERIES])
{
	struct trend_row row = { .time = time, .span = MIN(span, time), .covered = 1 };

	if (!row.span)
		return;
	for (unsigned i = 0; i < TREND_SERIES; i++)
		row.average[i] = row.maximum[i] = isnan(values[i]) ? NAN : values[i];
	row_add(r, TREND_SECONDS, &row);
	for (enum trend_range range = TREND_MINUTES; range < TREND_RANGES; range++)
		sums_add(r, range, time - row.span, time, row.average);
}

void trend_record_pause(struct trend_recorder *r)
{
	row_close(r, TREND_SECONDS);
}

void trend_record_end(struct trend_recorder *r)
{
	for (enum trend_range range = TREND_SECONDS; range < TREND_RANGES; range++) {
		sum_end(r, range);
		row_close(r, range);
	}
}

void trend_recorder_done(struct trend_recorder *r)
{
	for (enum trend_range range = TREND_SECONDS; range < TREND_RANGES; range++)
		trend_rows_done(&r->closed[range]);
}
