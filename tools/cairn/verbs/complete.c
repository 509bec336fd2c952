/* complete: print the words that may stand at a place of the command line. The shells' files in tools/completion and
 * the interactive shell ask it. A line is a word, or a word, a tab and a description; ":files" stands for names of
 * files. The words are not compared with the user's input, because each shell has its own rules for that. */
#include "tools/cairn/cli.h"
#include "api/wire/client.h"
#include "api/wire/json.h"
#include "base/util.h"
#include "tools/cairn/change.h"
#include "tools/cairn/image_cache.h"
#include "tools/cairn/schema.h"
#include "tools/cairn/snapshot.h"
#include "tools/cairn/verb_words.h"
#include "tools/cairn/verbs/jobs.h"

#include <ctype.h>
#include <grp.h>
#include <pwd.h>
#include <stdio.h>
#include <string.h>

#define PLACEHOLDER_ENDS " []{}.|"
#define USER_ID_MIN 1000 /* ids below are those of services, except root's */
#define USER_ID_MAX 60000
#define INTERFACE_TYPES "network, bridge, user"

/* The place of the command line whose words are asked for. */
struct cursor {
	struct cli *c; /* the verb, and the positionals before the place */
	struct json_object *schema;
	const char *last; /* the word at the place */
	const char *before, *after; /* prefix and suffix of each word: "--mode=" and "", "" and ":" */
	bool only_positionals;
};

static void word_print(const struct cursor *p, const char *word, const char *what)
{
	if (what)
		printf("%s%s%s\t%s\n", p->before, word, p->after, what);
	else
		printf("%s%s%s\n", p->before, word, p->after);
}

static void words_print(const struct cursor *p, struct json_object *words)
{
	for (size_t i = 0; words && i < json_object_array_length(words); i++)
		word_print(p, json_object_get_string(json_object_array_get_idx(words, i)), NULL);
}

/* Print a member of each object of an array, with the text of another one. */
static void members_print(const struct cursor *p, struct json_object *list, const char *key, const char *what)
{
	for (size_t i = 0; list && i < json_object_array_length(list); i++) {
		struct json_object *o = json_object_array_get_idx(list, i);

		if (js_get(o, key))
			word_print(p, json_object_get_string(js_get(o, key)), what ? js_get_str(o, what) : NULL);
	}
}

/* ---- kinds of words ---- */

/* Print the VMs whose state the verb accepts. */
static void vms_print(const struct cursor *p)
{
	struct legal_vms can = { 0 };
	CLEANUP_JS struct json_object *all = NULL;
	char command[64];
	struct err e;

	if (verb_command_next(p->c->verb->commands, command) && legal_vms_ask(p->c, command, &can, &e) < 0)
		return;
	if (cli_vm_list(p->c, !can.never_templates, &all, NULL, &e) < 0)
		return;
	for (size_t i = 0; i < json_object_array_length(all); i++) {
		struct json_object *vm = json_object_array_get_idx(all, i);

		if (legal_vms_have(&can, vm))
			word_print(p, js_get_str_or(vm, "name", ""), cli_vm_state(vm));
	}
}

static void files_print(const struct cursor *p)
{
	(void)p;
	puts(":files");
}

/* Print the VMs of vms_print() after the "USER@" that is typed. */
static void logins_print(const struct cursor *p)
{
	struct cursor vms = *p;
	char user[64];

	snprintf(user, sizeof(user), "%.*s", (int)(strchr(p->last, '@') ? strcspn(p->last, "@") + 1 : 0), p->last);
	if (!*p->before)
		vms.before = user;
	vms_print(&vms);
}

/* Print "VM:" of the VMs of vms_print(), and ":files": a path in a guest, or of the host. */
static void guest_paths_print(const struct cursor *p)
{
	struct cursor vms = *p;

	vms.after = ":";
	vms_print(&vms);
	files_print(p);
}

/* Print the entries of a command that answers in pages. of_vm: with the VM as its argument. */
static void fetched_print(const struct cursor *p, const char *command, const char *list, const char *key, const char *what, bool of_vm)
{
	CLEANUP_JS struct json_object *all = NULL;
	struct err e;

	if (of_vm && !p->c->npos)
		return;
	if (!cli_fetch_all(p->c, command, of_vm ? cli_vm_args(p->c->pos[0]) : json_object_new_object(), list, "after", &all, NULL, &e))
		members_print(p, all, key, what);
}

static void snapshots_print(const struct cursor *p)
{
	CLEANUP_JS struct json_object *all = NULL;
	struct err e;

	if (p->c->npos && !snapshots_fetch_all(p->c, p->c->pos[0], &all, &e))
		members_print(p, all, "name", "description");
}

/* Print the ids of the definition's disks or interfaces. */
static void devices_print(const struct cursor *p, const char *list, const char *what)
{
	CLEANUP_JS struct json_object *all = NULL;
	struct err e;

	if (p->c->npos && !change_read_list(p->c, p->c->pos[0], list, &all, &e))
		members_print(p, all, "id", what);
}

static void disks_print(const struct cursor *p)
{
	devices_print(p, "disks", "path");
}

static void interfaces_print(const struct cursor *p)
{
	devices_print(p, "interfaces", "mac");
}

static void schedules_print(const struct cursor *p)
{
	fetched_print(p, "query-schedules", "schedules", "name", "on", true);
}

static void thresholds_print(const struct cursor *p)
{
	fetched_print(p, "query-thresholds", "thresholds", "name", "measure", true);
}

static void web_hooks_print(const struct cursor *p)
{
	fetched_print(p, "query-web-hooks", "hooks", "name", "url", false);
}

static void pools_print(const struct cursor *p)
{
	fetched_print(p, "query-pools", "pools", "name", "target", false);
}

/* The first name of each image, or its digest. */
static void images_print(const struct cursor *p)
{
	CLEANUP_JS struct json_object *all = NULL;
	struct err e;

	if (strcmp(p->c->verb->name, "image-remove") != 0)
		files_print(p);
	if (image_cache_list(&all, &e) < 0)
		return;
	for (size_t i = 0; i < json_object_array_length(all); i++) {
		struct json_object *o = json_object_array_get_idx(all, i), *names = js_get_array(o, "names");
		const char *name = names ? json_object_get_string(json_object_array_get_idx(names, 0)) : NULL;

		word_print(p, name ? name : js_get_str_or(o, "digest", ""), NULL);
	}
}

static void requests_print(const struct cursor *p)
{
	fetched_print(p, "query-requests", "requests", "id", "command", false);
}

/* Print the networks that the verb accepts: net-start those that are off, net-destroy those that are not. */
static void networks_print(const struct cursor *p)
{
	CLEANUP_JS struct json_object *all = NULL;
	bool start = !strcmp(p->c->verb->name, "net-start"), stop = !strcmp(p->c->verb->name, "net-destroy");
	struct err e;

	if (cli_fetch_all(p->c, "net-list", json_object_new_object(), "networks", "after", &all, NULL, &e) < 0)
		return;
	for (size_t i = 0; i < json_object_array_length(all); i++) {
		struct json_object *net = json_object_array_get_idx(all, i);
		bool active = !strcmp(js_get_str_or(net, "state", ""), "active");

		if (active ? !start : !stop)
			word_print(p, js_get_str_or(net, "name", ""), js_get_str(net, "state"));
	}
}

static void jobs_print(const struct cursor *p)
{
	CLEANUP_JS struct json_object *all = NULL;
	struct err e;

	if (!jobs_fetch(p->c, &all, &e))
		members_print(p, all, "id", "type");
}

static void verbs_print(const struct cursor *p)
{
	for (const struct verb *v = verbs; v->name; v++)
		word_print(p, v->name, verb_summary(p->schema, v));
}

static void events_print(const struct cursor *p)
{
	CLEANUP_JS struct json_object *names = schema_events(p->schema);

	words_print(p, names);
}

static bool is_person(unsigned id)
{
	return !id || (id >= USER_ID_MIN && id < USER_ID_MAX);
}

static void users_print(const struct cursor *p)
{
	FILE *f = fopen("/etc/passwd", "re");
	const struct passwd *u;

	while (f && (u = fgetpwent(f)))
		if (is_person(u->pw_uid))
			word_print(p, u->pw_name, NULL);
	if (f)
		fclose(f);
}

static void groups_print(const struct cursor *p)
{
	FILE *f = fopen("/etc/group", "re");
	const struct group *g;

	while (f && (g = fgetgrent(f)))
		word_print(p, g->gr_name, NULL);
	if (f)
		fclose(f);
}

static void list_print(const struct cursor *p, const char *words)
{
	char word[32];

	for (size_t len; *words; words += len + strspn(words + len, ", ")) {
		len = strcspn(words, ", ");
		snprintf(word, sizeof(word), "%.*s", (int)len, words);
		word_print(p, word, NULL);
	}
}

/* The kind of value that a placeholder of an argument or of an option means. of: the verb, or its first letters, or the
 * option; NULL: any. The first row that matches counts. */
static const struct {
	const char *of, *word;
	void (*print)(const struct cursor *p);
} kinds[] = {
	{ "new", "VM", NULL },
	{ NULL, "VM", vms_print },
	{ "attach-disk", "TARGET", NULL },
	{ "attach-interface", "SOURCE", networks_print },
	{ "change-media", "PATH", disks_print },
	{ "detach-disk", "TARGET", disks_print },
	{ "snapshot-create", "NAME", NULL },
	{ "snapshot", "NAME", snapshots_print },
	{ "from", "NAME", snapshots_print },
	{ "snapshot-diff", "FROM", snapshots_print },
	{ "snapshot-diff", "TO", snapshots_print },
	{ "since", "NAME", snapshots_print },
	{ "schedule-", "NAME", schedules_print },
	{ "threshold-", "NAME", thresholds_print },
	{ "web-hook-", "NAME", web_hooks_print },
	{ "ssh", "USER@", logins_print },
	{ "workdir", "FOLDER", NULL },
	{ "network", "PREFIX", NULL },
	{ NULL, "DISK", disks_print },
	{ NULL, "INTERFACE", interfaces_print },
	{ NULL, "FILE", files_print },
	{ NULL, "PATH", files_print },
	{ NULL, "FOLDER", files_print },
	{ NULL, "DIR", files_print },
	{ NULL, "SOURCE", files_print },
	{ NULL, "INCREMENT", files_print },
	{ NULL, "VOL", files_print },
	{ NULL, "SRC", guest_paths_print },
	{ NULL, "DST", guest_paths_print },
	{ NULL, "POOL", pools_print },
	{ NULL, "IMAGE", images_print },
	{ NULL, "NETWORK", networks_print },
	{ NULL, "NET", networks_print },
	{ "job-", "ID", jobs_print },
	{ NULL, "JOB", jobs_print },
	{ NULL, "VERB", verbs_print },
	{ NULL, "EVENT", events_print },
	{ NULL, "REQUEST", requests_print },
	{ NULL, "USER", users_print },
	{ NULL, "GROUP", groups_print },
};

/* Placeholders whose values are always the same. of: as in kinds. */
static const struct {
	const char *of, *word, *values;
} fixed[] = {
	{ NULL, "EVENTS", "started, stopped, crashed, snapshot, schedule, threshold, disk-space" },
	{ "domif-setlink", "STATE", "up, down" },
	{ "attach-interface", "TYPE", INTERFACE_TYPES },
	{ "detach-interface", "TYPE", INTERFACE_TYPES },
	{ "set-lifecycle-action", "TYPE", "poweroff, reboot, crash" },
	{ "set-lifecycle-action", "ACTION", "destroy, restart, preserve, coredump-destroy, coredump-restart" },
	{ "firmware", "FW", "bios, uefi" },
	{ "net-update", "ACTION", "add, modify, delete" },
	{ "net-update", "SECTION", "ip-dhcp-host, ip-dhcp-range, dns-host, egress, egress-rule, user, group" },
	{ NULL, "SERIES", TREND_SERIES },
};

/* ---- places ---- */

static bool placeholder_is(const char *row_of, const char *row_word, const char *of, const char *word, size_t len)
{
	return strlen(row_word) == len && !strncmp(row_word, word, len) && (!row_of || !strncmp(row_of, of, strlen(row_of)));
}

/* Print the words that a placeholder stands for. of: the verb's or the option's name. */
static void placeholder_print(const struct cursor *p, const char *of, const char *word, size_t len)
{
	char name[32];

	for (size_t i = 0; i < ARRAY_SIZE(fixed); i++) {
		if (placeholder_is(fixed[i].of, fixed[i].word, of, word, len)) {
			list_print(p, fixed[i].values);
			return;
		}
	}
	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
		if (placeholder_is(kinds[i].of, kinds[i].word, of, word, len)) {
			if (kinds[i].print)
				kinds[i].print(p);
			return;
		}
	}
	/* The command's argument has the same name in small letters. */
	snprintf(name, sizeof(name), "%.*s", (int)len, word);
	for (char *s = name; *s; s++)
		*s = (char)tolower(*s);
	words_print(p, schema_words(p->schema, verb_argument(p->schema, p->c->verb, name)));
}

/* Return the placeholder of a positional in "VM [NAME] {FILE...|--all}", of which the last may stand for several. */
static const char *placeholder_at(const char *args, size_t n)
{
	const char *word = NULL;

	for (args += strspn(args, PLACEHOLDER_ENDS); *args && *args != '-'; args += strspn(args, PLACEHOLDER_ENDS)) {
		word = args;
		if (!n--)
			break;
		args += strcspn(args, " |"); /* "[USER@]VM" is one word */
	}
	return word;
}

static void positional_print(const struct cursor *p)
{
	const struct verb *v = p->c->verb;
	const char *word = p->c->npos < v->max ? placeholder_at(v->args, p->c->npos) : NULL;

	if (word)
		placeholder_print(p, v->name, word, strcspn(word, PLACEHOLDER_ENDS));
}

static void options_print(const struct cursor *p)
{
	char word[64];

	for (const struct verb_option *o = p->c->verb->options; o && o->name; o++) {
		snprintf(word, sizeof(word), "--%s", o->name);
		word_print(p, word, verb_option_doc(p->schema, p->c->verb, o));
	}
	if (p->c->verb->prints)
		word_print(p, "--format", FORMAT_OPTION.doc);
	word_print(p, "--help", "show the options of the verb");
}

/* Find the option of the word "--name" or "--name=value"; "" of a word that is none.
 * ret_place: the positional that it gives, or -1.
 * Returns the option; NULL: it is not in the verb's list. */
static const struct verb_option *option_of(const struct cursor *p, const char *word, int *ret_place)
{
	static const struct verb_option format = FORMAT_OPTION;
	size_t len = strcspn(word, "=");
	int at;

	*ret_place = -1;
	if (word[0] != '-' || !word[1])
		return NULL;
	if (word[1] != '-') {
		at = option_of_letter(p->c, word[strlen(word) - 1], ret_place);
	} else {
		at = option_index(p->c, word + 2, len - 2);
		if (at < 0 && p->c->verb->prints && len == 8 && !strncmp(word, "--format", len))
			return &format;
		if (at < 0)
			*ret_place = option_positional(p->c, word + 2, len - 2);
	}
	return at < 0 ? NULL : &p->c->verb->options[at];
}

/* Print the values of an option. place: the positional that it gives, or -1. */
static void value_print(struct cursor *p, const struct verb_option *o, int place)
{
	CLEANUP_JS struct json_object *words = o ? verb_option_words(p->schema, p->c->verb, o) : NULL;

	if (words) {
		words_print(p, words);
	} else if (o && o->value) {
		placeholder_print(p, o->name, o->value, strcspn(o->value, "[,")); /* of "PATH[,ro]" */
	} else if (place >= 0) {
		p->c->npos = (size_t)place;
		positional_print(p);
	}
}

/* Step over the options before the verb, and use the socket that they name. Returns the verb's place; n: the last word
 * is an option's value. */
static size_t globals_skip(struct cli *c, const char *const *words, size_t n)
{
	size_t i = 0;

	for (; i + 1 < n && words[i][0] == '-'; i++) {
		if (!strncmp(words[i], "--connect=", 10)) {
			c->socket = words[i] + 10;
		} else if (!strcmp(words[i], "-c") || !strcmp(words[i], "--connect")) {
			if (++i + 1 == n)
				return n;
			c->socket = words[i];
		}
	}
	return i;
}

/* Print the words for the last one of n, after the verb, the first one. */
static void after_verb_print(struct cursor *p, const char *const *words, size_t n)
{
	const char *last = words[n - 1];
	const struct verb_option *o = NULL;
	int place = -1;

	p->last = last;
	for (size_t i = 1; i + 1 < n; i++) {
		bool takes;

		if (!p->only_positionals && !strcmp(words[i], "--")) {
			p->only_positionals = true;
			continue;
		}
		if (p->only_positionals || words[i][0] != '-') {
			if (p->c->npos < CLI_POSITIONALS_MAX)
				p->c->pos[p->c->npos++] = words[i];
			continue;
		}
		o = option_of(p, words[i], &place);
		takes = !strchr(words[i], '=') && ((o && o->value) || place >= 0);
		if (takes && i + 2 == n) {
			value_print(p, o, place);
			return;
		}
		i += takes;
		if (place >= 0 && p->c->npos == (size_t)place)
			p->c->pos[p->c->npos++] = takes ? words[i] : strchr(words[i], '=') + 1;
	}
	if (p->only_positionals || last[0] != '-') {
		positional_print(p);
	} else if (!strncmp(last, "--", 2) && strchr(last, '=')) {
		char before[64];

		snprintf(before, sizeof(before), "%.*s", (int)strcspn(last, "=") + 1, last);
		p->before = before;
		o = option_of(p, last, &place);
		value_print(p, o, place);
		p->before = "";
	} else {
		options_print(p);
	}
}

int verb_complete(struct cli *c)
{
	struct cli at = { .socket = c->socket };
	CLEANUP_JS struct json_object *schema = schema_load();
	struct cursor p = { .c = &at, .schema = schema, .before = "", .after = "" };
	size_t i = globals_skip(&at, c->pos, c->npos);

	if (c->npos && i == c->npos)
		files_print(&p);
	else if (i < c->npos && i + 1 == c->npos && c->pos[i][0] == '-')
		list_print(&p, "--connect, --quiet, --readonly, --help, --version");
	else if (i + 1 >= c->npos)
		verbs_print(&p);
	else if ((at.verb = verb_find(c->pos[i])))
		after_verb_print(&p, c->pos + i, c->npos - i);
	client_free(at.client);
	return CLI_OK;
}
