/* openmetrics: statistics of the host and of VMs as text in the format OpenMetrics 1.0, for cairn-metrics and for
 * `cairn metrics`.
 * Threading: any. */
#ifndef CAIRN_TOOLS_METRICS_OPENMETRICS_H
#define CAIRN_TOOLS_METRICS_OPENMETRICS_H

#include <stdio.h>

struct err;
struct json_object;

#define OPENMETRICS_TYPE "application/openmetrics-text; version=1.0.0; charset=utf-8"

/* Answers of the daemon; owned by the caller. */
struct metrics {
	struct json_object *vms; /* the list of vm-stats; NULL: the daemon does not answer, so cairn_up is 0 */
	struct json_object *host; /* of vm-stats; NULL: an older daemon */
	struct json_object *pools; /* the list of query-pools; NULL: the user may not see them */
};

/* Get all of them by execute(), which runs a command and returns 0 with the result, or -errno. args: taken.
 * Returns 0; -errno with a sentence. */
int metrics_fetch(struct metrics *m, int (*execute)(void *opaque, const char *command, struct json_object *args, struct json_object **ret, struct err *e),
	void *opaque, struct err *e);
void metrics_done(struct metrics *m);

/* Print all metrics, up to the end mark. */
void openmetrics_print(FILE *f, const struct metrics *m);

#endif
