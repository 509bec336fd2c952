/* pool-define-as, pool-undefine, pool-list and pool-info. */
#include "tools/cairn/pool.h"
#include "api/wire/json.h"
#include "base/err.h"
#include "base/util.h"
#include "tools/cairn/cli.h"
#include "tools/cairn/output.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

int verb_pool_define_as(struct cli *c)
{
	const char *name = c->pos[0], *target = option_value(c, "target");
	char path[PATH_MAX];
	struct json_object *args;
	struct stat st;
	struct err e;

	if (c->npos > 1 && strcmp(c->pos[1], "dir") != 0)
		return cli_usage(c, "a pool has the type dir: a folder; not \"%s\"", c->pos[1]);
	if (!target)
		return cli_usage(c, "pool-define-as needs --target, the folder");
	if (!realpath(target, path) || stat(path, &st) < 0) {
		err_set_errno(&e, -errno, "folder %.300s", target);
		return cli_fail(&e, "Failed to define pool %s", name);
	}
	if (!S_ISDIR(st.st_mode)) {
		err_set(&e, -ENOTDIR, ERR_INVALID, "%.300s is no folder", target);
		return cli_fail(&e, "Failed to define pool %s", name);
	}
	args = json_object_new_object();
	js_put_str(args, "name", name);
	js_put_str(args, "target", path);
	if (cli_execute(c, "pool-define", args, NULL, NULL, &e) < 0)
		return cli_fail(&e, "Failed to define pool %s", name);
	say("Pool %s defined\n", name);
	return CLI_OK;
}

int verb_pool_undefine(struct cli *c)
{
	struct json_object *args = json_object_new_object();
	struct err e;

	js_put_str(args, "name", c->pos[0]);
	if (cli_execute(c, "pool-undefine", args, NULL, NULL, &e) < 0)
		return cli_fail(&e, "Failed to undefine pool %s", c->pos[0]);
	say("Pool %s has been undefined\n", c->pos[0]);
	return CLI_OK;
}

/* Sums of a pool's volumes. */
struct sums {
	uint64_t volumes, allocation_bytes, capacity_bytes;
};

static void volume_sum(void *opaque, const char *name, const char *path)
{
	struct sums *s = opaque;
	struct volume v;

	(void)name;
	if (volume_look(path, &v, NULL) < 0)
		return;
	s->volumes++;
	s->allocation_bytes += v.allocation_bytes;
	s->capacity_bytes += MIN(v.capacity_bytes, UINT64_MAX - s->capacity_bytes);
}

/* Add what the folder shows. A folder that is missing, or that the user may not read, leaves the pool inactive. */
static void space_put(struct json_object *o)
{
	const char *target = js_get_str_or(o, "target", "");
	struct pool_space space;
	struct sums sums = { 0 };
	bool active = !pool_look(target, &space, NULL) && !volumes_each(target, volume_sum, &sums, NULL);

	js_put_str(o, "state", active ? "active" : "inactive");
	if (!active)
		return;
	js_put_uint(o, "capacity", space.capacity_bytes);
	js_put_uint(o, "allocation", space.capacity_bytes - MIN(space.available_bytes, space.capacity_bytes));
	js_put_uint(o, "available", space.available_bytes);
	js_put_uint(o, "volumes", sums.volumes);
	js_put_uint(o, "volume-allocation", sums.allocation_bytes);
	js_put_uint(o, "volume-capacity", sums.capacity_bytes);
}

static const char *size_cell(struct json_object *o, const char *key, char buf[VOLUME_SIZE_TEXT])
{
	return js_get(o, key) ? volume_size_text((uint64_t)js_get_int(o, key, 0), buf) : "-";
}

static void rows_print(const struct cli *c, struct json_object *all)
{
	static const char *const heads[] = { "Name", "State", "Autostart", "Persistent", "Capacity", "Allocation", "Available" };
	bool details = option_flag(c, "details");
	struct table t;

	table_init(&t, heads, details ? 7 : 3);
	for (size_t i = 0; i < json_object_array_length(all); i++) {
		struct json_object *o = json_object_array_get_idx(all, i);
		char capacity[VOLUME_SIZE_TEXT], allocation[VOLUME_SIZE_TEXT], available[VOLUME_SIZE_TEXT];

		table_add(&t, (const char *const[]){ js_get_str_or(o, "name", "-"), js_get_str_or(o, "state", "-"), "yes", "yes",
					  size_cell(o, "capacity", capacity), size_cell(o, "allocation", allocation),
					  size_cell(o, "available", available) });
	}
	table_finish(&t, stdout);
}

int verb_pool_list(struct cli *c)
{
	CLEANUP_JS struct json_object *all = NULL;
	struct err e;

	if (cli_fetch_all(c, "query-pools", json_object_new_object(), "pools", "after", &all, NULL, &e) < 0)
		return cli_fail(&e, "Failed to list pools");
	for (size_t i = 0; i < json_object_array_length(all); i++)
		space_put(json_object_array_get_idx(all, i));
	if (c->format != CLI_TABLE)
		output_print(stdout, c->format, all);
	else if (option_flag(c, "name"))
		for (size_t i = 0; i < json_object_array_length(all); i++)
			printf("%s\n", js_get_str_or(json_object_array_get_idx(all, i), "name", ""));
	else
		rows_print(c, all);
	return CLI_OK;
}

static void info_print(struct json_object *o)
{
	char text[VOLUME_SIZE_TEXT];

	label_print(stdout, "Name:", "%s", js_get_str_or(o, "name", "-"));
	label_print(stdout, "State:", "%s", strcmp(js_get_str_or(o, "state", ""), "active") ? "inactive" : "running");
	label_print(stdout, "Persistent:", "yes");
	label_print(stdout, "Autostart:", "yes");
	label_print(stdout, "Target:", "%s", js_get_str_or(o, "target", "-"));
	label_print(stdout, "Capacity:", "%s", size_cell(o, "capacity", text));
	label_print(stdout, "Allocation:", "%s", size_cell(o, "allocation", text));
	label_print(stdout, "Available:", "%s", size_cell(o, "available", text));
	growth_print(o);
	label_print(stdout, "Volumes:", "%lld", (long long)js_get_int(o, "volumes", 0));
	label_print(stdout, "Of volumes:", "%s", size_cell(o, "volume-allocation", text));
	printf("\n");
}

int verb_pool_info(struct cli *c)
{
	CLEANUP_JS struct json_object *o = NULL;
	char path[PATH_MAX];
	struct err e;

	if (pool_find_path(c, c->pos[0], path, &o, &e) < 0)
		return cli_fail(&e, "Failed to get pool '%s'", c->pos[0]);
	space_put(o);
	if (c->format != CLI_TABLE)
		output_print(stdout, c->format, o);
	else
		info_print(o);
	return CLI_OK;
}
