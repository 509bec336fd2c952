/* vol-list, vol-info, vol-path, vol-create-as, vol-clone, vol-delete and vol-resize: images in the folders of pools.
 * All is done with the rights of the user. */
#include "tools/cairn/pool.h"
#include "api/wire/json.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/size.h"
#include "base/util.h"
#include "tools/cairn/cli.h"
#include "tools/cairn/img_run.h"
#include "tools/cairn/output.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define SIZE_MAX_BYTES (1ULL << 60)

static struct json_object *volume_json(const char *name, const char *path, const struct volume *v)
{
	struct json_object *o = json_object_new_object();

	js_put_str(o, "name", name);
	js_put_str(o, "path", path);
	js_put_str(o, "type", "file");
	js_put_str(o, "format", v->format);
	js_put_uint(o, "capacity", v->capacity_bytes);
	js_put_uint(o, "allocation", v->allocation_bytes);
	if (v->backing[0])
		js_put_str(o, "backing", v->backing);
	return o;
}

/* ---- vol-list, vol-info, vol-path ---- */

static void volume_add(void *opaque, const char *name, const char *path)
{
	struct volume v;

	/* Another user's file that may not be read is listed without its sizes. */
	if (volume_look(path, &v, NULL) < 0)
		v = (struct volume){ .format = "-" };
	json_object_array_add(opaque, volume_json(name, path, &v));
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
					  volume_size_text((uint64_t)js_get_int(o, "capacity", 0), capacity),
					  volume_size_text((uint64_t)js_get_int(o, "allocation", 0), allocation) });
	}
	table_finish(&t, stdout);
}

int verb_vol_list(struct cli *c)
{
	CLEANUP_JS struct json_object *all = json_object_new_array();
	char folder[PATH_MAX];
	struct err e;
	int r = pool_target(c, c->pos[0], folder, &e);

	if (!r)
		r = volumes_each(folder, volume_add, all, &e);
	if (r < 0)
		return cli_fail(&e, "Failed to list volumes of pool '%s'", c->pos[0]);
	if (c->format != CLI_TABLE)
		output_print(stdout, c->format, all);
	else
		rows_print(all, option_flag(c, "details"));
	return CLI_OK;
}

/* Find the volume of the first positional, and look at it. Returns 0 or -errno. */
static int volume_find(struct cli *c, char path[PATH_MAX], struct volume *ret, struct err *e)
{
	int r = volume_path(c, c->pos[0], path, e);

	return r ? r : volume_look(path, ret, e);
}

int verb_vol_info(struct cli *c)
{
	CLEANUP_JS struct json_object *o = NULL;
	char path[PATH_MAX], text[VOLUME_SIZE_TEXT];
	struct volume v;
	struct err e;
	int r = volume_find(c, path, &v, &e);

	if (r < 0)
		return cli_fail(&e, "failed to get vol '%s'", c->pos[0]);
	o = volume_json(strrchr(path, '/') + 1, path, &v);
	if (c->format != CLI_TABLE) {
		output_print(stdout, c->format, o);
		return CLI_OK;
	}
	label_print(stdout, "Name:", "%s", js_get_str_or(o, "name", "-"));
	label_print(stdout, "Type:", "file");
	label_print(stdout, "Format:", "%s", v.format);
	label_print(stdout, "Capacity:", "%s", volume_size_text(v.capacity_bytes, text));
	label_print(stdout, "Allocation:", "%s", volume_size_text(v.allocation_bytes, text));
	if (v.backing[0])
		label_print(stdout, "Backing file:", "%s", js_get_str_or(o, "backing", "-"));
	printf("\n");
	return CLI_OK;
}

int verb_vol_path(struct cli *c)
{
	char path[PATH_MAX];
	struct volume v;
	struct err e;
	int r = volume_find(c, path, &v, &e);

	if (r < 0)
		return cli_fail(&e, "failed to get vol '%s'", c->pos[0]);
	printf("%s\n", path);
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

/* Reserve the name of a new volume, so that no other file is overwritten. Returns 0 or -errno. */
static int volume_reserve(const char *path, struct err *e)
{
	CLEANUP_CLOSE int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);

	return fd < 0 ? err_set_errno(e, -errno, "%s", path) : 0;
}

/* Run cairn-img, which makes the reserved volume. */
static int volume_make(const char *path, const char *const *args, struct err *e)
{
	int r = volume_reserve(path, e);

	if (r < 0)
		return r;
	r = img_run(args, NULL, e);
	if (r < 0)
		unlink(path);
	return r;
}

/* Return the path of a new volume: a name in the pool. */
static int new_path(struct cli *c, const char *pool, const char *name, char path[PATH_MAX], struct err *e)
{
	char folder[PATH_MAX];
	int r;

	if (!volume_name_is_good(name))
		return err_set(e, -EINVAL, ERR_INVALID, "\"%.100s\" is no name of a volume; give a file's name without a folder", name);
	r = pool_target(c, pool, folder, e);
	if (!r && snprintf(path, PATH_MAX, "%s/%s", folder, name) >= PATH_MAX)
		r = err_set_errno(e, -ENAMETOOLONG, "%s", name);
	return r;
}

/* Find the backing volume: a path, or a name in the same pool. */
static int backing_find(struct cli *c, const char *folder_of, char path[PATH_MAX], struct volume *ret, struct err *e)
{
	const char *which = option_value(c, "backing-vol");

	if (which[0] == '/')
		snprintf(path, PATH_MAX, "%s", which);
	else if (!volume_name_is_good(which))
		return err_set(e, -EINVAL, ERR_INVALID, "\"%.100s\" is no name of a volume; give a file's name without a folder", which);
	else if (snprintf(path, PATH_MAX, "%.*s/%s", (int)(strrchr(folder_of, '/') - folder_of), folder_of, which) >= PATH_MAX)
		return err_set_errno(e, -ENAMETOOLONG, "%s", which);
	return volume_look(path, ret, e);
}

static int volume_create(struct cli *c, const char *path, uint64_t capacity, struct err *e)
{
	const char *format = option_value(c, "format") ? option_value(c, "format") : "qcow2",
		   *given = option_value(c, "backing-vol-format");
	const char *args[16] = { "create", "-q", "-f", format };
	size_t n = 4;
	char size[24], backing[PATH_MAX];
	uint64_t allocation = 0;
	struct volume below;
	int r = option_value(c, "allocation") ? size_arg(option_value(c, "allocation"), &allocation, e) : 0;

	if (!r && option_value(c, "backing-vol")) {
		if (!strcmp(format, "raw"))
			return err_set(e, -EINVAL, ERR_INVALID, "a raw image has no backing file; give --format qcow2");
		r = backing_find(c, path, backing, &below, e);
		args[n++] = "-b";
		args[n++] = backing;
		args[n++] = "-F";
		args[n++] = given ? given : below.format;
	}
	if (r < 0)
		return r;
	if (allocation >= capacity && capacity) {
		args[n++] = "-o";
		args[n++] = "preallocation=falloc";
	} else if (option_flag(c, "prealloc-metadata")) {
		args[n++] = "-o";
		args[n++] = "preallocation=metadata";
	}
	snprintf(size, sizeof(size), "%" PRIu64, capacity);
	args[n++] = "--";
	args[n++] = path;
	args[n] = size;
	return volume_make(path, args, e);
}

int verb_vol_create_as(struct cli *c)
{
	char path[PATH_MAX];
	uint64_t capacity;
	struct err e;
	int r = size_arg(c->pos[2], &capacity, &e);

	if (!r)
		r = new_path(c, c->pos[0], c->pos[1], path, &e);
	if (!r)
		r = volume_create(c, path, capacity, &e);
	if (r < 0)
		return cli_fail(&e, "Failed to create vol %s", c->pos[1]);
	say("Vol %s created\n", c->pos[1]);
	return CLI_OK;
}

int verb_vol_clone(struct cli *c)
{
	char from[PATH_MAX], to[PATH_MAX];
	struct volume v;
	struct err e;
	int r = volume_path(c, c->pos[0], from, &e);

	if (!r && !volume_name_is_good(c->pos[1]))
		r = err_set(&e, -EINVAL, ERR_INVALID, "\"%.100s\" is no name of a volume; give a file's name without a folder", c->pos[1]);
	if (!r)
		r = volume_look(from, &v, &e);
	if (!r && snprintf(to, sizeof(to), "%.*s/%s", (int)(strrchr(from, '/') - from), from, c->pos[1]) >= (int)sizeof(to))
		r = err_set_errno(&e, -ENAMETOOLONG, "%s", c->pos[1]);
	if (!r)
		r = volume_make(to, (const char *const[]){ "convert", "-q", "-f", v.format, "-O", v.format, "--", from, to, NULL }, &e);
	if (r < 0)
		return cli_fail(&e, "Failed to clone vol from %s", c->pos[0]);
	say("Vol %s cloned from %s\n", c->pos[1], c->pos[0]);
	return CLI_OK;
}

/* ---- changes ---- */

int verb_vol_delete(struct cli *c)
{
	char path[PATH_MAX];
	struct volume v;
	struct err e;
	int r = volume_find(c, path, &v, &e);

	if (!r)
		r = volume_check_unused(c, path, &e);
	if (!r && unlink(path) < 0)
		r = err_set_errno(&e, -errno, "%s", path);
	if (r < 0)
		return cli_fail(&e, "Failed to delete vol %s", c->pos[0]);
	say("Vol %s deleted\n", c->pos[0]);
	return CLI_OK;
}

int verb_vol_resize(struct cli *c)
{
	bool delta = option_flag(c, "delta"), shrink = option_flag(c, "shrink");
	const char *text = c->pos[1], *args[10] = { "resize", "-q" };
	char path[PATH_MAX], size[32];
	uint64_t bytes, now;
	struct volume v;
	struct err e;
	size_t n = 2;
	int r = volume_path(c, c->pos[0], path, &e);

	if (!r)
		r = size_arg(text, &bytes, &e);
	if (!r)
		r = volume_look(path, &v, &e);
	if (r < 0)
		return cli_fail(&e, "Failed to change size of volume '%s'", c->pos[0]);
	now = v.capacity_bytes;
	if (delta)
		bytes = shrink ? now - MIN(bytes, now) : now + bytes;
	if (bytes < now && !shrink) {
		err_set(&e, -EINVAL, ERR_INVALID, "%.40s is less than the volume has, whose end would be lost; give --shrink if that is meant", text);
		return cli_fail(&e, "Failed to change size of volume '%s'", c->pos[0]);
	}
	snprintf(size, sizeof(size), "%" PRIu64, bytes);
	args[n++] = "-f";
	args[n++] = v.format;
	if (bytes < now)
		args[n++] = "--shrink";
	args[n++] = "--";
	args[n++] = path;
	args[n] = size;
	if (img_run(args, NULL, &e) < 0)
		return cli_fail(&e, "Failed to change size of volume '%s'", c->pos[0]);
	say("Size of volume '%s' successfully changed %s %s\n", c->pos[0], delta ? "by" : "to", text);
	return CLI_OK;
}
