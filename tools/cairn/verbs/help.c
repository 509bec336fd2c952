/* help: list all verbs or those of a group, or show the options and daemon commands of some. */
#include "tools/cairn/cli.h"
#include "api/schema/schema.h"
#include "api/wire/json.h"
#include "base/util.h"
#include "tools/cairn/output.h"
#include "tools/cairn/schema.h"
#include "tools/cairn/verb_words.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

#define VERB_WIDTH 34
#define OPTION_WIDTH 24

/* ---- help for people ---- */

/* Write the placeholder of the value: "a|b" or "FILE"; empty: the option is a flag. */
static void value_of(struct json_object *schema, const struct verb *v, const struct verb_option *o, char *buf,
	size_t size)
{
	CLEANUP_JS struct json_object *words = NULL;
	size_t n = 0;

	snprintf(buf, size, "%s", o->value ? o->value : "");
	if (buf[0] != '=')
		return;
	words = verb_option_words(schema, v, o);
	buf[0] = 0;
	for (size_t i = 0; words && i < json_object_array_length(words) && n < size; i++)
		n += (size_t)snprintf(buf + n, size - n, "%s%s", i ? "|" : "",
			json_object_get_string(json_object_array_get_idx(words, i)));
}

/* Print two columns; the right one starts on a new line if the left one is too wide. */
static void columns_print(int width, const char *left, const char *right)
{
	if ((int)strlen(left) > width)
		printf("  %s\n  %-*s %s\n", left, width, "", right);
	else
		printf("  %-*s %s\n", width, left, right);
}

static void option_print(const char *name, const char *value, const char *doc)
{
	char left[80];

	snprintf(left, sizeof(left), "--%s%s%s", name, value[0] ? " " : "", value);
	columns_print(OPTION_WIDTH, left, doc);
}

/* Print a line such as "requires the role operator; the VM must be shutoff, saved or crashed; starts a job". */
static void rules_print(struct json_object *command)
{
	const struct command *row = schema_find(DIALECT_DAEMON, js_get_str(command, "name"));
	const char *role = js_get_str(command, "role"), *states = js_get_str(command, "states");
	char list[128];

	if (!strcmp(role, "nobody"))
		printf("for everybody");
	else if (row && row->role == ROLE_ADMIN && row->flags & COMMAND_CONCERNS_VM)
		printf("requires the role owner%s", row->args[0].optional ? ", or admin for all VMs" : "");
	else if (row && row->role == ROLE_ADMIN && row->flags & COMMAND_CREATES)
		printf("requires the role admin or creator");
	else
		printf("requires the role %s", role);
	words_or(states ? states : "", ',', list, sizeof(list));
	if (states)
		printf("; the VM must be %s", list);
	printf("%s\n", js_get_bool(command, "job", false) ? "; starts a job" : "");
}

static void commands_print(struct json_object *schema, const struct verb *v)
{
	const char *p = v->commands;
	char name[64];

	if (p)
		printf("\nCommands of the daemon\n");
	while ((p = verb_command_next(p, name))) {
		struct json_object *command = schema_entry(schema, name);

		columns_print(OPTION_WIDTH, name, js_get_str(command, "doc"));
		printf("  %-*s ", OPTION_WIDTH, "");
		rules_print(command);
	}
}

static void one_print(struct json_object *schema, const struct verb *v)
{
	const char *options = v->options || v->prints ? " [OPTIONS]" : "";
	bool first = strstr(v->args, "-- ") != NULL; /* the words after a -- are no options */
	char value[64];

	printf("cairn %s%s%s%s%s: %s\n", v->name, first ? options : "", v->args[0] ? " " : "", v->args, first ? "" : options,
		verb_summary(schema, v));
	for (const struct verb_option *o = v->options; o && o->name; o++) {
		value_of(schema, v, o, value, sizeof(value));
		option_print(o->name, value, verb_option_doc(schema, v, o));
	}
	if (v->prints)
		option_print(FORMAT_OPTION.name, FORMAT_OPTION.value, FORMAT_OPTION.doc);
	commands_print(schema, v);
}

/* virsh's keywords of groups, and the groups here. */
static const struct {
	const char *word, *groups; /* between '|' */
} keywords[] = {
	{ "domain", "Definitions|Lifecycle|Clones|Saved states|Jobs|Guests" },
	{ "monitor", "Monitoring" },
	{ "events", "Monitoring" },
	{ "host", "Administration" },
	{ "network", "Networks" },
	{ "snapshot", "Snapshots" },
	{ "pool", "Storage" },
	{ "volume", "Storage" },
	{ "virsh", "Help" },
};

/* Return the groups that the word names, between '|': one by its own name, or those of virsh's keyword. NULL: none. */
static const char *groups_find(const char *word)
{
	for (const struct verb *v = verbs; v->name; v++)
		if (!strcasecmp(v->group, word))
			return v->group;
	for (size_t i = 0; i < ARRAY_SIZE(keywords); i++)
		if (!strcmp(keywords[i].word, word))
			return keywords[i].groups;
	return NULL;
}

/* Print the verbs of the groups, which are between '|'; NULL: of all. */
static void groups_print(struct json_object *schema, const char *groups)
{
	const char *group = "";
	char left[80];

	for (const struct verb *v = verbs; v->name; v++) {
		if (groups && !words_have(groups, '|', v->group))
			continue;
		if (strcmp(group, v->group))
			printf("%s%s\n", groups && !*group ? "" : "\n", v->group);
		group = v->group;
		snprintf(left, sizeof(left), "%s %s", v->name, v->args);
		columns_print(VERB_WIDTH, left, verb_summary(schema, v));
	}
}

static void all_print(struct json_object *schema)
{
	printf("usage: cairn [-c SOCKET] [-q] [-r] VERB [ARGUMENTS]\n");
	groups_print(schema, NULL);
	printf("\ncairn help VERB shows the options of a verb, cairn help GROUP the verbs of a group, man cairn has examples. -c or CAIRN_SOCKET sets the daemon's socket.\n");
}

/* ---- help for programs, as JSON ---- */

static struct json_object *option_to_json(struct json_object *schema, const struct verb *v, const struct verb_option *o)
{
	struct json_object *one = json_object_new_object(), *words = verb_option_words(schema, v, o);
	char value[64];

	value_of(schema, v, o, value, sizeof(value));
	js_put_str(one, "name", o->name);
	if (value[0])
		js_put_str(one, "value", value);
	if (words)
		js_put(one, "words", words);
	js_put_str(one, "doc", verb_option_doc(schema, v, o));
	return one;
}

/* Returns the schema's entry of each command. */
static struct json_object *commands_to_json(struct json_object *schema, const struct verb *v)
{
	struct json_object *list = json_object_new_array();
	const char *p = v->commands;
	char name[64];

	while ((p = verb_command_next(p, name)))
		json_object_array_add(list, json_object_get(schema_entry(schema, name)));
	return list;
}

static struct json_object *verb_to_json(struct json_object *schema, const struct verb *v)
{
	struct json_object *one = json_object_new_object(), *options = json_object_new_array();

	for (const struct verb_option *o = v->options; o && o->name; o++)
		json_object_array_add(options, option_to_json(schema, v, o));
	if (v->prints)
		json_object_array_add(options, option_to_json(schema, v, &FORMAT_OPTION));
	js_put_str(one, "name", v->name);
	js_put_str(one, "group", v->group);
	js_put_str(one, "arguments", v->args);
	js_put_str(one, "summary", verb_summary(schema, v));
	js_put(one, "options", options);
	js_put(one, "commands", commands_to_json(schema, v));
	return one;
}

/* Print the descriptions of the verbs that are asked for, or of all, for programs. */
static void json_print(const struct cli *c, struct json_object *schema)
{
	CLEANUP_JS struct json_object *list = json_object_new_array();

	for (const struct verb *v = verbs; v->name && !c->npos; v++)
		json_object_array_add(list, verb_to_json(schema, v));
	for (size_t i = 0; i < c->npos; i++) {
		const struct verb *one = verb_find(c->pos[i]);

		for (const struct verb *v = one ? one : verbs; v->name && (!one || v == one); v++)
			if (one || words_have(groups_find(c->pos[i]), '|', v->group))
				json_object_array_add(list, verb_to_json(schema, v));
	}
	output_print(stdout, c->format, list);
}

int verb_help(struct cli *c)
{
	CLEANUP_JS struct json_object *schema = NULL;

	for (size_t i = 0; i < c->npos; i++)
		if (!verb_find(c->pos[i]) && !groups_find(c->pos[i]))
			return verb_missing(c->pos[i]);
	schema = schema_load();
	if (c->format != CLI_TABLE) {
		json_print(c, schema);
		return CLI_OK;
	}
	if (!c->npos)
		all_print(schema);
	for (size_t i = 0; i < c->npos; i++) {
		const struct verb *v = verb_find(c->pos[i]);

		printf("%s", i ? "\n" : "");
		if (v)
			one_print(schema, v);
		else
			groups_print(schema, groups_find(c->pos[i]));
	}
	return CLI_OK;
}
