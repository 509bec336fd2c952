/* blockpull: make a disk independent of its backing files, by a job of the daemon. */
#include "tools/cairn/cli.h"
#include "tools/cairn/output.h"
#include "api/wire/json.h"
#include "base/util.h"
#include "tools/cairn/job.h"

#include <errno.h>
#include <stdlib.h>

#define MIB_MAX (1ULL << 24)

int verb_blockpull(struct cli *c)
{
	const char *bandwidth = option_value(c, "bandwidth");
	struct json_object *args = cli_vm_args(c->pos[0]);
	char *end = NULL;
	unsigned long long mib = bandwidth ? strtoull(bandwidth, &end, 10) : 0;
	struct err e;
	int r;

	if (bandwidth && (*bandwidth < '0' || *bandwidth > '9' || *end || mib > MIB_MAX)) {
		json_object_put(args);
		return cli_usage(c, "--bandwidth: a number of MiB/s");
	}
	js_put_str(args, "disk", c->pos[1]);
	if (mib)
		js_put_uint(args, "bandwidth", mib * MIB);
	r = job_run(c, "vm-blockpull", args, -1, "Block Pull", NULL, &e);
	if (r == -EINPROGRESS)
		return CLI_OK;
	if (r < 0)
		return cli_fail(&e, "Failed to pull disk '%s' of domain '%s'", c->pos[1], c->pos[0]);
	say("Pull complete\n");
	return CLI_OK;
}
