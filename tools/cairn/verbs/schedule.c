/* snapshot-schedule: show, set or remove the schedules of automatic snapshots. */
#include "tools/cairn/cli.h"
#include "api/wire/json.h"
#include "base/shell_word.h"
#include "base/util.h"
#include "tools/cairn/output.h"

#include <errno.h>
#include <stdio.h>
#include <time.h>

static const char *const settings[] = {"every", "keep", "min-free"};

static const char *time_member(struct json_object *o, const char *key, char buf[TIME_TEXT_BYTES])
{
	int64_t ns = js_get_int(o, key, 0);

	return ns ? time_text(ns, true, buf) : "-";
}

static void rows_print(struct json_object *all)
{
	static const char *const heads[] = {"Domain", "Every", "Keep", "Next", "Last"};
	struct table t;

	table_init(&t, heads, ARRAY_SIZE(heads));
	for (size_t i = 0; i < json_object_array_length(all); i++) {
		struct json_object *o = json_object_array_get_idx(all, i);
		char next[TIME_TEXT_BYTES];

		table_add(&t, (const char *const[]){js_get_str_or(o, "vm", "-"), js_get_str_or(o, "every", "-"),
					  js_get_str_or(o, "keep", "-"), time_member(o, "next-run", next), js_get_str_or(o, "outcome", "-")});
	}
	table_finish(&t, stdout);
}

static void one_print(struct json_object *o)
{
	char time[TIME_TEXT_BYTES];

	label_print(stdout, "Domain:", "%s", js_get_str_or(o, "vm", "-"));
	label_print(stdout, "Every:", "%s", js_get_str_or(o, "every", "-"));
	label_print(stdout, "Keep:", "%s", js_get_str_or(o, "keep", "-"));
	label_print(stdout, "Min free:", "%s", js_get_str_or(o, "min-free", "-"));
	label_print(stdout, "Next:", "%s", time_member(o, "next-run", time));
	label_print(stdout, "Last:", "%s", time_member(o, "last-run", time));
	if (js_get_str(o, "outcome"))
		label_print(stdout, "Outcome:", "%s: %s", js_get_str_or(o, "outcome", "-"), js_get_str_or(o, "detail", "-"));
	printf("\n");
}

static int schedule_show(struct cli *c)
{
	CLEANUP_JS struct json_object *all = NULL;
	const char *vm = c->npos ? c->pos[0] : NULL;
	struct json_object *args = vm ? cli_vm_args(vm) : json_object_new_object();
	struct err e;
	int r = cli_fetch_all(c, "query-snapshot-schedules", args, "schedules", "after", &all, NULL, &e);

	if (!r && vm && !json_object_array_length(all))
		r = err_set(&e, -ENOENT, ERR_NOT_FOUND,
			"VM '%s' has no schedule. Next: cairn snapshot-schedule %s --every 1h", vm,
			shell_word(vm).s);
	if (r < 0)
		return vm ? cli_fail(&e, "Failed to get the snapshot schedule of domain '%s'", vm)
			  : cli_fail(&e, "Failed to list snapshot schedules");
	if (c->format != CLI_TABLE && vm)
		output_print(stdout, c->format, json_object_array_get_idx(all, 0));
	else if (c->format != CLI_TABLE)
		cli_rows_print(c, all);
	else if (!vm)
		rows_print(all);
	else
		one_print(json_object_array_get_idx(all, 0));
	return CLI_OK;
}

static int would_print(struct cli *c, struct json_object *o)
{
	struct json_object *list = js_get_array(o, "would-delete");
	long long count = js_get_int(o, "count", 0);
	size_t n = list ? json_object_array_length(list) : 0;

	if (c->format != CLI_TABLE) {
		output_print(stdout, c->format, o);
		return CLI_OK;
	}
	printf("Would delete %lld existing snapshots of domain '%s'\n", count, c->pos[0]);
	for (size_t i = 0; i < n; i++)
		printf("%s\n", json_object_get_string(json_object_array_get_idx(list, i)));
	if (count > (long long)n)
		printf("and %lld more\n", count - (long long)n);
	return CLI_OK;
}

static int schedule_change(struct cli *c, bool remove)
{
	CLEANUP_JS struct json_object *o = NULL;
	struct json_object *args = cli_vm_args(c->pos[0]);
	bool dry_run = option_flag(c, "dry-run");
	struct err e;

	for (size_t i = 0; !remove && i < ARRAY_SIZE(settings); i++)
		js_put_str(args, settings[i], option_value(c, settings[i]));
	if (dry_run)
		js_put_bool(args, "dry-run", true);
	if (cli_execute(c, remove ? "snapshot-schedule-remove" : "snapshot-schedule-set", args,
		    &o, NULL, &e) < 0)
		return cli_fail(&e, "Failed to %s the snapshot schedule of domain '%s'",
			remove ? "remove" : "set", c->pos[0]);
	if (dry_run)
		return would_print(c, o);
	say("Domain '%s' snapshot schedule %s\n", c->pos[0], remove ? "removed" : "set");
	return CLI_OK;
}

int verb_snapshot_schedule(struct cli *c)
{
	bool remove = option_flag(c, "remove"), set = false;

	for (size_t i = 0; i < ARRAY_SIZE(settings); i++)
		set |= option_value(c, settings[i]) != NULL;
	set |= option_flag(c, "dry-run");
	if (set && remove)
		return cli_usage(c, "--remove excludes all other options");
	if ((set || remove) && !c->npos)
		return cli_usage(c, "snapshot-schedule needs a VM to change its schedule");
	return set || remove ? schedule_change(c, remove) : schedule_show(c);
}
