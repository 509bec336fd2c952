#include "api/jobs/fork_files.h"
#include "api/access/fork_as.h"
#include "api/jobs/clone_files.h"
#include "api/vm/quota_use.h"
#include "base/err.h"
#include "base/relay.h"
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

/* Close all files, and remove those that were created here. fds: by place. */
static void files_undo(const struct fork_files *f, const int *fds)
{
	for (unsigned i = 0; i < f->n; i++)
		if (f->list[i].copy && fds[f->list[i].at] >= 0)
			created_remove(f->list[i].path, fds[f->list[i].at]);
	for (unsigned i = 0; i < CHANNEL_FDS_MAX; i++)
		if (fds[i] >= 0)
			close(fds[i]);
}

/* Take the input, or the files that its relay has. */
static int input_take(const struct fork_files *f, struct fork_as_result *out, int *fds, struct err *e)
{
	int r;

	if (!f->relayed) {
		fds[0] = out->input;
		return 0;
	}
	r = relay_take(out->input, fds, CHANNEL_FDS_MAX);
	close(out->input);
	return r < 0 ? err_set_errno(e, r, "cannot get the files of another user's disks") : 0;
}

int fork_files_open(const void *files, struct fork_as_result *out, struct err *e)
{
	const struct fork_files *f = files;
	int fds[CHANNEL_FDS_MAX], r;

	memset(fds, -1, sizeof(fds));
	r = input_take(f, out, fds, e);
	out->input = -1;
	for (unsigned i = 0; i < f->n && !r; i++) {
		int fd = file_open(&f->list[i], e);

		if (fd >= 0)
			fds[f->list[i].at] = fd;
		r = fd < 0 ? fd : out->given_up && atomic_load(out->given_up) ? -ECANCELED : 0;
	}
	if (r < 0) {
		files_undo(f, fds);
		return r;
	}
	for (unsigned i = 0; i < CHANNEL_FDS_MAX; i++)
		if (fds[i] >= 0) {
			out->held_at[out->nheld] = (uint16_t)i;
			out->held[out->nheld++] = fds[i];
		}
	return 0;
}

int fork_files_remove(const void *files, struct fork_as_result *out, struct err *e)
{
	const struct fork_files *f = files;

	(void)out;
	(void)e;
	for (unsigned i = 0; i < f->n; i++)
		if (f->list[i].copy)
			unlink(f->list[i].path);
	return 0;
}

int fork_files_measure(const void *files, struct fork_as_result *out, struct err *e)
{
	const struct fork_files *f = files;
	struct stat st;

	(void)e;
	for (unsigned i = 0; i < f->n; i++)
		if (f->list[i].disk < FORK_AS_SIZES_MAX && stat(f->list[i].path, &st) == 0)
			out->sizes[f->list[i].disk] = (uint64_t)st.st_blocks * 512;
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
