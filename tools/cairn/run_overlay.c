#include "tools/cairn/run_overlay.h"
#include "api/wire/json.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/util.h"
#include "block/qcow2/qcow2.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Some file systems have no O_TMPFILE. */
static int named_file_open(const char *folder)
{
	char path[PATH_MAX];
	int fd;

	if (snprintf(path, sizeof(path), "%s/cairn-run-XXXXXX", folder) >= (int)sizeof(path))
		return -ENAMETOOLONG;
	fd = mkostemp(path, O_CLOEXEC);
	if (fd < 0)
		return -errno;
	unlink(path);
	return fd;
}

static int file_open(struct err *e)
{
	const char *folder = getenv("TMPDIR");
	int fd;

	folder = folder && *folder ? folder : "/var/tmp";
	fd = open(folder, O_RDWR | O_TMPFILE | O_EXCL | O_CLOEXEC, 0600);
	if (fd < 0 && (errno == EOPNOTSUPP || errno == EISDIR))
		fd = named_file_open(folder);
	else if (fd < 0)
		fd = -errno;
	return fd < 0 ? err_set(e, fd, ERR_HOST, "cannot make a file in %s: %s; name another folder in TMPDIR", folder, strerror(-fd)) : fd;
}

/* Get the size of the disk that the image has. */
static int image_size(const char *path, bool is_qcow2, uint64_t *ret_bytes, struct err *e)
{
	CLEANUP_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	struct qcow2_header h;
	off_t end;
	int r;

	if (fd < 0)
		return err_set_errno(e, -errno, "%s", path);
	r = is_qcow2 ? qcow2_header_read(fd, path, &h, e) : 0;
	if (r < 0)
		return r;
	end = lseek(fd, 0, SEEK_END); /* a block device has no size in its inode */
	if (end < 0)
		return err_set_errno(e, -errno, "%s", path);
	*ret_bytes = ROUND_UP(is_qcow2 ? h.size_bytes : (uint64_t)end, 512);
	return 0;
}

static void layers_move(struct json_object *disk, const char *overlay)
{
	struct json_object *layers = json_object_new_array(), *top = json_object_new_object(), *had = js_get_array(disk, "backing");

	js_put_str(top, "path", js_get_str(disk, "path"));
	js_put_str(top, "format", js_get_str(disk, "format"));
	json_object_array_add(layers, top);
	for (size_t i = 0; had && i < json_object_array_length(had); i++)
		json_object_array_add(layers, json_object_get(json_object_array_get_idx(had, i)));
	js_put(disk, "backing", layers);
	js_put_str(disk, "path", overlay);
	js_put_str(disk, "format", "qcow2");
}

int run_overlay_put(struct json_object *disk, int *ret_fd, struct err *e)
{
	const char *path = js_get_str(disk, "path"), *format = js_get_str(disk, "format");
	struct qcow2_create q = { .cluster_bits = 16, .refcount_order = 4, .version = 3, .backing_name = path, .backing_format = format };
	CLEANUP_CLOSE int fd = -1;
	char name[40];
	int r = image_size(path, !strcmp(format, "qcow2"), &q.size_bytes, e);

	if (!r) {
		fd = file_open(e);
		r = fd < 0 ? fd : qcow2_create(fd, &q, e);
	}
	if (r < 0)
		return r;
	snprintf(name, sizeof(name), "/proc/self/fd/%d", fd);
	layers_move(disk, name);
	*ret_fd = steal_fd(&fd);
	return 0;
}
