#include "api/jobs/fork_files.h"
#include "api/access/fork_as.h"
#include "api/jobs/clone_files.h"
#include "api/vm/quota_use.h"
#include "base/err.h"
#include "base/util.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
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

/* Remove a file that this job has created. If nobody waited for the job any more, the path may be another job's file
 * by now. */
static void created_remove(const char *path, int fd)
{
	struct stat ours, there;

	if (!fstat(fd, &ours) && !lstat(path, &there) && ours.st_dev == there.st_dev && ours.st_ino == there.st_ino)
		unlink(path);
}

static void files_undo(const struct fork_files *f, struct fork_as_result *out)
{
	for (unsigned i = 1; i < out->nheld; i++) {
		if (f->list[i - 1].copy)
			created_remove(f->list[i - 1].path, out->held[i]);
		close(out->held[i]);
	}
	close(out->input);
	out->input = -1;
	out->nheld = 0;
}

int fork_files_open(const void *files, struct fork_as_result *out, struct err *e)
{
	const struct fork_files *f = files;

	out->held[out->nheld++] = out->input;
	for (unsigned i = 0; i < f->n; i++) {
		int fd = file_open(&f->list[i], e);

		if (fd >= 0)
			out->held[out->nheld++] = fd;
		if (fd < 0 || (out->given_up && atomic_load(out->given_up))) {
			files_undo(f, out);
			return fd < 0 ? fd : -ECANCELED;
		}
	}
	return 0;
}

int fork_files_measure(const void *files, struct fork_as_result *out, struct err *e)
{
	const struct fork_files *f = files;
	struct stat st;

	(void)e;
	for (unsigned i = 0; i < f->n && i < FORK_AS_SIZES_MAX; i++)
		if (stat(f->list[i].path, &st) == 0)
			out->sizes[i] = (uint64_t)st.st_blocks * 512;
	return 0;
}

void *fork_files_copy(const void *files)
{
	struct fork_files *copy = must_alloc(malloc(sizeof(*copy)));

	*copy = *(const struct fork_files *)files;
	copy->ncopied = 0; /* the disks may be gone when the thread looks at them */
	for (unsigned i = 0; i < copy->n; i++)
		copy->list[i].path = must_alloc(strdup(copy->list[i].path));
	return copy;
}

void fork_files_drop(void *copy)
{
	struct fork_files *f = copy;

	for (unsigned i = 0; i < f->n; i++)
		free((char *)f->list[i].path);
	free(f);
}
