/* nodeinfo and nodecpustats: the host's processors and memory, as virsh shows them. */
#include "tools/cairn/cli.h"
#include "api/wire/json.h"
#include "base/cleanup.h"
#include "base/util.h"
#include "tools/cairn/output.h"

#include <errno.h>
#include <glob.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#define CPUS "/sys/devices/system/cpu/cpu[0-9]*/"
#define TOPOLOGY CPUS "topology/"

/* ---- nodeinfo ---- */

static void fclose_p(FILE **f)
{
	if (*f)
		fclose(*f);
}

/* Return the number behind a line's name in a file of /proc; 0: there is no such line. */
static double line_number(const char *path, const char *name)
{
	FILE *f CLEANUP(fclose_p) = fopen(path, "re");
	char line[256];

	while (f && fgets(line, sizeof(line), f)) {
		const char *colon = strchr(line, ':');

		if (colon && !strncmp(line, name, strlen(name)))
			return strtod(colon + 1, NULL);
	}
	return 0;
}

/* Return the number of different contents of the files that match the pattern. */
static int64_t contents_count(const char *pattern)
{
	char texts[1024][32];
	int64_t n = 0;
	glob_t g;

	if (glob(pattern, GLOB_NOSORT, NULL, &g))
		return 0;
	for (size_t i = 0; i < g.gl_pathc && n < (int64_t)ARRAY_SIZE(texts); i++) {
		FILE *f CLEANUP(fclose_p) = fopen(g.gl_pathv[i], "re");
		int64_t k = 0;

		if (!f || !fgets(texts[n], sizeof(texts[n]), f))
			continue;
		while (strcmp(texts[k], texts[n]))
			k++;
		n += k == n;
	}
	globfree(&g);
	return n;
}

static int64_t paths_count(const char *pattern)
{
	int64_t n = 0;
	glob_t g;

	if (glob(pattern, GLOB_NOSORT, NULL, &g))
		return 0;
	n = (int64_t)g.gl_pathc;
	globfree(&g);
	return n;
}

static struct json_object *node_info(void)
{
	struct json_object *o = json_object_new_object();
	int64_t cpus = sysconf(_SC_NPROCESSORS_ONLN), cells = MAX(1, paths_count("/sys/devices/system/node/node[0-9]*"));
	int64_t packages = MAX(1, contents_count(TOPOLOGY "physical_package_id")), cores = contents_count(TOPOLOGY "core_cpus_list");
	int64_t sockets = packages / cells, per_socket = cores / packages, threads = cores ? cpus / cores : 0;
	struct utsname u;

	/* As libvirt does where the product is not the number of processors: some are offline, or sockets differ. */
	if (cells * sockets * per_socket * threads != cpus) {
		cells = sockets = threads = 1;
		per_socket = cpus;
	}
	js_put_str(o, "model", uname(&u) < 0 ? "unknown" : u.machine);
	js_put_int(o, "cpus", cpus);
	js_put_int(o, "mhz", (int64_t)line_number("/proc/cpuinfo", "cpu MHz"));
	js_put_int(o, "sockets", sockets);
	js_put_int(o, "cores", per_socket);
	js_put_int(o, "threads", threads);
	js_put_int(o, "cells", cells);
	js_put_int(o, "memory", (int64_t)line_number("/proc/meminfo", "MemTotal") * 1024);
	return o;
}

int verb_nodeinfo(struct cli *c)
{
	CLEANUP_JS struct json_object *o = node_info();
	static const struct {
		const char *label, *key;
	} lines[] = { { "CPU(s):", "cpus" }, { "CPU frequency:", "mhz" }, { "CPU socket(s):", "sockets" }, { "Core(s) per socket:", "cores" },
		{ "Thread(s) per core:", "threads" }, { "NUMA cell(s):", "cells" } };

	if (c->format != CLI_TABLE) {
		output_print(stdout, c->format, o);
		return CLI_OK;
	}
	printf("%-20s %s\n", "CPU model:", js_get_str(o, "model"));
	for (size_t i = 0; i < ARRAY_SIZE(lines); i++)
		printf("%-20s %" PRId64 "%s\n", lines[i].label, js_get_int(o, lines[i].key, 0), strcmp(lines[i].key, "mhz") ? "" : " MHz");
	printf("%-20s %" PRId64 " KiB\n\n", "Memory size:", js_get_int(o, "memory", 0) / 1024);
	return CLI_OK;
}

/* ---- nodecpustats ---- */

enum cpu_time { USER, SYSTEM, IDLE, IOWAIT, CPU_TIMES };

static const char *const time_names[CPU_TIMES] = { "user", "system", "idle", "iowait" };

/* Read the times of a processor in ns; which: "cpu" for all, "cpu3". Returns 0; -ENOENT. */
static int times_read(const char *which, uint64_t ret[CPU_TIMES])
{
	FILE *f CLEANUP(fclose_p) = fopen("/proc/stat", "re");
	uint64_t t[7], ns = 1000000000ULL / (uint64_t)sysconf(_SC_CLK_TCK);
	char line[512], name[32];

	while (f && fgets(line, sizeof(line), f)) {
		/* user, nice, system, idle, iowait, irq, softirq: proc(5) */
		if (sscanf(line, "%31s %" SCNu64 " %" SCNu64 " %" SCNu64 " %" SCNu64 " %" SCNu64 " %" SCNu64 " %" SCNu64, name, &t[0], &t[1],
			    &t[2], &t[3], &t[4], &t[5], &t[6]) != 8 || strcmp(name, which))
			continue;
		ret[USER] = (t[0] + t[1]) * ns;
		ret[SYSTEM] = (t[2] + t[5] + t[6]) * ns;
		ret[IDLE] = t[3] * ns;
		ret[IOWAIT] = t[4] * ns;
		return 0;
	}
	return -ENOENT;
}

/* Print the shares of the processor's time in the next second. */
static int percent_print(struct cli *c, const char *which, const uint64_t before[CPU_TIMES])
{
	CLEANUP_JS struct json_object *o = json_object_new_object();
	const struct timespec second = { 1, 0 };
	uint64_t now[CPU_TIMES];
	double part[CPU_TIMES], all = 0;

	nanosleep(&second, NULL);
	if (times_read(which, now) < 0)
		memcpy(now, before, sizeof(now)); /* it went offline */
	for (int i = 0; i < CPU_TIMES; i++)
		all += part[i] = (double)(now[i] - MIN(before[i], now[i]));
	json_object_object_add(o, "usage", json_object_new_double(all > 0 ? 100 * (part[USER] + part[SYSTEM]) / all : 0));
	for (int i = 0; i < CPU_TIMES; i++)
		json_object_object_add(o, time_names[i], json_object_new_double(all > 0 ? 100 * part[i] / all : 0));
	if (c->format != CLI_TABLE) {
		output_print(stdout, c->format, o);
		return CLI_OK;
	}
	json_object_object_foreach(o, key, value)
		printf("%s:%*s%5.1f%%\n", key, (int)(15 - strlen(key)), "", json_object_get_double(value));
	printf("\n");
	return CLI_OK;
}

int verb_nodecpustats(struct cli *c)
{
	CLEANUP_JS struct json_object *o = NULL;
	uint64_t times[CPU_TIMES];
	char which[32] = "cpu";
	struct err e;

	if (c->npos)
		snprintf(which, sizeof(which), "cpu%s", c->pos[0]);
	if ((c->npos && (!c->pos[0][0] || strspn(c->pos[0], "0123456789") != strlen(c->pos[0]))) || times_read(which, times) < 0) {
		err_set(&e, -EINVAL, ERR_INVALID, "the host has no processor '%s' that is online; it has %ld: see cairn nodeinfo",
			c->npos ? c->pos[0] : "", sysconf(_SC_NPROCESSORS_ONLN));
		return cli_fail(&e, "Unable to get node cpu stats");
	}
	if (option_flag(c, "percent"))
		return percent_print(c, which, times);
	o = json_object_new_object();
	for (int i = 0; i < CPU_TIMES; i++)
		js_put_uint(o, time_names[i], times[i]);
	if (c->format != CLI_TABLE) {
		output_print(stdout, c->format, o);
		return CLI_OK;
	}
	for (int i = 0; i < CPU_TIMES; i++)
		printf("%s:%*s%20" PRIu64 "\n", time_names[i], (int)(15 - strlen(time_names[i])), "", times[i]);
	printf("\n");
	return CLI_OK;
}
