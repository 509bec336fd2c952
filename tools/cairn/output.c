#include "tools/cairn/output.h"
#include "api/wire/json.h"
#include "base/util.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* ---- printing tables and labels ---- */

void table_init(struct table *t, const char *const *heads, size_t columns)
{
	*t = (struct table){ .columns = columns, .heads = heads };
}

void table_add(struct table *t, const char *const *cells)
{
	if (t->rows == t->cap) {
		t->cap = t->cap ? 2 * t->cap : 16;
		t->cells = must_alloc(reallocarray(t->cells, t->cap * t->columns, sizeof(*t->cells)));
	}
	for (size_t i = 0; i < t->columns; i++) {
		t->cells[t->rows * t->columns + i] = must_alloc(strdup(cells[i]));
	}
	t->rows++;
}

/* Return a string's width on the terminal: its number of code points, a good approximation without a locale. */
static size_t text_width(const char *s)
{
	size_t n = 0;

	for (; *s; s++)
		n += ((unsigned char)*s & 0xc0) != 0x80;
	return n;
}

static void row_print(const struct table *t, const char *const *cells, const size_t *widths,
	FILE *f)
{
	for (size_t i = 0; i < t->columns; i++) {
		size_t pad = i + 1 < t->columns ? widths[i] - text_width(cells[i]) + 2 : 0;

		fprintf(f, " %s%*s", cells[i], (int)pad, "");
	}
	fputc('\n', f);
}

static bool quiet;

void output_quiet(void)
{
	quiet = true;
}

bool output_is_quiet(void)
{
	return quiet;
}

void vsay(const char *fmt, va_list ap)
{
	if (!quiet)
		vprintf(fmt, ap);
}

void say(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsay(fmt, ap);
	va_end(ap);
}

void table_finish(struct table *t, FILE *f)
{
	size_t widths[TABLE_COLUMNS_MAX] = { 0 }, ruler = 0;

	for (size_t i = 0; i < t->columns; i++) {
		widths[i] = text_width(t->heads[i]);
		for (size_t r = 0; r < t->rows; r++)
			widths[i] = MAX(widths[i], text_width(t->cells[r * t->columns + i]));
		ruler += widths[i] + 3;
	}
	if (!quiet) {
		row_print(t, t->heads, widths, f);
		while (ruler--)
			fputc('-', f);
		fputc('\n', f);
	}
	for (size_t r = 0; r < t->rows; r++)
		row_print(t, (const char *const *)&t->cells[r * t->columns], widths, f);
	if (!quiet)
		fputc('\n', f);
	for (size_t i = 0; i < t->rows * t->columns; i++)
		free(t->cells[i]);
	free(t->cells);
}

bool time_parse(const char *text, int64_t *ret_ns)
{
	static const char *const dates[] = { "%Y-%m-%d %H:%M:%S", "%Y-%m-%d %H:%M", "%Y-%m-%d" };
	static const char units[] = "smhd";
	static const int64_t seconds[] = { 1, 60, 3600, 86400 };
	const char *unit;
	char *end;
	long long n = strtoll(text, &end, 10);

	unit = *end ? strchr(units, *end) : NULL;
	if (end != text && n >= 0 && n < 1000000 && unit && !end[1]) {
		*ret_ns = ((int64_t)time(NULL) - n * seconds[unit - units]) * 1000000000;
		return true;
	}
	for (size_t i = 0; i < ARRAY_SIZE(dates); i++) {
		struct tm tm = { .tm_isdst = -1 };
		const char *rest = strptime(text, dates[i], &tm);

		if (rest && !*rest) {
			*ret_ns = (int64_t)mktime(&tm) * 1000000000;
			return true;
		}
	}
	return false;
}

const char *time_text(int64_t ns, bool zone, char buf[TIME_TEXT_BYTES])
{
	time_t s = (time_t)(ns / 1000000000);
	struct tm tm;

	localtime_r(&s, &tm);
	strftime(buf, TIME_TEXT_BYTES, zone ? "%Y-%m-%d %H:%M:%S %z" : "%Y-%m-%d %H:%M:%S", &tm);
	return buf;
}

void label_print(FILE *f, const char *label, const char *fmt, ...)
{
	va_list ap;

	fprintf(f, "%-15s ", label);
	va_start(ap, fmt);
	vfprintf(f, fmt, ap);
	va_end(ap);
	fputc('\n', f);
}

/* ---- printing JSON, YAML and CSV ---- */

int output_format_parse(const char *name)
{
	static const char *const names[] = { "table", "json", "yaml", "csv" };

	for (int i = 0; i < 4; i++)
		if (!strcmp(names[i], name))
			return i;
	return -1;
}

/* Print YAML: JSON's scalars are valid YAML, and its strings are YAML's double-quoted strings. */
static void yaml_print(FILE *f, struct json_object *o, int indent, bool in_list)
{
	bool first = in_list;

	if (json_object_is_type(o, json_type_object) && json_object_object_length(o)) {
		json_object_object_foreach(o, key, v)
		{
			bool nested = (json_object_is_type(v, json_type_object) &&
					      json_object_object_length(v)) ||
				(json_object_is_type(v, json_type_array) &&
					json_object_array_length(v));

			fprintf(f, "%*s%s:%s", first ? 0 : indent, "", key, nested ? "\n" : " ");
			first = false;
			yaml_print(f, v, nested ? indent + 2 : 0, false);
		}
		return;
	}
	if (json_object_is_type(o, json_type_array) && json_object_array_length(o)) {
		for (size_t i = 0; i < json_object_array_length(o); i++) {
			fprintf(f, "%*s- ", i || !in_list ? indent : 0, "");
			yaml_print(f, json_object_array_get_idx(o, i), indent + 2, true);
		}
		return;
	}
	fprintf(f, "%s\n", json_object_to_json_string_ext(o,
		JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE));
}

/* RFC 4180: quote a cell if necessary, and double quotes inside. */
static void csv_cell(FILE *f, struct json_object *v)
{
	const char *s = !v ? "" :
		json_object_is_type(v, json_type_string) ? json_object_get_string(v) :
		json_object_to_json_string_ext(v, JSON_C_TO_STRING_PLAIN |
			JSON_C_TO_STRING_NOSLASHESCAPE);

	if (!strpbrk(s, ",\"\r\n")) {
		fputs(s, f);
		return;
	}
	fputc('"', f);
	for (; *s; s++) {
		if (*s == '"')
			fputc('"', f);
		fputc(*s, f);
	}
	fputc('"', f);
}

/* Returns the keys of all rows, in order of appearance. */
static struct json_object *csv_columns(struct json_object *rows)
{
	struct json_object *columns = json_object_new_object();

	for (size_t i = 0; i < json_object_array_length(rows); i++) {
		struct json_object *row = json_object_array_get_idx(rows, i);

		if (!json_object_is_type(row, json_type_object))
			continue;
		json_object_object_foreach(row, key, v)
		{
			(void)v;
			js_put_bool(columns, key, true);
		}
	}
	return columns;
}

void csv_header(FILE *f, struct json_object *columns)
{
	bool first = true;

	json_object_object_foreach(columns, head, unused)
	{
		(void)unused;
		fprintf(f, "%s%s", first ? "" : ",", head);
		first = false;
	}
	fputs("\r\n", f);
}

void csv_row(FILE *f, struct json_object *columns, struct json_object *row)
{
	bool first = true;

	json_object_object_foreach(columns, key, unused)
	{
		(void)unused;
		if (!first)
			fputc(',', f);
		first = false;
		csv_cell(f, js_get(row, key));
	}
	fputs("\r\n", f);
}

static void csv_print(FILE *f, struct json_object *rows)
{
	CLEANUP_JS struct json_object *columns = csv_columns(rows);

	csv_header(f, columns);
	for (size_t i = 0; i < json_object_array_length(rows); i++)
		csv_row(f, columns, json_object_array_get_idx(rows, i));
}

void output_print(FILE *f, enum cli_format format, struct json_object *o)
{
	CLEANUP_JS struct json_object *rows = NULL;

	switch (format) {
	case CLI_YAML:
		yaml_print(f, o, 0, false);
		break;
	case CLI_CSV:
		rows = json_object_is_type(o, json_type_array) ? json_object_get(o) :
			json_object_new_array();
		if (!json_object_is_type(o, json_type_array))
			json_object_array_add(rows, json_object_get(o));
		csv_print(f, rows);
		break;
	case CLI_JSON:
	case CLI_TABLE:
		fprintf(f, "%s\n", json_object_to_json_string_ext(o,
			JSON_C_TO_STRING_PRETTY | JSON_C_TO_STRING_NOSLASHESCAPE |
				JSON_C_TO_STRING_SPACED));
		break;
	}
}
