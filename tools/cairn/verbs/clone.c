/* clone: copy a VM that is off (vm-clone) or, with --live, a running one (vm-fork). template: make a VM a template. */
#include "tools/cairn/cli.h"
#include "api/wire/json.h"
#include "tools/cairn/forward.h"
#include "tools/cairn/job.h"
#include "tools/cairn/output.h"

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

/* List the forwards of the source that the clone lacks. */
static void forwards_print(struct json_object *list)
{
	for (size_t i = 0; list && i < json_object_array_length(list); i++)
		printf("not cloned: forward %s, which stays with the source\n",
			json_object_get_string(json_object_array_get_idx(list, i)));
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
		forwards_print(js_get_array(o, "forwards-left-out"));
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

/* Give each live clone the forwards of --publish. list: gets an object for each. Returns an exit code. */
static int clones_publish(struct cli *c, struct json_object *list)
{
	long n = option_value(c, "count") ? strtol(option_value(c, "count"), NULL, 10) : 0;
	char name[512];
	int r = n ? 0 : publish_all(c, c->pos[1], list);

	for (long i = 1; i <= n && !r; i++) {
		snprintf(name, sizeof(name), "%s-%ld", c->pos[1], i);
		r = publish_all(c, name, list);
	}
	return r;
}

static int clone_run(struct cli *c, const char *command, struct json_object *args)
{
	CLEANUP_JS struct json_object *result = NULL;
	struct json_object *published = json_object_new_array();
	struct err e;
	int r = job_run(c, command, args, -1, "Clone", &result, &e), published_r;

	if (r < 0) {
		json_object_put(published);
		return r == -EINPROGRESS ? CLI_OK : cli_fail(&e, "Failed to clone domain '%s'", c->pos[0]);
	}
	published_r = clones_publish(c, published);
	if (json_object_array_length(published))
		js_put(result, "published", json_object_get(published));
	json_object_put(published);
	r = result_print(c, result);
	return published_r ? published_r : r;
}

static int clone_off(struct cli *c, struct json_object *args)
{
	if (option_flag(c, "linked"))
		js_put_str(args, "kind", "linked");
	js_put_str(args, "name-pattern", option_value(c, "name-pattern"));
	if (option_flag(c, "snapshots"))
		js_put_bool(args, "snapshots", true);
	if (option_flag(c, "reset-identity"))
		js_put_bool(args, "reset-identity", true);
	js_put_str(args, "uuid", option_value(c, "uuid"));
	texts_put(c, args, "file", "files", true);
	texts_put(c, args, "mac", "macs", false);
	return option_flag(c, "dry-run") ? dry_run(c, args) : clone_run(c, "vm-clone", args);
}

/* Refuse options that do not fit together, such as --paused without --live, or --linked with --live. */
static int options_check(struct cli *c)
{
	static const char *const off[] = { "full", "linked", "name-pattern", "snapshots", "file", "mac", "uuid",
		"reset-identity", "dry-run", NULL };
	bool live = option_flag(c, "live");

	for (unsigned i = 0; live && off[i]; i++)
		if (option_flag(c, off[i]) || option_value(c, off[i]))
			return cli_usage(c, "--live and --%s exclude each other", off[i]);
	if (!live && option_value(c, "snapshotname"))
		return cli_usage(c, "--snapshotname requires --live. For a clone that is off: cairn export %s FILE "
			"--snapshotname %s, then cairn import FILE --name NAME",
			c->pos[0], option_value(c, "snapshotname"));
	if (!live && option_flag(c, "paused"))
		return cli_usage(c, "--paused requires --live: other clones are off");
	if (!live && option_flag(c, "isolated"))
		return cli_usage(c, "--isolated requires --live: use --full for independent disks");
	if (!live && option_value(c, "publish"))
		return cli_usage(c, "--publish requires --live: other clones are off");
	if (option_value(c, "publish") && option_flag(c, "no-wait"))
		return cli_usage(c, "--publish and --no-wait exclude each other: the clones' forwards are added when they run");
	if (publish_check(c))
		return CLI_USAGE;
	if (option_flag(c, "full") && option_flag(c, "linked"))
		return cli_usage(c, "--full and --linked exclude each other");
	if (!option_value(c, "name-pattern") && c->npos < 2)
		return cli_usage(c, "clone needs NAME or --name-pattern");
	if (option_value(c, "name-pattern") && c->npos > 1)
		return cli_usage(c, "NAME and --name-pattern exclude each other");
	return 0;
}

int verb_clone(struct cli *c)
{
	struct json_object *args = cli_vm_args(c->pos[0]);
	int r = options_check(c);

	if (!r)
		r = count_take(c, args);
	if (r) {
		json_object_put(args);
		return r;
	}
	if (c->npos > 1)
		js_put_str(args, "name", c->pos[1]);
	if (!option_flag(c, "live"))
		return clone_off(c, args);
	js_put_bool(args, "paused", option_flag(c, "paused"));
	if (option_flag(c, "isolated"))
		js_put_bool(args, "isolated", true);
	if (option_flag(c, "no-hostname"))
		js_put_bool(args, "hostname", false);
	js_put_str(args, "snapshot", option_value(c, "snapshotname"));
	return clone_run(c, "vm-fork", args);
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
	printf("Domain '%s' is %s template\n", c->pos[0], disable ? "no longer a" : "a");
	return CLI_OK;
}
