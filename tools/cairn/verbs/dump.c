/* dump: write a guest's memory to a core file. */
#include "tools/cairn/cli.h"
#include "tools/cairn/output.h"
#include "api/wire/json.h"
#include "tools/cairn/job.h"
#include "tools/cairn/target.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

static int options_check(struct cli *c)
{
	const char *format = option_value(c, "format");

	if (option_flag(c, "crash") + option_flag(c, "reset") + option_flag(c, "live") > 1)
		return cli_usage(c, "--live, --crash and --reset exclude each other");
	if (format && strcmp(format, "elf"))
		return cli_usage(c, "dump writes only ELF, not \"%s\"; makedumpfile converts ELF to other formats", format);
	return 0;
}

int verb_dump(struct cli *c)
{
	struct target t = { .path = c->pos[1], .fd = -1, .kind = "a dump", .begins = { "\x7f" "ELF" } };
	CLEANUP_JS struct json_object *result = NULL;
	struct json_object *args;
	struct err e;
	int r = options_check(c);

	if (r)
		return r;
	r = cli_ready(c, "vm-dump", &e);
	if (!r)
		r = target_open(&t, option_flag(c, "no-wait"), &e);
	if (!r) {
		args = cli_vm_args(c->pos[0]);
		if (option_flag(c, "crash") || option_flag(c, "reset"))
			js_put_str(args, "then", option_flag(c, "crash") ? "crash" : "reset");
		r = target_close(&t, job_run(c, "vm-dump", args, t.fd, "Dump", &result, &e), &e);
	}
	if (r == -EINPROGRESS)
		return CLI_OK;
	if (r < 0)
		return cli_fail(&e, "Failed to core dump domain '%s' to %s", c->pos[0], t.path);
	say("Domain '%s' dumped to %s\n", c->pos[0], t.path);
	job_tracking_print(c, result);
	return CLI_OK;
}
