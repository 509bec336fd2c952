/* pool-define-as, pool-undefine, pool-list and pool-info. */
#include "tools/cairn/pool.h"
#include "api/wire/json.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/shell_word.h"
#include "base/util.h"
#include "tools/cairn/cli.h"
#include "tools/cairn/output.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

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
		if (errno == ENOENT)
			err_set(&e, -ENOENT, ERR_NOT_FOUND, "folder %.300s: No such file or directory. Next: mkdir -p %.300s", target, shell_word(target).s);
		else
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

/* Add the sums of a pool's volumes. Returns 0 or -errno. */
static int sums_put(struct cli *c, struct json_object *pool, struct err *e)
{
	CLEANUP_JS struct json_object *all = NULL;
	uint64_t allocation = 0, capacity = 0;
	int r = volumes_fetch(c, js_get_str_or(pool, "name", ""), &all, e);

	if (r < 0)
		return r;
	for (size_t i = 0; i < json_object_array_length(all); i++) {
		struct json_object *v = json_object_array_get_idx(all, i);

		allocation += (uint64_t)js_get_int(v, "allocation", 0);
		capacity += MIN((uint64_t)js_get_int(v, "capacity", 0), UINT64_MAX - capacity);
	}
	js_put_uint(pool, "volumes", json_object_array_length(all));
	js_put_uint(pool, "volume-allocation", allocation);
	js_put_uint(pool, "volume-capacity", capacity);
	return 0;
}

/* Add the space of the folder's file system. A folder that is missing, or that the user may not read, leaves the pool
 * inactive.
 * sums: with those of the volumes. */
static void space_put(struct cli *c, struct json_object *pool, bool sums)
{
	CLEANUP_CLOSE int fd = open(js_get_str_or(pool, "target", ""), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	struct statvfs s;
	struct err e;
	bool active = fd >= 0 && !fstatvfs(fd, &s) && (!sums || !sums_put(c, pool, &e));

	js_put_str(pool, "state", active ? "active" : "inactive");
	if (!active)
		return;
	js_put_uint(pool, "capacity", (uint64_t)s.f_blocks * s.f_frsize);
	js_put_uint(pool, "allocation", (uint64_t)(s.f_blocks - MIN(s.f_bavail, s.f_blocks)) * s.f_frsize);
	js_put_uint(pool, "available", (uint64_t)s.f_bavail * s.f_frsize);
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

/* Is this pool listed? Each has the type dir, a definition, and is there after the host's start. */
static bool row_wanted(const struct cli *c, struct json_object *pool)
{
	const char *types = option_value(c, "type");
	bool inactive = option_flag(c, "inactive") && !option_flag(c, "all");

	if (option_flag(c, "transient") && !option_flag(c, "persistent"))
		return false;
	if (option_flag(c, "no-autostart") && !option_flag(c, "autostart"))
		return false;
	return (!types || words_have(types, ',', "dir")) && (!inactive || !strcmp(js_get_str_or(pool, "state", ""), "inactive"));
}

int verb_pool_list(struct cli *c)
{
	CLEANUP_JS struct json_object *all = NULL, *rows = json_object_new_array();
	struct err e;

	if (pools_fetch(c, &all, &e) < 0)
		return cli_fail(&e, "Failed to list pools");
	for (size_t i = 0; i < json_object_array_length(all); i++) {
		struct json_object *pool = json_object_array_get_idx(all, i);

		space_put(c, pool, c->format != CLI_TABLE);
		if (row_wanted(c, pool))
			json_object_array_add(rows, json_object_get(pool));
	}
	if (!cli_columns_print(c, rows))
		rows_print(c, rows);
	return CLI_OK;
}

/* As size_cell(); a number of bytes with --bytes. */
static const char *info_cell(const struct cli *c, struct json_object *o, const char *key, char buf[VOLUME_SIZE_TEXT])
{
	if (!option_flag(c, "bytes") || !js_get(o, key))
		return size_cell(o, key, buf);
	snprintf(buf, VOLUME_SIZE_TEXT, "%lld", (long long)js_get_int(o, key, 0));
	return buf;
}

static void info_print(const struct cli *c, struct json_object *o)
{
	char text[VOLUME_SIZE_TEXT];

	label_print(stdout, "Name:", "%s", js_get_str_or(o, "name", "-"));
	label_print(stdout, "State:", "%s", strcmp(js_get_str_or(o, "state", ""), "active") ? "inactive" : "running");
	label_print(stdout, "Persistent:", "yes");
	label_print(stdout, "Autostart:", "yes");
	label_print(stdout, "Target:", "%s", js_get_str_or(o, "target", "-"));
	label_print(stdout, "Capacity:", "%s", info_cell(c, o, "capacity", text));
	label_print(stdout, "Allocation:", "%s", info_cell(c, o, "allocation", text));
	label_print(stdout, "Available:", "%s", info_cell(c, o, "available", text));
	growth_print(o);
	label_print(stdout, "Volumes:", "%lld", (long long)js_get_int(o, "volumes", 0));
	label_print(stdout, "Of volumes:", "%s", info_cell(c, o, "volume-allocation", text));
	printf("\n");
}

int verb_pool_info(struct cli *c)
{
	CLEANUP_JS struct json_object *o = NULL;
	struct err e;

	if (pool_find_name(c, c->pos[0], &o, &e) < 0)
		return cli_fail(&e, "Failed to get pool '%s'", c->pos[0]);
	space_put(c, o, true);
	if (c->format != CLI_TABLE)
		output_print(stdout, c->format, o);
	else
		info_print(c, o);
	return CLI_OK;
}
