#include "tools/cairn/target.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static void ends_block(struct target *t)
{
	sigset_t ends;

	sigemptyset(&ends);
	sigaddset(&ends, SIGINT);
	sigaddset(&ends, SIGTERM);
	sigprocmask(SIG_BLOCK, &ends, &t->before);
}

/* Check that an existing file may be replaced. */
static int kind_check(const struct target *t, struct err *e)
{
	CLEANUP_CLOSE int fd = open(t->path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	char first[16];
	ssize_t n;

	if (fd < 0)
		return errno == ENOENT ? 0 : err_set_errno(e, -errno, "%s exists, and cannot be read", t->path);
	n = pread(fd, first, sizeof(first), 0);
	for (size_t i = 0; i < 2 && n > 0 && t->begins[i]; i++)
		if ((size_t)n >= strlen(t->begins[i]) && !memcmp(first, t->begins[i], strlen(t->begins[i])))
			return 0;
	return n ? err_set(e, -EEXIST, ERR_EXISTS, "%s exists and is not %s; choose another name, or remove that file first", t->path, t->kind) : 0;
}

int target_open(struct target *t, bool in_place, struct err *e)
{
	struct stat st;
	int r = 0;

	if (stat(t->path, &st) == 0 && !S_ISREG(st.st_mode))
		return err_set(e, -EINVAL, ERR_INVALID, "%s is not a regular file", t->path);
	if ((t->is_new || in_place) && lstat(t->path, &st) == 0)
		return err_set(e, -EEXIST, ERR_EXISTS, "%s already exists; choose another name%s", t->path,
			in_place ? ": --no-wait does not replace files" : ", or replace the file with --force");
	if (t->kind && (r = kind_check(t, e)) < 0)
		return r;
	if (in_place) {
		t->tmp[0] = 0;
		t->fd = open(t->path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
		return t->fd < 0 ? err_set_errno(e, -errno, "%s", t->path) : 0;
	}
	if (snprintf(t->tmp, sizeof(t->tmp), "%s.XXXXXX", t->path) >= (int)sizeof(t->tmp))
		return err_set_errno(e, -ENAMETOOLONG, "%s", t->path);
	signal(SIGHUP, SIG_IGN); /* the daemon's job outlives the terminal, and only this process names its file */
	ends_block(t);
	t->fd = mkostemp(t->tmp, O_CLOEXEC);
	if (t->fd < 0) {
		r = err_set_errno(e, -errno, "%s", t->path);
		sigprocmask(SIG_SETMASK, &t->before, NULL);
	}
	return r;
}

static int folder_sync(const char *path)
{
	CLEANUP_FREE char *folder = strdup(path);
	CLEANUP_CLOSE int fd = -1;
	char *slash = folder ? strrchr(folder, '/') : NULL;

	if (slash)
		slash[slash == folder] = 0;
	fd = open(slash ? folder : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return fd < 0 || fsync(fd) < 0 ? -errno : 0;
}

/* Rename the temporary file. With is_new, do not replace a file that another program has created in the meantime. */
static int name_give(const struct target *t)
{
	if (t->is_new)
		return file_rename_new(AT_FDCWD, t->tmp, t->path);
	return rename(t->tmp, t->path) < 0 ? -errno : 0;
}

static int target_keep(struct target *t, struct err *e)
{
	int r = fsync(t->fd) < 0 ? -errno : 0;

	if (!r && t->tmp[0])
		r = name_give(t);
	if (!r)
		r = folder_sync(t->path);
	return r < 0 ? err_set_errno(e, r, "cannot rename %s, which holds the complete data, to %s", t->tmp, t->path) : 0;
}

int target_close(struct target *t, int r, struct err *e)
{
	const char *written = t->tmp[0] ? t->tmp : t->path;

	if (!r)
		r = target_keep(t, e);
	else if (r == -EREMOTEIO || (t->whole && r != -EINPROGRESS))
		unlink(written);
	else if (r != -EINPROGRESS && !t->goes_on)
		fprintf(stderr, "error: incomplete data is in %s\n", written);
	close(t->fd);
	if (t->tmp[0])
		sigprocmask(SIG_SETMASK, &t->before, NULL);
	return r;
}
