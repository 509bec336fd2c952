#include "tools/archive/stage.h"
#include "base/cleanup.h"
#include "base/err.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

struct stage {
	int parent, fd;
	bool kept;
	char name[256], tmp[300];
};

/* It holds files only: nothing else is ever made in it. */
static int empty(int fd)
{
	int copy = openat(fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *d = copy < 0 ? NULL : fdopendir(copy);
	struct dirent *en;
	int r = 0;

	if (!d) {
		r = -errno;
		if (copy >= 0)
			close(copy);
		return r;
	}
	while ((en = readdir(d)))
		if (strcmp(en->d_name, ".") && strcmp(en->d_name, "..") &&
			unlinkat(fd, en->d_name, 0) < 0)
			r = -errno;
	closedir(d);
	return r;
}

static int folder_take(struct stage *s, struct err *e)
{
	bool there = mkdirat(s->parent, s->tmp, 0700) < 0;
	struct stat st;
	int r;

	if (there && errno != EEXIST)
		return err_set_errno(e, -errno, "cannot make the folder %s", s->name);
	s->fd = openat(s->parent, s->tmp, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (s->fd < 0)
		return err_set_errno(e, -errno, "the folder %s", s->tmp);
	/* In a folder that all may write to somebody may have been faster, and would have the images. */
	if (there && (fstat(s->fd, &st) < 0 || st.st_uid != geteuid() || (st.st_mode & 022)))
		return err_set(e, -EPERM, ERR_PERMISSION, "%s is there and another user's; remove it, or choose another "
			"folder with --folder", s->tmp);
	if (flock(s->fd, LOCK_EX | LOCK_NB) < 0)
		return err_set(e, -EBUSY, ERR_BUSY, "another import is filling the folder %s", s->name);
	r = empty(s->fd);
	return r < 0 ? err_set_errno(e, r, "what an import that was broken off left in %s", s->tmp) : 0;
}

int stage_open(int parent, const char *name, struct stage **ret, struct err *e)
{
	struct stage *s = calloc(1, sizeof(*s));
	struct stat st;
	int r;

	if (!s)
		return err_set_errno(e, -ENOMEM, "import");
	s->parent = parent;
	s->fd = -1;
	snprintf(s->name, sizeof(s->name), "%s", name);
	snprintf(s->tmp, sizeof(s->tmp), ".%.240s.importing", name);
	if (fstatat(parent, s->name, &st, AT_SYMLINK_NOFOLLOW) == 0)
		r = err_set(e, -EEXIST, ERR_EXISTS,
			"%s is there already in the folder; choose another with --folder", s->name);
	else
		r = folder_take(s, e);
	if (r < 0) {
		if (s->fd >= 0)
			close(s->fd);
		free(s);
		return r;
	}
	*ret = s;
	return 0;
}

void stage_free(struct stage *s)
{
	if (!s)
		return;
	if (!s->kept && !empty(s->fd))
		unlinkat(s->parent, s->tmp, AT_REMOVEDIR);
	close(s->fd);
	free(s);
}

int stage_fd(const struct stage *s)
{
	return s->fd;
}

int stage_create(struct stage *s, const char *name, struct err *e)
{
	int fd = openat(s->fd, name, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);

	return fd < 0 ? err_set_errno(e, -errno, "making %s", name) : fd;
}

int stage_keep(struct stage *s, struct err *e)
{
	if (fsync(s->fd) < 0)
		return err_set_errno(e, -errno, "the folder %s", s->name);
	if (renameat2(s->parent, s->tmp, s->parent, s->name, RENAME_NOREPLACE) < 0)
		return err_set_errno(e, -errno, "the folder %s", s->name);
	s->kept = true;
	return fsync(s->parent) < 0 ? err_set_errno(e, -errno, "the folder of %s", s->name) : 0;
}
