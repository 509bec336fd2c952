/* snapshot-create, -create-as, -revert, -delete, -rename and -tag: the verbs that change snapshots. */
#include "tools/cairn/cli.h"
#include "api/wire/json.h"
#include "base/shell_word.h"
#include "base/size.h"
#include "base/util.h"
#include "tools/cairn/definition_file.h"
#include "tools/cairn/job.h"
#include "tools/cairn/multi_vm.h"
#include "tools/cairn/output.h"
#include "tools/cairn/snapshot.h"
#include "tools/cairn/verbs/snapshot_external.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define TAGS_MAX 32

/* ---- snapshot-create, snapshot-create-as ---- */

static double member_milliseconds(struct json_object *o, const char *key)
{
	return (double)js_get_int(o, key, 0) / 1e6;
}

static void figures_print(struct json_object *o)
{
	char written[24], shared[24];

	bytes_print((uint64_t)js_get_int(o, "ram-bytes-written", 0), written);
	bytes_print((uint64_t)js_get_int(o, "ram-bytes-shared", 0), shared);
	printf("paused for %.1f ms, %.1f ms in all; memory: %s written, %s shared with the previous "
	       "snapshot\n", member_milliseconds(o, "pause"), member_milliseconds(o, "total"), written, shared);
}


/* Return the tags of all --tag options. Commas separate the tags of one option. */
static struct json_object *tags_arg(struct cli *c)
{
	struct json_object *list = json_object_new_array();
	const char *values[TAGS_MAX];
	size_t n = option_values(c, "tag", values, TAGS_MAX);

	for (size_t i = 0; i < n; i++)
		for (const char *p = values[i]; *p;) {
			size_t len = strcspn(p, ",");

			if (len)
				json_object_array_add(list, json_object_new_string_len(p, (int)len));
			p += len + (p[len] == ',');
		}
	return list;
}

static size_t create_vms(const struct cli *c)
{
	return option_flag(c, "all") ? 0 : 1;
}

/* Is the name given as an option? The positional after the VM is then the description. */
static bool name_is_option(const struct cli *c)
{
	return option_value(c, "name") || option_value(c, "snapshotname");
}

/* Parse --rate, in bytes a second; 0: no limit. Returns 0 or -EINVAL. */
static int rate_arg(const struct cli *c, uint64_t *ret_rate)
{
	const char *s = option_value(c, "rate");

	*ret_rate = 0;
	return s && size_parse(s, 1, ret_rate) == -EINVAL ? -EINVAL : 0;
}

static const char *create_name(const struct cli *c)
{
	const char *name = option_value(c, "name");

	if (!name)
		name = option_value(c, "snapshotname");
	return name || create_vms(c) >= c->npos ? name : c->pos[create_vms(c)];
}

static void create_add(struct cli *c, struct json_object *args)
{
	const char *name = option_value(c, "name"), *description = option_value(c, "description");
	size_t at = create_vms(c);
	uint64_t rate;

	if (!name)
		name = option_value(c, "snapshotname");
	if (!name && at < c->npos)
		name = c->pos[at++];
	if (!description && at < c->npos)
		description = c->pos[at];
	js_put_str(args, "name", name);
	js_put_str(args, "description", description);
	js_put(args, "tags", tags_arg(c));
	js_put_bool(args, "disks-only", option_flag(c, "disk-only"));
	js_put_bool(args, "halt", option_flag(c, "halt"));
	js_put_bool(args, "quiesce", option_flag(c, "quiesce"));
	if (!rate_arg(c, &rate) && rate)
		js_put_uint(args, "rate", MIN(rate, (uint64_t)INT64_MAX));
}

static int create_many(struct cli *c)
{
	static const struct multi_vm_act a = { .command = "snapshot-create", .fail = "create a snapshot of",
		.done = "has a new snapshot", .add = create_add, .job = true };
	struct cli whom = *c;
	struct multi_vm f;
	int r;

	if (option_flag(c, "no-wait"))
		return cli_usage(c, "--no-wait accepts only one VM");
	whom.npos = create_vms(c);
	r = multi_vm_pick(&whom, &f);
	c->client = whom.client;
	if (!r)
		r = multi_vm_run(c, &f, &a);
	multi_vm_done(&f);
	return r;
}

static int snapshot_create(struct cli *c)
{
	CLEANUP_JS struct json_object *result = NULL;
	struct json_object *args;
	struct err e;
	uint64_t rate;
	int r;

	if (rate_arg(c, &rate) < 0)
		return cli_usage(c, "--rate must be a number of bytes a second, such as 500K or 100M");
	if (multi_vm_is_meant(c, true))
		return create_many(c);
	args = cli_vm_args(c->pos[0]);
	create_add(c, args);
	r = job_run(c, "snapshot-create", args, -1, "Snapshot", &result, &e);
	if (r == -EINPROGRESS)
		return CLI_OK;
	if (r < 0)
		return cli_fail(&e, "Failed to create a snapshot of domain '%s'", c->pos[0]);
	r = job_result_print(c, result, figures_print, "Domain snapshot %s created",
		js_get_str(result, "name"));
	job_left_out_print(c, result, "read-only");
	return r;
}

int verb_snapshot_create(struct cli *c)
{
	return snapshot_create(c);
}

int verb_snapshot_create_as(struct cli *c)
{
	size_t at = create_vms(c) + !name_is_option(c);

	if (c->npos > at + 1)
		return cli_usage(c, "%s does not take \"%s\"", c->verb->name, c->pos[at + 1]);
	if (snapshot_is_external(c))
		return snapshot_external(c, create_name(c));
	if (option_flag(c, "reuse-external"))
		return cli_usage(c, "--reuse-external needs --external");
	return snapshot_create(c);
}

/* ---- snapshot-revert ---- */

static int revert_args(struct cli *c, struct json_object *args)
{
	const char *name = snapshot_name_arg(c);
	bool running = option_flag(c, "running"), paused = option_flag(c, "paused");

	if (!name == !option_flag(c, "current"))
		return cli_usage(c, "snapshot-revert needs the name of a snapshot, or --current");
	if (running && paused)
		return cli_usage(c, "--running and --paused exclude each other");
	js_put_str(args, "name", name);
	js_put_str(args, "disk", option_value(c, "disk"));
	if (running || paused)
		js_put_str(args, "then", paused ? "paused" : "running");
	for (size_t i = 0; i < 4; i++) {
		static const char *const flags[] = { "disks-only", "eager", "verify", "dry-run" };

		js_put_bool(args, flags[i], option_flag(c, flags[i]));
	}
	return 0;
}

static int would_revert_print(struct cli *c, struct json_object *result)
{
	struct json_object *disks = js_get_array(result, "disks-lost");
	const char *state = js_get_str(result, "state");
	bool off = state && !strcmp(state, "shutoff");

	if (c->format != CLI_TABLE) {
		output_print(stdout, c->format, result);
		return CLI_OK;
	}
	printf("Would revert domain '%s' to snapshot %s\n  lost: the present content of these disks:", c->pos[0],
		js_get_str(result, "name"));
	for (size_t i = 0; disks && i < json_object_array_length(disks); i++)
		printf(" %s", json_object_get_string(json_object_array_get_idx(disks, i)));
	printf("\n%s  %sstate afterwards: %s\n",
		js_get_bool(result, "memory-lost", false) ? "  lost: the present content of the memory\n" : "",
		js_get_bool(result, "stopped", false) ? "the domain is stopped; " : "", off ? "off" : state);
	return CLI_OK;
}

/* Print why the revert has ended the VM's process. */
static void stopped_print(struct cli *c, struct json_object *result)
{
	if (option_flag(c, "disks-only"))
		say("Domain '%s' was stopped: only the disks are reverted\n", c->pos[0]);
	else if (strcmp(js_get_str_or(result, "state", ""), "shutoff"))
		say("Domain '%s' continues in a new process\n", c->pos[0]);
	else
		say("Domain '%s' was stopped: the snapshot has no memory\n", c->pos[0]);
}

int verb_snapshot_revert(struct cli *c)
{
	CLEANUP_JS struct json_object *result = NULL;
	struct json_object *args = cli_vm_args(c->pos[0]);
	const char *name = snapshot_name_arg(c);
	struct err e;
	int r = revert_args(c, args);

	if (r) {
		json_object_put(args);
		return r;
	}
	r = job_run(c, "snapshot-revert", args, -1, "Revert", &result, &e);
	if (r == -EINPROGRESS)
		return CLI_OK;
	if (r < 0)
		snapshot_external_explain(c, name, "revert", &e);
	if (r < 0)
		return cli_fail(&e, "Failed to revert domain '%s' to %s%s", c->pos[0],
			name ? "snapshot " : "its current snapshot", name ? name : "");
	warnings_print(js_get_array(result, "warnings"));
	if (option_flag(c, "dry-run"))
		return would_revert_print(c, result);
	if (js_get_bool(result, "stopped", false) && c->format == CLI_TABLE)
		stopped_print(c, result);
	return job_result_print(c, result, NULL, "Domain snapshot %s reverted",
		js_get_str(result, "name"));
}

/* ---- snapshot-delete ---- */

static void deleted_print(struct json_object *o)
{
	struct json_object *list = js_get_array(o, "deleted");
	size_t count = (size_t)js_get_int(o, "count", 0);

	for (size_t i = 0; list && i < json_object_array_length(list); i++)
		printf("%s\n", json_object_get_string(json_object_array_get_idx(list, i)));
	if (list && count > json_object_array_length(list))
		printf("and %zu more\n", count - json_object_array_length(list));
}

/* Add the space that becomes free. It is known only for a single snapshot, because several snapshots may share
 * space. */
static void freed_add(struct cli *c, struct json_object *result)
{
	struct json_object *list = js_get_array(result, "deleted"), *args;
	CLEANUP_JS struct json_object *size = NULL;
	struct err e;

	if (js_get_int(result, "count", 0) != 1 || !list || json_object_array_length(list) != 1)
		return;
	args = cli_vm_args(c->pos[0]);
	js_put(args, "name", json_object_get(json_object_array_get_idx(list, 0)));
	if (cli_execute(c, "snapshot-size", args, &size, NULL, &e) == 0)
		js_put(result, "own-size", json_object_get(js_get(size, "own-size")));
}

static int would_delete_print(struct cli *c, struct json_object *result)
{
	char freed[24];

	freed_add(c, result);
	if (c->format != CLI_TABLE) {
		output_print(stdout, c->format, result);
		return CLI_OK;
	}
	printf("Would delete these snapshots of domain '%s':\n", c->pos[0]);
	deleted_print(result);
	if (js_get(result, "own-size")) {
		bytes_print((uint64_t)js_get_int(result, "own-size", 0), freed);
		printf("That frees %s\n", freed);
	}
	return CLI_OK;
}

int verb_snapshot_delete(struct cli *c)
{
	CLEANUP_JS struct json_object *result = NULL;
	const char *name = snapshot_name_arg(c);
	bool too = option_flag(c, "children"), only = option_flag(c, "children-only");
	struct json_object *args;
	struct err e;
	int r;

	if (!name == !option_flag(c, "current"))
		return cli_usage(c, "snapshot-delete needs the name of a snapshot, or --current");
	if (too && only)
		return cli_usage(c, "--children and --children-only exclude each other");
	args = cli_vm_args(c->pos[0]);
	js_put_str(args, "name", name ? name : "");
	js_put_bool(args, "dry-run", option_flag(c, "dry-run"));
	if (too || only)
		js_put_str(args, "children", only ? "only" : "too");
	r = job_run(c, "snapshot-delete", args, -1, "Delete", &result, &e);
	if (r == -EINPROGRESS)
		return CLI_OK;
	if (r < 0)
		snapshot_external_explain(c, name, "delete", &e);
	if (r < 0)
		return cli_fail(&e, "Failed to delete %s%s", name ? "snapshot " : "the current snapshot", name ? name : "");
	if (option_flag(c, "dry-run"))
		return would_delete_print(c, result);
	r = job_result_print(c, result, deleted_print,
		only ? "Domain snapshot %s children deleted" : "Domain snapshot %s deleted",
		js_get_str(result, "name"));
	job_left_out_print(c, result, "the domain lacks them now, and the snapshot stays in their images");
	return r;
}

/* ---- snapshot-rename, snapshot-tag ---- */

/* Returns the index of the first positional after VM and NAME; with --snapshotname, after VM. */
static size_t behind_name(const struct cli *c)
{
	return option_value(c, "snapshotname") ? 1 : 2;
}

int verb_snapshot_rename(struct cli *c)
{
	const char *name = snapshot_name_arg(c);
	size_t at = behind_name(c);
	struct json_object *args;
	struct err e;

	if (c->npos != at + 1)
		return cli_usage(c, "snapshot-rename needs VM NAME NEW");
	args = cli_vm_args(c->pos[0]);
	js_put_str(args, "name", name);
	js_put_str(args, "new-name", c->pos[at]);
	if (cli_execute(c, "snapshot-set", args, NULL, NULL, &e) < 0)
		return cli_fail(&e, "Failed to rename snapshot %s", name);
	say("Domain snapshot %s renamed to %s\n", name, c->pos[at]);
	return CLI_OK;
}

static bool tag_named(struct cli *c, const char *tag)
{
	for (size_t i = behind_name(c); i < c->npos; i++)
		if (!strcmp(c->pos[i], tag))
			return true;
	return false;
}

/* Returns the present tags without the named ones, plus the named ones unless `remove` is set. */
static struct json_object *tags_change(struct cli *c, struct json_object *had, bool remove)
{
	struct json_object *list = json_object_new_array();

	for (size_t i = 0; had && i < json_object_array_length(had); i++) {
		struct json_object *tag = json_object_array_get_idx(had, i);

		if (!tag_named(c, json_object_get_string(tag)))
			json_object_array_add(list, json_object_get(tag));
	}
	for (size_t i = behind_name(c); !remove && i < c->npos; i++)
		json_object_array_add(list, json_object_new_string(c->pos[i]));
	return list;
}

/* Check that the snapshot has the tags to remove: a tag such as keep protects it. */
static int tags_check(struct cli *c, const char *name, struct json_object *had, struct err *e)
{
	for (size_t i = behind_name(c); i < c->npos; i++) {
		size_t k = 0, n = had ? json_object_array_length(had) : 0;

		while (k < n && strcmp(json_object_get_string(json_object_array_get_idx(had, k)), c->pos[i]))
			k++;
		if (k == n)
			return err_set(e, -ENOENT, ERR_NOT_FOUND, "snapshot '%.100s' has no tag '%.60s'. Next: cairn snapshot-tag %s %s", name,
				c->pos[i], shell_word(c->pos[0]).s, shell_word(name).s);
	}
	return 0;
}

int verb_snapshot_tag(struct cli *c)
{
	CLEANUP_JS struct json_object *all = NULL;
	struct json_object *o = NULL, *had, *args;
	const char *name = snapshot_name_arg(c);
	bool remove = option_flag(c, "remove"), print = c->npos == behind_name(c);
	struct err e;
	int r;

	if (!name)
		return cli_usage(c, "snapshot-tag needs VM NAME");
	if (remove && print)
		return cli_usage(c, "--remove needs the tags to remove");
	r = snapshots_fetch_all(c, c->pos[0], &all, &e);
	if (!r && !(o = snapshot_find(all, name)))
		r = snapshot_missing(c->pos[0], name, &e);
	had = js_get_array(o, "tags");
	if (!r && remove)
		r = tags_check(c, name, had, &e);
	if (r < 0)
		return cli_fail(&e, "Failed to %s snapshot %s", remove ? "untag" : "tag", name);
	for (size_t i = 0; print && had && i < json_object_array_length(had); i++)
		printf("%s\n", json_object_get_string(json_object_array_get_idx(had, i)));
	if (print)
		return CLI_OK;
	args = cli_vm_args(c->pos[0]);
	js_put_str(args, "name", name);
	js_put(args, "tags", tags_change(c, had, remove));
	if (cli_execute(c, "snapshot-set", args, NULL, NULL, &e) < 0)
		return cli_fail(&e, "Failed to %s snapshot %s", remove ? "untag" : "tag", name);
	say("Domain snapshot %s %s\n", name, remove ? "untagged" : "tagged");
	return CLI_OK;
}
