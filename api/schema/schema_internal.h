/* schema_internal: what the tables of both sockets share. Only schema.c, schema_event.c and schema_qmp.c include it. */
#ifndef CAIRN_API_SCHEMA_SCHEMA_INTERNAL_H
#define CAIRN_API_SCHEMA_SCHEMA_INTERNAL_H

#include "api/schema/schema.h"

#define OPTIONAL true
#define REQUIRED false
#define END { NULL, FIELD_ANY, false, NULL }
#define ANY_STATE VM_TRIGGER_COUNT

/* Of events and jobs. */
#define FIELDS_VM_NAME \
	{ "vm", FIELD_STRING, REQUIRED, "name of the VM" }, \
	{ VM_UUID_KEY, FIELD_STRING, OPTIONAL, "UUID of the VM, if known" }
/* agent-exec and agent-exec-output, in schema.c */
#define FIELDS_EXEC                                                                   \
	{ "arg", FIELD_ARRAY, REQUIRED, "the program and its arguments" },            \
	{ "env", FIELD_ARRAY, OPTIONAL, "variables, NAME=VALUE" },                    \
	{ "folder", FIELD_STRING, OPTIONAL, "working folder [/]" },                   \
	{ "input-data", FIELD_STRING, OPTIONAL, "standard input, base64 [none]" },    \
	{ "timeout", FIELD_INT, OPTIONAL, "kill the program after this many seconds [no limit]" }
/* The memory of a running VM, in schema.c */
#define FIELDS_MEMORY \
	{ "target", FIELD_INT, OPTIONAL, "memory for the guest, bytes, at most the VM's memory [no change]" }, \
	{ "period", FIELD_INT, OPTIONAL, "seconds between statistics of the guest; 0: none [no change]" }
#define DOC_SET_MEMORY \
	"change the memory that a running VM's balloon leaves to its guest, or how often the guest sends statistics; a new " \
	"start uses the definition again"
#define DOC_RECLAIM \
	"free the memory of a running VM that was not written since its last snapshot or revert; the guest's accesses bring " \
	"it back from the image"
static const struct field reclaim_returns[] = { { "freed", FIELD_INT, REQUIRED, "bytes" }, END };
#define FIELD_ACTUAL { "actual", FIELD_INT, REQUIRED, "memory of the guest, bytes" }
#define FIELD_BALLOON \
	{ "balloon", FIELD_OBJECT, OPTIONAL, "of a running VM with a balloon: driver (the guest has one), target, actual, reported (given " \
	"back by free page reporting so far), all in bytes; period, last-update; and the guest's statistics, as far as known: " \
	"swap-in, swap-out, unused, available, usable, disk-caches (bytes), major-faults, minor-faults, hugetlb-allocs, " \
	"hugetlb-failures" }

extern const struct field exec_output_args[];
extern const struct field exec_returns[];

#endif
