/* event: wait for events of the daemon and print them. */
#include "tools/cairn/cli.h"
#include "api/schema/schema.h"
#include "api/wire/json.h"
#include "base/loop.h"
#include "base/suggest.h"
#include "base/util.h"
#include "tools/cairn/desktop.h"
#include "tools/cairn/output.h"
#include "tools/cairn/schema.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>

static void time_print(struct json_object *ev)
{
	struct json_object *t = js_get(ev, "timestamp");
	char text[TIME_TEXT_BYTES];

	time_text(js_get_int(t, "seconds", 0) * 1000000000, false, text);
	printf("%s.%06lld%s", text, (long long)js_get_int(t, "microseconds", 0), ": ");
}

/* Returns an event as a CSV row: common members as columns, all others as JSON in one column.
 * ev: NULL: a row without values, for the columns' names. */
static struct json_object *csv_of(struct json_object *ev)
{
	struct json_object *o = json_object_new_object(), *data = js_get(ev, "data"), *t = js_get(ev, "timestamp"),
			   *rest = json_object_new_object();
	const char *vm = js_get_str(data, "vm");
	char time[40];

	snprintf(time, sizeof(time), "%lld.%06lld", (long long)js_get_int(t, "seconds", 0),
		(long long)js_get_int(t, "microseconds", 0));
	js_put(o, "seq", json_object_get(js_get(ev, "seq")));
	js_put_str(o, "time", time);
	js_put(o, "event", json_object_get(js_get(ev, "event")));
	js_put_str(o, "vm", vm ? vm : "");
	if (data) {
		json_object_object_foreach(data, key, v)
			if (strcmp(key, "vm"))
				js_put(rest, key, json_object_get(v));
	}
	js_put(o, "data", rest);
	return o;
}

static void csv_begin(const struct cli *c)
{
	CLEANUP_JS struct json_object *columns = c->format == CLI_CSV ? csv_of(NULL) : NULL;

	if (columns)
		csv_header(stdout, columns);
	fflush(stdout);
}

static void event_print(struct cli *c, struct json_object *ev)
{
	struct json_object *data = js_get(ev, "data");
	const char *vm = js_get_str(data, "vm"), *sep = ":";

	if (c->format == CLI_CSV) {
		CLEANUP_JS struct json_object *row = csv_of(ev);

		csv_row(stdout, row, row);
	} else if (c->format == CLI_JSON) {
		printf("%s\n", json_object_to_json_string_ext(ev, JSON_C_TO_STRING_PLAIN |
			JSON_C_TO_STRING_NOSLASHESCAPE));
	} else if (c->format == CLI_YAML) {
		printf("---\n");
		output_print(stdout, c->format, ev);
	} else {
		if (option_flag(c, "timestamp"))
			time_print(ev);
		printf("event '%s' for domain '%s'", js_get_str(ev, "event"), vm ? vm : "-");
		json_object_object_foreach(data, key, v)
		{
			if (!strcmp(key, "vm") || !strcmp(key, VM_UUID_KEY))
				continue;
			printf("%s %s=%s", sep, key, json_object_get_string(v));
			sep = ",";
		}
		printf("\n");
	}
	fflush(stdout);
}

/* virsh's names of kinds of events. */
static const struct {
	const char *word;
	const char *events; /* separated by blanks */
	const char *jobs;   /* only of jobs whose type begins so; NULL: all */
} groups[] = {
	{ "lifecycle", "VM_DEFINED VM_UNDEFINED VM_STATE_CHANGE SHUTDOWN GUEST_PANICKED", NULL },
	{ "reboot", "RESET", NULL },
	{ "watchdog", "WATCHDOG", NULL },
	{ "io-error", "BLOCK_IO_ERROR", NULL },
	{ "io-error-reason", "BLOCK_IO_ERROR", NULL },
	{ "block-job", "JOB_STATUS_CHANGE", "block" },
	{ "block-job-2", "JOB_STATUS_CHANGE", "block" },
	{ "block-threshold", "THRESHOLD", NULL },
	{ "tray-change", "DEVICE_TRAY_MOVED", NULL },
	{ "balloon-change", "BALLOON_CHANGE", NULL },
	{ "device-removed", "DEVICE_DELETED", NULL },
	{ "device-removal-failed", "DEVICE_UNPLUG_GUEST_ERROR", NULL },
	{ "agent-lifecycle", "AGENT", NULL },
	{ "job-completed", "JOB_STATUS_CHANGE", NULL },
};

static const char *group_events(const char *word)
{
	for (size_t i = 0; i < ARRAY_SIZE(groups); i++)
		if (!strcmp(groups[i].word, word))
			return groups[i].events;
	return NULL;
}

/* Returns the name of --event, or the word behind the VM; NULL: all events. */
static const char *kind_asked(const struct cli *c)
{
	return c->npos > 1 ? c->pos[1] : option_value(c, "event");
}

static bool kind_has(const char *kind, const char *name, struct json_object *data)
{
	const char *type = js_get_str_or(data, "type", "");

	for (size_t i = 0; i < ARRAY_SIZE(groups); i++)
		if (!strcmp(groups[i].word, kind))
			return words_have(groups[i].events, ' ', name) && (!groups[i].jobs || !strncmp(type, groups[i].jobs, strlen(groups[i].jobs)));
	return !strcmp(kind, name);
}

static bool event_wanted(struct cli *c, struct json_object *ev)
{
	struct json_object *data = js_get(ev, "data");
	const char *kind = kind_asked(c), *name = js_get_str(ev, "event"), *vm = js_get_str(data, "vm"),
		   *uuid = js_get_str(data, VM_UUID_KEY);

	if (kind && (!name || !kind_has(kind, name, data)))
		return false;
	return !c->npos || (vm && !strcmp(vm, c->pos[0])) || (uuid && !strcasecmp(uuid, c->pos[0]));
}

static bool event_seen(struct json_object *ev, int64_t last)
{
	int64_t seq = js_get_int(ev, "seq", INT64_MAX);

	return seq <= last;
}

/* Warn if the daemon does not have all events after the number `since`. */
static void missing_warn(struct json_object *page, int64_t since)
{
	long long newest = (long long)js_get_int(page, "last", 0);

	if (!js_get_bool(page, "lost", false) || !since)
		return;
	if (since > newest)
		fprintf(stderr, "warning: there is no event with the number %lld yet; the newest one has the number %lld\n", (long long)since, newest);
	else
		fprintf(stderr, "warning: some events after number %lld are no longer kept\n", (long long)since);
}

/* Print the logged events with numbers above *last. *last: set to the number of the last event; *n: incremented for
 * each printed event. */
static int missed_print(struct cli *c, int64_t *last, unsigned *n, struct err *e)
{
	bool more = true;

	while (more) {
		CLEANUP_JS struct json_object *page = NULL;
		struct json_object *args = json_object_new_object(), *list;
		int r;

		js_put_int(args, "since", *last);
		r = cli_execute(c, "query-events", args, &page, NULL, e);
		if (r < 0)
			return r;
		missing_warn(page, *last);
		list = js_get_array(page, "events");
		for (size_t i = 0; list && i < json_object_array_length(list); i++) {
			struct json_object *ev = json_object_array_get_idx(list, i);

			if (!event_wanted(c, ev))
				continue;
			event_print(c, ev);
			++*n;
		}
		*last = js_get_int(page, "next", *last);
		more = js_get_bool(page, "more", false);
	}
	return 0;
}

static int since_parse(struct cli *c, int64_t *ret)
{
	const char *text = option_value(c, "since");
	char *end;

	*ret = -1;
	if (!text)
		return 0;
	errno = 0;
	*ret = strtoll(text, &end, 10);
	if (end == text || *end || errno || *ret < 0)
		return cli_usage(c, "--since must be the number of an event, not \"%s\"", text);
	return 0;
}

static const char *name_at(const void *opaque, size_t i)
{
	return json_object_get_string(json_object_array_get_idx(opaque, i));
}

static int kind_check(const struct cli *c)
{
	CLEANUP_JS struct json_object *schema = NULL, *names = NULL;
	const char *kind = kind_asked(c), *is;
	char hint[SUGGEST_HINT_BYTES];

	if (c->npos > 1 && option_value(c, "event"))
		return cli_usage(c, "give the event once: %s or --event %s", c->pos[1], option_value(c, "event"));
	if (!kind || group_events(kind))
		return 0;
	schema = schema_load();
	names = schema_events(schema);
	for (size_t i = 0; (is = name_at(names, i)); i++)
		if (!strcmp(is, kind))
			return 0;
	return cli_usage(c, "unknown event \"%s\"%s", kind, *suggest_hint(kind, "", name_at, names, hint) ? hint : "; cairn event --list lists them");
}

/* Check that the VM exists, and replace an id by the UUID, because events carry names and UUIDs. The daemon may still
 * hold events of a VM that no longer exists. */
static int whose_find(struct cli *c, bool kept, struct json_object **ret_info)
{
	struct err e;

	if (!c->npos)
		return 0;
	if (!cli_vm_info(c, c->pos[0], ret_info, &e)) {
		if (strcmp(c->pos[0], js_get_str_or(*ret_info, "name", "")))
			c->pos[0] = js_get_str_or(*ret_info, "uuid", c->pos[0]);
	} else if (e.cls != ERR_NOT_FOUND || !kept) {
		return cli_fail(&e, "failed to get domain '%s'", c->pos[0]);
	}
	return 0;
}

static void kind_add(const struct cli *c, struct json_object *all, const char *name, const char *doc)
{
	struct json_object *o = json_object_new_object();

	js_put_str(o, "event", name);
	js_put_str(o, "doc", doc);
	json_object_array_add(all, o);
	if (c->format == CLI_TABLE)
		printf("%s\n", name);
}

/* Print the names of all events, and virsh's names; in other formats than table, also their descriptions. */
static int kinds_print(const struct cli *c)
{
	CLEANUP_JS struct json_object *schema = schema_load(), *names = schema_events(schema), *all = json_object_new_array();
	const char *name;

	for (size_t i = 0; (name = name_at(names, i)); i++)
		kind_add(c, all, name, js_get_str(schema_entry(schema, name), "doc"));
	for (size_t i = 0; i < ARRAY_SIZE(groups); i++) {
		char doc[160];

		snprintf(doc, sizeof(doc), "virsh's name for %s%s", groups[i].events, groups[i].jobs ? " of block jobs" : "");
		kind_add(c, all, groups[i].word, doc);
	}
	if (c->format != CLI_TABLE)
		output_print(stdout, c->format, all);
	return CLI_OK;
}

/* Let the daemon send only the events that are wanted. An older daemon sends all. info: the VM's; NULL: any VM. */
static void filter_set(struct cli *c, struct json_object *info)
{
	struct json_object *args = json_object_new_object(), *list = json_object_new_array();
	const char *kind = kind_asked(c), *names = kind ? group_events(kind) ?: kind : "";
	struct err e;

	js_put_str(args, "vm", js_get_str(info, "uuid"));
	for (size_t n; (n = strcspn(names, " ")); names += n + (names[n] == ' '))
		json_object_array_add(list, json_object_new_string_len(names, (int)n));
	if (kind)
		js_put(args, "events", list);
	else
		json_object_put(list);
	cli_execute(c, "event-filter", args, NULL, NULL, &e);
}

int verb_event(struct cli *c)
{
	bool loop = option_flag(c, "loop") || !strcmp(c->verb->name, "events"), notify = option_flag(c, "notify");
	CLEANUP_JS struct json_object *info = NULL;
	uint64_t timeout_ns, deadline = UINT64_MAX;
	struct desktop desktop;
	int64_t last;
	unsigned n = 0;
	struct err e;
	int r = option_seconds(c, "timeout", UINT64_MAX, &timeout_ns);

	if (!r && option_flag(c, "list"))
		return kinds_print(c);
	if (!r)
		r = since_parse(c, &last);
	if (!r)
		r = kind_check(c);
	if (!r)
		r = whose_find(c, last >= 0, &info);
	if (r)
		return r;
	if (timeout_ns != UINT64_MAX)
		deadline = loop_now_ns() + timeout_ns;
	if (notify && desktop_open(&desktop, &e) < 0)
		return cli_fail(&e, "Failed to show desktop messages");
	if (cli_execute(c, "query-version", NULL, NULL, NULL, &e) < 0)
		return cli_fail(&e, "Failed to listen for events");
	filter_set(c, info);
	csv_begin(c);
	if (last >= 0 && missed_print(c, &last, &n, &e) < 0)
		return cli_fail(&e, "Failed to listen for events");
	if (n && !loop)
		return CLI_OK;
	for (;;) {
		CLEANUP_JS struct json_object *ev = NULL, *now = NULL;

		r = cli_next_event(c, deadline, &ev, &e);
		if (r == -ETIMEDOUT && c->format == CLI_TABLE)
			printf("event loop timed out\nevents received: %u\n", n);
		if (r == -ETIMEDOUT)
			return n ? CLI_OK : CLI_FAILURE;
		if (r < 0)
			return cli_fail(&e, "Failed to listen for events");
		if (cli_roles_changed(ev) && (r = whose_find(c, last >= 0, &now)))
			return r;
		if (!event_wanted(c, ev) || event_seen(ev, last))
			continue;
		event_print(c, ev);
		if (notify)
			desktop_notify(&desktop, ev, kind_asked(c));
		n++;
		if (!loop)
			return CLI_OK;
	}
}
