/* clone: copy a VM that is off (vm-clone) or, with --live, a running one (vm-fork). promote: let a live clone
 * take its source's place. template: make a VM a template. */
#include "tools/cairn/cli.h"
#include "api/wire/json.h"
#include "base/cleanup.h"
#include "base/shell_word.h"
#include "base/size.h"
#include "tools/cairn/clone_seed.h"
#include "tools/cairn/forward.h"
#include "tools/cairn/job.h"
#include "tools/cairn/output.h"
#include "tools/cairn/verbs/clone.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int count_take(struct cli *c, struct json_object *args)
{
	const char *text = option_value(c, "count");
	char *end;
	long n = text ? strtol(text, &end, 10) : 0;

	if (text && (*end || end == text))
		return cli_usage(c, "--count must be a number, not \"%s\"", text);
	if (text)
		js_put_int(args, "count", n);
	return 0;
}

/* Read --cpus as a percentage of one processor; 0: not given. Returns an exit code. */
static int cpus_take(struct cli *c, int *ret_percent)
{
	const char *text = option_value(c, "cpus");
	char *end;
	double n = text ? strtod(text, &end) : 0;

	if (!text)
		return 0;
	if (*end || end == text || !(n >= 0.01 && n <= 256))
		return cli_usage(c, "--cpus must be a number of processors from 0.01 to 256, not \"%s\"", text);
	*ret_percent = (int)(n * 100 + 0.5);
	return 0;
}

/* Read --memory-max; 0: not given. Returns an exit code. */
static int memory_take(struct cli *c, uint64_t *ret_bytes)
{
	const char *text = option_value(c, "memory-max");

	if (text && (size_parse(text, 1, ret_bytes) < 0 || !*ret_bytes || *ret_bytes > INT64_MAX))
		return cli_usage(c, "--memory-max must be a size such as 512M, not \"%s\"", text);
	return 0;
}

int clone_limits_put(struct cli *c, struct json_object *args)
{
	uint64_t memory = 0;
	int quota = 0, r = publish_check(c);

	if (!r)
		r = cpus_take(c, &quota);
	if (!r)
		r = memory_take(c, &memory);
	if (r)
		return r;
	if (quota)
		js_put_int(args, "cpu-quota", quota);
	if (memory)
		js_put_uint(args, "memory-max", memory);
	publish_put(c, args);
	return 0;
}

void clone_forwards_print(struct json_object *list)
{
	for (size_t i = 0; list && i < json_object_array_length(list); i++)
		printf("not cloned: forward %s, which stays with the source\n",
			json_object_get_string(json_object_array_get_idx(list, i)));
}

void clone_addresses_print(struct json_object *list)
{
	for (size_t i = 0; list && i < json_object_array_length(list); i++) {
		struct json_object *o = json_object_array_get_idx(list, i);

		printf("%s: address %s in network '%s'\n", js_get_str_or(o, "name", "?"), js_get_str_or(o, "address", "?"),
			js_get_str_or(o, "network", "?"));
	}
}

/* Print which disks the live clone copied, and why: a copy takes time and space that the user may not expect. */
static void copies_print(struct json_object *list)
{
	char bytes[24];

	for (size_t i = 0; list && i < json_object_array_length(list); i++) {
		struct json_object *d = json_object_array_get_idx(list, i);

		if (!js_get_str(d, "reason"))
			continue;
		bytes_print((uint64_t)js_get_int(d, "bytes", 0), bytes);
		printf("copied: disk %s, %s for each clone (%s)\n", js_get_str_or(d, "id", "?"), bytes, js_get_str(d, "reason"));
	}
}

/* Print which disks the daemon flattens: until that job has ended, the clone's other jobs are refused. */
static void flattened_print(struct json_object *list)
{
	for (size_t i = 0; list && i < json_object_array_length(list); i++) {
		struct json_object *d = json_object_array_get_idx(list, i);
		int layers = (int)js_get_int(d, "flattened-layers", 0);

		if (layers)
			printf("flattened in the background: disk %s, which has %d layers; cairn jobs shows the progress\n",
				js_get_str_or(d, "id", "?"), layers);
	}
}

/* Print how the disks of live clones were made: "disks: vda overlay 192.0 KiB, vdb copy 2.0 MiB (raw image)". */
static void disks_print(struct json_object *list)
{
	char bytes[24];

	for (size_t i = 0; list && i < json_object_array_length(list); i++) {
		struct json_object *d = json_object_array_get_idx(list, i);

		bytes_print((uint64_t)js_get_int(d, "bytes", 0), bytes);
		printf("%s%s %s %s", i ? ", " : "disks: ", js_get_str_or(d, "id", "?"), js_get_str_or(d, "made", "?"), bytes);
		if (js_get_str(d, "reason"))
			printf(" (%s)", js_get_str(d, "reason"));
	}
	if (list && json_object_array_length(list))
		putchar('\n');
}

static void figures_print(struct json_object *o)
{
	char written[24];

	bytes_print((uint64_t)js_get_int(o, "ram-bytes-written", 0), written);
	if (!js_get(o, "ram-bytes-written")) {
		printf("%.1f ms in all\n", (double)js_get_int(o, "total", 0) / 1e6);
		return;
	}
	if (js_get_int(o, "pause", 0))
		printf("paused for %.1f ms, ", (double)js_get_int(o, "pause", 0) / 1e6);
	printf("%.1f ms in all; shared memory: %s\n", (double)js_get_int(o, "total", 0) / 1e6, written);
	disks_print(js_get_array(o, "disks"));
}

static int result_print(struct cli *c, struct json_object *o)
{
	const char *first = js_get_str(o, "first"), *last = js_get_str(o, "last");

	if (!first || !last || !strcmp(first, last))
		job_result_print(c, o, figures_print, "Domain '%s' cloned as '%s'", c->pos[0],
			first ? first : c->pos[1]);
	else
		job_result_print(c, o, figures_print, "Domain '%s' cloned %d times, as '%s' to '%s'",
			c->pos[0], (int)js_get_int(o, "count", 0), first, last);
	if (c->format == CLI_TABLE)
		clone_forwards_print(js_get_array(o, "forwards-left-out"));
	if (c->format == CLI_TABLE)
		clone_addresses_print(js_get_array(o, "addresses"));
	if (c->format == CLI_TABLE && !option_flag(c, "verbose"))
		copies_print(js_get_array(o, "disks"));
	if (c->format == CLI_TABLE)
		flattened_print(js_get_array(o, "disks"));
	return CLI_OK;
}

/* ---- clones of a VM that is off ---- */

static void texts_put(struct cli *c, struct json_object *args, const char *option, const char *key, bool paths)
{
	const char *values[CLI_GIVEN_MAX];
	size_t n = option_values(c, option, values, CLI_GIVEN_MAX);
	struct json_object *all = n ? json_object_new_array() : NULL;
	char cwd[PATH_MAX], path[2 * PATH_MAX];

	if (!n)
		return;
	if (!getcwd(cwd, sizeof(cwd)))
		cwd[0] = 0;
	for (size_t i = 0; i < n; i++) {
		snprintf(path, sizeof(path), "%s/%s", cwd, values[i]);
		json_object_array_add(all,
			json_object_new_string(paths && values[i][0] != '/' ? path : values[i]));
	}
	js_put(args, key, all);
}

static int plan_print(struct cli *c, struct json_object *o)
{
	static const char *const heads[] = { "Name", "Disk", "Path", "From" };
	struct json_object *all = js_get_array(o, "clones");
	struct table t;

	if (c->format != CLI_TABLE) {
		output_print(stdout, c->format, o);
		return CLI_OK;
	}
	table_init(&t, heads, 4);
	for (size_t i = 0; all && i < json_object_array_length(all); i++) {
		struct json_object *one = json_object_array_get_idx(all, i), *disks = js_get_array(one, "disks");
		size_t n = disks ? json_object_array_length(disks) : 0;

		if (!n)
			table_add(&t, (const char *const[]){ js_get_str(one, "name"), "-", "-", "-" });
		for (size_t k = 0; k < n; k++) {
			struct json_object *d = json_object_array_get_idx(disks, k);

			table_add(&t, (const char *const[]){ js_get_str(one, "name"), js_get_str(d, "id"),
				js_get_str(d, "path"), js_get_str(d, "from") });
		}
	}
	table_finish(&t, stdout);
	return CLI_OK;
}

static int dry_run(struct cli *c, struct json_object *args)
{
	CLEANUP_JS struct json_object *o = NULL;
	struct err e;

	js_put_bool(args, "dry-run", true);
	if (cli_execute(c, "vm-clone", args, &o, NULL, &e) < 0)
		return cli_fail(&e, "Failed to clone domain '%s'", c->pos[0]);
	return plan_print(c, o);
}

/* ---- seeds ---- */

/* List the names of the clones-to-be. The caller owns *ret. */
static int names_plan(struct cli *c, const char *command, struct json_object *args, struct json_object **ret, struct err *e)
{
	CLEANUP_JS struct json_object *o = NULL, *names = json_object_new_array(), *copy = NULL;
	int64_t n = js_get_int(args, "count", 0);
	struct json_object *all;
	char name[512];
	int r = 0;

	if (!strcmp(command, "vm-fork")) {
		snprintf(name, sizeof(name), "%s", c->pos[1]);
		for (int64_t i = 1; i <= n || (!n && i == 1); i++) {
			if (n)
				snprintf(name, sizeof(name), "%s-%lld", c->pos[1], (long long)i);
			json_object_array_add(names, json_object_new_string(name));
		}
	} else {
		if (json_object_deep_copy(args, &copy, NULL) < 0)
			return err_set_errno(e, -ENOMEM, "clone");
		js_put_bool(copy, "dry-run", true);
		r = cli_execute(c, command, STEAL_PTR(copy), &o, NULL, e);
		all = r < 0 ? NULL : js_get_array(o, "clones");
		for (size_t i = 0; all && i < json_object_array_length(all); i++)
			json_object_array_add(names, json_object_get(js_get(json_object_array_get_idx(all, i), "name")));
	}
	*ret = r < 0 ? NULL : STEAL_PTR(names);
	return r < 0 ? r : 0;
}

/* Before the clones are made, look that their seeds can be. The caller owns *ret_names. */
static int seeds_check(struct cli *c, const char *command, struct json_object *args, struct clone_seed *ret, struct json_object **ret_names,
	struct err *e)
{
	int r = clone_seed_find(c, c->pos[0], ret, e);

	if (!r)
		r = names_plan(c, command, args, ret_names, e);
	for (size_t i = 0; !r && i < json_object_array_length(*ret_names); i++)
		r = clone_seed_check(ret, json_object_get_string(json_object_array_get_idx(*ret_names, i)), e);
	return r;
}

static int seeds_make(struct cli *c, const struct clone_seed *s, struct json_object *names, struct err *e)
{
	int r = 0;

	for (size_t i = 0; !r && i < json_object_array_length(names); i++)
		r = clone_seed_make(c, s, json_object_get_string(json_object_array_get_idx(names, i)), option_flag(c, "no-hostname"), e);
	return r;
}

static int clones_make(struct cli *c, const char *command, struct json_object *args)
{
	CLEANUP_JS struct json_object *result = NULL;
	struct err e;
	int r = job_run(c, command, args, -1, "Clone", &result, &e);

	if (r < 0)
		return r == -EINPROGRESS ? CLI_OK : cli_fail(&e, "Failed to clone domain '%s'", c->pos[0]);
	if (c->format == CLI_TABLE)
		published_print(js_get_array(result, "published"));
	return result_print(c, result);
}

static int clone_with_seeds(struct cli *c, const char *command, struct json_object *args)
{
	CLEANUP_JS struct json_object *names = NULL;
	struct clone_seed seed = { .files = NULL };
	struct err e;
	int r = seeds_check(c, command, args, &seed, &names, &e), made = 0;

	if (r < 0) {
		json_object_put(args);
		r = cli_fail(&e, "Failed to clone domain '%s'", c->pos[0]);
	} else {
		r = clones_make(c, command, args);
		made = r ? 0 : seeds_make(c, &seed, names, &e);
	}
	if (made < 0)
		r = cli_fail(&e, "Failed to give the clones of domain '%s' seeds of their own", c->pos[0]);
	clone_seed_done(&seed);
	return r;
}

static int clone_run(struct cli *c, const char *command, struct json_object *args)
{
	return option_flag(c, "new-seed") ? clone_with_seeds(c, command, args) : clones_make(c, command, args);
}

static int clone_off(struct cli *c, struct json_object *args)
{
	if (option_flag(c, "linked"))
		js_put_str(args, "kind", "linked");
	if (option_flag(c, "snapshots"))
		js_put_bool(args, "snapshots", true);
	if (option_flag(c, "reset-identity"))
		js_put_bool(args, "reset-identity", true);
	js_put_str(args, "uuid", option_value(c, "uuid"));
	texts_put(c, args, "file", "files", true);
	texts_put(c, args, "mac", "macs", false);
	return option_flag(c, "dry-run") ? dry_run(c, args) : clone_run(c, "vm-clone", args);
}

/* Return whether the name has a number's place, such as %d or %02d. */
static bool is_pattern(const char *name)
{
	const char *at = strchr(name, '%');

	return at && at[1 + strspn(at + 1, "0123456789")] == 'd';
}

/* Refuse options that do not fit together, such as --paused without --live, or --linked with --live. */
static int options_check(struct cli *c)
{
	static const char *const off[] = { "full", "linked", "snapshots", "file", "mac", "uuid",
		"reset-identity", "dry-run", NULL };
	static const char *const only_live[] = { "paused", "ephemeral", "cpus", "memory-max", "publish", NULL };
	bool live = option_flag(c, "live");

	for (unsigned i = 0; live && off[i]; i++)
		if (option_flag(c, off[i]) || option_value(c, off[i]))
			return cli_usage(c, "--live and --%s exclude each other", off[i]);
	if (!live && option_value(c, "snapshotname"))
		return cli_usage(c, "--snapshotname requires --live. For a clone that is off: cairn export %s FILE "
			"--snapshotname %s, then cairn import FILE --name NAME",
			shell_word(c->pos[0]).s, shell_word(option_value(c, "snapshotname")).s);
	if (!live && option_flag(c, "isolated"))
		return cli_usage(c, "--isolated requires --live: use --full for independent disks");
	for (unsigned i = 0; !live && only_live[i]; i++)
		if (option_flag(c, only_live[i]) || option_value(c, only_live[i]))
			return cli_usage(c, "--%s requires --live: other clones are off", only_live[i]);
	if (live && option_flag(c, "new-seed") && option_value(c, "name-pattern"))
		return cli_usage(c, "with --live, --new-seed and --name-pattern exclude each other; give NAME and --count");
	if (option_flag(c, "new-seed") && option_flag(c, "no-wait"))
		return cli_usage(c, "--new-seed and --no-wait exclude each other: a seed is made when its clone exists");
	if (option_flag(c, "full") && option_flag(c, "linked"))
		return cli_usage(c, "--full and --linked exclude each other");
	if (!option_value(c, "name-pattern") && !option_flag(c, "auto-clone") && c->npos < 2)
		return cli_usage(c, "clone needs NAME, --name-pattern or --auto-clone");
	if (option_value(c, "name-pattern") && c->npos > 1)
		return cli_usage(c, "NAME and --name-pattern exclude each other");
	if (c->npos > 1 && is_pattern(c->pos[1]))
		return cli_usage(c, "NAME must not be a pattern; to number the clones: --name-pattern %s in place of NAME", shell_word(c->pos[1]).s);
	return 0;
}

static bool name_exists(struct json_object *vms, const char *name)
{
	for (size_t i = 0; i < json_object_array_length(vms); i++)
		if (!strcmp(js_get_str_or(json_object_array_get_idx(vms, i), "name", ""), name))
			return true;
	return false;
}

/* Choose virt-clone's name: web1-clone, and if that exists web1-clone1; the copy of web1-clone is web1-clone1, too.
 * Returns an exit code. */
static int name_generate(struct cli *c, char name[512])
{
	const char *end = strstr(c->pos[0], "-clone");
	size_t len = strlen(c->pos[0]);
	bool is_copy = end && end[6 + strspn(end + 6, "0123456789")] == 0;
	struct err e;

	if (!c->vms && cli_vm_list(c, true, &c->vms, NULL, &e) < 0)
		return cli_fail(&e, "Failed to clone domain '%s'", c->pos[0]);
	if (is_copy)
		len = (size_t)(end - c->pos[0]);
	snprintf(name, 512, "%.*s-clone", (int)len, c->pos[0]);
	for (unsigned i = 1; is_copy || name_exists(c->vms, name); i++, is_copy = false)
		snprintf(name, 512, "%.*s-clone%u", (int)len, c->pos[0], i);
	return CLI_OK;
}

int verb_clone(struct cli *c)
{
	struct json_object *args = cli_vm_args(c->pos[0]);
	char name[512];
	int r = options_check(c);

	if (!r && option_flag(c, "auto-clone") && c->npos < 2 && !option_value(c, "name-pattern")) {
		r = name_generate(c, name);
		c->pos[c->npos++] = name;
	}
	if (!r)
		r = count_take(c, args);
	if (!r)
		r = clone_limits_put(c, args);
	if (r) {
		json_object_put(args);
		return r;
	}
	if (c->npos > 1)
		js_put_str(args, "name", c->pos[1]);
	js_put_str(args, "name-pattern", option_value(c, "name-pattern"));
	if (!option_flag(c, "live"))
		return clone_off(c, args);
	if (option_flag(c, "ephemeral"))
		js_put_bool(args, "ephemeral", true);
	js_put_bool(args, "paused", option_flag(c, "paused"));
	if (option_flag(c, "isolated"))
		js_put_bool(args, "isolated", true);
	if (option_flag(c, "no-hostname"))
		js_put_bool(args, "hostname", false);
	js_put_str(args, "snapshot", option_value(c, "snapshotname"));
	return clone_run(c, "vm-fork", args);
}

/* ---- promote ---- */

int verb_promote(struct cli *c)
{
	struct json_object *args = cli_vm_args(c->pos[0]), *list;
	CLEANUP_JS struct json_object *o = NULL;
	struct err e;

	if (option_flag(c, "undo"))
		js_put_bool(args, "undo", true);
	if (cli_execute(c, "vm-promote", args, &o, NULL, &e) < 0)
		return cli_fail(&e, option_flag(c, "undo") ? "Failed to undo the promotion of domain '%s'" : "Failed to promote domain '%s'", c->pos[0]);
	if (c->format != CLI_TABLE) {
		output_print(stdout, c->format, o);
		return CLI_OK;
	}
	if (option_flag(c, "undo"))
		say("Promotion undone: '%s' is the former domain again, and the clone is '%s', which is off\n", js_get_str_or(o, "name", "?"),
			js_get_str_or(o, "old", "?"));
	else
		say("Domain '%s' promoted to '%s'; the former '%s' is off and named '%s'\n", c->pos[0], js_get_str_or(o, "name", "?"),
			js_get_str_or(o, "name", "?"), js_get_str_or(o, "old", "?"));
	list = js_get_array(o, "warnings");
	for (size_t i = 0; list && i < json_object_array_length(list); i++)
		fprintf(stderr, "warning: %s\n", json_object_get_string(json_object_array_get_idx(list, i)));
	return CLI_OK;
}

/* ---- template ---- */

int verb_template(struct cli *c)
{
	bool disable = option_flag(c, "disable");
	struct json_object *args = cli_vm_args(c->pos[0]);
	struct err e;

	js_put_bool(args, "disable", disable);
	if (cli_execute(c, "vm-template", args, NULL, NULL, &e) < 0)
		return cli_fail(&e, "Failed to make domain '%s' %s template", c->pos[0], disable ? "no" : "a");
	say("Domain '%s' is %s template\n", c->pos[0], disable ? "no longer a" : "a");
	return CLI_OK;
}
