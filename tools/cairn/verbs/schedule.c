/* snapshot-schedule. */
#include "tools/cairn/cli.h"
#include "api/wire/json.h"
#include "base/util.h"
#include "tools/cairn/output.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

static const char *const settings[] = {"every", "keep", "min-free"};

/* Fetch all pages into one array. vm: NULL: the schedules of all VMs. */
static int schedules_fetch(struct cli *c, const char *vm, struct json_object *all, struct err *e)
{
	char after[512] = "";

	for (;;) {
		CLEANUP_JS struct json_object *page = NULL;
		struct json_object *args = json_object_new_object(), *list;
		const char *next;
		int r;

		if (vm)
			js_put_str(args, "vm", vm);
		if (after[0])
			js_put_str(args, "after", after);
		r = cli_execute(c, "query-snapshot-schedules", args, &page, NULL, e);
		if (r < 0)
			return r;
		list = js_get_array(page, "schedules");
		for (size_t i = 0; list && i < json_object_array_length(list); i++)
			json_object_array_add(
				all, json_object_get(json_object_array_get_idx(list, i)));
		next = js_get_str(page, "next");
		if (!next)
			return 0;
		snprintf(after, sizeof(after), "%s", next);
	}
}

static const char *member_text(struct json_object *o, const char *key)
{
	const char *s = js_get_str(o, key);

	return s ? s : "-";
}

static void time_print(struct json_object *o, const char *key, char buf[40])
{
	time_t s = (time_t)(js_get_int(o, key, 0) / 1000000000);
	struct tm tm;

	localtime_r(&s, &tm);
	strftime(buf, 40, s ? "%Y-%m-%d %H:%M:%S %z" : "-", &tm);
}

static int rows_print(struct json_object *all)
{
	static const char *const heads[] = {"Domain", "Every", "Keep", "Next", "Last"};
	struct table t;
	int r = 0;

	table_init(&t, heads, ARRAY_SIZE(heads));
	for (size_t i = 0; !r && i < json_object_array_length(all); i++) {
		struct json_object *o = json_object_array_get_idx(all, i);
		char next[40];

		time_print(o, "next-run", next);
		r = table_add(&t, (const char *const[]){member_text(o, "vm"), member_text(o, "every"),
					  member_text(o, "keep"), next, member_text(o, "outcome")});
	}
	if (!r)
		table_print(&t, stdout);
	table_done(&t);
	return r ? CLI_FAILURE : CLI_OK;
}

static void one_print(struct json_object *o)
{
	char next[40], last[40];

	time_print(o, "next-run", next);
	time_print(o, "last-run", last);
	label_print(stdout, "Domain:", "%s", member_text(o, "vm"));
	label_print(stdout, "Every:", "%s", member_text(o, "every"));
	label_print(stdout, "Keep:", "%s", member_text(o, "keep"));
	label_print(stdout, "Min free:", "%s", member_text(o, "min-free"));
	label_print(stdout, "Next:", "%s", next);
	label_print(stdout, "Last:", "%s", last);
	if (js_get_str(o, "outcome"))
		label_print(stdout, "Outcome:", "%s: %s", member_text(o, "outcome"), member_text(o, "detail"));
	printf("\n");
}

static int schedule_show(struct cli *c)
{
	CLEANUP_JS struct json_object *all = json_object_new_array();
	const char *vm = c->npos ? c->pos[0] : NULL;
	struct err e;
	int r = schedules_fetch(c, vm, all, &e);

	if (!r && vm && !json_object_array_length(all))
		r = err_set(&e, -ENOENT, ERR_NOT_FOUND,
			"VM '%s' has no schedule. Next: cairn snapshot-schedule %s --every 1h", vm,
			vm);
	if (r < 0)
		return vm ? cli_fail(&e, "Failed to get the snapshot schedule of domain '%s'", vm)
			  : cli_fail(&e, "Failed to list snapshot schedules");
	if (c->format != CLI_TABLE)
		output_print(stdout, c->format, vm ? json_object_array_get_idx(all, 0) : all);
	else if (!vm)
		return rows_print(all);
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
		if (option_value(c, settings[i]))
			js_put_str(args, settings[i], option_value(c, settings[i]));
	if (dry_run)
		js_put_bool(args, "dry-run", true);
	if (cli_execute(c, remove ? "snapshot-schedule-remove" : "snapshot-schedule-set", args,
		    &o, NULL, &e) < 0)
		return cli_fail(&e, "Failed to %s the snapshot schedule of domain '%s'",
			remove ? "remove" : "set", c->pos[0]);
	if (dry_run)
		return would_print(c, o);
	printf("Domain '%s' snapshot schedule %s\n", c->pos[0], remove ? "removed" : "set");
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
