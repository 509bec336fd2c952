#include "tools/cairn/schema.h"
#include "api/schema/schema.h"
#include "api/wire/json.h"

#include <stdio.h>
#include <string.h>

struct json_object *schema_load(void)
{
	return schema_to_json(DIALECT_DAEMON);
}

bool schema_mutates(const char *command)
{
	const struct command *c = schema_find(DIALECT_DAEMON, command);

	return c && c->flags & COMMAND_MUTATES;
}

struct json_object *schema_entry(struct json_object *schema, const char *name)
{
	size_t n = json_object_is_type(schema, json_type_array) ? json_object_array_length(schema) : 0;

	for (size_t i = 0; i < n; i++) {
		struct json_object *o = json_object_array_get_idx(schema, i);
		const char *is = js_get_str(o, "name");

		if (is && !strcmp(is, name))
			return o;
	}
	return NULL;
}

struct json_object *schema_argument(struct json_object *schema, const char *command, const char *name)
{
	const char *type = js_get_str(schema_entry(schema, command), "arg-type");

	return type ? schema_entry(js_get_array(schema_entry(schema, type), "members"), name) : NULL;
}

struct json_object *schema_words(struct json_object *schema, struct json_object *argument)
{
	const char *type = js_get_str(argument, "type");

	return type ? js_get_array(schema_entry(schema, type), "values") : NULL;
}

struct json_object *schema_events(struct json_object *schema)
{
	struct json_object *names = json_object_new_array();

	for (size_t i = 0; i < json_object_array_length(schema); i++) {
		struct json_object *o = json_object_array_get_idx(schema, i);

		if (!strcmp(js_get_str(o, "meta-type"), "event"))
			json_object_array_add(names, json_object_get(js_get(o, "name")));
	}
	return names;
}

const char *verb_command_next(const char *list, char name[64])
{
	size_t len;

	if (!list)
		return NULL;
	list += strspn(list, " ");
	len = strcspn(list, " ");
	snprintf(name, 64, "%.*s", (int)len, list);
	return len ? list + len : NULL;
}

int legal_vms_ask(struct cli *c, const char *command, struct legal_vms *ret, struct err *e)
{
	CLEANUP_JS struct json_object *schema = NULL;
	int r = cli_execute(c, "query-qmp-schema", NULL, &schema, NULL, e);
	struct json_object *entry = schema_entry(schema, command);
	const char *states = js_get_str(entry, "states");

	snprintf(ret->states, sizeof(ret->states), "%s", states ? states : "");
	ret->never_templates = !js_get_bool(entry, "templates", true);
	return r;
}

bool legal_states_have(const char *states, const char *word)
{
	size_t len = strlen(word);

	for (const char *p = states; p; p = strchr(p, ',') ? strchr(p, ',') + 1 : NULL)
		if (!strncmp(p, word, len) && (p[len] == ',' || !p[len]))
			return true;
	return !*states;
}

bool legal_vms_have(const struct legal_vms *can, struct json_object *vm)
{
	return legal_states_have(can->states, js_get_str_or(vm, "word", "")) && !(can->never_templates && js_get_bool(vm, "template", false));
}
