/* The verbs vol-*: images in the folders of pools. The daemon does the work, with the rights of the user. */
#include "api/wire/json.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/size.h"
#include "base/util.h"
#include "tools/cairn/cli.h"
#include "tools/cairn/job.h"
#include "tools/cairn/output.h"
#include "tools/cairn/pool.h"
#include "tools/cairn/xml.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SIZE_MAX_BYTES (1ULL << 60)

/* ---- the volume that the command line names ---- */

/* Find the pool whose folder has the file. */
static int path_args(struct cli *c, const char *path, struct json_object *args, struct err *e)
{
	CLEANUP_JS struct json_object *pools = NULL;
	const char *name = strrchr(path, '/') + 1, *pool = NULL;
	char folder[PATH_MAX], real[PATH_MAX];
	int r = pools_fetch(c, &pools, e);

	if (r < 0)
		return r;
	if (snprintf(folder, sizeof(folder), "%.*s", (int)MAX(name - 1 - path, 1), path) >= (int)sizeof(folder))
		return err_set_errno(e, -ENAMETOOLONG, "%.200s", path);
	if (!realpath(folder, real))
		snprintf(real, sizeof(real), "%s", folder);
	for (size_t i = 0; !pool && i < json_object_array_length(pools); i++) {
		struct json_object *o = json_object_array_get_idx(pools, i);
		const char *target = js_get_str_or(o, "target", "");

		if (!strcmp(target, real) || !strcmp(target, folder))
			pool = js_get_str(o, "name");
	}
	if (!pool)
		return err_set(e, -ENOENT, ERR_NOT_FOUND, "%.300s is in the folder of no pool; for other files, use cairn-img. Next: cairn pool-list", path);
	js_put_str(args, "pool", pool);
	js_put_str(args, "name", name);
	return 0;
}

/* Make the arguments "pool" and "name" for the volume that the first positional names: by its name in the pool of
 * --pool, or by its absolute path. The caller owns *ret. */
static int volume_args(struct cli *c, struct json_object **ret, struct err *e)
{
	const char *which = c->pos[0], *pool = option_value(c, "pool");
	CLEANUP_JS struct json_object *args = json_object_new_object();
	int r = 0;

	if (which[0] == '/')
		r = path_args(c, which, args, e);
	else if (!pool)
		r = err_set(e, -EINVAL, ERR_INVALID, "volume '%.100s': give its pool by --pool, or its absolute path", which);
	if (r < 0)
		return r;
	if (which[0] != '/') {
		js_put_str(args, "pool", pool);
		js_put_str(args, "name", which);
	}
	*ret = STEAL_PTR(args);
	return 0;
}

/* Find a volume's entry in query-volumes, in the pages from the name's beginning on.
 * args: see volume_args(). The caller owns *ret. */
static int entry_find(struct cli *c, struct json_object *args, struct json_object **ret, struct err *e)
{
	const char *pool = js_get_str(args, "pool"), *name = js_get_str(args, "name");
	CLEANUP_JS struct json_object *next = NULL;
	size_t len = strlen(name);

	while (len && (name[--len] & 0xc0) == 0x80) /* before the last character of UTF-8 */
		;
	next = json_object_new_string_len(name, (int)len);
	while (next && strcmp(json_object_get_string(next), name) < 0) {
		CLEANUP_JS struct json_object *page = NULL;
		struct json_object *ask = json_object_new_object(), *list;
		int r;

		js_put_str(ask, "pool", pool);
		js_put(ask, "after", STEAL_PTR(next));
		r = cli_execute(c, "query-volumes", ask, &page, NULL, e);
		if (r < 0)
			return r;
		list = js_get_array(page, "volumes");
		for (size_t i = 0; list && i < json_object_array_length(list); i++) {
			struct json_object *o = json_object_array_get_idx(list, i);

			if (!strcmp(js_get_str_or(o, "name", ""), name)) {
				*ret = json_object_get(o);
				return 0;
			}
		}
		next = json_object_get(js_get(page, "next"));
	}
	return err_set(e, -ENOENT, ERR_NOT_FOUND, "pool '%.63s' has no volume '%.255s', that is, no regular file of this name. Next: cairn vol-list %.63s",
		pool, name, pool);
}

/* Return the members that the verbs show of a volume. v: its entry in query-volumes. */
static struct json_object *volume_json(struct json_object *pool, struct json_object *v)
{
	static const char *const read[] = { "format", "capacity", "allocation" };
	struct json_object *o = json_object_new_object();
	const char *name = js_get_str_or(v, "name", "-");
	char path[PATH_MAX];

	snprintf(path, sizeof(path), "%s/%s", js_get_str_or(pool, "target", ""), name);
	js_put_str(o, "name", name);
	js_put_str(o, "path", path);
	js_put_str(o, "type", "file");
	/* null: another user's file that may not be read */
	for (size_t i = 0; i < ARRAY_SIZE(read); i++)
		js_put(o, read[i], json_object_get(js_get(v, read[i])));
	js_put_str(o, "backing", js_get_str(v, "backing"));
	js_put(o, "vms", json_object_get(js_get(v, "vms")));
	return o;
}

static int volume_find(struct cli *c, struct json_object **ret, struct err *e)
{
	CLEANUP_JS struct json_object *args = NULL, *pool = NULL, *entry = NULL;
	int r = volume_args(c, &args, e);

	if (!r)
		r = pool_find_name(c, js_get_str(args, "pool"), &pool, e);
	if (!r)
		r = entry_find(c, args, &entry, e);
	if (!r)
		*ret = volume_json(pool, entry);
	return r;
}

/* ---- vol-list, vol-info, vol-dumpxml, vol-path ---- */

static const char *size_cell(struct json_object *o, const char *key, char buf[VOLUME_SIZE_TEXT])
{
	return js_get(o, key) ? volume_size_text((uint64_t)js_get_int(o, key, 0), buf) : "-";
}

static void rows_print(struct json_object *all, bool details)
{
	static const char *const heads[] = { "Name", "Path", "Type", "Capacity", "Allocation" };
	struct table t;

	table_init(&t, heads, details ? 5 : 2);
	for (size_t i = 0; i < json_object_array_length(all); i++) {
		struct json_object *o = json_object_array_get_idx(all, i);
		char capacity[VOLUME_SIZE_TEXT], allocation[VOLUME_SIZE_TEXT];

		table_add(&t, (const char *const[]){ js_get_str_or(o, "name", "-"), js_get_str_or(o, "path", "-"), js_get_str_or(o, "type", "-"),
					  size_cell(o, "capacity", capacity), size_cell(o, "allocation", allocation) });
	}
	table_finish(&t, stdout);
}

int verb_vol_list(struct cli *c)
{
	CLEANUP_JS struct json_object *pool = NULL, *list = NULL, *all = json_object_new_array(), *heads = volume_json(NULL, NULL);
	struct err e;
	int r = pool_find_name(c, c->pos[0], &pool, &e);

	if (!r)
		r = volumes_fetch(c, c->pos[0], &list, &e);
	if (r < 0)
		return cli_fail(&e, "Failed to list volumes of pool '%s'", c->pos[0]);
	for (size_t i = 0; i < json_object_array_length(list); i++)
		json_object_array_add(all, volume_json(pool, json_object_array_get_idx(list, i)));
	if (c->format == CLI_CSV && !json_object_array_length(all))
		csv_header(stdout, heads);
	else if (c->format != CLI_TABLE)
		output_print(stdout, c->format, all);
	else
		rows_print(all, option_flag(c, "details"));
	return CLI_OK;
}

int verb_vol_info(struct cli *c)
{
	CLEANUP_JS struct json_object *o = NULL;
	char text[VOLUME_SIZE_TEXT];
	struct err e;

	if (volume_find(c, &o, &e) < 0)
		return cli_fail(&e, "failed to get vol '%s'", c->pos[0]);
	if (c->format != CLI_TABLE) {
		output_print(stdout, c->format, o);
		return CLI_OK;
	}
	label_print(stdout, "Name:", "%s", js_get_str_or(o, "name", "-"));
	label_print(stdout, "Type:", "file");
	label_print(stdout, "Format:", "%s", js_get_str_or(o, "format", "-"));
	if (option_flag(c, "bytes") && js_get(o, "capacity")) {
		label_print(stdout, "Capacity:", "%lld bytes", (long long)js_get_int(o, "capacity", 0));
		label_print(stdout, "Allocation:", "%lld bytes", (long long)js_get_int(o, "allocation", 0));
	} else {
		label_print(stdout, "Capacity:", "%s", size_cell(o, "capacity", text));
		label_print(stdout, "Allocation:", "%s", size_cell(o, "allocation", text));
	}
	if (js_get(o, "backing"))
		label_print(stdout, "Backing file:", "%s", js_get_str_or(o, "backing", "-"));
	printf("\n");
	return CLI_OK;
}

int verb_vol_dumpxml(struct cli *c)
{
	CLEANUP_JS struct json_object *o = NULL;
	CLEANUP_FREE char *xml = NULL;
	struct err e;
	int r = volume_find(c, &o, &e);

	if (!r)
		r = xml_from_volume(o, &xml, &e);
	if (r < 0)
		return cli_fail(&e, "failed to get vol '%s'", c->pos[0]);
	puts(xml);
	return CLI_OK;
}

int verb_vol_path(struct cli *c)
{
	CLEANUP_JS struct json_object *o = NULL;
	struct err e;

	if (volume_find(c, &o, &e) < 0)
		return cli_fail(&e, "failed to get vol '%s'", c->pos[0]);
	printf("%s\n", js_get_str_or(o, "path", "-"));
	return CLI_OK;
}

/* ---- new volumes ---- */

/* Parse a size, in bytes without a unit as virsh has it. Returns 0 or -EINVAL. */
static int size_arg(const char *text, uint64_t *ret, struct err *e)
{
	if (size_parse(text, 1, ret) < 0 || *ret > SIZE_MAX_BYTES)
		return err_set(e, -EINVAL, ERR_INVALID, "\"%.40s\" is no size such as 20G", text);
	return 0;
}

int verb_vol_create_as(struct cli *c)
{
	const char *text = option_value(c, "allocation");
	uint64_t capacity = 0, allocation = 0;
	struct json_object *args;
	struct err e;
	int r = size_arg(c->pos[2], &capacity, &e);

	if (!r && text)
		r = size_arg(text, &allocation, &e);
	if (!r) {
		args = json_object_new_object();
		js_put_str(args, "pool", c->pos[0]);
		js_put_str(args, "name", c->pos[1]);
		js_put_uint(args, "capacity", capacity);
		js_put_str(args, "format", option_value(c, "format"));
		js_put_str(args, "backing", option_value(c, "backing-vol"));
		js_put_str(args, "backing-format", option_value(c, "backing-vol-format"));
		if (capacity && allocation >= capacity)
			js_put_str(args, "preallocation", "falloc");
		else if (option_flag(c, "prealloc-metadata"))
			js_put_str(args, "preallocation", "metadata");
		r = job_run(c, "volume-create", args, -1, "Create", NULL, &e);
	}
	if (r == -EINPROGRESS)
		return CLI_OK;
	if (r < 0)
		return cli_fail(&e, "Failed to create vol %s", c->pos[1]);
	say("Vol %s created\n", c->pos[1]);
	return CLI_OK;
}

int verb_vol_clone(struct cli *c)
{
	struct json_object *args = NULL;
	struct err e;
	int r = volume_args(c, &args, &e);

	if (!r) {
		js_put_str(args, "new-name", c->pos[1]);
		r = job_run(c, "volume-clone", args, -1, "Clone", NULL, &e);
	}
	if (r == -EINPROGRESS)
		return CLI_OK;
	if (r < 0)
		return cli_fail(&e, "Failed to clone vol from %s", c->pos[0]);
	say("Vol %s cloned from %s\n", c->pos[1], c->pos[0]);
	return CLI_OK;
}

/* ---- changes ---- */

int verb_vol_delete(struct cli *c)
{
	struct json_object *args = NULL;
	struct err e;
	int r = volume_args(c, &args, &e);

	if (!r)
		r = cli_execute(c, "volume-delete", args, NULL, NULL, &e);
	if (r < 0)
		return cli_fail(&e, "Failed to delete vol %s", c->pos[0]);
	say("Vol %s deleted\n", c->pos[0]);
	return CLI_OK;
}

/* Add the difference to the volume's capacity. */
static int capacity_change(struct cli *c, struct json_object *args, bool shrink, uint64_t *bytes, struct err *e)
{
	CLEANUP_JS struct json_object *entry = NULL;
	uint64_t now;
	int r = entry_find(c, args, &entry, e);

	if (!r && !js_get(entry, "capacity"))
		r = err_set_errno(e, -EACCES, "volume %.255s", js_get_str(args, "name"));
	if (r < 0)
		return r;
	now = (uint64_t)js_get_int(entry, "capacity", 0);
	*bytes = shrink ? now - MIN(*bytes, now) : MIN(now + *bytes, (uint64_t)INT64_MAX);
	return 0;
}

int verb_vol_resize(struct cli *c)
{
	bool delta = option_flag(c, "delta"), shrink = option_flag(c, "shrink");
	CLEANUP_JS struct json_object *args = NULL;
	const char *text = c->pos[1];
	uint64_t bytes = 0;
	struct err e;
	int r = volume_args(c, &args, &e);

	if (!r)
		r = size_arg(text, &bytes, &e);
	if (!r && delta)
		r = capacity_change(c, args, shrink, &bytes, &e);
	if (!r) {
		js_put_uint(args, "capacity", bytes);
		js_put_bool(args, "shrink", shrink);
		r = cli_execute(c, "volume-resize", STEAL_PTR(args), NULL, NULL, &e);
	}
	if (r < 0)
		return cli_fail(&e, "Failed to change size of volume '%s'", c->pos[0]);
	say("Size of volume '%s' successfully changed %s %s\n", c->pos[0], delta ? "by" : "to", text);
	return CLI_OK;
}
