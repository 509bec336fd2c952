/* output: tables and labels as virsh prints them, and the same JSON as JSON, YAML, CSV. */
#ifndef CAIRN_TOOLS_OUTPUT_H
#define CAIRN_TOOLS_OUTPUT_H

#include "tools/cairn/cli.h"

#include <stdio.h>

#define TABLE_COLUMNS_MAX 12

/* A table under construction: cells are copied. */
struct table {
	size_t columns;
	const char *const *heads; /* borrowed */
	char **cells;		  /* rows × columns */
	size_t rows, cap;
};

void table_init(struct table *t, const char *const *heads, size_t columns);
void table_done(struct table *t);
/* As many strings as there are columns. Returns 0 or -ENOMEM. */
int table_add(struct table *t, const char *const *cells);
/* Each cell is a space, the text padded to the widest, two spaces; the last is unpadded; a
 * ruler; an empty line at the end. Widths are columns of a terminal, not bytes. */
void table_print(const struct table *t, FILE *f);

/* "Name:           vm1" */
void label_print(FILE *f, const char *label, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

/* -1: no such format. */
int output_format_parse(const char *name);
/* Print o in a format other than CLI_TABLE. An array of objects makes CSV rows. */
void output_print(FILE *f, enum cli_format format, struct json_object *o);
/* The same by and by, where rows come one at a time. columns: its keys say which of a row's members, and in what order. */
void csv_heads(FILE *f, struct json_object *columns);
void csv_row(FILE *f, struct json_object *columns, struct json_object *row);

#endif
