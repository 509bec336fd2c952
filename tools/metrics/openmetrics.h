/* openmetrics: statistics of VMs as text in the format OpenMetrics 1.0, for cairn-metrics and for `cairn metrics`.
 * Threading: any. */
#ifndef CAIRN_TOOLS_METRICS_OPENMETRICS_H
#define CAIRN_TOOLS_METRICS_OPENMETRICS_H

#include <stdio.h>

struct json_object;

#define OPENMETRICS_TYPE "application/openmetrics-text; version=1.0.0; charset=utf-8"

/* Print all metrics, up to the end mark.
 * vms: the list of vm-stats; NULL: the daemon does not answer, so cairn_up is 0. */
void openmetrics_print(FILE *f, struct json_object *vms);

#endif
