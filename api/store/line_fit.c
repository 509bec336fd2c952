#include "api/store/line_fit.h"
#include "base/util.h"

#include <math.h>

/* Neighbours that differ by next to nothing would make the error infinite. */
#define CORRELATION_MAX 0.98

/* By Newton's method, so that no program needs libm. */
static double square_root(double v)
{
	double root = v > 1 ? v : 1;

	if (!(v > 0))
		return 0;
	for (unsigned i = 0; i < 1200 && root * root > v * (1 + 1e-12); i++)
		root = (root + v / root) / 2;
	return root;
}

static double error_of(const struct line_fit *f, const double *x, const double *y, size_t n, double xx)
{
	double squares = 0, products = 0, last = NAN, r;

	for (size_t i = 0; i < n; i++) {
		double residual = y[i] - line_fit_at(f, x[i]);

		if (isnan(y[i]))
			continue;
		squares += residual * residual;
		products += isnan(last) ? 0 : residual * last;
		last = residual;
	}
	r = squares > 0 ? MIN(MAX(products / squares, 0), CORRELATION_MAX) : 0;
	return square_root(squares / (double)(f->n - 2) / xx * (1 + r) / (1 - r));
}

bool line_fit(const double *x, const double *y, size_t n, struct line_fit *ret)
{
	struct line_fit f = { 0 };
	double xx = 0, xy = 0;

	for (size_t i = 0; i < n; i++) {
		if (isnan(y[i]))
			continue;
		f.n++;
		/* Means of the values so far, so that no digits are lost in sums. */
		f.mean_x += (x[i] - f.mean_x) / (double)f.n;
		f.mean_y += (y[i] - f.mean_y) / (double)f.n;
	}
	for (size_t i = 0; i < n; i++) {
		if (isnan(y[i]))
			continue;
		xx += (x[i] - f.mean_x) * (x[i] - f.mean_x);
		xy += (x[i] - f.mean_x) * (y[i] - f.mean_y);
	}
	if (f.n < 3 || !(xx > 0))
		return false;
	f.slope = xy / xx;
	f.error = error_of(&f, x, y, n, xx);
	*ret = f;
	return true;
}

double line_fit_at(const struct line_fit *f, double x)
{
	return f->mean_y + f->slope * (x - f->mean_x);
}
