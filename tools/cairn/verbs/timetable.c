/* schedule, schedule-list, schedule-remove, schedule-pause, schedule-resume and schedule-history. */
#include "tools/cairn/cli.h"
#include "api/wire/json.h"
#include "base/shell_word.h"
#include "base/util.h"
#include "tools/cairn/output.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *time_member(struct json_object *o, const char *key, char buf[TIME_TEXT_BYTES])
{
	int64_t ns = js_get_int(o, key, 0);

	return ns ? time_text(ns, true, buf) : "-";
}

int verb_schedule(struct cli *c)
{
	static const char *const settings[] = { "on", "zone", "missed", "name" };
	CLEANUP_JS struct json_object *o = NULL;
	struct json_object *args = cli_vm_args(c->pos[0]);
	char next[TIME_TEXT_BYTES], folder[PATH_MAX];
	struct err e;

	if (!option_value(c, "on"))
		return cli_usage(c, "schedule needs --on, such as --on 'Mon..Fri 02:30'");
	if (option_value(c, "to")) {
		if (!realpath(option_value(c, "to"), folder) || access(folder, W_OK | X_OK) < 0)
			return cli_usage(c, "--to %s: %s", option_value(c, "to"), strerror(errno));
		js_put_str(args, "folder", folder);
	}
	js_put_str(args, "action", c->pos[1]);
	for (size_t i = 0; i < ARRAY_SIZE(settings); i++)
		js_put_str(args, settings[i], option_value(c, settings[i]));
	if (cli_execute(c, "schedule-add", args, &o, NULL, &e) < 0)
		return cli_fail(&e, "Failed to schedule %s of domain '%s'", c->pos[1], c->pos[0]);
	if (c->format != CLI_TABLE)
		output_print(stdout, c->format, o);
	else
		say("Schedule '%s' of domain '%s' added; it runs next at %s\n", js_get_str_or(o, "name", "-"), c->pos[0],
			time_member(o, "next-run", next));
	return CLI_OK;
}

static void schedule_add(struct table *t, struct json_object *o)
{
	char next[TIME_TEXT_BYTES], last[TIME_TEXT_BYTES];

	table_add(t, (const char *const[]){ js_get_str_or(o, "vm", "-"), js_get_str_or(o, "name", "-"), js_get_str_or(o, "action", "-"),
		js_get_str_or(o, "on", "-"), js_get_bool(o, "paused", false) ? "paused" : time_member(o, "next-run", next),
		time_member(o, "last-run", last), js_get_str_or(o, "outcome", "-") });
}

/* Say on stderr that there are snapshot schedules, which the table lacks. */
static void snapshot_schedules_mention(struct cli *c, const char *vm)
{
	CLEANUP_JS struct json_object *all = NULL;
	struct json_object *args = vm ? cli_vm_args(vm) : json_object_new_object();
	struct err e;

	if (!cli_fetch_all(c, "query-snapshot-schedules", args, "schedules", "after", &all, NULL, &e) && json_object_array_length(all))
		fprintf(stderr, "Not listed: snapshot schedules; see cairn snapshot-schedule%s%s\n", vm ? " " : "", vm ? shell_word(vm).s : "");
}

int verb_schedule_list(struct cli *c)
{
	static const char *const heads[] = { "Domain", "Name", "Action", "On", "Next", "Last", "Outcome" };
	CLEANUP_JS struct json_object *all = NULL;
	const char *vm = c->npos ? c->pos[0] : NULL;
	struct json_object *args = vm ? cli_vm_args(vm) : json_object_new_object();
	struct err e;
	int r;

	if (cli_fetch_all(c, "query-schedules", args, "schedules", "after", &all, NULL, &e) < 0)
		return cli_fail(&e, "Failed to list schedules");
	r = cli_rows_show(c, all, heads, ARRAY_SIZE(heads), schedule_add);
	if (c->format == CLI_TABLE)
		snapshot_schedules_mention(c, vm);
	return r;
}

int verb_schedule_history(struct cli *c)
{
	static const char *const heads[] = { "Due", "Name", "Action", "Outcome", "Detail" };
	CLEANUP_JS struct json_object *o = NULL;
	struct json_object *runs;
	struct table t;
	struct err e;

	if (cli_execute(c, "query-schedule-history", cli_vm_args(c->pos[0]), &o, NULL, &e) < 0)
		return cli_fail(&e, "Failed to get the history of the schedules of domain '%s'", c->pos[0]);
	runs = js_get_array(o, "runs");
	if (c->format != CLI_TABLE) {
		output_print(stdout, c->format, runs);
		return CLI_OK;
	}
	table_init(&t, heads, ARRAY_SIZE(heads));
	for (size_t i = 0; runs && i < json_object_array_length(runs); i++) {
		struct json_object *run = json_object_array_get_idx(runs, i);
		char due[TIME_TEXT_BYTES];

		table_add(&t, (const char *const[]){ time_member(run, "due", due), js_get_str_or(run, "schedule", "-"), js_get_str_or(run, "action", "-"),
					  js_get_str_or(run, "outcome", "-"), js_get_str_or(run, "detail", "-") });
	}
	table_finish(&t, stdout);
	return CLI_OK;
}

/* schedule-remove, schedule-pause and schedule-resume */
int verb_schedule_act(struct cli *c)
{
	const char *act = c->verb->name + strlen("schedule-"), *vm = c->pos[0], *name = c->pos[1];
	bool remove = !strcmp(act, "remove"), resume = !strcmp(act, "resume");
	struct json_object *args = cli_vm_args(vm);
	struct err e;

	js_put_str(args, "name", name);
	if (resume)
		js_put_bool(args, "resume", true);
	if (cli_execute(c, remove ? "schedule-remove" : "schedule-pause", args, NULL, NULL, &e) < 0)
		return cli_fail(&e, "Failed to %s schedule '%s' of domain '%s'", act, name, vm);
	say("Schedule '%s' of domain '%s' %s\n", name, vm, remove ? "removed" : resume ? "resumed" : "paused");
	return CLI_OK;
}
