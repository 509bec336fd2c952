#include "base/file.h"
#include "base/cleanup.h"
#include "base/err.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <linux/magic.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

/* how often file_lock() tries */
#define LOCK_TRIES 5
#define LOCK_PAUSE_NS 2000000

int write_full(int fd, const void *buf, size_t len)
{
	for (const char *p = buf; len;) {
		ssize_t n = write(fd, p, len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		p += n;
		len -= (size_t)n;
	}
	return 0;
}

int pread_full(int fd, void *buf, size_t len, off_t off)
{
	for (char *p = buf; len;) {
		ssize_t n = pread(fd, p, len, off);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : -EIO;
		p += n;
		off += n;
		len -= (size_t)n;
	}
	return 0;
}

int pwrite_full(int fd, const void *buf, size_t len, off_t off)
{
	for (const char *p = buf; len;) {
		ssize_t n = pwrite(fd, p, len, off);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		p += n;
		off += n;
		len -= (size_t)n;
	}
	return 0;
}

int line_append(int fd, const char *text, size_t *ret_bytes)
{
	CLEANUP_FREE char *line = NULL;
	int n = asprintf(&line, "%s\n", text), r;

	if (n < 0) {
		line = NULL;
		return -ENOMEM;
	}
	r = fd < 0 ? -EBADF : write_full(fd, line, (size_t)n);
	*ret_bytes = r < 0 ? 0 : (size_t)n;
	return r;
}

int file_read_fd(int fd, const char *name, size_t max, char **ret_buf, size_t *ret_len,
	struct err *e)
{
	CLEANUP_FREE char *buf = NULL;
	size_t len = 0, cap = 0;

	for (;;) {
		ssize_t n;

		if (cap - len < 2) {
			char *bigger;

			cap = cap ? cap * 2 : 4096;
			bigger = realloc(buf, cap);
			if (!bigger)
				return err_set_errno(e, -ENOMEM, "%s", name);
			buf = bigger;
		}
		n = read(fd, buf + len, cap - len - 1);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return err_set_errno(e, -errno, "%s", name);
		if (!n)
			break;
		len += (size_t)n;
		if (len > max)
			return err_set(e, -EFBIG, ERR_INVALID, "%s is larger than %zu bytes", name, max);
	}
	buf[len] = 0;
	*ret_buf = STEAL_PTR(buf);
	*ret_len = len;
	return 0;
}

int file_read(const char *path, size_t max, char **ret_buf, size_t *ret_len, struct err *e)
{
	CLEANUP_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return err_set_errno(e, -errno, "%s", path);
	return file_read_fd(fd, path, max, ret_buf, ret_len, e);
}

static int fsync_folder_of(const char *path)
{
	CLEANUP_CLOSE int fd = -1;
	char dir[PATH_MAX];
	char *slash;

	if (snprintf(dir, sizeof(dir), "%s", path) >= (int)sizeof(dir))
		return -ENAMETOOLONG;
	slash = strrchr(dir, '/');
	if (!slash)
		snprintf(dir, sizeof(dir), ".");
	else if (slash == dir)
		slash[1] = 0;
	else
		*slash = 0;
	fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return fd < 0 || fsync(fd) < 0 ? -errno : 0;
}

int file_write_atomic(const char *path, const void *buf, size_t len, mode_t mode, struct err *e)
{
	CLEANUP_CLOSE int fd = -1;
	char tmp[PATH_MAX];
	int r;

	if (snprintf(tmp, sizeof(tmp), "%s.tmp", path) >= (int)sizeof(tmp))
		return err_set_errno(e, -ENAMETOOLONG, "%s", path);
	/* A temporary file that a crash left behind may have another mode, or not be a regular
	 * file. */
	unlink(tmp);
	fd = open(tmp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, mode);
	if (fd < 0)
		return err_set_errno(e, -errno, "%s", tmp);
	r = write_full(fd, buf, len);
	if (!r && fsync(fd) < 0)
		r = -errno;
	if (!r && rename(tmp, path) < 0)
		r = -errno;
	if (r < 0) {
		unlink(tmp);
		return err_set_errno(e, r, "cannot write %s", path);
	}
	r = fsync_folder_of(path);
	return r < 0 ? err_set_errno(e, r, "cannot sync the folder of %s", path) : 0;
}

int file_lock(int fd)
{
	for (unsigned i = 0; flock(fd, LOCK_EX | LOCK_NB) < 0; i++) {
		if (errno != EWOULDBLOCK)
			return -errno;
		if (i == LOCK_TRIES)
			return -EBUSY;
		nanosleep(&(struct timespec){ .tv_nsec = LOCK_PAUSE_NS }, NULL);
	}
	return 0;
}

static int folder_make(const char *path, mode_t mode, struct err *e)
{
	struct stat st;

	if (!mkdir(path, mode))
		return 0;
	if (errno == EEXIST) {
		if (!stat(path, &st) && S_ISDIR(st.st_mode))
			return 0;
		errno = ENOTDIR;
	}
	return err_set_errno(e, -errno, "cannot create the folder %s", path);
}

int file_rename_new(int dir, const char *from, const char *to)
{
	if (renameat2(dir, from, dir, to, RENAME_NOREPLACE) == 0)
		return 0;
	if (errno != EINVAL)
		return -errno;
	return renameat(dir, from, dir, to) < 0 ? -errno : 0;
}

int mkdir_all(const char *path, mode_t mode, struct err *e)
{
	char dir[PATH_MAX];
	int r = 0;

	if (!path[0])
		return err_set_errno(e, -ENOENT, "cannot create a folder without a name");
	/* Mostly, only the last folder is missing. */
	if (!mkdir(path, mode))
		return 0;
	if (snprintf(dir, sizeof(dir), "%s", path) >= (int)sizeof(dir))
		return err_set_errno(e, -ENAMETOOLONG, "%s", path);
	for (char *p = dir + 1; *p && !r; p++) {
		if (*p != '/')
			continue;
		*p = 0;
		r = folder_make(dir, mode, e);
		*p = '/';
	}
	return r < 0 ? r : folder_make(dir, mode, e);
}

/* Return whether the file system of a file or a folder keeps data in memory (tmpfs), or may (overlayfs). */
static bool file_is_in_memory(int fd)
{
	struct statfs fs;

	return !fstatfs(fd, &fs) && (fs.f_type == TMPFS_MAGIC || fs.f_type == RAMFS_MAGIC || fs.f_type == OVERLAYFS_SUPER_MAGIC);
}

int file_identify(int fd, struct file_id *ret)
{
	struct stat st;

	if (fstat(fd, &st) < 0)
		return -errno;
	/* File systems on a disk have the disk's numbers. */
	*ret = (struct file_id){ st.st_dev, st.st_ino, !major(st.st_dev) && S_ISREG(st.st_mode) && file_is_in_memory(fd) };
	return 0;
}

bool file_is_older(const char *path, uint64_t ns)
{
	struct statx st;

	return ns && statx(AT_FDCWD, path, AT_SYMLINK_NOFOLLOW, STATX_BTIME, &st) == 0 && (st.stx_mask & STATX_BTIME) &&
		(uint64_t)st.stx_btime.tv_sec * 1000000000ULL + st.stx_btime.tv_nsec < ns;
}

double file_number_behind(const char *path, const char *word)
{
	CLEANUP_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC);
	char text[1024 + 1];
	ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
	const char *at;

	text[n > 0 ? n : 0] = 0;
	at = strstr(text, word);
	return at ? strtod(at + strlen(word), NULL) : 0;
}
