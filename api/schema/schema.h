/* schema: every command and event of a socket, in one table: arguments, results, who may, in
 * which states. Checks, introspection, the reference and what `cairn help` says of commands come from it; a command that
 * is not in it cannot be called. (The CLI has virsh's words, in a table of its own: tools/cairn/verbs.c.) */
#ifndef CAIRN_API_SCHEMA_SCHEMA_H
#define CAIRN_API_SCHEMA_SCHEMA_H

#include "api/schema/vm_state.h"
#include "api/wire/peer.h"

#include <stdbool.h>
#include <stddef.h>

struct err;
struct json_object;

/* Defaults of snapshot-schedule-set. */
#define SCHEDULE_KEEP_DEFAULT "24h:all,7d:daily,4w:weekly"
#define SCHEDULE_MIN_FREE_DEFAULT "10%"

enum field_type {
	FIELD_STRING,
	FIELD_INT,
	FIELD_BOOL,
	FIELD_OBJECT,
	FIELD_ARRAY,
	FIELD_ANY,
	/* Strings, of which there are few each. Whoever gets one past schema_check_args() need not look for others. */
	FIELD_WORDS,
	FIELD_SHUTDOWN_MODE = FIELD_WORDS,
	FIELD_SHUTDOWN_THEN,
	FIELD_STOP_ACTION,
	FIELD_CONSOLE_KIND,
	FIELD_SAVED_AS,
	FIELD_DUMP_THEN,
	FIELD_CLONE_KIND,
	FIELD_CHILDREN,
	FIELD_COMPRESS,
	FIELD_ROLE,
	FIELD_TYPE_COUNT,
};

struct field {
	const char *name; /* NULL ends a list */
	enum field_type type;
	bool optional;
	const char *doc;
};

enum command_flags {
	COMMAND_BEFORE_NEGOTIATION = 1,
	COMMAND_CONCERNS_VM = 2, /* has a `vm` argument: looked up before the handler */
	COMMAND_MUTATES = 4,
	COMMAND_JOB = 8,
	COMMAND_RETURNS_FD = 16,
	COMMAND_TAKES_FD = 32, /* an open file comes along */
	COMMAND_CONCERNS_JOB = 64, /* `id` names a job: the role for its VM counts */
	COMMAND_FILTERS = 128, /* shows those who know only some VMs no others */
	COMMAND_RETURNS_LIST = 256, /* of what `returns` says; NULL: of anything */
	COMMAND_RETURNS_STRING = 512,
	COMMAND_DEFINES = 1024, /* `definition` has the name of a VM: the role for that counts, if it is there */
	COMMAND_NEVER_TEMPLATES = 2048, /* of a template it is refused, whatever its arguments; its handler does that */
};

struct command {
	const char *name, *doc;
	const struct field *args;
	const struct field *returns; /* NULL: {} */
	enum role role;
	unsigned flags;
	enum vm_trigger trigger; /* its row says the legal states; VM_TRIGGER_COUNT: any */
};

enum event_id {
	EVENT_STOP,
	EVENT_RESUME,
	EVENT_SHUTDOWN,
	EVENT_RESET,
	EVENT_RESET_DELAYED,
	EVENT_RESTART_SCHEDULED,
	EVENT_POWERDOWN,
	EVENT_GUEST_PANICKED,
	EVENT_WATCHDOG,
	EVENT_DUMP_COMPLETED,
	EVENT_AGENT,
	EVENT_VSERPORT_CHANGE,
	EVENT_BLOCK_IO_ERROR,
	EVENT_DEVICE_NEEDS_RESET,
	EVENT_LINK_LOST,
	EVENT_VM_STATE_CHANGE,
	EVENT_AUTOSTART,
	EVENT_SHUTDOWN_PLAN,
	EVENT_VM_DEFINED,
	EVENT_VM_UNDEFINED,
	EVENT_SNAPSHOT_CREATED,
	EVENT_SNAPSHOT_REVERTED,
	EVENT_SNAPSHOT_DELETED,
	EVENT_SNAPSHOT_SKIPPED,
	EVENT_SNAPSHOT_RECOVERED,
	EVENT_GUEST_FROZEN,
	EVENT_PERMISSION_DENIED,
	EVENT_CLIENT_DROPPED,
	EVENT_REFUSALS_LEFT_OUT,
	EVENT_JOB_STATUS_CHANGE,
	EVENT_JOB_PROGRESS,
	EVENT_ID_COUNT,
};

struct event_spec {
	const char *name, *doc;
	const struct field *data;
	bool passing; /* has no number and is not kept */
	bool admins;  /* nobody else's */
};

/* NULL: there is none. */
const struct command *schema_find(enum dialect d, const char *name);
/* i-th command, NULL behind the last. */
const struct command *schema_command(enum dialect d, size_t i);
/* NULL: that dialect has no such event. */
const struct event_spec *schema_event(enum dialect d, enum event_id id);
/* NULL: there is none. */
const struct event_spec *schema_event_find(const char *name);
const char *role_name(enum role r);

/* As the schema calls it: "str", "shutdown-mode". */
const char *field_type_name(enum field_type t);
/* i-th word of a type that has few; NULL behind the last, and of the others. */
const char *field_type_word(enum field_type t, unsigned i);
/* Place of a word; -1: it is none of that type's, or NULL. */
int field_type_index(enum field_type t, const char *word);
/* Is v one? Returns 0; -EINVAL with a sentence about the argument `name`. */
int field_type_check(enum field_type t, const char *name, struct json_object *v, struct err *e);

/* Arguments (NULL: none given) against the table: unknown, missing, of the wrong type.
 * Returns 0; -EINVAL with QMP's sentence. */
int schema_check_args(const struct command *c, struct json_object *args, struct err *e);

/* query-qmp-schema's answer, as QEMU shapes it; query-commands'. The caller puts them. */
struct json_object *schema_to_json(enum dialect d);
struct json_object *schema_commands_to_json(enum dialect d);
/* The version that the greeting and query-version report. The caller puts it. */
struct json_object *schema_version_to_json(void);

#endif
