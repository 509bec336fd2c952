/* host_probe: what this host offers to the VMs of the calling user. */
#ifndef CAIRN_TOOLS_HOST_PROBE_H
#define CAIRN_TOOLS_HOST_PROBE_H

#include <stdbool.h>
#include <stddef.h>

enum host_status { HOST_OK, HOST_SLOW, HOST_MISSING };

struct host_check {
	const char *name, *purpose;
	bool required; /* no VM starts without it */
	enum host_status status;
	char found[192];  /* what the host has, or why it lacks it */
	char remedy[384]; /* empty: nothing to do */
};

#define HOST_CHECKS_MAX 16

/* Check everything. Returns the number of checks. */
size_t host_checks_run(struct host_check ret[HOST_CHECKS_MAX]);

#endif
