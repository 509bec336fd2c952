#include "tools/cairn/chart.h"
#include "base/util.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/ioctl.h>
#include <time.h>

#define COLUMNS_MIN 30
#define COLUMNS_MAX 500
#define DAY_S 86400

unsigned chart_columns(void)
{
	struct winsize w;

	return ioctl(1, TIOCGWINSZ, &w) == 0 && w.ws_col ? MIN(MAX(w.ws_col, COLUMNS_MIN), COLUMNS_MAX) : 80;
}

bool chart_is_utf8(void)
{
	static const char *const names[] = { "LC_ALL", "LC_CTYPE", "LANG" };

	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		const char *v = getenv(names[i]);

		if (v && *v)
			return strcasestr(v, "utf-8") || strcasestr(v, "utf8");
	}
	return false;
}

/* A braille character shows two points side by side. */
size_t chart_points(unsigned columns, bool utf8)
{
	return (size_t)(columns - CHART_LABEL - 1) * (utf8 ? 2 : 1);
}

/* ---- values ---- */

static bool is_of(const char *unit, const char *word)
{
	return !strncmp(unit, word, strlen(word));
}

#define CHART_VALUE 24

static const char *scaled(double v, double base, const char *const *prefixes, size_t n, const char *end, char buf[CHART_VALUE])
{
	size_t i = 0;

	while (i + 1 < n && v >= base) {
		v /= base;
		i++;
	}
	snprintf(buf, CHART_VALUE, v < 9.95 && v > 0 && v != (double)(int)v ? "%.1f%s%s" : "%.0f%s%s", v, prefixes[i], end);
	return buf;
}

/* Write a value with its unit, such as "12.5 MiB/s". */
static const char *chart_value(double v, const char *unit, char buf[CHART_VALUE])
{
	static const char *const binary[] = { " B", " KiB", " MiB", " GiB", " TiB" };
	static const char *const thousands[] = { "", "k", "M", "G" };
	static const char *const times[] = { " ns", " us", " ms", " s" };

	if (isnan(v))
		return "-";
	if (is_of(unit, "bytes"))
		return scaled(v, 1024, binary, ARRAY_SIZE(binary), unit + strlen("bytes"), buf);
	if (is_of(unit, "ns"))
		return scaled(v, 1000, times, ARRAY_SIZE(times), "", buf);
	if (is_of(unit, "percent"))
		return scaled(v, 1e9, thousands, 1, "%", buf);
	return scaled(v, 1000, thousands, ARRAY_SIZE(thousands), "/s", buf);
}

/* Return the next higher number of the kind 1, 2 or 5 times a power of ten; of bytes, a power of two. */
static double ceiling(double v, const char *unit)
{
	double c = 1;

	if (is_of(unit, "percent") && v <= 100)
		c = v <= 10 ? 10 : v <= 25 ? 25 : v <= 50 ? 50 : 100;
	while (c < v && is_of(unit, "bytes"))
		c *= 2;
	while (c < v) {
		if (c * 2 >= v)
			return c * 2;
		if (c * 5 >= v)
			return c * 5;
		c *= 10;
	}
	return c;
}

static double top_of(const struct chart *c)
{
	double top = 0;

	for (size_t i = 0; i < c->n; i++) {
		if (c->maximum[i] > top)
			top = c->maximum[i];
	}
	return ceiling(top, c->unit);
}

/* Write a time as the chart's length needs it. */
static const char *moment(const struct chart *c, int64_t s, char buf[32])
{
	int64_t length = (int64_t)c->n * c->step_s;
	time_t t = (time_t)s;
	struct tm tm;

	localtime_r(&t, &tm);
	strftime(buf, 32, length <= 600 ? "%H:%M:%S" : length <= DAY_S ? "%H:%M" : length <= 60 * DAY_S ? "%b %d %H:%M" : "%Y-%m-%d", &tm);
	return buf;
}

/* ---- in the terminal ---- */

/* Return a value's height in units of a dot, at least one for a value above 0; -1: not known. */
static int height(double v, double top, unsigned dots)
{
	if (isnan(v))
		return -1;
	return v <= 0 ? 0 : MAX(1, (int)(v / top * dots + 0.5));
}

/* Return which of the dots of a column are set, from the lowest one of the row up. */
static unsigned dots_of(const struct chart *c, size_t at, size_t points, double top, unsigned base, unsigned dots, unsigned each)
{
	size_t i = at * c->n / points;
	int average = height(c->average[i], top, dots), maximum = height(c->maximum[i], top, dots);
	unsigned set = 0;

	for (unsigned k = 0; k < each; k++) {
		int level = (int)(base + k) + 1;

		if (level <= average || level == maximum)
			set |= 1U << k;
	}
	if (!base && average >= 0)
		set |= 1; /* a value of 0 differs from an unknown one */
	return set;
}

static void braille_put(FILE *f, unsigned left, unsigned right)
{
	/* Bits of the dots from the lowest one up (Unicode, block 2800). */
	static const unsigned char bits[2][4] = { { 0x40, 0x04, 0x02, 0x01 }, { 0x80, 0x20, 0x10, 0x08 } };
	unsigned code = 0x2800;

	for (unsigned k = 0; k < 4; k++)
		code |= (left >> k & 1 ? bits[0][k] : 0U) | (right >> k & 1 ? bits[1][k] : 0U);
	if (code == 0x2800)
		fputc(' ', f);
	else
		fprintf(f, "%c%c%c", 0xe0 | code >> 12, 0x80 | (code >> 6 & 0x3f), 0x80 | (code & 0x3f));
}

static void row_draw(FILE *f, const struct chart *c, unsigned width, unsigned row, unsigned rows, double top, bool utf8)
{
	unsigned each = utf8 ? 4 : 1, dots = rows * each, base = (rows - 1 - row) * each;
	size_t points = (size_t)width * (utf8 ? 2 : 1);
	char value[CHART_VALUE];

	if (!row || row == rows / 2 || row == rows - 1)
		fprintf(f, "%*s", CHART_LABEL - 1, chart_value(row == rows - 1 ? 0 : row ? top / 2 : top, c->unit, value));
	else
		fprintf(f, "%*s", CHART_LABEL - 1, "");
	fputs(utf8 ? " ┤" : " |", f);
	for (unsigned x = 0; x < width; x++) {
		if (utf8) {
			braille_put(f, dots_of(c, 2 * (size_t)x, points, top, base, dots, each),
				dots_of(c, 2 * (size_t)x + 1, points, top, base, dots, each));
		} else {
			size_t i = (size_t)x * c->n / width;
			int average = height(c->average[i], top, dots);
			bool set = dots_of(c, x, points, top, base, dots, each);

			fputc(!set ? ' ' : (int)base < average ? '#' : !base && average == 0 ? '_' : '.', f);
		}
	}
	fputc('\n', f);
}

static void times_draw(FILE *f, const struct chart *c, unsigned width, bool utf8)
{
	int64_t end = c->from_s + (int64_t)c->n * c->step_s;
	char left[32], middle[32], right[32];
	int n, gap;

	fprintf(f, "%*s%s", CHART_LABEL, "", utf8 ? "└" : "+");
	for (unsigned x = 0; x < width; x++)
		fputs(utf8 ? "─" : "-", f);
	moment(c, c->from_s, left);
	moment(c, (c->from_s + end) / 2, middle);
	moment(c, end, right);
	n = (int)(strlen(left) + strlen(middle) + strlen(right));
	gap = (int)width - n;
	if (gap < 4)
		fprintf(f, "\n%*s%s%*s%s\n", CHART_LABEL + 1, "", left, MAX(1, (int)(width - strlen(left) - strlen(right))), "", right);
	else
		fprintf(f, "\n%*s%s%*s%s%*s%s\n", CHART_LABEL + 1, "", left, gap / 2, "", middle, gap - gap / 2, "", right);
}

/* Compute the average and the maximum of the whole chart, and the last known value. */
static void summary(const struct chart *c, double *average, double *maximum, double *last)
{
	double sum = 0;
	size_t n = 0;

	*average = *maximum = *last = NAN;
	for (size_t i = 0; i < c->n; i++) {
		if (isnan(c->average[i]))
			continue;
		sum += c->average[i];
		n++;
		*last = c->average[i];
		if (isnan(*maximum) || c->maximum[i] > *maximum)
			*maximum = c->maximum[i];
	}
	if (n)
		*average = sum / (double)n;
}

void chart_draw(FILE *f, const struct chart *c, unsigned columns, unsigned rows, bool utf8)
{
	char a[CHART_VALUE], m[CHART_VALUE], l[CHART_VALUE];
	unsigned width = columns - CHART_LABEL - 1;
	double average, maximum, last;

	summary(c, &average, &maximum, &last);
	fprintf(f, "%s: average %s, maximum %s, last %s\n", c->title, chart_value(average, c->unit, a), chart_value(maximum, c->unit, m),
		chart_value(last, c->unit, l));
	if (isnan(last)) {
		fprintf(f, "%*sno figures are known for this time\n\n", CHART_LABEL + 1, "");
		return;
	}
	for (unsigned row = 0; row < rows; row++)
		row_draw(f, c, width, row, rows, top_of(c), utf8);
	times_draw(f, c, width, utf8);
	fputc('\n', f);
}

/* ---- SVG ---- */

#define SVG_WIDTH 900
#define SVG_LEFT 90
#define SVG_RIGHT 20
#define SVG_HEIGHT 200 /* of a chart with its title and times */
#define SVG_ABOVE 30
#define SVG_BELOW 30

static void text_escape(FILE *f, const char *s)
{
	for (; *s; s++) {
		switch (*s) {
		case '<':
			fputs("&lt;", f);
			break;
		case '>':
			fputs("&gt;", f);
			break;
		case '&':
			fputs("&amp;", f);
			break;
		case '"':
			fputs("&quot;", f);
			break;
		default:
			fputc(*s, f);
		}
	}
}

/* Print the lines between known points. */
static void path_print(FILE *f, const struct chart *c, const double *values, double top, double y0, const char *class)
{
	double width = SVG_WIDTH - SVG_LEFT - SVG_RIGHT, tall = SVG_HEIGHT - SVG_ABOVE - SVG_BELOW;
	bool on = false;

	fprintf(f, "<path class=\"%s\" d=\"", class);
	for (size_t i = 0; i < c->n; i++) {
		double x = SVG_LEFT + width * ((double)i + 0.5) / (double)c->n;

		if (!isnan(values[i]))
			fprintf(f, "%c%.1f %.1f", on ? 'L' : 'M', x, y0 + tall - values[i] / top * tall);
		if (!isnan(values[i]) && !on && (i + 1 == c->n || isnan(values[i + 1])))
			fprintf(f, "h0.1"); /* a point alone */
		on = !isnan(values[i]);
	}
	fputs("\"/>\n", f);
}

static void one_svg(FILE *f, const struct chart *c, double y)
{
	double top = top_of(c), y0 = y + SVG_ABOVE, tall = SVG_HEIGHT - SVG_ABOVE - SVG_BELOW;
	char text[32], value[CHART_VALUE];

	fprintf(f, "<text x=\"%d\" y=\"%.0f\" font-weight=\"bold\">", SVG_LEFT, y + SVG_ABOVE - 10);
	text_escape(f, c->title);
	fputs("</text>\n", f);
	for (unsigned i = 0; i <= 4; i++) {
		double line = y0 + tall * i / 4;

		fprintf(f, "<path class=\"grid\" d=\"M%d %.1fH%d\"/><text x=\"%d\" y=\"%.1f\" text-anchor=\"end\">%s</text>\n", SVG_LEFT, line,
			SVG_WIDTH - SVG_RIGHT, SVG_LEFT - 6, line + 4, chart_value(top * (4 - i) / 4, c->unit, value));
	}
	for (unsigned i = 0; i <= 4; i++) {
		double x = SVG_LEFT + (SVG_WIDTH - SVG_LEFT - SVG_RIGHT) * (double)i / 4;

		fprintf(f, "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"%s\">%s</text>\n", x, y0 + tall + 18, !i ? "start" : i == 4 ? "end" : "middle",
			moment(c, c->from_s + (int64_t)c->n * c->step_s * i / 4, text));
	}
	path_print(f, c, c->maximum, top, y0, "maximum");
	path_print(f, c, c->average, top, y0, "average");
}

void chart_svg(FILE *f, const char *title, const struct chart *charts, size_t n)
{
	fprintf(f, "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %zu\" width=\"%d\" height=\"%zu\" "
		"font-family=\"sans-serif\" font-size=\"12\">\n<title>", SVG_WIDTH, n * SVG_HEIGHT, SVG_WIDTH, n * SVG_HEIGHT);
	text_escape(f, title);
	fputs("</title>\n<style>.grid{stroke:#ddd}.average{stroke:#1565c0;stroke-width:1.5;fill:none}"
		".maximum{stroke:#ef9a9a;fill:none}</style>\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n", f);
	for (size_t i = 0; i < n; i++)
		one_svg(f, &charts[i], (double)(i * SVG_HEIGHT));
	fputs("</svg>\n", f);
}
