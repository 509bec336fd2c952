/* The verb metrics. */
#include "tools/cairn/cli.h"
#include "api/wire/json.h"
#include "tools/metrics/openmetrics.h"

int verb_metrics(struct cli *c)
{
	CLEANUP_JS struct json_object *vms = NULL;
	struct err e;

	if (cli_vm_stats(c, &vms, &e) < 0)
		return cli_fail(&e, "Failed to get the statistics");
	openmetrics_print(stdout, vms);
	return CLI_OK;
}
