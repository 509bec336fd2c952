/* Create the external data file of a new image (-o data_file). */
#include "img.h"

#include "base/util.h"
#include "block/lock.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int path_make(struct img_data *d, const char *image, const char *name, struct err *e)
{
	const char *slash = strrchr(image, '/');
	char real[2 * PATH_MAX];
	struct stat a, b;

	if (!*name || img_has_protocol(name))
		return err_set(e, -ENOTSUP, ERR_UNSUPPORTED,
			"invalid data file name '%s'; give the path of a file", name);
	if (snprintf(d->path, sizeof(d->path), "%.*s%s",
		slash && *name != '/' ? (int)(slash + 1 - image) : 0, image, name) >= (int)sizeof(d->path))
		return err_set_errno(e, -ENAMETOOLONG, "%s", name);
	if (!strcmp(d->path, image) || (!img_stat(d->path, &a) && !img_stat(image, &b) && img_same_file(&a, &b)))
		return err_set(e, -EINVAL, ERR_INVALID, "the image cannot be its own data file");
	img_path_follow(d->path, real);
	if (snprintf(d->path, sizeof(d->path), "%s", real) >= (int)sizeof(d->path))
		return err_set_errno(e, -ENAMETOOLONG, "%s", name);
	return 0;
}

/* Lock an existing data file before using it. */
static int old_take(struct img_data *d, struct err *e)
{
	struct stat st;
	int r;

	d->old_fd = open(d->path, O_RDWR | O_CLOEXEC | O_NONBLOCK);
	if (d->old_fd < 0)
		return errno == ENOENT ? 0 : err_set_errno(e, -errno, "cannot write %s", d->path);
	if (fstat(d->old_fd, &st) < 0)
		return err_set_errno(e, -errno, "%s", d->path);
	r = img_kind_check(&st, d->path, e);
	if (r < 0)
		return r;
	d->is_device = S_ISBLK(st.st_mode);
	return lock_acquire(d->old_fd, LOCK_AS_WRITER, d->path, e);
}

static int new_open(struct img_data *d, struct err *e)
{
	int fd;

	if (d->is_device)
		fd = dup(d->old_fd);
	else if (snprintf(d->tmp, sizeof(d->tmp), "%s.part-%d", d->path, (int)getpid()) >=
		(int)sizeof(d->tmp))
		return err_set_errno(e, -ENAMETOOLONG, "%s", d->path);
	else
		fd = img_replacement_open(d->tmp, d->old_fd);
	if (fd <= 0)
		*d->tmp = 0;
	if (!fd)
		fd = ftruncate(d->old_fd, 0) < 0 ? -errno : dup(d->old_fd);
	if (fd < 0)
		return err_set_errno(e, fd, "cannot create %s", d->path);
	d->fd = fd;
	return 0;
}

void img_sandbox_data(const char *image, const struct qcow2_create *c)
{
	char path[2 * PATH_MAX];

	if (!c->data_file)
		return;
	img_path_beside(image, c->data_file, path, sizeof(path));
	img_sandbox_target(path);
}

int img_data_make(struct img_data *d, const char *image, const struct qcow2_create *c, struct err *e)
{
	int r;

	*d = (struct img_data){ .old_fd = -1 };
	if (!c->data_file)
		return 0;
	r = path_make(d, image, c->data_file, e);
	if (!r)
		r = old_take(d, e);
	return r ? r : new_open(d, e);
}

int img_data_size(struct img_data *d, uint64_t size_bytes, struct err *e)
{
	off_t end;

	if (!d->fd)
		return 0;
	if (d->is_device) {
		end = lseek(d->fd, 0, SEEK_END);
		return (uint64_t)MAX(end, 0) >= size_bytes ? 0 : err_set(e, -ENOSPC, ERR_NO_SPACE,
			"the data file %s has %llu bytes, the disk %llu", d->path, (unsigned long long)MAX(end, 0),
			(unsigned long long)size_bytes);
	}
	return ftruncate(d->fd, (off_t)size_bytes) < 0
		? err_set_errno(e, -errno, "%s: cannot set the size", d->path) : 0;
}

int img_data_finish(struct img_data *d, int r, struct err *e)
{
	if (!r && d->fd && fdatasync(d->fd) < 0)
		r = err_set_errno(e, -errno, "cannot write %s", d->path);
	if (!r && *d->tmp && rename(d->tmp, d->path) < 0)
		r = err_set_errno(e, -errno, "cannot rename %s to %s", d->tmp, d->path);
	if (r < 0 && *d->tmp)
		unlink(d->tmp);
	if (d->fd)
		close(d->fd);
	if (d->old_fd >= 0)
		close(d->old_fd);
	return r;
}
