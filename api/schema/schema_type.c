/* Types of arguments (enum field_type): their names in the schema, the words of enumerations, and the check of a
 * value. schema_object.c has the members of objects. */
#include "api/wire/json.h"
#include "api/schema/schema.h"
#include "base/err.h"
#include "base/vm_reason.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define WORDS_MAX 9

static const struct {
	const char *name, *json;
	const char *words[WORDS_MAX];
} types[FIELD_TYPE_COUNT] = {
	[FIELD_STRING] = { "str", "string", { NULL } },
	[FIELD_INT] = { "int", "integer", { NULL } },
	[FIELD_BOOL] = { "bool", "boolean", { NULL } },
	[FIELD_OBJECT] = { "object", "object", { NULL } },
	[FIELD_ARRAY] = { "array", "array", { NULL } },
	[FIELD_ANY] = { "any", "value", { NULL } },
	[FIELD_NUMBER] = { "number", "number", { NULL } },
	[FIELD_SHUTDOWN_MODE] = { "shutdown-mode", "string", { "acpi", "agent" } },
	[FIELD_SHUTDOWN_THEN] = { "shutdown-then", "string", { "leave", "destroy", "save" } },
	[FIELD_STOP_ACTION] = { "stop-action", "string", { "leave", "shutdown", "save" } },
	[FIELD_CONSOLE_KIND] = { "console-kind", "string", { "serial", "virtio" } },
	[FIELD_SAVED_AS] = { "saved-as", "string", { "running", "paused" } },
	[FIELD_DUMP_THEN] = { "dump-then", "string", { "crash", "reset" } },
	[FIELD_PICTURE_FORMAT] = { "picture-format", "string", { "ppm", "png" } },
	[FIELD_CLONE_KIND] = { "clone-kind", "string", { "full", "linked" } },
	[FIELD_CHILDREN] = { "children", "string", { "too", "only" } },
	[FIELD_IMAGE_FORMAT] = { "image-format", "string", { "raw", "qcow2" } },
	[FIELD_COMPRESS] = { "compress", "string", { "zstd", "gzip", "none" } },
	[FIELD_ROLE] = { "role", "string", { "viewer", "guest", "operator", "admin", "owner", "creator" } },
	[FIELD_SCHEDULE_ACTION] = { "schedule-action", "string", { "start", "shutdown", "reboot", "suspend", "resume", "save", "snapshot", "export" } },
	[FIELD_SCHEDULE_MISSED] = { "schedule-missed", "string", { "skip", "once", "all" } },
	[FIELD_MEASURE] = { "measure", "string", { "cpu", "memory", "disk-space", "latency", "io-errors", "net" } },
	[FIELD_THRESHOLD_ACTION] = { "threshold-action", "string", { "shutdown", "reboot", "suspend", "save", "snapshot" } },
	[FIELD_BOOT_KIND] = { "boot-kind", "string", { "hd", "cdrom", "network" } },
	[FIELD_VM_STATE] = { "vm-state", "string", { "shutoff", "running", "paused", "in-shutdown", "saved", "crashed", "preserved" } },
	[FIELD_SNAPSHOT_STATE] = { "snapshot-state", "string", { "running", "paused", "shutoff", "disk-snapshot" } },
	[FIELD_VM_REASON] = { "vm-reason", "string", { NULL } }, /* vm_reason_word() has its words */
	[FIELD_NUMBER_OR_NULL] = { "number-or-null", "number or null", { "number", "null" } },
	[FIELD_STRING_OR_NULL] = { "str-or-null", "string or null", { "str", "null" } },
	[FIELD_STRING_OR_INT] = { "str-or-int", "string or integer", { "str", "int" } },
	[FIELD_DEFINITION] = { "definition", "object", { NULL } },
	[FIELD_NETWORK_DEFINITION] = { "network-definition", "object", { NULL } },
	[FIELD_DISK_DEFINITION] = { "disk-definition", "object", { NULL } },
	[FIELD_INTERFACE_DEFINITION] = { "interface-definition", "object", { NULL } },
	[FIELD_EGRESS_DEFINITION] = { "egress-definition", "object", { NULL } },
	[FIELD_QEMU_VERSION] = { "qemu-version", "object", { NULL } },
	[FIELD_SCHEMA_ENTRY] = { "schema-entry", "object", { NULL } },
	[FIELD_SCHEMA_MEMBER] = { "schema-member", "object", { NULL } },
	[FIELD_VM_ENTRY] = { "vm-entry", "object", { NULL } },
	[FIELD_UNLOADED_VM] = { "unloaded-vm", "object", { NULL } },
	[FIELD_VM_FIGURES] = { "vm-figures", "object", { NULL } },
	[FIELD_HOST_FIGURES] = { "host-figures", "object", { NULL } },
	[FIELD_BALLOON_FIGURES] = { "balloon-figures", "object", { NULL } },
	[FIELD_DIRTY_RATE] = { "dirty-rate", "object", { NULL } },
	[FIELD_MIRROR] = { "mirror", "object", { NULL } },
	[FIELD_SYSTEMD_SCOPE] = { "systemd-scope", "object", { NULL } },
	[FIELD_BALANCE] = { "balance", "object", { NULL } },
	[FIELD_BALANCED] = { "balanced", "object", { NULL } },
	[FIELD_ASSIST] = { "assist", "object", { NULL } },
	[FIELD_EXITS] = { "exits", "object", { NULL } },
	[FIELD_DISK_FIGURES] = { "disk-figures", "object", { NULL } },
	[FIELD_INTERFACE_FIGURES] = { "interface-figures", "object", { NULL } },
	[FIELD_INTERFACE_LIMITS] = { "interface-limits", "object", { NULL } },
	[FIELD_INTERFACE_LIMIT] = { "interface-limit", "object", { NULL } },
	[FIELD_EGRESS_FIGURES] = { "egress-figures", "object", { NULL } },
	[FIELD_TREND_SERIES] = { "trend-series", "object", { NULL } },
	[FIELD_ADVICE] = { "advice", "object", { NULL } },
	[FIELD_GUEST_INTERFACE] = { "guest-interface", "object", { NULL } },
	[FIELD_GUEST_ADDRESS] = { "guest-address", "object", { NULL } },
	[FIELD_AGENT_COMMAND] = { "agent-command", "object", { NULL } },
	[FIELD_NAMESPACES] = { "namespaces", "object", { NULL } },
	[FIELD_STOPPED_VM] = { "stopped-vm", "object", { NULL } },
	[FIELD_VOLUME] = { "volume", "object", { NULL } },
	[FIELD_FORWARD] = { "forward", "object", { NULL } },
	[FIELD_PUBLISHED_PORT] = { "published-port", "object", { NULL } },
	[FIELD_CLONE_ADDRESS] = { "clone-address", "object", { NULL } },
	[FIELD_FORKED_CLONE] = { "forked-clone", "object", { NULL } },
	[FIELD_GROUP_MEMBER] = { "group-member", "object", { NULL } },
	[FIELD_GROUP_CLONE] = { "group-clone-member", "object", { NULL } },
	[FIELD_GROUP_NETWORK] = { "group-network", "object", { NULL } },
	[FIELD_FORK_DISK] = { "fork-disk", "object", { NULL } },
	[FIELD_PLANNED_CLONE] = { "planned-clone", "object", { NULL } },
	[FIELD_PLANNED_DISK] = { "planned-disk", "object", { NULL } },
	[FIELD_SNAPSHOT_ENTRY] = { "snapshot-entry", "object", { NULL } },
	[FIELD_DISK_DIFF] = { "disk-diff", "object", { NULL } },
	[FIELD_EXTENT_DIFF] = { "extent-diff", "object", { NULL } },
	[FIELD_FILE_DIFF] = { "file-diff", "object", { NULL } },
	[FIELD_FILESYSTEM_DIFF] = { "filesystem-diff", "object", { NULL } },
	[FIELD_OVERLAY] = { "overlay", "object", { NULL } },
	[FIELD_PIN] = { "pin", "object", { NULL } },
	[FIELD_JOB_ENTRY] = { "job-entry", "object", { NULL } },
	[FIELD_JOB_COUNT] = { "job-count", "object", { NULL } },
	[FIELD_EVENT] = { "event", "object", { NULL } },
	[FIELD_TIMESTAMP] = { "timestamp", "object", { NULL } },
	[FIELD_AUDIT_LINE] = { "audit-line", "object", { NULL } },
	[FIELD_SCHEDULE] = { "schedule", "object", { NULL } },
	[FIELD_SCHEDULE_RUN] = { "schedule-run", "object", { NULL } },
	[FIELD_THRESHOLD] = { "threshold", "object", { NULL } },
	[FIELD_WEB_HOOK] = { "web-hook", "object", { NULL } },
	[FIELD_SNAPSHOT_SCHEDULE] = { "snapshot-schedule", "object", { NULL } },
	[FIELD_POOL] = { "pool", "object", { NULL } },
	[FIELD_POOL_VOLUME] = { "pool-volume", "object", { NULL } },
	[FIELD_NETWORK_ENTRY] = { "network-entry", "object", { NULL } },
	[FIELD_LEASE] = { "lease", "object", { NULL } },
	[FIELD_PERMISSION] = { "permission", "object", { NULL } },
	[FIELD_REVIEWED_PERMISSION] = { "reviewed-permission", "object", { NULL } },
	[FIELD_APPROVAL_RULE] = { "approval-rule", "object", { NULL } },
	[FIELD_REQUEST] = { "request", "object", { NULL } },
	[FIELD_QUOTA] = { "quota", "object", { NULL } },
	[FIELD_QUOTA_VALUES] = { "quota-values", "object", { NULL } },
	[FIELD_DUMP_STATE] = { "dump-state", "object", { NULL } },
	[FIELD_CPU_PROPS] = { "cpu-props", "object", { NULL } },
	[FIELD_PCI_DEVICE] = { "pci-device", "object", { NULL } },
	[FIELD_PCI_CLASS] = { "pci-class", "object", { NULL } },
	[FIELD_PCI_ID] = { "pci-id", "object", { NULL } },
	[FIELD_PCI_REGION] = { "pci-region", "object", { NULL } },
	[FIELD_BLOCK_NODE] = { "block-node", "object", { NULL } },
	[FIELD_IMAGE_INFO] = { "image-info", "object", { NULL } },
	[FIELD_CACHE_INFO] = { "cache-info", "object", { NULL } },
	[FIELD_BLOCK_STATS] = { "block-stats", "object", { NULL } },
	[FIELD_INPUT_EVENT] = { "input-event", "object", { NULL } },
	[FIELD_KEY_VALUE] = { "key-value", "object", { NULL } },
};

const char *field_type_name(enum field_type t)
{
	return types[t].name;
}

enum field_type field_type_plain(enum field_type t)
{
	if (t & FIELD_LIST)
		return FIELD_ARRAY;
	if (t >= FIELD_RESULT_WORDS && t < FIELD_ALTERNATES)
		return FIELD_STRING;
	return t & FIELD_MAP || t >= FIELD_DEFINITIONS ? FIELD_OBJECT : t >= FIELD_ALTERNATES ? FIELD_ANY : t;
}

const char *field_type_word(enum field_type t, unsigned i)
{
	if (t == FIELD_VM_REASON)
		return vm_reason_word(i);
	return i < WORDS_MAX ? types[t].words[i] : NULL;
}

int field_type_index(enum field_type t, const char *word)
{
	const char *is;

	for (unsigned i = 0; word && (is = field_type_word(t, i)); i++)
		if (!strcmp(is, word))
			return (int)i;
	return -1;
}

static bool is_of_json_type(enum field_type t, struct json_object *v)
{
	switch (field_type_plain(t)) {
	case FIELD_INT:
		return json_object_is_type(v, json_type_int);
	case FIELD_BOOL:
		return json_object_is_type(v, json_type_boolean);
	case FIELD_OBJECT:
		return json_object_is_type(v, json_type_object);
	case FIELD_ARRAY:
		return json_object_is_type(v, json_type_array);
	case FIELD_ANY:
		return true;
	case FIELD_NUMBER:
		return json_object_is_type(v, json_type_int) || json_object_is_type(v, json_type_double);
	default:
		return js_plain_string(v) != NULL;
	}
}

/* Print an enumeration's words: "acpi or agent", "leave, destroy or save". */
static void words_list(enum field_type t, char *buf, size_t size)
{
	const char *word;
	size_t n = 0;

	buf[0] = 0;
	for (unsigned i = 0; (word = field_type_word(t, i)) && n < size; i++)
		n += (size_t)snprintf(buf + n, size - n, "%s%s", !i ? "" : field_type_word(t, i + 1) ? ", " : " or ",
			word);
}

int field_type_check(enum field_type t, const char *name, struct json_object *v, struct err *e)
{
	char list[80];

	if (!is_of_json_type(t, v))
		return err_set(e, -EINVAL, ERR_GENERIC, "Invalid parameter type for '%s', expected: %s", name,
			types[field_type_plain(t)].json);
	/* js_get_int() would clamp it. */
	if (field_type_plain(t) == FIELD_INT && json_object_get_uint64(v) > INT64_MAX)
		return err_set(e, -EINVAL, ERR_INVALID, "%s: %s is too large", name, json_object_get_string(v));
	if (t < FIELD_WORDS || t >= FIELD_ALTERNATES || field_type_index(t, json_object_get_string(v)) >= 0)
		return 0;
	words_list(t, list, sizeof(list));
	return err_set(e, -EINVAL, ERR_INVALID, "%s: \"%.40s\" is not one of the choices; use %s", name,
		json_object_get_string(v), list);
}
