/* snapshot-diff: show the differences between two snapshots. */
#include "tools/cairn/cli.h"
#include "api/wire/json.h"
#include "base/util.h"
#include "tools/cairn/job.h"
#include "tools/cairn/output.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LIMIT_DEFAULT 1000
#define SYSTEM_NAME 40

/* Returns the greatest number of lines; 0: no limit; -1 after an error message. */
static long limit_take(const struct cli *c)
{
	const char *v = option_value(c, "limit");
	char *end = NULL;
	long n = v ? strtol(v, &end, 10) : LIMIT_DEFAULT;

	if (n >= 0 && n < INT_MAX && (!v || (*v && !*end)))
		return n;
	cli_usage(c, "--limit must be a number; 0 means no limit");
	return -1;
}

static struct json_object *args_make(const struct cli *c)
{
	struct json_object *args = cli_vm_args(c->pos[0]);

	js_put_str(args, "from", c->pos[1]);
	js_put_str(args, "to", c->npos > 2 ? c->pos[2] : NULL);
	js_put_str(args, "disk", option_value(c, "disk"));
	if (option_flag(c, "extents"))
		js_put_bool(args, "extents", true);
	return args;
}

/* Run jobs until they have listed all, or `limit` entries (0: no limit), and join the pages in the first result, whose
 * member `next` tells where a further page would begin. Each page is a job of its own. */
static int pages_run(struct cli *c, struct json_object *args, size_t limit, struct json_object **ret, struct err *e)
{
	struct json_object *all = NULL;
	int r;

	for (;;) {
		CLEANUP_JS struct json_object *page = NULL;
		struct json_object *list;

		if (limit)
			js_put_uint(args, "limit", limit - (all ? json_object_array_length(all) : 0));
		r = job_run(c, option_flag(c, "files") ? "snapshot-diff-files" : "snapshot-diff", json_object_get(args), -1, "Compare", &page, e);
		if (r < 0)
			return r;
		list = js_get_array(page, "list");
		if (!*ret) {
			*ret = json_object_get(page);
			all = list;
		} else {
			for (size_t i = 0; list && i < json_object_array_length(list); i++)
				json_object_array_add(all, json_object_get(json_object_array_get_idx(list, i)));
			json_object_object_del(*ret, "next");
			js_put_str(*ret, "next", js_get_str(page, "next"));
		}
		if (!all || !js_get_str(page, "next") || (limit && json_object_array_length(all) >= limit))
			return 0;
		js_put_str(args, "page", js_get_str(page, "next"));
	}
}

/* ---- tables ---- */

static void disks_print(struct json_object *result)
{
	static const char *const heads[] = { "Disk", "Differs", "Bytes", "Extents" };
	struct json_object *disks = js_get_array(result, "disks");
	struct table t;

	table_init(&t, heads, ARRAY_SIZE(heads));
	for (size_t i = 0; disks && i < json_object_array_length(disks); i++) {
		struct json_object *o = json_object_array_get_idx(disks, i);
		char size[24], bytes[24], extents[24];

		if (js_get_str(o, "reason"))
			continue;
		bytes_print((uint64_t)js_get_int(o, "bytes", 0), size);
		snprintf(bytes, sizeof(bytes), "%lld", (long long)js_get_int(o, "bytes", 0));
		snprintf(extents, sizeof(extents), "%lld", (long long)js_get_int(o, "extents", 0));
		table_add(&t, (const char *const[]){ js_get_str_or(o, "id", ""), size, bytes, extents });
	}
	table_finish(&t, stdout);
	for (size_t i = 0; disks && i < json_object_array_length(disks); i++) {
		struct json_object *o = json_object_array_get_idx(disks, i);

		if (js_get_str(o, "reason"))
			fprintf(stderr, "note: %s was not compared: %s\n", js_get_str_or(o, "id", ""), js_get_str(o, "reason"));
	}
}

static void extents_print(struct json_object *list)
{
	static const char *const heads[] = { "Disk", "Start", "Bytes", "Content" };
	struct table t;

	table_init(&t, heads, ARRAY_SIZE(heads));
	for (size_t i = 0; i < json_object_array_length(list); i++) {
		struct json_object *o = json_object_array_get_idx(list, i);
		char start[24], bytes[24];

		snprintf(start, sizeof(start), "%lld", (long long)js_get_int(o, "start", 0));
		snprintf(bytes, sizeof(bytes), "%lld", (long long)js_get_int(o, "bytes", 0));
		table_add(&t, (const char *const[]){ js_get_str_or(o, "disk", ""), start, bytes, js_get_bool(o, "zero", false) ? "zeros" : "data" });
	}
	table_finish(&t, stdout);
}

/* Write "vda1", or "vda" if the file system takes the whole disk. */
static void system_name(struct json_object *o, char buf[SYSTEM_NAME])
{
	long long partition = js_get_int(o, "partition", 0);

	snprintf(buf, SYSTEM_NAME, partition ? "%.15s%lld" : "%.15s", js_get_str_or(o, "disk", ""), partition);
}

static void sizes_print(struct json_object *o)
{
	int64_t before = js_get_int(o, "size-before", -1), now = js_get_int(o, "size", -1);

	if (before >= 0 && now >= 0 && before != now)
		printf("  %lld -> %lld", (long long)before, (long long)now);
	else
		printf("  %lld", (long long)(now >= 0 ? now : before));
}

static void files_print(struct json_object *list)
{
	for (size_t i = 0; i < json_object_array_length(list); i++) {
		struct json_object *o = json_object_array_get_idx(list, i), *what = js_get_array(o, "what");
		const char *change = js_get_str_or(o, "change", "");
		char name[SYSTEM_NAME];

		system_name(o, name);
		printf("%c %s:%s", !strcmp(change, "added") ? '+' : !strcmp(change, "removed") ? '-' : '~', name, js_get_str_or(o, "path", ""));
		if (!strcmp(js_get_str_or(o, "kind", ""), "folder"))
			printf("/");
		else
			sizes_print(o);
		for (size_t k = 0; what && k < json_object_array_length(what); k++)
			printf("%s%s", k ? ", " : "  ", json_object_get_string(json_object_array_get_idx(what, k)));
		printf("\n");
	}
}

static void filesystems_print(struct json_object *list)
{
	for (size_t i = 0; list && i < json_object_array_length(list); i++) {
		struct json_object *o = json_object_array_get_idx(list, i);
		const char *reason = js_get_str(o, "reason");
		long long damaged = js_get_int(o, "damaged", 0);
		char name[SYSTEM_NAME];

		system_name(o, name);
		if (reason)
			fprintf(stderr, "note: %s: %s\n", name, reason);
		if (js_get_bool(o, "needs-recovery", false))
			fprintf(stderr, "note: %s: the journal was not replayed, so the last changes may be missing\n", name);
		if (damaged)
			fprintf(stderr, "note: %s: %lld files or folders could not be read\n", name, damaged);
	}
}

static void result_print(struct json_object *result)
{
	struct json_object *list = js_get_array(result, "list");

	disks_print(result);
	if (list && js_get_array(result, "filesystems"))
		files_print(list);
	else if (list)
		extents_print(list);
	filesystems_print(js_get_array(result, "filesystems"));
	if (js_get_str(result, "next"))
		fprintf(stderr, "note: more follows; see all with --limit 0\n");
}

int verb_snapshot_diff(struct cli *c)
{
	CLEANUP_JS struct json_object *args = NULL, *result = NULL;
	struct err e;
	long limit = limit_take(c);
	int r;

	if (limit < 0)
		return CLI_USAGE;
	if (option_flag(c, "files") && option_flag(c, "extents"))
		return cli_usage(c, "--files excludes --extents");
	args = args_make(c);
	r = pages_run(c, args, (size_t)limit, &result, &e);
	if (r == -EINPROGRESS)
		return CLI_OK;
	if (r < 0)
		return cli_fail(&e, "Failed to compare snapshots of domain '%s'", c->pos[0]);
	if (c->format == CLI_TABLE)
		result_print(result);
	else
		output_print(stdout, c->format, result);
	return CLI_OK;
}
