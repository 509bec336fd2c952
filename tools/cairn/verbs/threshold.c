/* threshold, threshold-list and threshold-remove: events that report when a figure of a VM is too high. */
#include "tools/cairn/cli.h"
#include "api/wire/json.h"
#include "base/duration.h"
#include "base/util.h"
#include "tools/cairn/output.h"

#include <stdio.h>
#include <string.h>

#define NS 1000000000LL

int verb_threshold(struct cli *c)
{
	static const char *const settings[] = { "above", "below", "then", "name" };
	const char *length = option_value(c, "for"), *vm = c->pos[0], *measure = c->pos[1];
	struct json_object *args;
	struct err e;
	int64_t s;

	if (!option_value(c, "above"))
		return cli_usage(c, "threshold needs --above, such as --above 90");
	if (length && strcmp(length, "0") != 0 && duration_parse_units(length, strlen(length), "dhms", 7 * 24 * 3600, &s) < 0)
		return cli_usage(c, "--for must be a time such as 30s, 5m or 1h, at most 7d, not \"%s\"", length);
	args = cli_vm_args(vm);
	js_put_str(args, "measure", measure);
	for (size_t i = 0; i < ARRAY_SIZE(settings); i++)
		js_put_str(args, settings[i], option_value(c, settings[i]));
	if (length)
		js_put_int(args, "for", strcmp(length, "0") ? s * NS : 0);
	if (cli_execute(c, "threshold-set", args, NULL, NULL, &e) < 0)
		return cli_fail(&e, "Failed to set threshold '%s' of domain '%s'", measure, vm);
	say("Threshold '%s' of domain '%s' set\n", option_value(c, "name") ? option_value(c, "name") : measure, vm);
	return CLI_OK;
}

static void threshold_add(struct table *t, struct json_object *o)
{
	char length[DURATION_TEXT];

	duration_print_units(js_get_int(o, "for", 0) / NS, "dhms", length);
	table_add(t, (const char *const[]){ js_get_str_or(o, "vm", "-"), js_get_str_or(o, "name", "-"), js_get_str_or(o, "measure", "-"),
		js_get_str_or(o, "above", "-"), js_get_str_or(o, "below", "-"), length, js_get_str_or(o, "then", "-"),
		js_get_str_or(o, "value", "-"), js_get_bool(o, "raised", false) ? "raised" : "-" });
}

int verb_threshold_list(struct cli *c)
{
	static const char *const heads[] = { "Domain", "Name", "Measure", "Above", "Below", "For", "Then", "Value", "State" };
	CLEANUP_JS struct json_object *all = NULL;
	const char *vm = c->npos ? c->pos[0] : NULL;
	struct json_object *args = vm ? cli_vm_args(vm) : json_object_new_object();
	struct err e;

	if (cli_fetch_all(c, "query-thresholds", args, "thresholds", "after", &all, NULL, &e) < 0)
		return cli_fail(&e, "Failed to list thresholds");
	return cli_rows_show(c, all, heads, ARRAY_SIZE(heads), threshold_add);
}

int verb_threshold_remove(struct cli *c)
{
	struct json_object *args = cli_vm_args(c->pos[0]);
	struct err e;

	js_put_str(args, "name", c->pos[1]);
	if (cli_execute(c, "threshold-remove", args, NULL, NULL, &e) < 0)
		return cli_fail(&e, "Failed to remove threshold '%s' of domain '%s'", c->pos[1], c->pos[0]);
	say("Threshold '%s' of domain '%s' removed\n", c->pos[1], c->pos[0]);
	return CLI_OK;
}
