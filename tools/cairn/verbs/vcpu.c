/* vcpuinfo and vcpucount: a VM's processors, as virsh shows them. setvcpus: change their number. */
#include "tools/cairn/verbs/vcpu.h"
#include "tools/cairn/cli.h"
#include "api/wire/json.h"
#include "base/shell_word.h"
#include "base/util.h"
#include "tools/cairn/change.h"
#include "tools/cairn/output.h"
#include "tools/cairn/verbs/guestvcpus.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

bool vcpu_is_absent(struct json_object *info, size_t vcpu)
{
	struct json_object *list = js_get_array(info, "vcpus-absent");

	for (size_t i = 0; list && i < json_object_array_length(list); i++)
		if (json_object_get_int64(json_object_array_get_idx(list, i)) == (int64_t)vcpu)
			return true;
	return false;
}

/* ---- vcpuinfo ---- */

/* Return whether a list such as "0-3,8" has the processor. */
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
	for (size_t i = 0; i < (size_t)js_get_int(info, "max-vcpus", 0); i++)
		if (!vcpu_is_absent(info, i))
			json_object_array_add(all, vcpu_of(info, i));
	if (c->format != CLI_TABLE)
		output_print(stdout, c->format, all);
	for (size_t i = 0; c->format == CLI_TABLE && i < json_object_array_length(all); i++)
		vcpu_print(json_object_array_get_idx(all, i), option_flag(c, "pretty"));
	return CLI_OK;
}

/* ---- vcpucount ---- */

/* [0]: the most vCPUs that the VM can have; [1]: their present number, or that at its start. */
struct counts {
	int64_t config[2], live[2]; /* live: 0 if the VM is off */
};

static int counts_read(struct cli *c, struct counts *ret, struct err *e)
{
	CLEANUP_JS struct json_object *info = NULL, *d = NULL;
	struct json_object *args = cli_vm_args(c->pos[0]);
	int r = cli_vm_info(c, c->pos[0], &info, e);
	bool on = !r && js_get_int(info, "id", -1) >= 0;

	js_put_bool(args, "inactive", true);
	if (r < 0)
		json_object_put(args);
	else
		r = cli_execute(c, "vm-dump-definition", args, &d, NULL, e);
	if (r < 0)
		return r;
	ret->config[1] = js_get_int(js_get(d, "definition"), "vcpus", 1);
	ret->config[0] = js_get_int(js_get(d, "definition"), "max_vcpus", ret->config[1]);
	ret->live[1] = on ? js_get_int(info, "vcpus", 1) : 0;
	ret->live[0] = on ? js_get_int(info, "max-vcpus", ret->live[1]) : 0;
	return 0;
}

static int counts_print(struct cli *c, const struct counts *n)
{
	CLEANUP_JS struct json_object *o = json_object_new_object();
	static const char *const kinds[] = { "maximum", "current" };

	if (c->format != CLI_TABLE) {
		js_put_int(o, "config", n->config[1]);
		js_put_int(o, "config-maximum", n->config[0]);
		if (n->live[0]) {
			js_put_int(o, "live", n->live[1]);
			js_put_int(o, "live-maximum", n->live[0]);
		}
		output_print(stdout, c->format, o);
		return CLI_OK;
	}
	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
		printf("%-12s %-12s %3d\n", kinds[i], "config", (int)n->config[i]);
		if (n->live[0])
			printf("%-12s %-12s %3d\n", kinds[i], "live", (int)n->live[i]);
	}
	printf("\n");
	return CLI_OK;
}

static int guest_count_print(struct cli *c)
{
	struct err e;
	int n;

	if (option_flag(c, "config") || option_flag(c, "maximum"))
		return cli_usage(c, "--guest excludes --config and --maximum");
	n = vcpus_count_online(c, &e);
	if (n < 0)
		return cli_fail(&e, "Failed to get the number of vCPUs of the guest of domain '%s'", c->pos[0]);
	printf("%d\n", n);
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
	if (option_flag(c, "guest"))
		return guest_count_print(c);
	r = counts_read(c, &n, &e);
	if (!r && live && !n.live[0])
		r = err_set(&e, -EPERM, ERR_WRONG_STATE, "VM '%s' is off. Next: cairn vcpucount %s --config", c->pos[0], shell_word(c->pos[0]).s);
	if (r < 0)
		return cli_fail(&e, "Failed to get the number of vCPUs of domain '%s'", c->pos[0]);
	if (!config && !live && !current && !option_flag(c, "maximum") && !option_flag(c, "active"))
		return counts_print(c, &n);
	printf("%d\n", (int)(config || !n.live[0] ? n.config : n.live)[!option_flag(c, "maximum")]);
	return CLI_OK;
}

/* ---- setvcpus ---- */

static int vcpus_edit(struct cli *c, struct json_object *definition, void *opaque, struct err *e)
{
	int64_t n = *(long *)opaque, max = js_get_int(definition, "max_vcpus", 0), now = js_get_int(definition, "vcpus", 1);

	if (option_flag(c, "maximum")) {
		js_put_int(definition, "max_vcpus", n);
		js_put_int(definition, "vcpus", MIN(n, now));
		return 0;
	}
	if (max && n > max)
		return err_set(e, -EINVAL, ERR_INVALID, "requested vcpus is greater than max allowable vcpus for the persistent domain: %lld > %lld. "
			"Next: cairn setvcpus %s %lld --maximum --config", (long long)n, (long long)max, shell_word(c->pos[0]).s, (long long)n);
	js_put_int(definition, "vcpus", n);
	return 0;
}

static int vcpus_live(struct cli *c, void *opaque, struct err *e)
{
	CLEANUP_JS struct json_object *answer = NULL;
	struct json_object *args = cli_vm_args(c->pos[0]);
	const char *timeout = option_value(c, "timeout");

	js_put_int(args, "vcpus", *(long *)opaque);
	if (timeout)
		js_put_int(args, "timeout", strtol(timeout, NULL, 10));
	return cli_execute(c, "vm-set-vcpus", args, &answer, NULL, e);
}

/* Without --live and --config, change a running VM if its vCPUs come and go; else its next start. */
static int vcpus_set(struct cli *c, long n, struct err *e)
{
	CLEANUP_JS struct json_object *running = NULL;
	int r = 0;

	if (option_flag(c, "maximum") && option_flag(c, "live"))
		return err_set(e, -ENOTSUP, ERR_UNSUPPORTED, "the maximum of a running VM cannot change. Next: cairn setvcpus %s %ld --maximum --config",
			shell_word(c->pos[0]).s, n);
	if (option_flag(c, "maximum"))
		return change_make(c, c->pos[0], vcpus_edit, &n, e);
	if (!option_flag(c, "live") && !option_flag(c, "config"))
		r = change_read_running(c, c->pos[0], &running, e);
	if (r < 0)
		return r;
	return running && !js_get(running, "max_vcpus") ? change_make(c, c->pos[0], vcpus_edit, &n, e) :
		change_plug(c, vcpus_live, vcpus_edit, &n, e);
}

int verb_setvcpus(struct cli *c)
{
	char *end;
	long n = strtol(c->pos[1], &end, 10);
	struct err e;
	int r;

	if (!isdigit((unsigned char)c->pos[1][0]) || *end || n < 1 || n > 1 << 20)
		return cli_usage(c, "\"%s\" is not a number of virtual CPUs", c->pos[1]);
	if (option_flag(c, "guest") && (option_flag(c, "live") || option_flag(c, "config") || option_flag(c, "current") ||
		option_flag(c, "maximum") || option_flag(c, "print-only")))
		return cli_usage(c, "--guest changes only the number of processors that the guest uses; leave out the other options");
	r = option_flag(c, "guest") ? vcpus_set_online(c, n, &e) : vcpus_set(c, n, &e);
	if (r < 0)
		return cli_fail(&e, "Failed to change the vcpus of domain '%s'", c->pos[0]);
	return r > 1 ? r : CLI_OK;
}
