#include "tools/cairn/verb_words.h"
#include "api/wire/json.h"
#include "tools/cairn/schema.h"

#include <string.h>

/* Placeholder for an event's name; the schema has all names. */
#define EVENT_VALUE "EVENT"

struct json_object *verb_argument(struct json_object *schema, const struct verb *v, const char *name)
{
	struct json_object *found = NULL;
	const char *p = v->commands;
	char command[64];

	while (!found && (p = verb_command_next(p, command)))
		found = schema_argument(schema, command, name);
	return found;
}

const char *verb_summary(struct json_object *schema, const struct verb *v)
{
	char command[64];

	if (v->summary)
		return v->summary;
	verb_command_next(v->commands, command);
	return js_get_str(schema_entry(schema, command), "doc");
}

const char *verb_option_doc(struct json_object *schema, const struct verb *v, const struct verb_option *o)
{
	struct json_object *a;

	if (o->doc[0] != '=')
		return o->doc;
	a = verb_argument(schema, v, o->doc + 1);
	return js_get_str(a ? a : schema_entry(schema, o->doc + 1), "doc");
}

static struct json_object *words_split(const char *text)
{
	struct json_object *words = json_object_new_array();

	for (size_t len; *text; text += len + (text[len] == '|')) {
		len = strcspn(text, "|");
		json_object_array_add(words, json_object_new_string_len(text, (int)len));
	}
	return words;
}

struct json_object *verb_option_words(struct json_object *schema, const struct verb *v, const struct verb_option *o)
{
	if (!o->value)
		return NULL;
	if (o->value[0] == '=')
		return json_object_get(schema_words(schema, verb_argument(schema, v, o->value + 1)));
	if (!strcmp(o->value, EVENT_VALUE))
		return schema_events(schema);
	return strchr(o->value, '|') ? words_split(o->value) : NULL;
}
