/* schema: tables of the commands and events of both dialects (api/wire/peer.h): arguments, results, required role,
 * legal states. A command without a row cannot be called. Argument checks, introspection and `cairn help` use the
 * tables. (The CLI's verbs, which follow virsh, are in tools/cairn/verbs/table.c.)
 * Threading: any thread; the tables are constant. */
#ifndef CAIRN_API_SCHEMA_SCHEMA_H
#define CAIRN_API_SCHEMA_SCHEMA_H

#include "api/schema/vm_state.h"
#include "api/wire/peer.h"

#include <stdbool.h>
#include <stddef.h>

struct err;
struct json_object;

/* Member of events, jobs and permissions, in addition to "vm": a name may belong to another VM later. */
#define VM_UUID_KEY "vm-uuid"

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
	FIELD_NUMBER,
	/* Enumerations of strings. schema_check_args() rejects other strings, so handlers need not check again. */
	FIELD_WORDS,
	FIELD_SHUTDOWN_MODE = FIELD_WORDS,
	FIELD_SHUTDOWN_THEN,
	FIELD_STOP_ACTION,
	FIELD_CONSOLE_KIND,
	FIELD_SAVED_AS,
	FIELD_DUMP_THEN,
	FIELD_PICTURE_FORMAT,
	FIELD_CLONE_KIND,
	FIELD_CHILDREN,
	FIELD_COMPRESS,
	FIELD_IMAGE_FORMAT,
	FIELD_ROLE,
	FIELD_SCHEDULE_ACTION,
	FIELD_SCHEDULE_MISSED,
	FIELD_MEASURE,
	FIELD_THRESHOLD_ACTION,
	FIELD_BOOT_KIND, /* word i is enum vm_boot_kind i + 1 */
	/* Enumerations of results alone: strings in query-qmp-schema, whose line has to be short. */
	FIELD_RESULT_WORDS,
	FIELD_VM_STATE = FIELD_RESULT_WORDS, /* vm_state_word() */
	FIELD_SNAPSHOT_STATE,
	FIELD_VM_REASON, /* vm_reason_word() */
	/* Values of one of two types. */
	FIELD_ALTERNATES,
	FIELD_NUMBER_OR_NULL = FIELD_ALTERNATES,
	FIELD_STRING_OR_NULL,
	FIELD_STRING_OR_INT,
	/* Parts of definitions: objects whose keys are in api/definition/definition_schema.h. */
	FIELD_DEFINITIONS,
	FIELD_DEFINITION = FIELD_DEFINITIONS,
	FIELD_NETWORK_DEFINITION,
	FIELD_DISK_DEFINITION,
	FIELD_INTERFACE_DEFINITION,
	FIELD_EGRESS_DEFINITION,
	/* Objects whose members are in field_type_members(). */
	FIELD_OBJECTS,
	FIELD_QEMU_VERSION = FIELD_OBJECTS,
	FIELD_SCHEMA_ENTRY,
	FIELD_SCHEMA_MEMBER,
	FIELD_VM_ENTRY,
	FIELD_UNLOADED_VM,
	FIELD_VM_FIGURES,
	FIELD_HOST_FIGURES,
	FIELD_BALLOON_FIGURES,
	FIELD_DIRTY_RATE,
	FIELD_MIRROR,
	FIELD_SYSTEMD_SCOPE,
	FIELD_BALANCE,
	FIELD_BALANCED,
	FIELD_ASSIST,
	FIELD_EXITS,
	FIELD_DISK_FIGURES,
	FIELD_INTERFACE_FIGURES,
	FIELD_INTERFACE_LIMITS,
	FIELD_INTERFACE_LIMIT,
	FIELD_EGRESS_FIGURES,
	FIELD_TREND_SERIES,
	FIELD_ADVICE,
	FIELD_GUEST_INTERFACE,
	FIELD_GUEST_ADDRESS,
	FIELD_AGENT_COMMAND,
	FIELD_NAMESPACES,
	FIELD_STOPPED_VM,
	FIELD_VOLUME,
	FIELD_FORWARD,
	FIELD_PUBLISHED_PORT,
	FIELD_CLONE_ADDRESS,
	FIELD_FORKED_CLONE,
	FIELD_GROUP_MEMBER,
	FIELD_GROUP_CLONE,
	FIELD_GROUP_NETWORK,
	FIELD_FORK_DISK,
	FIELD_PLANNED_CLONE,
	FIELD_PLANNED_DISK,
	FIELD_SNAPSHOT_ENTRY,
	FIELD_DISK_DIFF,
	FIELD_EXTENT_DIFF,
	FIELD_FILE_DIFF,
	FIELD_FILESYSTEM_DIFF,
	FIELD_OVERLAY,
	FIELD_PIN,
	FIELD_JOB_ENTRY,
	FIELD_JOB_COUNT,
	FIELD_EVENT,
	FIELD_TIMESTAMP,
	FIELD_AUDIT_LINE,
	FIELD_SCHEDULE,
	FIELD_SCHEDULE_RUN,
	FIELD_THRESHOLD,
	FIELD_WEB_HOOK,
	FIELD_SNAPSHOT_SCHEDULE,
	FIELD_POOL,
	FIELD_POOL_VOLUME,
	FIELD_NETWORK_ENTRY,
	FIELD_LEASE,
	FIELD_PERMISSION,
	FIELD_REVIEWED_PERMISSION,
	FIELD_APPROVAL_RULE,
	FIELD_REQUEST,
	FIELD_QUOTA,
	FIELD_QUOTA_VALUES,
	FIELD_DUMP_STATE,
	/* Objects of a VM's own socket. */
	FIELD_CPU_PROPS,
	FIELD_PCI_DEVICE,
	FIELD_PCI_CLASS,
	FIELD_PCI_ID,
	FIELD_PCI_REGION,
	FIELD_BLOCK_NODE,
	FIELD_IMAGE_INFO,
	FIELD_CACHE_INFO,
	FIELD_BLOCK_STATS,
	FIELD_INPUT_EVENT,
	FIELD_KEY_VALUE,
	FIELD_TYPE_COUNT,
	/* Flags on a type: a list of such values, or an object with names of any kind and such values. */
	FIELD_LIST = 0x1000,
	FIELD_MAP = 0x2000,
};

#define LIST_OF(type) ((enum field_type)((unsigned)(type) | FIELD_LIST))
#define MAP_OF(type) ((enum field_type)((unsigned)(type) | FIELD_MAP))

struct field {
	const char *name; /* NULL ends a list */
	enum field_type type;
	bool optional;
	const char *doc;
};

enum command_flags {
	COMMAND_BEFORE_NEGOTIATION = 1,
	COMMAND_CONCERNS_VM = 2, /* has an argument `vm`, looked up before the handler is called; without it, the role for all VMs is needed */
	COMMAND_MUTATES = 4,
	COMMAND_JOB = 8,
	COMMAND_RETURNS_FD = 16,
	COMMAND_TAKES_FD = 32, /* the client passes an open file with the command */
	COMMAND_CONCERNS_JOB = 64, /* `id` names a job: the client needs the role for the job's VM */
	COMMAND_FILTERS = 128, /* the handler omits VMs for which the client has no role */
	COMMAND_RETURNS_LIST = 256, /* returns an array; `returns` describes its elements; NULL: of any type */
	COMMAND_RETURNS_STRING = 512,
	COMMAND_DEFINES = 1024, /* `definition` names a VM: if the VM exists, the client needs the role for it */
	COMMAND_NEVER_TEMPLATES = 2048, /* the handler refuses templates, with any other arguments */
	COMMAND_RETURNS_ANY = 4096, /* returns a value of any type */
	COMMAND_RESTORES = 8192, /* as COMMAND_DEFINES, for the VM that has the uuid of `definition` */
	COMMAND_CREATES = 32768, /* makes a VM: the role creator is enough, unless the command concerns an existing VM */
	COMMAND_POLLED = 16384, /* clients repeat it until it succeeds: of the failures, only denials are audited */
};

struct command {
	const char *name, *doc;
	const struct field *args;
	const struct field *returns; /* NULL: {} */
	enum role role;
	unsigned flags;
	enum vm_trigger trigger; /* determines the legal states; VM_TRIGGER_COUNT: any */
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
	EVENT_FORWARDS_CHANGE,
	EVENT_TRAY_MOVED,
	EVENT_DEVICE_DELETED,
	EVENT_DEVICE_UNPLUG_GUEST_ERROR,
	EVENT_BALLOON_CHANGE,
	EVENT_VM_STATE_CHANGE,
	EVENT_AUTOSTART,
	EVENT_START_DELAYED,
	EVENT_SHUTDOWN_PLAN,
	EVENT_VM_DEFINED,
	EVENT_VM_UNDEFINED,
	EVENT_SNAPSHOT_CREATED,
	EVENT_SNAPSHOT_REVERTED,
	EVENT_SNAPSHOT_DELETED,
	EVENT_SNAPSHOT_SKIPPED,
	EVENT_SCHEDULE_RUN,
	EVENT_THRESHOLD,
	EVENT_POOL_SPACE,
	EVENT_DISK_SPACE,
	EVENT_MEMORY_RECLAIMED,
	EVENT_BALANCE_CHANGE,
	EVENT_SNAPSHOT_RECOVERED,
	EVENT_GUEST_FROZEN,
	EVENT_PERMISSION_DENIED,
	EVENT_ROLES_CHANGED,
	EVENT_CLIENT_DROPPED,
	EVENT_REFUSALS_LEFT_OUT,
	EVENT_REQUEST_CHANGE,
	EVENT_JOB_STATUS_CHANGE,
	EVENT_JOB_PROGRESS,
	EVENT_JOB_OUTPACED,
	EVENT_BLOCK_JOB_READY, /* this and the next two: only on a VM's own socket */
	EVENT_BLOCK_JOB_COMPLETED,
	EVENT_BLOCK_JOB_CANCELLED,
	EVENT_NETWORK_DEFINED,
	EVENT_NETWORK_UNDEFINED,
	EVENT_NETWORK_STATE_CHANGE,
	EVENT_ID_COUNT,
};

struct event_spec {
	const char *name, *doc;
	const struct field *data;
	bool passing; /* the event gets no number and is not kept in the event log */
	bool admins;  /* the event is sent to admins only */
};

/* The result of the jobs that a command starts. */
struct job_result {
	const char *command;
	const char *type; /* in query-jobs */
	const struct field *members; /* none: the result is {}, or missing */
};

/* Find a command by name. NULL: none. */
const struct command *schema_find(enum dialect d, const char *name);
/* Return the i-th command. NULL: no more. */
const struct command *schema_command(enum dialect d, size_t i);
/* Return an event's row. NULL: the dialect does not have the event. */
const struct event_spec *schema_event(enum dialect d, enum event_id id);
/* Find one of the daemon's events by name. NULL: none. */
const struct event_spec *schema_event_find(const char *name);
const char *role_name(enum role r);
/* Return the name under which the role is given for one VM: "owner" for ROLE_ADMIN. */
static inline const char *role_name_of_vm(enum role r)
{
	return r == ROLE_ADMIN ? "owner" : role_name(r);
}
/* Return the result of the jobs of one of the daemon's commands. NULL: it starts no job. */
const struct job_result *schema_job_result(const char *command);

/* Return the name in the schema of a type without flags, such as "str" or "shutdown-mode". */
const char *field_type_name(enum field_type t);
/* Return the members of an object type. NULL: the type is none. */
const struct field *field_type_members(enum field_type t);
/* Return the type that a client of the short schema sees: "array" and "object" in place of lists and objects. */
enum field_type field_type_plain(enum field_type t);
/* Return the i-th word of an enumeration. NULL: no more, or the type is no enumeration. */
const char *field_type_word(enum field_type t, unsigned i);
/* Return the index of a word in an enumeration. -1: the type does not have the word, or the word is NULL. */
int field_type_index(enum field_type t, const char *word);
/* Check that v has the type. The members of lists and objects are left to the handler.
 * name: the argument's, for the error. Returns 0; -EINVAL. */
int field_type_check(enum field_type t, const char *name, struct json_object *v, struct err *e);

/* Check a command's arguments for unknown, missing and mistyped ones. args: an object, possibly empty.
 * Returns 0; -EINVAL: except for a wrong word of an enumeration, with the error text of QEMU's QMP. */
int schema_check_args(const struct command *c, struct json_object *args, struct err *e);

/* Return the schema of all commands and events in QEMU's format, with each type, and the answer to query-commands. The
 * caller owns them. */
struct json_object *schema_to_json(enum dialect d);
struct json_object *schema_commands_to_json(enum dialect d);
/* Return the answer to query-qmp-schema, printed once and kept (js_text()): every user may ask for it often, and making
 * it takes longer than any other query. The daemon's line stays short: it has no descriptions, and lists and objects
 * inside of arguments and results are "array" and "object". */
struct json_object *schema_printed(enum dialect d);
/* Return a page of the daemon's schema_to_json(), printed and kept. page: from 0; pages behind the last are empty. */
struct json_object *schema_page_printed(unsigned page);
/* Return the number of pages that are not empty. */
unsigned schema_pages(void);
/* Return the version for the greeting and query-version. The caller owns it. */
struct json_object *schema_version_to_json(void);

#endif
