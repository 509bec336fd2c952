/* chart: draws a series of numbers over time, in the terminal or as an SVG image. */
#ifndef CAIRN_TOOLS_CHART_H
#define CAIRN_TOOLS_CHART_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

struct chart {
	const char *title; /* borrowed */
	const char *unit;  /* as trend_names has them (api/store/trend_row.h) */
	size_t n;	   /* of points */
	const double *average, *maximum; /* NAN: not known */
	int64_t from_s, step_s; /* the begin of the first point in seconds since 1970, and the time between two */
};

#define CHART_LABEL 10 /* columns left of the chart */

/* Number of columns of the terminal; 80 without one. */
unsigned chart_columns(void);
/* Return whether the locale's characters are UTF-8. */
bool chart_is_utf8(void);
/* Return how many points fit side by side. */
size_t chart_points(unsigned columns, bool utf8);
/* Draw a chart of `rows` lines with a title above and the time below. Averages are bars, and maxima dots above them. */
void chart_draw(FILE *f, const struct chart *c, unsigned columns, unsigned rows, bool utf8);
/* Print charts below each other as one SVG image. */
void chart_svg(FILE *f, const char *title, const struct chart *charts, size_t n);

#endif
