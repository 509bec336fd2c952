/* trend_row: the rows of a VM's trends, and the conversion of samples to rows (pure).
 *
 * There are three ranges of rows, each with a step: 1 s, 1 min and 1 h. A row has the averages and maxima of all
 * series over the time from `time - span` to `time`. A row of a coarse range covers one step, or several equal ones.
 * The recorder adds no row for a sample that equals the one before: it extends the row's span. So a VM that does
 * nothing has one row, which is not written before something changes.
 *
 * The clock may be set back. The newer row then counts: it takes the place of all earlier rows behind its beginning.
 * Threading: none; one thread at a time uses a recorder. */
#ifndef CAIRN_API_STORE_TREND_ROW_H
#define CAIRN_API_STORE_TREND_ROW_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum trend_series {
	TREND_CPU,
	TREND_MEMORY,
	TREND_USED,
	TREND_BALLOON,
	TREND_RD_BYTES,
	TREND_WR_BYTES,
	TREND_RD_REQS,
	TREND_WR_REQS,
	TREND_RD_LATENCY,
	TREND_WR_LATENCY,
	TREND_IO_ERRORS,
	TREND_RX_BYTES,
	TREND_TX_BYTES,
	TREND_RX_PACKETS,
	TREND_TX_PACKETS,
	TREND_SERIES,
};

/* Name and unit of each series. Both are a part of the API; the order is a part of the file's format. */
struct trend_name {
	const char *name, *unit;
};
extern const struct trend_name trend_names[TREND_SERIES];
/* Returns the series of that name; -1: there is none. */
int trend_series_find(const char *name);

enum trend_range { TREND_SECONDS, TREND_MINUTES, TREND_HOURS, TREND_RANGES };
/* The step of each range in seconds, and the number of rows that are kept: an hour, a week and two years. */
struct trend_step {
	uint32_t step_s, rows;
};
extern const struct trend_step trend_steps[TREND_RANGES];

struct trend_row {
	uint32_t time; /* the end of the time that the row covers, in seconds since 1970 */
	uint32_t span; /* its length in seconds */
	/* Of each step of the span, the number of seconds that are known: the VM was off, or no daemon ran, in the
	 * others. In the range of seconds always 1. */
	uint32_t covered;
	/* NAN: not known. In the range of seconds, the maximum is the average. */
	float average[TREND_SERIES], maximum[TREND_SERIES];
};

struct trend_rows {
	struct trend_row *list; /* owned */
	size_t n, cap;
	size_t dropped; /* number of rows that were lost because there were too many */
	/* Of trend_file_read(): the begin of the oldest row that the file has; 0: it has lost none yet. */
	uint32_t begin;
};

/* Add a row. At `max` rows, the oldest quarter is dropped. */
void trend_rows_add(struct trend_rows *rows, const struct trend_row *row, size_t max);
void trend_rows_done(struct trend_rows *rows);

/* The step of a coarse range that is not over. */
struct trend_sum {
	uint32_t begin;	  /* in seconds since 1970 */
	uint32_t covered; /* 0: nothing is known of it yet */
	double sum[TREND_SERIES];
	uint32_t weight[TREND_SERIES]; /* number of seconds in which the series was known */
	float maximum[TREND_SERIES];
};

/* Begins as all zeros. */
struct trend_recorder {
	struct trend_sum sums[TREND_RANGES]; /* of the coarse ranges */
	struct trend_row open[TREND_RANGES]; /* may be extended yet; span 0: there is none */
	struct trend_rows closed[TREND_RANGES];
};

/* Add a sample: the averages over the `span` seconds before `time`. span: 0 is ignored. */
void trend_record(struct trend_recorder *r, uint32_t time, uint32_t span, const float values[TREND_SERIES]);
/* Close the open row of the range of seconds: the VM's run is over, or the daemon ends. */
void trend_record_pause(struct trend_recorder *r);
/* Close all open rows, and end the steps that are not over. */
void trend_record_end(struct trend_recorder *r);
void trend_recorder_done(struct trend_recorder *r);

/* Merge into `to` a row of the same step of a coarse range: an earlier daemon wrote the first part of the step. Returns
 * whether they are such rows. */
bool trend_row_merge(struct trend_row *to, const struct trend_row *row, uint32_t step_s);

#endif
