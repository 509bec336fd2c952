/* advise: list resources that are wasted, short or unusual, or that will run out, with the command that repairs each.
 */
#include "tools/cairn/cli.h"
#include "api/wire/json.h"
#include "base/err.h"

#include <stdio.h>

/* Run the daemon's command that repairs it, if that does no harm, and note the outcome in the advice. */
static void advice_apply(struct cli *c, struct json_object *o)
{
	const char *command = js_get_str(o, "apply"), *vm = js_get_str(o, "vm");
	struct err e;

	if (!command || !vm)
		return;
	if (cli_execute(c, command, cli_vm_args(vm), NULL, NULL, &e) < 0)
		js_put_str(o, "error", e.msg);
	else
		js_put_bool(o, "applied", true);
}

/* Print the subject of the advice, such as "web1" or "pool images". */
static void subject_print(struct json_object *o)
{
	const char *pool = js_get_str(o, "pool"), *host = js_get_str(o, "host");

	printf("%s%s: ", pool ? "pool " : host ? "the host's " : "", pool ? pool : host ? host : js_get_str_or(o, "vm", "-"));
}

static void advice_print(struct json_object *o)
{
	const char *command = js_get_str(o, "command"), *error = js_get_str(o, "error");

	subject_print(o);
	if (!command) {
		printf("%s lacks data: %s\n", js_get_str_or(o, "rule", "-"), js_get_str_or(o, "text", "-"));
		return;
	}
	printf("%s\n    %s%s\n", js_get_str_or(o, "text", "-"), js_get_bool(o, "applied", false) ? "done: " : "", command);
	if (error)
		printf("    failed: %s\n", error);
}

int verb_advise(struct cli *c)
{
	struct json_object *args = c->npos ? cli_vm_args(c->pos[0]) : json_object_new_object();
	CLEANUP_JS struct json_object *all = NULL;
	bool failed = false;
	struct err e;

	if (option_flag(c, "snapshots") && !c->npos) {
		json_object_put(args);
		return cli_usage(c, "--snapshots needs a VM, such as cairn advise web1 --snapshots");
	}
	if (option_flag(c, "snapshots"))
		js_put_bool(args, "snapshots", true);
	if (option_flag(c, "verbose"))
		js_put_bool(args, "verbose", true);
	if (cli_fetch_all(c, "advise", args, "advice", "after", &all, NULL, &e) < 0)
		return cli_fail(&e, "Failed to get advice");
	for (size_t i = 0; option_flag(c, "apply") && i < json_object_array_length(all); i++) {
		advice_apply(c, json_object_array_get_idx(all, i));
		failed |= js_get(json_object_array_get_idx(all, i), "error") != NULL;
	}
	if (c->format != CLI_TABLE)
		cli_rows_print(c, all);
	for (size_t i = 0; c->format == CLI_TABLE && i < json_object_array_length(all); i++)
		advice_print(json_object_array_get_idx(all, i));
	if (c->format == CLI_TABLE && !json_object_array_length(all))
		printf("No advice\n");
	return failed ? CLI_FAILURE : CLI_OK;
}
