#include "tools/archive/stage.h"
#include "base/err.h"
#include "base/file.h"

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

/* Remove all files. The folder never contains subfolders. */
static int folder_empty(int fd)
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

/* Returns 0; -ENOENT without e: the folder does not exist; -errno with a sentence. */
static int folder_open(struct stage *s, bool made, struct err *e)
{
	struct stat st;

	s->fd = openat(s->parent, s->tmp, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (s->fd < 0 && errno == ENOENT)
		return -ENOENT;
	if (s->fd < 0)
		return err_set_errno(e, -errno, "the folder %s", s->tmp);
	/* If other users can write to the parent, one of them may have created this folder to read the images. */
	if (!made && (fstat(s->fd, &st) < 0 || st.st_uid != geteuid() || (st.st_mode & 022)))
		return err_set(e, -EPERM, ERR_PERMISSION, "%s exists and belongs to another user; remove it, or choose another "
			"folder with --folder", s->tmp);
	return 0;
}

static int folder_take(struct stage *s, struct err *e)
{
	bool made = mkdirat(s->parent, s->tmp, 0700) == 0;
	int r;

	if (!made && errno != EEXIST)
		return err_set_errno(e, -errno, "cannot create the folder %s", s->name);
	r = folder_open(s, made, e);
	if (r < 0)
		return r == -ENOENT ? err_set_errno(e, r, "the folder %s", s->tmp) : r;
	if (flock(s->fd, LOCK_EX | LOCK_NB) < 0)
		return err_set(e, -EBUSY, ERR_BUSY, "another import is filling the folder %s", s->name);
	r = folder_empty(s->fd);
	return r < 0 ? err_set_errno(e, r, "cannot remove the files of an interrupted import in %s", s->tmp) : 0;
}

static void names_make(struct stage *s, int parent, const char *name)
{
	*s = (struct stage){ .parent = parent, .fd = -1 };
	snprintf(s->name, sizeof(s->name), "%s", name);
	snprintf(s->tmp, sizeof(s->tmp), ".%.240s.importing", name);
}

int stage_open(int parent, const char *name, struct stage **ret, struct err *e)
{
	struct stage *s = calloc(1, sizeof(*s));
	struct stat st;
	int r;

	if (!s)
		return err_set_errno(e, -ENOMEM, "import");
	names_make(s, parent, name);
	if (fstatat(parent, s->name, &st, AT_SYMLINK_NOFOLLOW) == 0)
		r = err_set(e, -EEXIST, ERR_EXISTS,
			"%s already exists in the folder; choose another folder with --folder", s->name);
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

/* Does the temporary name still lead to the open folder? While this process waited for the lock, an import may have
 * renamed the folder, and another one may have created a new folder. */
static bool is_the_same(const struct stage *s)
{
	struct stat a, b;

	return fstat(s->fd, &a) == 0 && fstatat(s->parent, s->tmp, &b, AT_SYMLINK_NOFOLLOW) == 0 && a.st_dev == b.st_dev &&
		a.st_ino == b.st_ino;
}

static int folder_clear(struct stage *s, struct err *e)
{
	int r = flock(s->fd, LOCK_EX) < 0 ? -errno : 0;

	if (!r && !is_the_same(s))
		return 0;
	if (!r)
		r = folder_empty(s->fd);
	if (!r && unlinkat(s->parent, s->tmp, AT_REMOVEDIR) < 0)
		r = -errno;
	return r < 0 ? err_set_errno(e, r, "cannot remove %s", s->tmp) : 0;
}

int stage_clear(int parent, const char *name, struct err *e)
{
	struct stage s;
	int r;

	names_make(&s, parent, name);
	r = folder_open(&s, false, e);
	if (!r)
		r = folder_clear(&s, e);
	if (s.fd >= 0)
		close(s.fd);
	return r == -ENOENT && s.fd < 0 ? 0 : r;
}

void stage_free(struct stage *s)
{
	if (!s)
		return;
	if (!s->kept && !folder_empty(s->fd))
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

	return fd < 0 ? err_set_errno(e, -errno, "cannot create %s", name) : fd;
}

int stage_keep(struct stage *s, struct err *e)
{
	int r = fsync(s->fd) < 0 ? -errno : file_rename_new(s->parent, s->tmp, s->name);

	if (r < 0)
		return err_set_errno(e, r, "the folder %s", s->name);
	s->kept = true;
	return fsync(s->parent) < 0 ? err_set_errno(e, -errno, "the folder of %s", s->name) : 0;
}
