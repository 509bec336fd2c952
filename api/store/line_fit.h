/* line_fit: a straight line through points, and how far its slope may be off (pure). Threading: none. */
#ifndef CAIRN_API_STORE_LINE_FIT_H
#define CAIRN_API_STORE_LINE_FIT_H

#include <stdbool.h>
#include <stddef.h>

struct line_fit {
	double mean_x, mean_y; /* the line passes through this point */
	double slope;
	double error; /* standard error of the slope */
	size_t n;     /* number of points */
};

/* Fit a line by least squares. y: NAN: the point is unknown and left out. The points are in the order of x. The error
 * allows for neighbours that resemble each other, as the hours of a day do: it is the usual one, times
 * sqrt((1 + r) / (1 - r)) with the residuals' correlation r between neighbours. Returns false if there are fewer than
 * three points, or all have the same x. */
bool line_fit(const double *x, const double *y, size_t n, struct line_fit *ret);
double line_fit_at(const struct line_fit *f, double x);

#endif
