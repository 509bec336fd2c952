/* The schema as clients ask for it. */
#include "api/js.h"
#include "api/schema.h"

#include <stdio.h>

static const char *const type_names[] = { "str", "int", "bool", "object", "array", "any" };

static struct json_object *entry(const char *name, const char *meta)
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

	for (unsigned i = 0; i < 6; i++) {
		struct json_object *o = entry(type_names[i], "builtin");

		js_put_str(o, "json-type", json_types[i]);
		json_object_array_add(all, o);
	}
}

static struct json_object *members(const struct field *f)
{
	struct json_object *list = json_object_new_array();

	for (; f && f->name; f++) {
		struct json_object *m = json_object_new_object();

		js_put_str(m, "name", f->name);
		js_put_str(m, "type", type_names[f->type]);
		if (f->optional)
			js_put(m, "default", NULL);
		js_put_str(m, "doc", f->doc);
		json_object_array_add(list, m);
	}
	return list;
}

/* An object type of its own, named after its owner. */
static void add_object(struct json_object *all, const char *name, const struct field *f)
{
	struct json_object *o = entry(name, "object");

	js_put(o, "members", members(f));
	json_object_array_add(all, o);
}

static void add_command(struct json_object *all, const struct command *c)
{
	struct json_object *o = entry(c->name, "command"), *features = json_object_new_array();
	char name[80], states[128];

	snprintf(name, sizeof(name), "%s-arg", c->name);
	js_put_str(o, "arg-type", name);
	add_object(all, name, c->args);
	snprintf(name, sizeof(name), "%s-ret", c->name);
	js_put_str(o, "ret-type", name);
	add_object(all, name, c->returns);
	js_put_str(o, "doc", c->doc);
	js_put_str(o, "role", role_name(c->role));
	js_put_bool(o, "job", c->flags & COMMAND_JOB);
	js_put_bool(o, "mutates", c->flags & COMMAND_MUTATES);
	if (c->trigger != VM_TRIGGER_COUNT) {
		vm_trigger_states(c->trigger, states, sizeof(states));
		js_put_str(o, "states", states);
	}
	js_put(o, "features", features);
	json_object_array_add(all, o);
}

struct json_object *schema_to_json(void)
{
	struct json_object *all = json_object_new_array();

	for (size_t i = 0; schema_command(i); i++)
		add_command(all, schema_command(i));
	for (unsigned i = 0; i < EVENT_ID_COUNT; i++) {
		const struct event_spec *ev = schema_event(i);
		struct json_object *o = entry(ev->name, "event");
		char name[80];

		snprintf(name, sizeof(name), "%s-arg", ev->name);
		js_put_str(o, "arg-type", name);
		add_object(all, name, ev->data);
		js_put_str(o, "doc", ev->doc);
		json_object_array_add(all, o);
	}
	add_builtins(all);
	return all;
}

struct json_object *schema_commands_to_json(void)
{
	struct json_object *all = json_object_new_array();

	for (size_t i = 0; schema_command(i); i++) {
		struct json_object *o = json_object_new_object();

		js_put_str(o, "name", schema_command(i)->name);
		json_object_array_add(all, o);
	}
	return all;
}
