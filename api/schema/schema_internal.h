/* schema_internal: what the tables of both sockets share. Only schema.c and schema_qmp.c include it. */
#ifndef CAIRN_API_SCHEMA_SCHEMA_INTERNAL_H
#define CAIRN_API_SCHEMA_SCHEMA_INTERNAL_H

#include "api/schema/schema.h"

#define OPTIONAL true
#define REQUIRED false
#define END { NULL, FIELD_ANY, false, NULL }
#define ANY_STATE VM_TRIGGER_COUNT

/* agent-exec and agent-exec-output, in schema.c */
#define FIELDS_EXEC                                                                   \
	{ "arg", FIELD_ARRAY, REQUIRED, "the program and its arguments" },            \
	{ "env", FIELD_ARRAY, OPTIONAL, "variables, NAME=VALUE" },                    \
	{ "folder", FIELD_STRING, OPTIONAL, "working folder [/]" },                   \
	{ "input-data", FIELD_STRING, OPTIONAL, "standard input, base64 [none]" },    \
	{ "timeout", FIELD_INT, OPTIONAL, "kill the program after this many seconds [no limit]" }
extern const struct field exec_output_args[];
extern const struct field exec_returns[];

#endif
