#include "api/definition/definition_schema.h"
#include "api/definition/definition_key.h"
#include "api/wire/json.h"

#include <limits.h>
#include <stdlib.h>

/* Parse a JSON text of the tables. Aborts if the text is invalid, because that is a bug. */
static struct json_object *own_json(const char *text)
{
	struct json_object *o = json_tokener_parse(text);

	if (!o)
		abort();
	return o;
}

static void members_put(struct json_object *o, const char *text)
{
	struct json_object *from = own_json(text);

	json_object_object_foreach(from, name, v)
		js_put(o, name, json_object_get(v));
	json_object_put(from);
}

static struct json_object *keys_schema(const struct keys *keys);

static void choices_put(struct json_object *o, const struct choice *c)
{
	struct json_object *list = json_object_new_array();

	for (; c->name; c++)
		json_object_array_add(list, json_object_new_string(c->name));
	js_put(o, "enum", list);
}

static void array_put(struct json_object *o, const struct key *k, struct json_object *items)
{
	js_put_str(o, "type", "array");
	js_put_uint(o, "maxItems", k->max);
	js_put(o, "items", items);
}

static void number_put(struct json_object *o, const struct key *k)
{
	js_put_str(o, "type", "integer");
	js_put_uint(o, "minimum", k->min);
	js_put_uint(o, "maximum", k->max);
}

/* JSON Schema counts a string's length in characters, the parser in bytes, so the schema allows more. */
static void string_put(struct json_object *o, const char *pattern, size_t max)
{
	js_put_str(o, "type", "string");
	js_put_str(o, "pattern", pattern);
	js_put_uint(o, "maxLength", max);
}

static struct json_object *key_schema(const struct key *k)
{
	struct json_object *o = k->kind == KEY_OBJECT || k->kind == KEY_OBJECT_OWNED ? keys_schema(k->of) : json_object_new_object();

	js_put_str(o, "description", k->about);
	switch (k->kind) {
	case KEY_BOOL:
		js_put_str(o, "type", "boolean");
		break;
	case KEY_NUMBER:
	case KEY_NUMBER16:
		number_put(o, k);
		break;
	case KEY_CHOICE:
		choices_put(o, k->choices);
		break;
	case KEY_TEXT:
		string_put(o, "^[^\\u0000-\\u001f\\u007f-\\u009f]*$", k->max);
		break;
	case KEY_PATH:
		string_put(o, "^[^\\u0000-\\u001f\\u007f-\\u009f]+$", PATH_MAX - 1);
		break;
	case KEY_OBJECT:
	case KEY_OBJECT_OWNED:
		break;
	case KEY_ARRAY:
		array_put(o, k, keys_schema(k->of));
		break;
	case KEY_LIST:
		array_put(o, k, own_json(k->form));
		break;
	case KEY_CUSTOM:
		members_put(o, k->form);
		break;
	}
	if (k->initial)
		js_put(o, "default", own_json(k->initial));
	return o;
}

static struct json_object *keys_schema(const struct keys *keys)
{
	struct json_object *o = json_object_new_object(), *properties = json_object_new_object(),
			   *required = json_object_new_array();

	for (size_t i = 0; i < keys->n; i++) {
		js_put(properties, keys->list[i].name, key_schema(&keys->list[i]));
		if (keys->list[i].needed)
			json_object_array_add(required, json_object_new_string(keys->list[i].name));
	}
	js_put_str(o, "type", "object");
	js_put(o, "properties", properties);
	js_put(o, "required", required);
	js_put_bool(o, "additionalProperties", false);
	if (keys->also)
		members_put(o, keys->also);
	return o;
}

static struct json_object *whole_schema(const struct keys *keys, const char *title)
{
	struct json_object *o = json_object_new_object(), *whole = keys_schema(keys);

	js_put_str(o, "$schema", "https://json-schema.org/draft/2020-12/schema");
	js_put_str(o, "title", title);
	json_object_object_foreach(whole, name, v)
		js_put(o, name, json_object_get(v));
	json_object_put(whole);
	return o;
}

struct json_object *definition_schema(void)
{
	return whole_schema(&definition_keys, "definition of a Cairn VM");
}

struct json_object *network_definition_schema(void)
{
	return whole_schema(&network_definition_keys, "definition of a Cairn network");
}
