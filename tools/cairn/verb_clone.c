/* clone. */
#include "tools/cairn/cli.h"
#include "tools/cairn/job.h"
#include "api/js.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int count_take(struct cli *c, struct json_object *args)
{
	const char *text = option_value(c, "count");
	char *end;
	long n = text ? strtol(text, &end, 10) : 0;

	if (text && (*end || end == text))
		return cli_usage(c, "--count wants a number, not \"%s\"", text);
	if (text)
		js_put_int(args, "count", n);
	return 0;
}

static void figures_print(struct json_object *o)
{
	char written[24];

	bytes_print((uint64_t)js_get_int(o, "ram-bytes-written", 0), written);
	if (js_get_int(o, "pause", 0))
		printf("paused for %.1f ms, ", (double)js_get_int(o, "pause", 0) / 1e6);
	printf("%.1f ms in all; memory that they share: %s\n", (double)js_get_int(o, "total", 0) / 1e6, written);
}

static int result_print(struct cli *c, struct json_object *o)
{
	const char *first = js_get_str(o, "first"), *last = js_get_str(o, "last");

	if (!first || !last || !strcmp(first, last))
		return job_result_print(c, o, figures_print, "Domain '%s' cloned as '%s'", c->pos[0],
			first ? first : c->pos[1]);
	return job_result_print(c, o, figures_print, "Domain '%s' cloned %d times, as '%s' to '%s'",
		c->pos[0], (int)js_get_int(o, "count", 0), first, last);
}

int verb_clone(struct cli *c)
{
	CLEANUP_JS struct json_object *result = NULL;
	struct json_object *args = cli_vm_args(c->pos[0]);
	struct err e;
	int r = count_take(c, args);

	if (!r && !option_flag(c, "live"))
		r = cli_usage(c, "clone copies a VM that runs, or a snapshot of one, and wants --live; one that is off is copied by "
			"copying its images (cairn-img convert) and defining another");
	if (r) {
		json_object_put(args);
		return r;
	}
	js_put_str(args, "name", c->pos[1]);
	js_put_bool(args, "paused", option_flag(c, "paused"));
	if (option_flag(c, "no-hostname"))
		js_put_bool(args, "hostname", false);
	if (option_value(c, "snapshotname"))
		js_put_str(args, "snapshot", option_value(c, "snapshotname"));
	r = job_run(c, "vm-fork", args, -1, "Clone", &result, &e);
	if (r == -EINPROGRESS)
		return CLI_OK;
	if (r < 0)
		return cli_fail(&e, "Failed to clone domain '%s'", c->pos[0]);
	return result_print(c, result);
}
