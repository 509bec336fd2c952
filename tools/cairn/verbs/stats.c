/* domstats, domifstat and domdirtyrate-calc: statistics with virsh's names and numbers. */
#include "tools/cairn/cli.h"
#include "api/wire/json.h"
#include "base/err.h"
#include "base/figures.h"
#include "base/shell_word.h"
#include "base/util.h"
#include "tools/cairn/change.h"
#include "tools/cairn/interface.h"
#include "tools/cairn/multi_vm.h"
#include "tools/cairn/output.h"
#include "tools/cairn/verbs/vcpu.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Numbers of virDomainState (libvirt-domain.h). */
#define VCPU_RUNNING 1 /* VIR_VCPU_RUNNING */
enum number { RUNNING = 1, PAUSED = 3, IN_SHUTDOWN = 4, SHUT_OFF = 5, CRASHED = 6 };

struct word_number {
	const char *word;
	enum number number;
};

struct reason_number {
	enum number state;
	const char *reason;
	int number; /* libvirt's number of the reason, such as VIR_DOMAIN_RUNNING_BOOTED */
};

static enum number state_number(const char *word)
{
	static const struct word_number all[] = { { "running", RUNNING }, { "paused", PAUSED },
		{ "in-shutdown", IN_SHUTDOWN }, { "shutoff", SHUT_OFF }, { "saved", SHUT_OFF },
		{ "crashed", CRASHED }, { "preserved", CRASHED } };

	for (size_t i = 0; word && i < ARRAY_SIZE(all); i++)
		if (!strcmp(all[i].word, word))
			return all[i].number;
	return 0;
}

static int reason_number(enum number state, const char *reason)
{
	static const struct reason_number all[] = { { RUNNING, "booted", 1 }, { RUNNING, "restored", 3 },
		{ RUNNING, "from snapshot", 4 }, { RUNNING, "user", 5 }, { PAUSED, "user", 1 },
		{ PAUSED, "saving", 3 }, { PAUSED, "I/O error", 5 }, { PAUSED, "I/O error: no space left", 5 },
		{ PAUSED, "I/O error: image corrupt", 5 }, { PAUSED, "watchdog", 6 },
		{ PAUSED, "from snapshot", 7 }, { IN_SHUTDOWN, "user", 1 }, { SHUT_OFF, "shutdown", 1 },
		{ SHUT_OFF, "destroyed", 2 }, { SHUT_OFF, "saved", 5 }, { SHUT_OFF, "failed", 6 },
		{ SHUT_OFF, "from snapshot", 7 }, { CRASHED, "guest panicked", 1 } };

	for (size_t i = 0; reason && i < ARRAY_SIZE(all); i++)
		if (all[i].state == state && !strcmp(all[i].reason, reason))
			return all[i].number;
	return 0;
}

/* ---- groups of statistics ---- */

static void figure_put(struct json_object *out, int64_t value, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

static void figure_put(struct json_object *out, int64_t value, const char *fmt, ...)
{
	char key[64];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(key, sizeof(key), fmt, ap);
	va_end(ap);
	js_put_int(out, key, value);
}

struct figure {
	const char *name, *from;
};

static void state_add(struct json_object *out, struct json_object *info)
{
	enum number state = state_number(js_get_str(info, "word"));

	figure_put(out, state, "state.state");
	figure_put(out, reason_number(state, js_get_str(info, "reason")), "state.reason");
}

/* Add a value that the daemon shifts by load, and its bounds. */
static void balanced_add(struct json_object *out, struct json_object *info, const char *key, const char *name, int64_t unit)
{
	struct json_object *o = js_get(js_get(info, "balance"), key);

	if (!o)
		return;
	figure_put(out, js_get_int(o, "now", 0) / unit, "%s", name);
	figure_put(out, js_get_int(o, "min", 0) / unit, "%s.min", name);
	figure_put(out, js_get_int(o, "max", 0) / unit, "%s.max", name);
}

static void cpu_add(struct json_object *out, struct json_object *info)
{
	static const struct figure all[] = { { "time", "cpu-time" }, { "user", "cpu-user" }, { "system", "cpu-system" } };

	for (size_t i = 0; i < ARRAY_SIZE(all); i++)
		if (js_get(info, all[i].from))
			figure_put(out, js_get_int(info, all[i].from, 0), "cpu.%s", all[i].name);
	balanced_add(out, info, "cpu-shares", "cpu.shares", 1);
}

/* Add the figures of the memory, in KiB like virsh. */
static void balloon_add(struct json_object *out, struct json_object *info)
{
	static const struct {
		const char *name, *from;
		int64_t unit;
	} all[] = { { "swap_in", "swap-in", 1024 }, { "swap_out", "swap-out", 1024 }, { "major_fault", "major-faults", 1 },
		{ "minor_fault", "minor-faults", 1 }, { "unused", "unused", 1024 }, { "available", "available", 1024 },
		{ "usable", "usable", 1024 }, { "last-update", "last-update", 1 }, { "disk_caches", "disk-caches", 1024 },
		{ "hugetlb_pgalloc", "hugetlb-allocs", 1 }, { "hugetlb_pgfail", "hugetlb-failures", 1 } };
	struct json_object *balloon = js_get(info, "balloon");

	figure_put(out, js_get_int(info, "used-memory", 0) / 1024, "balloon.current");
	figure_put(out, js_get_int(info, "memory", 0) / 1024, "balloon.maximum");
	if (balloon) {
		for (size_t i = 0; i < ARRAY_SIZE(all); i++)
			if (js_get(balloon, all[i].from))
				figure_put(out, js_get_int(balloon, all[i].from, 0) / all[i].unit, "balloon.%s", all[i].name);
	}
	balanced_add(out, info, "memory", "balloon.target", 1024);
	if (js_get(info, "resident-memory"))
		figure_put(out, js_get_int(info, "resident-memory", 0) / 1024, "balloon.rss");
}

static void vcpu_add(struct json_object *out, struct json_object *info)
{
	struct json_object *times = js_get_array(info, "vcpu-times"), *halted = js_get_array(info, "vcpu-halted"),
			   *delays = js_get_array(info, "vcpu-delays");
	size_t n = times ? json_object_array_length(times) : 0;
	char key[48];

	figure_put(out, js_get_int(info, "vcpus", 0), "vcpu.current");
	figure_put(out, js_get_int(info, "max-vcpus", js_get_int(info, "vcpus", 0)), "vcpu.maximum");
	for (size_t i = 0; i < n; i++) {
		if (vcpu_is_absent(info, i))
			continue;
		figure_put(out, VCPU_RUNNING, "vcpu.%zu.state", i);
		figure_put(out, json_object_get_int64(json_object_array_get_idx(times, i)), "vcpu.%zu.time", i);
		snprintf(key, sizeof(key), "vcpu.%zu.halted", i);
		if (halted)
			js_put_str(out, key, json_object_get_boolean(json_object_array_get_idx(halted, i)) ? "yes" : "no");
		if (delays)
			figure_put(out, json_object_get_int64(json_object_array_get_idx(delays, i)), "vcpu.%zu.delay", i);
	}
}

static void figures_add(struct json_object *out, const char *group, size_t i, struct json_object *o,
	const struct figure *all, size_t n)
{
	for (size_t k = 0; k < n; k++)
		figure_put(out, js_get_int(o, all[k].from, 0), "%s.%zu.%s", group, i, all[k].name);
}

/* Add the name and the figures of an element of a list. */
static void element_add(struct json_object *out, struct json_object *o, const char *group, size_t i, const char *name,
	const struct figure *all, size_t n)
{
	const char *called = js_get_str(o, name);
	char key[48];

	snprintf(key, sizeof(key), "%s.%zu.name", group, i);
	js_put_str(out, key, called ? called : js_get_str(o, "id"));
	figures_add(out, group, i, o, all, n);
}

static void net_add(struct json_object *out, struct json_object *info)
{
	static const struct figure all[] = { { "rx.bytes", "rx-bytes" }, { "rx.pkts", "rx-packets" },
		{ "rx.errs", "rx-errors" }, { "rx.drop", "rx-drops" }, { "tx.bytes", "tx-bytes" },
		{ "tx.pkts", "tx-packets" }, { "tx.errs", "tx-errors" }, { "tx.drop", "tx-drops" } };

	struct json_object *list = js_get_array(info, "interfaces");
	size_t n = list ? json_object_array_length(list) : 0;

	figure_put(out, (int64_t)n, "net.count");
	for (size_t i = 0; i < n; i++)
		element_add(out, json_object_array_get_idx(list, i), "net", i, "target", all, ARRAY_SIZE(all));
}

/* Add the bins of a histogram, as libvirt does from 11.9 on. */
static void histogram_add(struct json_object *out, size_t disk, const char *operation, struct json_object *bins)
{
	size_t n = bins ? json_object_array_length(bins) : 0;

	if (n)
		figure_put(out, LATENCY_BINS, "block.%zu.latency_histogram.%s.bin.count", disk, operation);
	for (size_t k = 0; n && k < LATENCY_BINS; k++) {
		figure_put(out, k ? (int64_t)latency_limits_ns[k - 1] : 0, "block.%zu.latency_histogram.%s.bin.%zu.start", disk, operation, k);
		figure_put(out, k < n ? json_object_get_int64(json_object_array_get_idx(bins, k)) : 0,
			"block.%zu.latency_histogram.%s.bin.%zu.value", disk, operation, k);
	}
}

static void disk_more_add(struct json_object *out, struct json_object *disk, size_t i)
{
	if (js_get(disk, "in-flight"))
		figure_put(out, js_get_int(disk, "in-flight", 0), "block.%zu.in-flight", i);
	histogram_add(out, i, "read", js_get_array(disk, "rd-latency"));
	histogram_add(out, i, "write", js_get_array(disk, "wr-latency"));
	histogram_add(out, i, "flush", js_get_array(disk, "fl-latency"));
}

static void path_add(struct json_object *out, const char *path, size_t i)
{
	char key[48];

	snprintf(key, sizeof(key), "block.%zu.path", i);
	if (path)
		js_put_str(out, key, path);
}

/* Add the backing files of a disk, which is number `i`, as further disks. Returns their number. */
static size_t backing_add(struct json_object *out, struct json_object *disk, size_t i)
{
	struct json_object *backing = js_get_array(disk, "backing");
	size_t n = backing ? json_object_array_length(backing) : 0;
	char key[48];

	for (size_t k = 1; k <= n; k++) {
		snprintf(key, sizeof(key), "block.%zu.name", i + k);
		js_put_str(out, key, js_get_str(disk, "id"));
		path_add(out, json_object_get_string(json_object_array_get_idx(backing, k - 1)), i + k);
		figure_put(out, (int64_t)k, "block.%zu.backingIndex", i + k);
	}
	return n;
}

static void block_add(struct json_object *out, struct json_object *info)
{
	static const struct figure all[] = { { "rd.reqs", "rd-reqs" }, { "rd.bytes", "rd-bytes" },
		{ "rd.times", "rd-ns" }, { "wr.reqs", "wr-reqs" }, { "wr.bytes", "wr-bytes" },
		{ "wr.times", "wr-ns" }, { "fl.reqs", "fl-reqs" }, { "fl.times", "fl-ns" },
		{ "errors", "errors" }, { "capacity", "size" } };
	static const char *const sizes[] = { "allocation", "physical" };
	struct json_object *disks = js_get_array(info, "disks");
	size_t n = 0;

	figure_put(out, 0, "block.count");
	for (size_t i = 0; disks && i < json_object_array_length(disks); i++, n++) {
		struct json_object *disk = json_object_array_get_idx(disks, i);

		element_add(out, disk, "block", n, "id", all, js_get(disk, "rd-reqs") ? ARRAY_SIZE(all) : 0); /* none while the VM is off */
		path_add(out, js_get_str(disk, "path"), n);
		for (size_t k = 0; k < ARRAY_SIZE(sizes); k++)
			if (js_get(disk, sizes[k]))
				figure_put(out, js_get_int(disk, sizes[k], 0), "block.%zu.%s", n, sizes[k]);
		disk_more_add(out, disk, n);
		n += backing_add(out, disk, n);
	}
	figure_put(out, (int64_t)n, "block.count");
}

/* Add the last measurement of domdirtyrate-calc. Without one, libvirt shows a running VM the status 0, too. */
static void dirty_rate_add(struct json_object *out, struct json_object *info)
{
	struct json_object *o = js_get(info, "dirty-rate");
	bool measured = o && js_get(o, "bytes-per-second");

	if (!js_get(info, "cpu-time"))
		return;
	figure_put(out, measured ? 2 : o ? 1 : 0, "dirtyrate.calc_status");
	figure_put(out, o ? js_get_int(o, "start-time", 0) : 0, "dirtyrate.calc_start_time");
	figure_put(out, o ? js_get_int(o, "seconds", 0) : 0, "dirtyrate.calc_period");
	if (measured)
		figure_put(out, js_get_int(o, "bytes-per-second", 0) / (1 << 20), "dirtyrate.megabytes_per_second");
	js_put_str(out, "dirtyrate.calc_mode", "page-sampling");
}

/* ---- domstats ---- */

static const struct group {
	const char *option;
	void (*add)(struct json_object *out, struct json_object *info);
} groups[] = { { "state", state_add }, { "cpu-total", cpu_add }, { "balloon", balloon_add },
	{ "vcpu", vcpu_add }, { "interface", net_add }, { "block", block_add }, { "dirtyrate", dirty_rate_add } };

/* Return whether the daemon has asked the VM's process for the space of the images. */
static bool space_is_known(struct json_object *disks)
{
	bool known = json_object_array_length(disks) == 0;

	for (size_t i = 0; !known && i < json_object_array_length(disks); i++)
		known = js_get(json_object_array_get_idx(disks, i), "physical") != NULL;
	return known;
}

/* Have the daemon ask the VM's process for the space of the images, and add that to the disks. A VM that has ended
 * meanwhile, or an older daemon, tells nothing. */
static void space_fetch(struct cli *c, const char *vm, struct json_object *disks)
{
	CLEANUP_JS struct json_object *answer = NULL;
	struct json_object *list;
	struct err e;

	if (cli_execute(c, "vm-space", cli_vm_args(vm), &answer, NULL, &e) < 0)
		return;
	list = js_get_array(answer, "disks");
	for (size_t i = 0; list && i < json_object_array_length(list); i++) {
		struct json_object *from = json_object_array_get_idx(list, i);
		int at = js_get(from, "physical") ? change_find(disks, "id", js_get_str_or(from, "id", "")) : -1;

		if (at < 0)
			continue;
		js_put(json_object_array_get_idx(disks, (size_t)at), "allocation", json_object_get(js_get(from, "allocation")));
		js_put(json_object_array_get_idx(disks, (size_t)at), "physical", json_object_get(js_get(from, "physical")));
	}
}

/* Complete the disks for block_add(): with --backing, they keep their backing files. */
static void disks_complete(struct cli *c, struct json_object *info)
{
	struct json_object *disks = js_get_array(info, "disks");

	if (disks && !option_flag(c, "nowait") && !space_is_known(disks))
		space_fetch(c, js_get_str(info, "name"), disks);
	for (size_t i = 0; disks && !option_flag(c, "backing") && i < json_object_array_length(disks); i++)
		json_object_object_del(json_object_array_get_idx(disks, i), "backing");
}

/* Collect the groups that the options select; without such an option, all. */
static struct json_object *stats_of(struct cli *c, struct json_object *info)
{
	struct json_object *out = json_object_new_object();
	bool chosen = false;

	for (size_t i = 0; i < ARRAY_SIZE(groups); i++)
		chosen = chosen || option_flag(c, groups[i].option);
	if (!chosen || option_flag(c, "block"))
		disks_complete(c, info);
	if (!chosen || option_flag(c, "block") || option_flag(c, "balloon"))
		cli_vm_info_complete(c, info);
	js_put_str(out, "name", js_get_str(info, "name"));
	for (size_t i = 0; i < ARRAY_SIZE(groups); i++)
		if (!chosen || option_flag(c, groups[i].option))
			groups[i].add(out, info);
	return out;
}

static void stats_print(struct json_object *stats)
{
	json_object_object_foreach(stats, key, value) {
		if (!strcmp(key, "name"))
			printf("Domain: '%s'\n", json_object_get_string(value));
		else
			printf("  %s=%s\n", key, json_object_get_string(value));
	}
	printf("\n");
}

/* Collect the statistics of the named VMs. Returns an exit code. */
static int named_add(struct cli *c, struct json_object *all)
{
	struct multi_vm f = { 0 };
	int code = multi_vm_pick(c, &f);

	for (size_t i = 0; i < f.n; i++) {
		CLEANUP_JS struct json_object *info = NULL;
		struct err e;

		if (cli_vm_info(c, f.list[i].name, &info, &e) < 0)
			code = cli_fail(&e, "failed to get stats of domain '%s'", f.list[i].name);
		else
			json_object_array_add(all, stats_of(c, info));
	}
	multi_vm_done(&f);
	return code;
}

/* Return whether a filter such as --list-running is given. */
static bool filter_is_given(const struct cli *c)
{
	static const char *const filters[] = { "list-active", "list-inactive", "list-running", "list-paused", "list-shutoff", "list-other" };

	for (size_t i = 0; i < ARRAY_SIZE(filters); i++)
		if (option_flag(c, filters[i]))
			return true;
	return false;
}

/* Filter by --list-active and --list-inactive, and by the state. Within each of the two, filters add up. */
static bool vm_wanted(const struct cli *c, struct json_object *info)
{
	static const struct {
		const char *word, *filter;
	} states[] = { { "running", "list-running" }, { "paused", "list-paused" }, { "shutoff", "list-shutoff" }, { "saved", "list-shutoff" } };
	const char *word = js_get_str_or(info, "word", ""), *filter = "list-other";
	bool active = option_flag(c, "list-active"), inactive = option_flag(c, "list-inactive");

	if (active != inactive && active != (js_get_int(info, "id", -1) >= 0))
		return false;
	for (size_t i = 0; i < ARRAY_SIZE(states); i++)
		if (!strcmp(states[i].word, word))
			filter = states[i].filter;
	return option_flag(c, filter) || !(option_flag(c, "list-running") || option_flag(c, "list-paused") || option_flag(c, "list-shutoff") ||
						 option_flag(c, "list-other"));
}

static int all_add(struct cli *c, struct json_object *all)
{
	CLEANUP_JS struct json_object *vms = NULL;
	struct err e;

	if (cli_vm_stats(c, &vms, &e) < 0)
		return cli_fail(&e, "Failed to list domains");
	for (size_t i = 0; i < json_object_array_length(vms); i++)
		if (vm_wanted(c, json_object_array_get_idx(vms, i)))
			json_object_array_add(all, stats_of(c, json_object_array_get_idx(vms, i)));
	return CLI_OK;
}

int cli_vm_stats(struct cli *c, struct json_object **ret_vms, struct err *e)
{
	return cli_fetch_all(c, "vm-stats", json_object_new_object(), "vms", "after", ret_vms, NULL, e);
}

int verb_domstats(struct cli *c)
{
	CLEANUP_JS struct json_object *all = json_object_new_array();
	int code;

	if (c->npos && filter_is_given(c))
		return cli_usage(c, "VMs and filters such as --list-running exclude each other");
	code = c->npos ? named_add(c, all) : all_add(c, all);
	if (c->format != CLI_TABLE && !code)
		output_print(stdout, c->format, all);
	for (size_t i = 0; c->format == CLI_TABLE && i < json_object_array_length(all); i++)
		stats_print(json_object_array_get_idx(all, i));
	return code;
}

/* ---- domdirtyrate-calc ---- */

int verb_domdirtyrate_calc(struct cli *c)
{
	CLEANUP_JS struct json_object *answer = NULL;
	const char *seconds = option_value(c, "seconds"), *mode = option_value(c, "mode");
	struct json_object *args;
	char *end = "";
	struct err e;

	if (mode && strcmp(mode, "page-sampling"))
		return cli_usage(c, "--mode must be page-sampling, not \"%s\"", mode);
	args = cli_vm_args(c->pos[0]);
	if (seconds)
		js_put_int(args, "seconds", strtol(seconds, &end, 10));
	if (*end || (seconds && !*seconds)) {
		json_object_put(args);
		return cli_usage(c, "--seconds must be a number of seconds, not \"%s\"", seconds);
	}
	if (cli_execute(c, "vm-calc-dirty-rate", args, &answer, NULL, &e) < 0)
		return cli_fail(&e, "Failed to measure the dirty rate of domain '%s'", c->pos[0]);
	say("Start to calculate domain's memory dirty rate successfully.\n");
	return CLI_OK;
}

/* ---- domifstat ---- */

/* Returns the counters with virsh's names, in its order. */
static struct json_object *interface_stats(struct json_object *o)
{
	static const struct figure all[] = { { "rx_bytes", "rx-bytes" }, { "rx_packets", "rx-packets" },
		{ "rx_errs", "rx-errors" }, { "rx_drop", "rx-drops" }, { "tx_bytes", "tx-bytes" },
		{ "tx_packets", "tx-packets" }, { "tx_errs", "tx-errors" }, { "tx_drop", "tx-drops" } };
	struct json_object *out = json_object_new_object();

	for (size_t i = 0; i < ARRAY_SIZE(all); i++)
		figure_put(out, js_get_int(o, all[i].from, 0), "%s", all[i].name);
	if (js_get(o, "egress")) {
		figure_put(out, js_get_int(js_get(o, "egress"), "denied-packets", 0), "egress_denied_packets");
		figure_put(out, js_get_int(js_get(o, "egress"), "denied-questions", 0), "egress_denied_names");
	}
	return out;
}

int verb_domifstat(struct cli *c)
{
	CLEANUP_JS struct json_object *info = NULL, *stats = NULL;
	struct json_object *list, *found = NULL;
	const char *vm = c->pos[0], *which = c->pos[1];
	struct err e;
	int r = cli_vm_info(c, vm, &info, &e);

	list = r < 0 ? NULL : js_get_array(info, "interfaces");
	if (!r && !list)
		r = err_set(&e, -EPERM, ERR_WRONG_STATE,
			"VM '%s' is %s and has no process that counts packets. Next: cairn start %s", vm,
			cli_vm_state(info), shell_word(vm).s);
	if (list)
		found = interface_find(list, which);
	if (list && !found)
		r = err_set(&e, -ENOENT, ERR_NOT_FOUND, "VM '%s' has no interface '%s'. Next: cairn domiflist %s", vm,
			which, shell_word(vm).s);
	if (r < 0)
		return cli_fail(&e, "Failed to get interface stats %s %s", vm, which);
	stats = interface_stats(found);
	if (c->format != CLI_TABLE) {
		output_print(stdout, c->format, stats);
		return CLI_OK;
	}
	json_object_object_foreach(stats, key, value)
		printf("%s %s %s\n", which, key, json_object_get_string(value));
	return CLI_OK;
}
