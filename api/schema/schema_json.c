/* Makes the answers to query-qmp-schema, query-commands and query-version from the tables of schema.h. */
#include "api/wire/json.h"
#include "api/schema/schema.h"

#include <stdio.h>

static struct json_object *entry_put(const char *name, const char *meta)
{
	struct json_object *o = json_object_new_object();

	js_put_str(o, "name", name);
	js_put_str(o, "meta-type", meta);
	return o;
}

static void add_builtins(struct json_object *all)
{
	static const char *const json_types[] = { "string", "int", "boolean", "object", "array",
		"value" };

	for (unsigned i = 0; i < FIELD_WORDS; i++) {
		struct json_object *o = entry_put(field_type_name(i), "builtin");

		js_put_str(o, "json-type", json_types[i]);
		json_object_array_add(all, o);
	}
}

static void add_enum(struct json_object *all, enum field_type t)
{
	struct json_object *o = entry_put(field_type_name(t), "enum");
	struct json_object *all_members = json_object_new_array(), *values = json_object_new_array();
	const char *word;

	for (unsigned i = 0; (word = field_type_word(t, i)); i++) {
		struct json_object *m = json_object_new_object();

		js_put_str(m, "name", word);
		json_object_array_add(all_members, m);
		json_object_array_add(values, json_object_new_string(word));
	}
	js_put(o, "members", all_members);
	js_put(o, "values", values);
	json_object_array_add(all, o);
}

/* QEMU's schema has no descriptions, so only the daemon's dialect gets them. */
static void put_doc(enum dialect d, struct json_object *o, const char *doc)
{
	if (d == DIALECT_DAEMON)
		js_put_str(o, "doc", doc);
}

static struct json_object *members_put(enum dialect d, const struct field *f)
{
	struct json_object *list = json_object_new_array();

	for (; f && f->name; f++) {
		struct json_object *m = json_object_new_object();

		js_put_str(m, "name", f->name);
		js_put_str(m, "type", field_type_name(f->type));
		if (f->optional)
			js_put(m, "default", NULL);
		put_doc(d, m, f->doc);
		json_object_array_add(list, m);
	}
	return list;
}

/* Add an object type, named after its command or event. */
static void add_object(enum dialect d, struct json_object *all, const char *name,
	const struct field *f)
{
	struct json_object *o = entry_put(name, "object");

	js_put(o, "members", members_put(d, f));
	json_object_array_add(all, o);
}

static void add_list(struct json_object *all, const char *name, const char *element)
{
	struct json_object *o = entry_put(name, "array");

	js_put_str(o, "element-type", element);
	json_object_array_add(all, o);
}

/* Add the type of a command's result to `all`, and its name to `o`. */
static void add_returns(enum dialect d, struct json_object *all, struct json_object *o,
	const struct command *c)
{
	char element[80], list[84];

	snprintf(element, sizeof(element), "%s-ret", c->name);
	if (c->flags & COMMAND_RETURNS_STRING) {
		js_put_str(o, "ret-type", field_type_name(FIELD_STRING));
		return;
	}
	if (c->returns || !(c->flags & COMMAND_RETURNS_LIST))
		add_object(d, all, element, c->returns);
	else
		snprintf(element, sizeof(element), "%s", field_type_name(FIELD_ANY));
	snprintf(list, sizeof(list), "[%s]", element);
	js_put_str(o, "ret-type", c->flags & COMMAND_RETURNS_LIST ? list : element);
	if (c->flags & COMMAND_RETURNS_LIST)
		add_list(all, list, element);
}

static void put_rules(struct json_object *o, const struct command *c)
{
	char states[128];

	js_put_str(o, "role", role_name(c->role));
	js_put_bool(o, "job", c->flags & COMMAND_JOB);
	js_put_bool(o, "mutates", c->flags & COMMAND_MUTATES);
	if (c->flags & COMMAND_NEVER_TEMPLATES)
		js_put_bool(o, "templates", false);
	if (c->trigger != VM_TRIGGER_COUNT) {
		vm_trigger_states(c->trigger, states, sizeof(states));
		js_put_str(o, "states", states);
	}
}

static void add_command(enum dialect d, struct json_object *all, const struct command *c)
{
	struct json_object *o = entry_put(c->name, "command");
	char name[80];

	snprintf(name, sizeof(name), "%s-arg", c->name);
	js_put_str(o, "arg-type", name);
	add_object(d, all, name, c->args);
	add_returns(d, all, o, c);
	put_doc(d, o, c->doc);
	if (d == DIALECT_DAEMON)
		put_rules(o, c);
	js_put(o, "features", json_object_new_array());
	json_object_array_add(all, o);
}

static void add_event(enum dialect d, struct json_object *all, const struct event_spec *ev)
{
	struct json_object *o = entry_put(ev->name, "event");
	char name[80];

	snprintf(name, sizeof(name), "%s-arg", ev->name);
	js_put_str(o, "arg-type", name);
	add_object(d, all, name, ev->data);
	put_doc(d, o, ev->doc);
	json_object_array_add(all, o);
}

struct json_object *schema_to_json(enum dialect d)
{
	struct json_object *all = json_object_new_array();

	for (size_t i = 0; schema_command(d, i); i++)
		add_command(d, all, schema_command(d, i));
	for (unsigned i = 0; i < EVENT_ID_COUNT; i++)
		if (schema_event(d, i))
			add_event(d, all, schema_event(d, i));
	add_builtins(all);
	for (unsigned t = FIELD_WORDS; d == DIALECT_DAEMON && t < FIELD_TYPE_COUNT; t++)
		add_enum(all, t);
	return all;
}

struct json_object *schema_printed(enum dialect d)
{
	static struct json_object *printed[2];

	if (!printed[d]) {
		CLEANUP_JS struct json_object *all = schema_to_json(d);

		printed[d] = js_text(json_object_to_json_string_ext(all, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE));
	}
	return json_object_get(printed[d]);
}

struct json_object *schema_commands_to_json(enum dialect d)
{
	struct json_object *all = json_object_new_array();

	for (size_t i = 0; schema_command(d, i); i++) {
		struct json_object *o = json_object_new_object();

		js_put_str(o, "name", schema_command(d, i)->name);
		json_object_array_add(all, o);
	}
	return all;
}

struct json_object *schema_version_to_json(void)
{
	struct json_object *o = json_object_new_object(), *qemu = json_object_new_object();

	/* Clients derive from this version which commands they may use. It is QEMU 7.2, whose schema a VM's own socket
	 * follows. */
	js_put_int(qemu, "micro", 0);
	js_put_int(qemu, "minor", 2);
	js_put_int(qemu, "major", 7);
	js_put(o, "qemu", qemu);
	js_put_str(o, "package", "Cairn " CAIRN_VERSION);
	return o;
}
