/* output: print tables and labels as virsh does, and objects as JSON, YAML or CSV. */
#ifndef CAIRN_TOOLS_OUTPUT_H
#define CAIRN_TOOLS_OUTPUT_H

#include "tools/cairn/cli.h"

#include <stdarg.h>
#include <stdio.h>

/* Leave out the heads of tables, and the text of say(). */
void output_quiet(void);
bool output_is_quiet(void);
/* Print a sentence about a completed action. */
void say(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
void vsay(const char *fmt, va_list ap) __attribute__((format(printf, 1, 0)));

#define TABLE_COLUMNS_MAX 12

/* A table under construction. Cells are copied. */
struct table {
	size_t columns;
	const char *const *heads; /* borrowed */
	char **cells;		  /* rows × columns */
	size_t rows, cap;
};

void table_init(struct table *t, const char *const *heads, size_t columns);
/* Add a row of as many strings as the table has columns. */
void table_add(struct table *t, const char *const *cells);
/* Print the table and free it. Each cell is a space, the text padded to the widest, and two spaces; the last cell is
 * not padded. A ruler follows the heads, and an empty line the rows. Widths count code points, not bytes. */
void table_finish(struct table *t, FILE *f);

#define TIME_TEXT_BYTES 40

/* Write a time such as "2026-11-20 06:08:17", in local time.
 * zone: add the offset of the time zone, such as " +0000". Returns buf. */
const char *time_text(int64_t ns, bool zone, char buf[TIME_TEXT_BYTES]);

/* Parse a date with or without a time, "2026-11-20 06:08:17", "2026-11-20 06:08" or "2026-11-20", in local time, or a
 * time ago: "90s", "30m", "2h", "7d". Returns whether it is one. */
bool time_parse(const char *text, int64_t *ret_ns);

/* Print a line such as "Name:           vm1". */
void label_print(FILE *f, const char *label, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

/* Returns the format; -1: unknown. */
int output_format_parse(const char *name);
/* Print an object; CLI_TABLE prints JSON. In CSV, an array of objects becomes rows, and an object one row. */
void output_print(FILE *f, enum cli_format format, struct json_object *o);
/* Print CSV row by row.
 * columns: an object whose keys are the columns, in order. */
void csv_header(FILE *f, struct json_object *columns);
void csv_row(FILE *f, struct json_object *columns, struct json_object *row);

#endif
