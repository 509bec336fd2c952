#include "tools/cairn/pool.h"
#include "api/wire/json.h"
#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/file.h"
#include "base/util.h"
#include "tools/cairn/cli.h"
#include "tools/cairn/output.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

/* Fields of a qcow2 header (docs/qcow2.md). */
#define QCOW2_MAGIC 0x514649fbU
#define QCOW2_BACKING_MAX 1023

const char *volume_size_text(uint64_t bytes, char buf[VOLUME_SIZE_TEXT])
{
	static const char *const units[] = { "B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB" };
	double v = (double)bytes;
	unsigned u = 0;

	for (; v >= 1024 && u < ARRAY_SIZE(units) - 1; u++)
		v /= 1024;
	snprintf(buf, VOLUME_SIZE_TEXT, "%.2f %s", v, units[u]);
	return buf;
}

int pool_find_path(struct cli *c, const char *name, char path[PATH_MAX], struct json_object **ret, struct err *e)
{
	CLEANUP_JS struct json_object *all = NULL;
	struct json_object *found = NULL;
	const char *target;
	struct stat st;
	int r = cli_fetch_all(c, "query-pools", json_object_new_object(), "pools", "after", &all, NULL, e);

	if (r < 0)
		return r;
	for (size_t i = 0; !found && i < json_object_array_length(all); i++)
		if (!strcmp(js_get_str_or(json_object_array_get_idx(all, i), "name", ""), name))
			found = json_object_array_get_idx(all, i);
	target = js_get_str(found, "target");
	if (!target)
		return err_set(e, -ENOENT, ERR_NOT_FOUND, "there is no pool '%.63s'. Next: cairn pool-list", name);
	snprintf(path, PATH_MAX, "%s", target);
	if (stat(path, &st) < 0)
		return err_set_errno(e, -errno, "pool '%s': folder %.300s", name, path);
	if (!S_ISDIR(st.st_mode))
		return err_set(e, -ENOTDIR, ERR_INVALID, "pool '%s': %.300s is no folder", name, path);
	*ret = json_object_get(found);
	return 0;
}

int pool_target(struct cli *c, const char *name, char path[PATH_MAX], struct err *e)
{
	CLEANUP_JS struct json_object *o = NULL;

	return pool_find_path(c, name, path, &o, e);
}

int pool_look(const char *path, struct pool_space *ret, struct err *e)
{
	struct statvfs s;

	if (statvfs(path, &s) < 0)
		return err_set_errno(e, -errno, "%s", path);
	ret->capacity_bytes = (uint64_t)s.f_blocks * s.f_frsize;
	ret->available_bytes = (uint64_t)s.f_bavail * s.f_frsize;
	return 0;
}

static void qcow2_look(int fd, const uint8_t header[32], struct volume *ret)
{
	uint64_t offset = load_be64(header + 8);
	uint32_t size = load_be32(header + 16);

	snprintf(ret->format, sizeof(ret->format), "qcow2");
	ret->capacity_bytes = load_be64(header + 24);
	if (offset && size && size <= QCOW2_BACKING_MAX && offset <= INT64_MAX && !pread_full(fd, ret->backing, size, (off_t)offset))
		ret->backing[size] = 0;
	else
		ret->backing[0] = 0;
}

int volume_look(const char *path, struct volume *ret, struct err *e)
{
	/* O_NONBLOCK: a FIFO would wait for a writer. */
	CLEANUP_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	uint8_t header[32] = { 0 };
	struct stat st;

	if (fd < 0 || fstat(fd, &st) < 0)
		return err_set_errno(e, -errno, "%s", path);
	if (!S_ISREG(st.st_mode))
		return err_set(e, -EINVAL, ERR_INVALID, "%.300s is no regular file", path);
	*ret = (struct volume){ .format = "raw", .capacity_bytes = (uint64_t)st.st_size, .allocation_bytes = (uint64_t)st.st_blocks * 512 };
	if (st.st_size >= (off_t)sizeof(header) && !pread_full(fd, header, sizeof(header), 0) && load_be32(header) == QCOW2_MAGIC)
		qcow2_look(fd, header, ret);
	return 0;
}

static int is_name(const struct dirent *d)
{
	return d->d_name[0] != '.';
}

int volumes_each(const char *folder, void (*found)(void *opaque, const char *name, const char *path), void *opaque, struct err *e)
{
	struct dirent **list;
	int n = scandir(folder, &list, is_name, alphasort);

	if (n < 0)
		return err_set_errno(e, -errno, "%s", folder);
	for (int i = 0; i < n; i++) {
		char path[PATH_MAX];
		struct stat st;

		if (snprintf(path, sizeof(path), "%s/%s", folder, list[i]->d_name) < (int)sizeof(path) && lstat(path, &st) == 0 && S_ISREG(st.st_mode))
			found(opaque, list[i]->d_name, path);
		free(list[i]);
	}
	free(list);
	return 0;
}

bool volume_name_is_good(const char *name)
{
	return *name && *name != '.' && *name != '-' && !strchr(name, '/') && strlen(name) <= NAME_MAX;
}

int volume_path(struct cli *c, const char *which, char path[PATH_MAX], struct err *e)
{
	const char *pool = option_value(c, "pool");
	char folder[PATH_MAX];
	int r;

	if (which[0] == '/') {
		snprintf(path, PATH_MAX, "%s", which);
		return 0;
	}
	if (!pool)
		return err_set(e, -EINVAL, ERR_INVALID, "volume '%.100s': give its pool by --pool, or its absolute path", which);
	if (!volume_name_is_good(which))
		return err_set(e, -EINVAL, ERR_INVALID, "\"%.100s\" is no name of a volume; give a file's name without a folder", which);
	r = pool_target(c, pool, folder, e);
	if (!r && snprintf(path, PATH_MAX, "%s/%s", folder, which) >= PATH_MAX)
		r = err_set_errno(e, -ENAMETOOLONG, "%s", which);
	return r;
}

/* ---- who uses a volume ---- */

static bool is_file(const char *path, const struct stat *file)
{
	struct stat st;

	return path && stat(path, &st) == 0 && st.st_dev == file->st_dev && st.st_ino == file->st_ino;
}

static bool disks_use(struct json_object *definition, const struct stat *file)
{
	struct json_object *disks = js_get_array(definition, "disks");

	for (size_t i = 0; disks && i < json_object_array_length(disks); i++) {
		struct json_object *d = json_object_array_get_idx(disks, i), *layers = js_get_array(d, "backing");

		if (is_file(js_get_str(d, "path"), file))
			return true;
		for (size_t k = 0; layers && k < json_object_array_length(layers); k++)
			if (is_file(js_get_str(json_object_array_get_idx(layers, k), "path"), file))
				return true;
	}
	return false;
}

/* Check the definitions of all VMs that the user may see: that of a running VM, and that of its next start. */
static int vms_check(struct cli *c, const char *path, const struct stat *file, struct err *e)
{
	CLEANUP_JS struct json_object *all = NULL;
	int r = cli_vm_list(c, true, &all, NULL, e);

	for (size_t i = 0; !r && i < 2 * json_object_array_length(all); i++) {
		const char *name = js_get_str_or(json_object_array_get_idx(all, i / 2), "name", "");
		CLEANUP_JS struct json_object *o = NULL;
		struct json_object *args = cli_vm_args(name);

		js_put_bool(args, "inactive", i % 2);
		r = cli_execute(c, "vm-dump-definition", args, &o, NULL, e);
		if (r == -ENOENT) /* undefined meanwhile */
			r = 0;
		else if (!r && disks_use(js_get(o, "definition"), file))
			r = err_set(e, -EBUSY, ERR_BUSY, "%.300s is an image of VM '%s'; detach the disk or undefine the VM first", path, name);
	}
	return r;
}

struct search {
	const char *folder;
	const struct stat *file;
	char user[NAME_MAX + 1]; /* the volume that reads the file; "": none */
};

static void backing_look(void *opaque, const char *name, const char *path)
{
	struct search *s = opaque;
	char backing[PATH_MAX];
	struct volume v;

	if (s->user[0] || volume_look(path, &v, NULL) < 0 || !v.backing[0])
		return;
	snprintf(backing, sizeof(backing), "%s%s%s", v.backing[0] == '/' ? "" : s->folder, v.backing[0] == '/' ? "" : "/", v.backing);
	if (is_file(backing, s->file))
		snprintf(s->user, sizeof(s->user), "%s", name);
}

int volume_check_unused(struct cli *c, const char *path, struct err *e)
{
	CLEANUP_FREE char *folder = must_alloc(strdup(path));
	struct search s = { .folder = folder };
	struct stat st;
	int r;

	if (stat(path, &st) < 0)
		return err_set_errno(e, -errno, "%s", path);
	r = vms_check(c, path, &st, e);
	if (r < 0)
		return r;
	*strrchr(folder, '/') = 0;
	s.file = &st;
	r = volumes_each(*folder ? folder : "/", backing_look, &s, e);
	return !r && s.user[0] ? err_set(e, -EBUSY, ERR_BUSY, "%.300s is the backing file of %.100s; delete that first", path, s.user) : r;
}

void growth_print(struct json_object *o)
{
	int64_t growth = js_get_int(o, "growth", 0);
	char text[VOLUME_SIZE_TEXT];

	if (js_get(o, "growth"))
		label_print(stdout, "Growth:", "%s%s a day", growth < 0 ? "-" : "", volume_size_text((uint64_t)llabs(growth), text));
	if (js_get(o, "days-left"))
		label_print(stdout, "Full in:", "%lld days%s", (long long)js_get_int(o, "days-left", 0), js_get_bool(o, "low", false) ? " (low)" : "");
}
