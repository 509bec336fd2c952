/* blockresize: grow a disk of a running VM. */
#include "api/wire/json.h"
#include "base/size.h"
#include "base/util.h"
#include "tools/cairn/cli.h"
#include "tools/cairn/output.h"

#include <errno.h>
#include <stdio.h>

/* Put the size, in KiB without a unit as virsh has it. Returns 0; CLI_USAGE after an error message. */
static int size_put(struct cli *c, struct json_object *args)
{
	const char *text = c->npos > 2 ? c->pos[2] : NULL;
	uint64_t bytes;

	if (!text == !option_flag(c, "capacity"))
		return cli_usage(c, text ? "SIZE and --capacity exclude each other" : "give SIZE, or --capacity for the size of the block device");
	if (!text)
		return 0;
	if (size_parse(text, KIB, &bytes) == -EINVAL)
		return cli_usage(c, "\"%s\" is not a size; give KiB, or a unit, as in 20G", text);
	js_put_int(args, "size", (int64_t)MIN(bytes, (uint64_t)INT64_MAX)); /* the daemon refuses too large ones */
	return 0;
}

int verb_blockresize(struct cli *c)
{
	CLEANUP_JS struct json_object *answer = NULL;
	struct json_object *args = cli_vm_args(c->pos[0]);
	struct err e;
	int r = size_put(c, args);

	if (r) {
		json_object_put(args);
		return r;
	}
	js_put_str(args, "disk", c->pos[1]);
	r = cli_execute(c, "vm-resize-disk", args, &answer, NULL, &e);
	if (r < 0)
		return cli_fail(&e, "Failed to resize block device '%s'", c->pos[1]);
	say("Block device '%s' is resized\n", c->pos[1]);
	return CLI_OK;
}
