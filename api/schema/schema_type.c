/* Types of arguments (enum field_type): their names in the schema, the words of enumerations, and the check of a
 * value. */
#include "api/wire/json.h"
#include "api/schema/schema.h"
#include "base/err.h"

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
	[FIELD_ROLE] = { "role", "string", { "viewer", "guest", "operator", "admin", "owner" } },
	[FIELD_SCHEDULE_ACTION] = { "schedule-action", "string", { "start", "shutdown", "reboot", "suspend", "resume", "save", "snapshot", "export" } },
	[FIELD_SCHEDULE_MISSED] = { "schedule-missed", "string", { "skip", "once", "all" } },
	[FIELD_MEASURE] = { "measure", "string", { "cpu", "memory", "disk-space", "latency", "io-errors", "net" } },
	[FIELD_THRESHOLD_ACTION] = { "threshold-action", "string", { "shutdown", "reboot", "suspend", "save", "snapshot" } },
	[FIELD_BOOT_KIND] = { "boot-kind", "string", { "hd", "cdrom", "network" } },
};

const char *field_type_name(enum field_type t)
{
	return types[t].name;
}

const char *field_type_word(enum field_type t, unsigned i)
{
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
	switch (t) {
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
			types[t].json);
	if (t < FIELD_WORDS || field_type_index(t, json_object_get_string(v)) >= 0)
		return 0;
	words_list(t, list, sizeof(list));
	return err_set(e, -EINVAL, ERR_INVALID, "%s: \"%.40s\" is not one of the choices; use %s", name,
		json_object_get_string(v), list);
}
