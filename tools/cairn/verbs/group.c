/* group-snapshot, group-revert: the snapshots of several VMs at one instant. group-clone: their clones. */
#include "api/wire/json.h"
#include "base/util.h"
#include "tools/cairn/cli.h"
#include "tools/cairn/forward.h"
#include "tools/cairn/job.h"
#include "tools/cairn/multi_vm.h"
#include "tools/cairn/output.h"
#include "tools/cairn/snapshot.h"
#include "tools/cairn/verbs/clone.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define GROUP_TAG "group:"

/* ---- group-snapshot ---- */

static void members_print(struct json_object *result)
{
	static const char *const heads[] = { "Name", "Instant", "Pause" };
	struct json_object *vms = js_get_array(result, "vms");
	struct table t;

	table_init(&t, heads, ARRAY_SIZE(heads));
	for (size_t i = 0; vms && i < json_object_array_length(vms); i++) {
		struct json_object *o = json_object_array_get_idx(vms, i);
		int64_t at = js_get_int(o, "instant", 0);
		char time[TIME_TEXT_BYTES], instant[TIME_TEXT_BYTES + 8] = "-", pause[24] = "-";

		if (at) {
			snprintf(instant, sizeof(instant), "%s.%06d", time_text(at, false, time), (int)(at / 1000 % 1000000));
			snprintf(pause, sizeof(pause), "%.1f ms", (double)js_get_int(o, "pause", 0) / 1e6);
		}
		table_add(&t, (const char *[]){ js_get_str_or(o, "vm", "?"), instant, pause });
	}
	table_finish(&t, stdout);
}

/* Add the names of the VMs that the command line names. Returns an exit code. */
static int vms_put(struct cli *c, struct json_object *args)
{
	struct json_object *names = json_object_new_array();
	struct multi_vm f;
	int r = multi_vm_pick(c, &f);

	for (size_t i = 0; i < f.n; i++)
		json_object_array_add(names, json_object_new_string(f.list[i].name));
	multi_vm_done(&f);
	js_put(args, "vms", names);
	return r;
}

int verb_group_snapshot(struct cli *c)
{
	CLEANUP_JS struct json_object *result = NULL;
	struct json_object *args = json_object_new_object();
	struct err e;
	int r = vms_put(c, args);

	js_put_str(args, "name", option_value(c, "name"));
	js_put_str(args, "description", option_value(c, "description"));
	js_put_bool(args, "quiesce", option_flag(c, "quiesce"));
	if (r) {
		json_object_put(args);
		return r;
	}
	r = job_run(c, "group-snapshot", args, -1, "Snapshots", &result, &e);
	if (r == -EINPROGRESS)
		return CLI_OK;
	if (r < 0)
		return cli_fail(&e, "Failed to create snapshots of the group");
	return job_result_print(c, result, members_print, "Domain snapshots %s created: %zu domains within %.3f ms, group %s",
		js_get_str(result, "name"), json_object_array_length(js_get_array(result, "vms")), (double)js_get_int(result, "spread", 0) / 1e6,
		js_get_str(result, "group"));
}

/* ---- group-revert ---- */

struct reverted {
	const char *snapshot; /* its name */
	struct multi_vm f;
	struct json_object *running; /* array: names of the VMs that ran in their snapshots */
	char group[64];		     /* the tag; "": not known yet */
};

/* Return the tag of the snapshot's group; NULL: it has none. */
static const char *group_of(struct json_object *snapshot)
{
	struct json_object *tags = js_get_array(snapshot, "tags");

	for (size_t i = 0; tags && i < json_object_array_length(tags); i++) {
		const char *tag = json_object_get_string(json_object_array_get_idx(tags, i));

		if (!strncmp(tag, GROUP_TAG, strlen(GROUP_TAG)))
			return tag;
	}
	return NULL;
}

/* Check that the VM has the group's snapshot, and note whether the VM ran in it. */
static int member_check(struct cli *c, struct reverted *g, const char *vm, struct err *e)
{
	CLEANUP_JS struct json_object *all = NULL;
	struct json_object *o;
	const char *group;
	int r = snapshots_fetch_all(c, vm, &all, e);

	if (r < 0)
		return r;
	o = snapshot_find(all, g->snapshot);
	if (!o)
		return snapshot_missing(vm, g->snapshot, e);
	group = group_of(o);
	if (!group)
		return err_set(e, -EINVAL, ERR_INVALID, "snapshot '%.100s' of VM '%.100s' belongs to no group; use cairn snapshot-revert", g->snapshot, vm);
	if (g->group[0] && strcmp(group, g->group) != 0)
		return err_set(e, -EINVAL, ERR_INVALID, "snapshot '%.100s' of VM '%.100s' belongs to another group, %s, than that of VM '%.100s'",
			g->snapshot, vm, group, g->f.list[0].name);
	snprintf(g->group, sizeof(g->group), "%s", group);
	if (!strcmp(js_get_str_or(o, "state", ""), "running"))
		json_object_array_add(g->running, json_object_new_string(vm));
	return 0;
}

static int member_revert(struct cli *c, const struct reverted *g, const char *vm, bool look_only, struct err *e)
{
	CLEANUP_JS struct json_object *result = NULL;
	struct json_object *args = cli_vm_args(vm);

	js_put_str(args, "name", g->snapshot);
	for (size_t i = 0; i < json_object_array_length(g->running); i++)
		if (!strcmp(json_object_get_string(json_object_array_get_idx(g->running, i)), vm))
			js_put_str(args, "then", "paused"); /* until all VMs are reverted */
	if (look_only)
		js_put_bool(args, "dry-run", true);
	return job_run(c, "snapshot-revert", args, -1, "Revert", &result, e);
}

/* Print which VMs were reverted before the VM with index n failed. */
static int failed_print(const struct reverted *g, size_t n, const struct err *e)
{
	int r = cli_fail(e, "Failed to revert domain '%s' to snapshot %s", g->f.list[n].name, g->snapshot);

	fprintf(stderr, n ? "error: These domains are reverted, and paused if they ran in the snapshot:" : "error: No domain was reverted");
	for (size_t i = 0; i < n; i++)
		fprintf(stderr, " '%s'", g->f.list[i].name);
	fprintf(stderr, "\n");
	return r;
}

/* Let the VMs run that ran in their snapshots. */
static int members_resume(struct cli *c, const struct reverted *g)
{
	int r = CLI_OK;
	struct err e;

	for (size_t i = 0; i < json_object_array_length(g->running); i++) {
		const char *vm = json_object_get_string(json_object_array_get_idx(g->running, i));

		if (cli_execute(c, "vm-resume", cli_vm_args(vm), NULL, NULL, &e) < 0)
			r = cli_fail(&e, "Domain '%s' is reverted to snapshot %s and paused; failed to resume it", vm, g->snapshot);
	}
	return r;
}

/* Revert none unless each could be reverted now; let none run before all are reverted. */
static int group_revert(struct cli *c, struct reverted *g)
{
	struct err e;

	for (size_t i = 0; i < g->f.n; i++)
		if (member_check(c, g, g->f.list[i].name, &e) < 0 || member_revert(c, g, g->f.list[i].name, true, &e) < 0)
			return cli_fail(&e, "Failed to revert domain '%s' to snapshot %s, so no domain was reverted", g->f.list[i].name, g->snapshot);
	for (size_t i = 0; i < g->f.n; i++)
		if (member_revert(c, g, g->f.list[i].name, false, &e) < 0)
			return failed_print(g, i, &e);
	return members_resume(c, g);
}

int verb_group_revert(struct cli *c)
{
	struct reverted g = { .snapshot = option_value(c, "name"), .running = json_object_new_array() };
	int r = g.snapshot ? multi_vm_pick(c, &g.f) : cli_usage(c, "group-revert needs --name with the name of the snapshots");

	if (!r)
		r = group_revert(c, &g);
	if (!r)
		say("%zu domains reverted to snapshots %s\n", g.f.n, g.snapshot);
	multi_vm_done(&g.f);
	json_object_put(g.running);
	return r;
}

/* ---- group-clone ---- */

static void pauses_print(struct json_object *result)
{
	struct json_object *clones = js_get_array(result, "clones");

	for (size_t i = 0; clones && i < json_object_array_length(clones); i++) {
		struct json_object *o = json_object_array_get_idx(clones, i);

		printf("%s: paused for %.1f ms\n", js_get_str_or(o, "vm", "?"), (double)js_get_int(o, "pause", 0) / 1e6);
	}
	printf("%.1f ms in all\n", (double)js_get_int(result, "total", 0) / 1e6);
}

static void clones_print(struct json_object *clones)
{
	for (size_t i = 0; clones && i < json_object_array_length(clones); i++) {
		struct json_object *o = json_object_array_get_idx(clones, i);

		say("Domain '%s' cloned as '%s'\n", js_get_str_or(o, "vm", "?"), js_get_str_or(o, "name", "?"));
		clone_forwards_print(js_get_array(o, "forwards-left-out"));
		clone_addresses_print(js_get_array(o, "addresses"));
		published_print(js_get_array(o, "published"));
	}
}

static void networks_print(struct json_object *networks)
{
	for (size_t i = 0; networks && i < json_object_array_length(networks); i++) {
		struct json_object *o = json_object_array_get_idx(networks, i);

		printf("Network '%s' in place of '%s' for the clones\n", js_get_str_or(o, "name", "?"), js_get_str_or(o, "source", "?"));
	}
}

static int network_put(struct cli *c, struct json_object *args)
{
	const char *which = option_value(c, "network");
	bool is_shared = which && !strcmp(which, "shared");

	if (which && !is_shared && strcmp(which, "own") != 0)
		return cli_usage(c, "--network must be own or shared, not \"%s\"", which);
	if (is_shared)
		js_put_bool(args, "keep-networks", true);
	return 0;
}

int verb_group_clone(struct cli *c)
{
	static const char *const flags[] = { "paused", "ephemeral", "isolated" };
	CLEANUP_JS struct json_object *result = NULL;
	struct json_object *args = json_object_new_object();
	struct err e;
	size_t n;
	int r = clone_limits_put(c, args);

	if (!r)
		r = vms_put(c, args);
	if (!r)
		r = network_put(c, args);
	js_put_str(args, "name-pattern", option_value(c, "name-pattern"));
	for (size_t i = 0; i < ARRAY_SIZE(flags); i++)
		if (option_flag(c, flags[i]))
			js_put_bool(args, flags[i], true);
	if (option_flag(c, "no-hostname"))
		js_put_bool(args, "hostname", false);
	if (r) {
		json_object_put(args);
		return r;
	}
	r = job_run(c, "group-clone", args, -1, "Clones", &result, &e);
	if (r == -EINPROGRESS)
		return CLI_OK;
	if (r < 0)
		return cli_fail(&e, "Failed to clone the group, so no domain was cloned");
	n = json_object_array_length(js_get_array(result, "clones"));
	if (c->format == CLI_TABLE) {
		clones_print(js_get_array(result, "clones"));
		networks_print(js_get_array(result, "networks"));
	}
	return job_result_print(c, result, pauses_print, "%zu domain%s cloned as of one instant, within %.3f ms", n, n == 1 ? "" : "s",
		(double)js_get_int(result, "spread", 0) / 1e6);
}
