/* Makes the answers to query-qmp-schema, query-commands and query-version from the tables of schema.h. */
#include "api/wire/json.h"
#include "api/schema/schema.h"
#include "base/util.h"

#include <stdio.h>
#include <string.h>

#define TYPE_NAME_BYTES 16
#define PAGE_BYTES (48 * 1024)
#define PAGES_MAX 8 /* the last one is empty: a unit test checks that */

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

/* Whether the command returns a string, or a list of values of any type. */
static bool returns_builtin(const struct command *c)
{
	return (c->flags & COMMAND_RETURNS_STRING) || (!c->returns && (c->flags & COMMAND_RETURNS_LIST));
}

/* The schema while it is made. Object types have numbers as names, as in QEMU: names after the commands took 5 KiB of
 * the line. Number 0 is the type without members. */
struct schema_draft {
	enum dialect dialect;
	struct json_object *all;
	const struct field **types; /* members of each object type so far; a member without a name ends each */
	unsigned types_count;
};

static bool fields_equal(const struct field *a, const struct field *b)
{
	for (; a->name && b->name; a++, b++)
		if (strcmp(a->name, b->name) || a->type != b->type || a->optional != b->optional || strcmp(a->doc, b->doc))
			return false;
	return !a->name && !b->name;
}

/* Print the name of the object type with these members, and add the type to the schema unless it is there.
 * f: borrowed until the draft is done; NULL: no members. */
static void add_object(struct schema_draft *s, const struct field *f, char name[TYPE_NAME_BYTES])
{
	static const struct field no_members[] = { { NULL, FIELD_ANY, false, NULL } };
	struct json_object *o;
	unsigned i = 0;

	f = f ? f : no_members;
	while (i < s->types_count && !fields_equal(s->types[i], f))
		i++;
	snprintf(name, TYPE_NAME_BYTES, "%u", i);
	if (i < s->types_count)
		return;
	s->types[s->types_count++] = f;
	o = entry_put(name, "object");
	js_put(o, "members", members_put(s->dialect, f));
	json_object_array_add(s->all, o);
}

static void add_list(struct schema_draft *s, const char *name, const char *element)
{
	struct json_object *o;

	for (size_t i = 0; i < json_object_array_length(s->all); i++)
		if (!strcmp(js_get_str(json_object_array_get_idx(s->all, i), "name"), name))
			return;
	o = entry_put(name, "array");
	js_put_str(o, "element-type", element);
	json_object_array_add(s->all, o);
}

/* Add the type of a command's result to the schema, and its name to `o`. */
static void add_returns(struct schema_draft *s, struct json_object *o, const struct command *c)
{
	char element[TYPE_NAME_BYTES], list[TYPE_NAME_BYTES + 2];

	if (c->flags & COMMAND_RETURNS_STRING) {
		js_put_str(o, "ret-type", field_type_name(FIELD_STRING));
		return;
	}
	if (returns_builtin(c))
		snprintf(element, sizeof(element), "%s", field_type_name(FIELD_ANY));
	else
		add_object(s, c->returns, element);
	snprintf(list, sizeof(list), "[%s]", element);
	js_put_str(o, "ret-type", c->flags & COMMAND_RETURNS_LIST ? list : element);
	if (c->flags & COMMAND_RETURNS_LIST)
		add_list(s, list, element);
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

static void add_command(struct schema_draft *s, const struct command *c)
{
	struct json_object *o = entry_put(c->name, "command");
	char name[TYPE_NAME_BYTES];

	add_object(s, c->args, name);
	js_put_str(o, "arg-type", name);
	add_returns(s, o, c);
	put_doc(s->dialect, o, c->doc);
	if (s->dialect == DIALECT_DAEMON)
		put_rules(o, c);
	json_object_array_add(s->all, o);
}

static void add_event(struct schema_draft *s, const struct event_spec *ev)
{
	struct json_object *o = entry_put(ev->name, "event");
	char name[TYPE_NAME_BYTES];

	add_object(s, ev->data, name);
	js_put_str(o, "arg-type", name);
	put_doc(s->dialect, o, ev->doc);
	json_object_array_add(s->all, o);
}

struct json_object *schema_to_json(enum dialect d)
{
	struct schema_draft s = { .dialect = d, .all = json_object_new_array() };
	char empty[TYPE_NAME_BYTES];
	size_t commands = 0;

	while (schema_command(d, commands))
		commands++;
	s.types = must_alloc(calloc(1 + 2 * commands + EVENT_ID_COUNT, sizeof(*s.types)));
	add_object(&s, NULL, empty);
	for (size_t i = 0; i < commands; i++)
		add_command(&s, schema_command(d, i));
	for (unsigned i = 0; i < EVENT_ID_COUNT; i++)
		if (schema_event(d, i))
			add_event(&s, schema_event(d, i));
	add_builtins(s.all);
	for (unsigned t = FIELD_WORDS; d == DIALECT_DAEMON && t < FIELD_TYPE_COUNT; t++)
		add_enum(s.all, t);
	free(s.types);
	return s.all;
}

static struct json_object *schema_print(struct json_object *o)
{
	return js_text(json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE));
}

static void docs_drop(struct json_object *all)
{
	for (size_t i = 0; i < json_object_array_length(all); i++) {
		struct json_object *o = json_object_array_get_idx(all, i), *members = js_get_array(o, "members");

		json_object_object_del(o, "doc");
		for (size_t k = 0; members && k < json_object_array_length(members); k++)
			json_object_object_del(json_object_array_get_idx(members, k), "doc");
	}
}

struct json_object *schema_printed(enum dialect d)
{
	static struct json_object *printed[2];

	if (!printed[d]) {
		CLEANUP_JS struct json_object *all = schema_to_json(d);

		docs_drop(all);
		printed[d] = schema_print(all);
	}
	return json_object_get(printed[d]);
}

/* Print the entries from *at on that fit into one page, and advance *at. */
static struct json_object *page_print(struct json_object *all, size_t *at)
{
	CLEANUP_JS struct json_object *page = json_object_new_array();
	size_t bytes = 0, len;

	for (; *at < json_object_array_length(all); ++*at) {
		struct json_object *o = json_object_array_get_idx(all, *at);

		json_object_to_json_string_length(o, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE, &len);
		bytes += len + 1;
		if (bytes > PAGE_BYTES)
			break;
		json_object_array_add(page, json_object_get(o));
	}
	return schema_print(page);
}

struct json_object *schema_page_printed(unsigned page)
{
	static struct json_object *pages[PAGES_MAX];
	CLEANUP_JS struct json_object *all = NULL;
	size_t at = 0;

	if (!pages[0]) {
		all = schema_to_json(DIALECT_DAEMON);
		for (unsigned i = 0; i < PAGES_MAX; i++)
			pages[i] = page_print(all, &at);
	}
	return json_object_get(pages[MIN(page, PAGES_MAX - 1u)]);
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
