#include "api/jobs/fork_files.h"
#include "api/access/fork_as.h"
#include "api/jobs/clone_files.h"
#include "api/vm/quota_use.h"
#include "base/err.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

static int image_check(const char *path, struct err *e)
{
	struct stat st;

	if (stat(path, &st) < 0)
		return err_set_errno(e, -errno, "%s", path);
	if (!S_ISREG(st.st_mode))
		return err_set(e, -ENOTSUP, ERR_UNSUPPORTED, "%s is a device; live clones cannot copy devices", path);
	return 0;
}

static int copy_check(const char *path, struct err *e)
{
	struct stat st;

	if (lstat(path, &st) == 0)
		return err_set(e, -EEXIST, ERR_EXISTS, "%s: exists, so it cannot become the disk of a clone", path);
	return errno == ENOENT ? 0 : err_set_errno(e, -errno, "%s", path);
}

int fork_files_check(const void *files, struct fork_as_result *out, struct err *e)
{
	const struct fork_files *f = files;
	int r = 0;

	for (unsigned i = 0; i < f->ncopied; i++)
		out->bytes = quota_sum(out->bytes, clone_disk_bytes(f->copied[i].disk, 0, f->copied[i].nlayers));
	for (unsigned i = 0; i < f->n && !r; i++)
		r = f->list[i].copy ? copy_check(f->list[i].path, e) : image_check(f->list[i].path, e);
	return r;
}

static int file_open(const struct fork_file *f, struct err *e)
{
	int flags = f->copy ? O_RDWR | O_CREAT | O_EXCL : O_RDONLY | O_NONBLOCK;
	int fd = open(f->path, flags | O_CLOEXEC | O_NOCTTY | O_NOFOLLOW, 0600);

	return fd < 0 ? err_set_errno(e, -errno, "%s", f->path) : fd;
}

int fork_files_open(const void *files, struct fork_as_result *out, struct err *e)
{
	const struct fork_files *f = files;

	for (unsigned i = 0; i < f->n; i++) {
		int fd = file_open(&f->list[i], e);

		if (fd >= 0) {
			out->fds[out->nfds++] = fd;
			continue;
		}
		while (i--) {
			close(out->fds[i]);
			if (f->list[i].copy)
				unlink(f->list[i].path);
		}
		out->nfds = 0;
		return fd;
	}
	return 0;
}
