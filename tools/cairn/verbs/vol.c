/* The verbs vol-*: images in the folders of pools. The daemon does the work, with the rights of the user. */
#include "api/wire/json.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/fd_send.h"
#include "base/file.h"
#include "base/size.h"
#include "base/util.h"
#include "block/lock.h"
#include "snapshot/holes.h"
#include "tools/cairn/cli.h"
#include "tools/cairn/job.h"
#include "tools/cairn/output.h"
#include "tools/cairn/pool.h"
#include "tools/cairn/xml.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define SIZE_MAX_BYTES (1ULL << 60)
#define COPY_BYTES (64 * KIB) /* at once; a shorter hole is copied as zeros */

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

/* ---- vol-download, vol-upload ---- */

/* The daemon opens the volume with the user's rights. Until this process ends, no VM can start with it. */
static int volume_open(struct cli *c, bool write, int *ret_fd, struct err *e)
{
	CLEANUP_JS struct json_object *answer = NULL;
	struct json_object *args = NULL, *why;
	CLEANUP_CLOSE int carrier = -1;
	int r = volume_args(c, &args, e);

	if (!r)
		r = cli_execute(c, "volume-open", args, &answer, &carrier, e);
	if (!r) {
		*ret_fd = fd_receive(carrier);
		r = *ret_fd < 0 ? err_set_errno(e, *ret_fd, "the volume's file") : 0;
	}
	why = r < 0 ? NULL : js_get_array(answer, "warnings");
	if (write && why)
		r = err_set(e, -EBUSY, ERR_BUSY, "%s", json_object_get_string(json_object_array_get_idx(why, 0)));
	return r < 0 ? r : lock_acquire(*ret_fd, write ? LOCK_AS_WRITER : LOCK_AS_READER, c->pos[0], e);
}

/* Make a hole at the offset of fd. If its file can have none, write zeros. */
static int hole_put(int fd, const char *zeros, size_t len)
{
	off_t at = lseek(fd, 0, SEEK_CUR);

	if (at < 0 || fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, at, (off_t)len) < 0)
		return write_full(fd, zeros, len);
	return lseek(fd, (off_t)len, SEEK_CUR) < 0 ? -errno : 0;
}

/* Copy at most len bytes from the offset of one file to that of the other. sparse: holes stay holes.
 * Returns 0; -errno. */
static int content_copy(int from, int to, uint64_t len, bool sparse)
{
	static char buf[COPY_BYTES];
	static const char zeros[COPY_BYTES];
	struct holes holes = { .fd = -1 };
	off_t start = lseek(from, 0, SEEK_CUR), end;
	uint64_t at = start < 0 ? 0 : (uint64_t)start;
	struct stat st;
	int r = 0;

	if (sparse && start >= 0 && fstat(from, &st) == 0 && S_ISREG(st.st_mode)) {
		holes = (struct holes){ .fd = from, .bytes = (uint64_t)st.st_size };
		len = MIN(len, holes.bytes - MIN(at, holes.bytes));
	}
	while (len && !r) {
		size_t n = (size_t)MIN(len, (uint64_t)COPY_BYTES);
		ssize_t got = (ssize_t)n;

		if (hole_at(&holes, at, n)) {
			r = hole_put(to, zeros, n);
		} else {
			got = holes.fd < 0 ? read(from, buf, n) : pread(from, buf, n, (off_t)at);
			r = got < 0 ? -errno : write_full(to, buf, (size_t)got);
		}
		if (!got)
			break;
		at += (size_t)got;
		len -= (size_t)got;
	}
	end = lseek(to, 0, SEEK_CUR);
	if (!r && sparse && end >= 0 && fstat(to, &st) == 0 && S_ISREG(st.st_mode) && end > st.st_size && ftruncate(to, end) < 0)
		r = -errno;
	return r || fsync(to) == 0 || errno == EINVAL || errno == EROFS ? r : -errno;
}

static int is_same(int one, int other, const char *file, struct err *e)
{
	struct stat a, b;

	if (fstat(one, &a) < 0 || fstat(other, &b) < 0)
		return err_set_errno(e, -errno, "%.300s", file);
	if (a.st_dev == b.st_dev && a.st_ino == b.st_ino)
		return err_set(e, -EINVAL, ERR_INVALID, "%.300s is the volume itself; name another file", file);
	return 0;
}

/* Take --offset and --length, and set the volume to the offset. */
static int part_args(struct cli *c, int volume, bool inside, uint64_t *ret_len, struct err *e)
{
	const char *offset = option_value(c, "offset"), *length = option_value(c, "length");
	uint64_t at = 0, len = 0;
	struct stat st;
	int r = offset ? size_arg(offset, &at, e) : 0;

	if (!r && length)
		r = size_arg(length, &len, e);
	if (r < 0)
		return r;
	*ret_len = len ? len : UINT64_MAX; /* virsh's 0 is all */
	if (fstat(volume, &st) < 0 || lseek(volume, (off_t)at, SEEK_SET) < 0)
		return err_set_errno(e, -errno, "volume '%.300s'", c->pos[0]);
	if (inside && at > (uint64_t)st.st_size)
		return err_set(e, -EINVAL, ERR_INVALID, "--offset is behind the end of the volume, which has %lld bytes", (long long)st.st_size);
	return 0;
}

int verb_vol_download(struct cli *c)
{
	CLEANUP_CLOSE int volume = -1;
	CLEANUP_CLOSE int file = -1;
	const char *path = c->pos[1];
	bool made = false;
	uint64_t len = 0;
	struct stat st;
	struct err e;
	int r = volume_open(c, false, &volume, &e);

	if (!r)
		r = part_args(c, volume, true, &len, &e);
	if (!r) {
		file = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
		made = file >= 0;
		if (!made)
			file = open(path, O_WRONLY | O_CLOEXEC);
		r = file < 0 ? err_set_errno(&e, -errno, "%.300s", path) : is_same(volume, file, path, &e);
	}
	if (!r && fstat(file, &st) == 0 && S_ISREG(st.st_mode) && ftruncate(file, 0) < 0)
		r = err_set_errno(&e, -errno, "%.300s", path);
	if (!r) {
		r = content_copy(volume, file, len, option_flag(c, "sparse"));
		if (r < 0)
			err_set_errno(&e, r, "%.300s", path);
	}
	if (r < 0 && made)
		unlink(path);
	return r < 0 ? cli_fail(&e, "cannot download from volume %s", c->pos[0]) : CLI_OK;
}

int verb_vol_upload(struct cli *c)
{
	CLEANUP_CLOSE int volume = -1;
	CLEANUP_CLOSE int file = open(c->pos[1], O_RDONLY | O_CLOEXEC);
	uint64_t len = 0;
	struct err e;
	int r = file < 0 ? err_set_errno(&e, -errno, "%.300s", c->pos[1]) : volume_open(c, true, &volume, &e);

	if (!r)
		r = is_same(volume, file, c->pos[1], &e);
	if (!r)
		r = part_args(c, volume, false, &len, &e);
	if (!r) {
		r = content_copy(file, volume, len, option_flag(c, "sparse"));
		if (r < 0)
			err_set_errno(&e, r, "a part of the volume is overwritten");
	}
	return r < 0 ? cli_fail(&e, "cannot upload to volume %s", c->pos[0]) : CLI_OK;
}
