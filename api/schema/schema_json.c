/* Makes the answers to query-qmp-schema, query-commands and query-version from the tables of schema.h. */
#include "api/wire/json.h"
#include "api/schema/schema.h"
#include "base/util.h"

#include <stdio.h>
#include <string.h>

#define TYPE_NAME_BYTES 40
#define PAGE_BYTES (48 * 1024)
#define PAGES_MAX 8 /* the last one is empty: a unit test checks that */

static struct json_object *entry_put(const char *name, const char *meta)
{
	struct json_object *o = json_object_new_object();

	js_put_str(o, "name", name);
	js_put_str(o, "meta-type", meta);
	return o;
}

static void add_builtin(struct json_object *all, const char *name, const char *json_type)
{
	struct json_object *o = entry_put(name, "builtin");

	js_put_str(o, "json-type", json_type);
	json_object_array_add(all, o);
}

static void add_builtins(struct json_object *all)
{
	static const char *const json_types[] = { "string", "int", "boolean", "object", "array",
		"value", "number" };

	for (unsigned i = 0; i < FIELD_WORDS; i++)
		add_builtin(all, field_type_name(i), json_types[i]);
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

/* Return whether the command returns a string, a value of any type, or a list of such. */
static bool returns_builtin(const struct command *c)
{
	return (c->flags & (COMMAND_RETURNS_STRING | COMMAND_RETURNS_ANY)) || (!c->returns && (c->flags & COMMAND_RETURNS_LIST));
}

/* The schema while it is made. The types of arguments, results and events have numbers as names, as in QEMU: names
 * after the commands took 5 KiB of the line. When brief, they are hexadecimal. Number 0 is the type without members. */
struct schema_draft {
	enum dialect dialect;
	/* Without descriptions, results of jobs, types of lists and objects inside of others, what is false, and
	 * `mutates`. */
	bool brief;
	struct json_object *all;
	const struct field **types; /* members of each numbered type so far; a member without a name ends each */
	unsigned types_count;
	bool named[FIELD_TYPE_COUNT]; /* whether the schema has the type */
};

static void put_doc(const struct schema_draft *s, struct json_object *o, const char *doc)
{
	/* QEMU's schema has no descriptions. */
	if (s->dialect == DIALECT_DAEMON && !s->brief)
		js_put_str(o, "doc", doc);
}

/* Return whether two types are one: the schema shows the same of them. */
static bool fields_equal(const struct schema_draft *s, const struct field *a, const struct field *b)
{
	for (; a->name && b->name; a++, b++)
		if (strcmp(a->name, b->name) || field_type_plain(a->type) != field_type_plain(b->type) || a->optional != b->optional ||
			(!s->brief && (a->type != b->type || strcmp(a->doc, b->doc))))
			return false;
	return !a->name && !b->name;
}

static bool has_entry(const struct schema_draft *s, const char *name)
{
	for (size_t i = 0; i < json_object_array_length(s->all); i++)
		if (!strcmp(js_get_str(json_object_array_get_idx(s->all, i), "name"), name))
			return true;
	return false;
}

/* Add the type of lists, or of objects with any names, whose values have the type `of`. */
static void add_values(struct schema_draft *s, const char *name, const char *meta, const char *of)
{
	struct json_object *o;

	if (has_entry(s, name))
		return;
	o = entry_put(name, meta);
	js_put_str(o, !strcmp(meta, "array") ? "element-type" : "value-type", of);
	json_object_array_add(s->all, o);
}

static struct json_object *members_put(struct schema_draft *s, const struct field *f);

/* Add one of the types from FIELD_ALTERNATES on, unless the schema has it. */
static void add_named(struct schema_draft *s, enum field_type t)
{
	struct json_object *o, *list;
	const char *word;

	if (t < FIELD_ALTERNATES || s->named[t])
		return;
	s->named[t] = true;
	if (t >= FIELD_DEFINITIONS && t < FIELD_OBJECTS) {
		add_builtin(s->all, field_type_name(t), "object");
		return;
	}
	o = entry_put(field_type_name(t), t < FIELD_OBJECTS ? "alternate" : "object");
	list = t < FIELD_OBJECTS ? json_object_new_array() : members_put(s, field_type_members(t));
	for (unsigned i = 0; t < FIELD_OBJECTS && (word = field_type_word(t, i)); i++) {
		struct json_object *m = json_object_new_object();

		js_put_str(m, "type", word);
		json_object_array_add(list, m);
		if (!strcmp(word, "null") && !has_entry(s, word))
			add_builtin(s->all, word, "null");
	}
	js_put(o, "members", list);
	json_object_array_add(s->all, o);
}

/* Print the name of the type of a member, and add the type to the schema unless it is there. */
static void add_type(struct schema_draft *s, enum field_type t, char name[TYPE_NAME_BYTES])
{
	enum field_type of = (enum field_type)((unsigned)t & ~(unsigned)(FIELD_LIST | FIELD_MAP));

	if (s->brief) {
		snprintf(name, TYPE_NAME_BYTES, "%s", field_type_name(field_type_plain(t)));
		return;
	}
	add_named(s, of);
	snprintf(name, TYPE_NAME_BYTES, t & FIELD_LIST ? "[%s]" : t & FIELD_MAP ? "{%s}" : "%s", field_type_name(of));
	if (of != t)
		add_values(s, name, t & FIELD_LIST ? "array" : "map", field_type_name(of));
}

static struct json_object *members_put(struct schema_draft *s, const struct field *f)
{
	struct json_object *list = json_object_new_array();

	for (; f && f->name; f++) {
		struct json_object *m = json_object_new_object();
		char type[TYPE_NAME_BYTES];

		add_type(s, f->type, type);
		js_put_str(m, "name", f->name);
		js_put_str(m, "type", type);
		if (f->optional)
			js_put(m, "default", NULL);
		put_doc(s, m, f->doc);
		json_object_array_add(list, m);
	}
	return list;
}

/* Print the name of the object type with these members, and add the type to the schema unless it is there.
 * f: borrowed until the draft is done; NULL: no members. */
static void add_object(struct schema_draft *s, const struct field *f, char name[TYPE_NAME_BYTES])
{
	static const struct field no_members[] = { { NULL, FIELD_ANY, false, NULL } };
	struct json_object *o;
	unsigned i = 0;

	f = f ? f : no_members;
	for (unsigned t = FIELD_OBJECTS; !s->brief && t < FIELD_TYPE_COUNT; t++)
		if (field_type_members(t) == f) {
			add_type(s, t, name);
			return;
		}
	while (i < s->types_count && !fields_equal(s, s->types[i], f))
		i++;
	snprintf(name, TYPE_NAME_BYTES, s->brief ? "%x" : "%u", i);
	if (i < s->types_count)
		return;
	s->types[s->types_count++] = f;
	o = entry_put(name, "object");
	js_put(o, "members", members_put(s, f));
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
		add_values(s, list, "array", element);
}

/* Add the type of the result of a command's jobs. */
static void add_job_result(struct schema_draft *s, struct json_object *o, const struct job_result *r)
{
	char name[TYPE_NAME_BYTES];

	if (!r || s->brief || s->dialect != DIALECT_DAEMON)
		return;
	add_object(s, r->members, name);
	js_put_str(o, "job-type", r->type);
	js_put_str(o, "result-type", name);
}

static void put_rules(const struct schema_draft *s, struct json_object *o, const struct command *c)
{
	char states[128];

	js_put_str(o, "role", role_name(c->role));
	if (!s->brief || c->flags & COMMAND_JOB)
		js_put_bool(o, "job", c->flags & COMMAND_JOB);
	if (!s->brief)
		js_put_bool(o, "mutates", c->flags & COMMAND_MUTATES);
	if (!s->brief && c->flags & COMMAND_TAKES_FD)
		js_put_bool(o, "takes-fd", true);
	if (!s->brief && c->flags & COMMAND_RETURNS_FD)
		js_put_bool(o, "returns-fd", true);
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
	add_job_result(s, o, schema_job_result(c->name));
	put_doc(s, o, c->doc);
	if (s->dialect == DIALECT_DAEMON)
		put_rules(s, o, c);
	json_object_array_add(s->all, o);
}

static void add_event(struct schema_draft *s, const struct event_spec *ev)
{
	struct json_object *o = entry_put(ev->name, "event");
	char name[TYPE_NAME_BYTES];

	add_object(s, ev->data, name);
	js_put_str(o, "arg-type", name);
	put_doc(s, o, ev->doc);
	json_object_array_add(s->all, o);
}

static struct json_object *schema_make(enum dialect d, bool brief)
{
	struct schema_draft s = { .dialect = d, .brief = brief, .all = json_object_new_array() };
	char empty[TYPE_NAME_BYTES];
	size_t commands = 0;

	while (schema_command(d, commands))
		commands++;
	s.types = must_alloc(calloc(1 + 3 * commands + EVENT_ID_COUNT, sizeof(*s.types)));
	add_object(&s, NULL, empty);
	for (size_t i = 0; i < commands; i++)
		add_command(&s, schema_command(d, i));
	for (unsigned i = 0; i < EVENT_ID_COUNT; i++)
		if (schema_event(d, i))
			add_event(&s, schema_event(d, i));
	add_builtins(s.all);
	for (unsigned t = FIELD_WORDS; d == DIALECT_DAEMON && t < (brief ? FIELD_RESULT_WORDS : FIELD_ALTERNATES); t++)
		add_enum(s.all, t);
	free(s.types);
	return s.all;
}

struct json_object *schema_to_json(enum dialect d)
{
	return schema_make(d, false);
}

static struct json_object *schema_print(struct json_object *o)
{
	return js_text(json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE));
}

struct json_object *schema_printed(enum dialect d)
{
	static struct json_object *printed[2];

	if (!printed[d]) {
		CLEANUP_JS struct json_object *all = schema_make(d, d == DIALECT_DAEMON);

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

unsigned schema_pages(void)
{
	unsigned n = 0;

	for (;; n++) {
		CLEANUP_JS struct json_object *page = schema_page_printed(n);

		if (!strcmp(json_object_get_string(page), "[]"))
			return n;
	}
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
