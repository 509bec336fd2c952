/* The verb metrics. */
#include "tools/cairn/cli.h"
#include "tools/metrics/openmetrics.h"

static int execute(void *opaque, const char *command, struct json_object *args, struct json_object **ret, struct err *e)
{
	return cli_execute(opaque, command, args, ret, NULL, e);
}

int verb_metrics(struct cli *c)
{
	struct metrics m = { 0 };
	struct err e;

	if (metrics_fetch(&m, execute, c, &e) < 0)
		return cli_fail(&e, "Failed to get the statistics");
	openmetrics_print(stdout, &m);
	metrics_done(&m);
	return CLI_OK;
}
