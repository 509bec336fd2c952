/* vcpuinfo and vcpucount: a VM's processors, as virsh shows them. */
#include "tools/cairn/cli.h"
#include "api/wire/json.h"
#include "base/util.h"
#include "tools/cairn/output.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- vcpuinfo ---- */

/* Whether a list such as "0-3,8" has the processor. */
static bool list_has(const char *list, long cpu)
{
	while (*list) {
		char *end;
		long first = strtol(list, &end, 10), last = *end == '-' ? strtol(end + 1, &end, 10) : first;

		if (end == list)
			return false;
		if (cpu >= first && cpu <= last)
			return true;
		list = *end ? end + 1 : end;
	}
	return false;
}

static void affinity_print(const char *list, bool pretty)
{
	long cpus = sysconf(_SC_NPROCESSORS_CONF);

	printf("%-15s ", "CPU Affinity:");
	if (pretty)
		printf("%s (out of %ld)", list, cpus);
	for (long i = 0; !pretty && i < cpus; i++)
		putchar(list_has(list, i) ? 'y' : '-');
	printf("\n");
}

/* Return the known figures of vCPU i. */
static struct json_object *vcpu_of(struct json_object *info, size_t i)
{
	static const char *const from[] = { "vcpu-processors", "vcpu-times", "vcpu-delays", "vcpu-halted", "vcpu-affinity" };
	static const char *const to[] = { "cpu", "time", "delay", "halted", "affinity" };
	struct json_object *o = json_object_new_object();

	js_put_int(o, "vcpu", (int64_t)i);
	for (size_t k = 0; k < ARRAY_SIZE(from); k++) {
		struct json_object *list = js_get_array(info, from[k]), *one = list ? json_object_array_get_idx(list, i) : NULL;

		if (one)
			js_put(o, to[k], json_object_get(one));
	}
	return o;
}

static void vcpu_print(struct json_object *o, bool pretty)
{
	char all[32];

	snprintf(all, sizeof(all), "0-%ld", sysconf(_SC_NPROCESSORS_CONF) - 1);
	printf("%-15s %d\n", "VCPU:", (int)js_get_int(o, "vcpu", 0));
	if (js_get(o, "cpu"))
		printf("%-15s %d\n", "CPU:", (int)js_get_int(o, "cpu", 0));
	else
		printf("%-15s N/A\n", "CPU:");
	printf("%-15s %s\n", "State:", js_get(o, "time") ? "running" : "N/A");
	if (js_get(o, "time"))
		printf("%-15s %.1fs\n", "CPU time:", (double)js_get_int(o, "time", 0) / 1e9);
	else
		printf("%-15s N/A\n", "CPU time:");
	affinity_print(js_get_str_or(o, "affinity", all), pretty);
	printf("\n");
}

int verb_vcpuinfo(struct cli *c)
{
	CLEANUP_JS struct json_object *info = NULL, *all = json_object_new_array();
	struct err e;

	if (cli_vm_info(c, c->pos[0], &info, &e) < 0)
		return cli_fail(&e, "Failed to get the vCPUs of domain '%s'", c->pos[0]);
	for (size_t i = 0; i < (size_t)js_get_int(info, "vcpus", 0); i++)
		json_object_array_add(all, vcpu_of(info, i));
	if (c->format != CLI_TABLE)
		output_print(stdout, c->format, all);
	for (size_t i = 0; c->format == CLI_TABLE && i < json_object_array_length(all); i++)
		vcpu_print(json_object_array_get_idx(all, i), option_flag(c, "pretty"));
	return CLI_OK;
}

/* ---- vcpucount ---- */

struct counts {
	int64_t config, live; /* live: 0 if the VM is off */
};

static int counts_read(struct cli *c, struct counts *ret, struct err *e)
{
	CLEANUP_JS struct json_object *info = NULL, *d = NULL;
	struct json_object *args = cli_vm_args(c->pos[0]);
	int r = cli_vm_info(c, c->pos[0], &info, e);

	js_put_bool(args, "inactive", true);
	if (r < 0)
		json_object_put(args);
	else
		r = cli_execute(c, "vm-dump-definition", args, &d, NULL, e);
	if (r < 0)
		return r;
	ret->config = js_get_int(js_get(d, "definition"), "vcpus", 1);
	ret->live = js_get_int(info, "id", -1) < 0 ? 0 : js_get_int(info, "vcpus", 1);
	return 0;
}

static int counts_print(struct cli *c, const struct counts *n)
{
	CLEANUP_JS struct json_object *o = json_object_new_object();
	static const char *const kinds[] = { "maximum", "current" };

	if (c->format != CLI_TABLE) {
		js_put_int(o, "config", n->config);
		if (n->live)
			js_put_int(o, "live", n->live);
		output_print(stdout, c->format, o);
		return CLI_OK;
	}
	/* A VM has all its vCPUs from the start. */
	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
		printf("%-12s %-12s %3d\n", kinds[i], "config", (int)n->config);
		if (n->live)
			printf("%-12s %-12s %3d\n", kinds[i], "live", (int)n->live);
	}
	printf("\n");
	return CLI_OK;
}

int verb_vcpucount(struct cli *c)
{
	bool config = option_flag(c, "config"), live = option_flag(c, "live"), current = option_flag(c, "current");
	struct counts n;
	struct err e;
	int r;

	if (config + live + current > 1 || (option_flag(c, "maximum") && option_flag(c, "active")))
		return cli_usage(c, "--config, --live and --current exclude each other, and so do --maximum and --active");
	r = counts_read(c, &n, &e);
	if (!r && live && !n.live)
		r = err_set(&e, -EPERM, ERR_WRONG_STATE, "VM '%s' is off. Next: cairn vcpucount %s --config", c->pos[0], c->pos[0]);
	if (r < 0)
		return cli_fail(&e, "Failed to get the number of vCPUs of domain '%s'", c->pos[0]);
	if (!config && !live && !current && !option_flag(c, "maximum") && !option_flag(c, "active"))
		return counts_print(c, &n);
	printf("%d\n", (int)(config || !n.live ? n.config : n.live));
	return CLI_OK;
}
