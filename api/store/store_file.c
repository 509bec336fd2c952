#include "api/store/store_file.h"
#include "api/store/file_close.h"
#include "api/store/store.h"
#include "api/store/trend_file.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/file.h"
#include "base/log.h"
#include "base/util.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/magic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <unistd.h>

#define TMP ".tmp"
#define SECTOR_BYTES 512
#define LARGE_SECTORS 2048 /* 1 MiB, in the unit of st_blocks */

/* Return whether the ext4 on a device has a journal. */
static bool has_journal(dev_t dev)
{
	char path[64], device[PATH_MAX], file[PATH_MAX + 32], task[32];
	CLEANUP_CLOSE int fd = -1;
	ssize_t n;

	snprintf(path, sizeof(path), "/sys/dev/block/%u:%u", major(dev), minor(dev));
	n = readlink(path, device, sizeof(device) - 1);
	if (n <= 0)
		return false;
	device[n] = 0;
	snprintf(file, sizeof(file), "/sys/fs/ext4/%s/journal_task", strrchr(device, '/') ? strrchr(device, '/') + 1 : device);
	fd = open(file, O_RDONLY | O_CLOEXEC);
	n = fd < 0 ? -1 : read(fd, task, sizeof(task));
	return n > 0 && task[0] >= '0' && task[0] <= '9'; /* the pid of the journal's thread, or <none> */
}

dev_t store_ordered_device(const char *folder)
{
	struct statfs fs;
	struct stat st;

	if (statfs(folder, &fs) < 0 || stat(folder, &st) < 0)
		return 0;
	return fs.f_type == XFS_SUPER_MAGIC || (fs.f_type == EXT4_SUPER_MAGIC && has_journal(st.st_dev)) ? st.st_dev : 0;
}

int store_place_check(int fd, const char *path, struct err *e)
{
	struct stat opened, now = { 0 };

	if (fstat(fd, &opened) < 0 || (stat(path, &now) < 0 && errno != ENOENT && errno != ENOTDIR) ||
		(now.st_dev == opened.st_dev && now.st_ino == opened.st_ino))
		return 0;
	return err_set(e, -EIO, ERR_IO, "the state folder %s is gone: since cairnd started, it was removed or moved, or its file system was "
		"unmounted; put it back, or restart cairnd to begin with an empty one", path);
}

int store_folder_sync(const char *path)
{
	CLEANUP_CLOSE int fd = -1;

	fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return fd < 0 || fsync(fd) < 0 ? -errno : 0;
}

int store_folder_sync_err(const char *path, struct err *e)
{
	int r = store_folder_sync(path);

	return r < 0 && r != -ENOENT ? err_set_errno(e, r, "%s", path) : 0;
}

int store_file_sync(const char *path, struct err *e)
{
	CLEANUP_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC);
	int r = fd < 0 || fsync(fd) < 0 ? -errno : 0;

	return r < 0 && r != -ENOENT ? err_set_errno(e, r, "%s", path) : 0;
}

int store_file_sync_named(const char *path, struct err *e)
{
	CLEANUP_FREE char *up = strndup(path, (size_t)(strrchr(path, '/') - path));
	int r = up ? store_file_sync(path, e) : err_set_errno(e, -ENOMEM, "%s", path);

	return r < 0 ? r : store_folder_sync_err(up, e);
}

void store_file_sync_start(const char *path)
{
	CLEANUP_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd >= 0)
		(void)sync_file_range(fd, 0, 0, SYNC_FILE_RANGE_WRITE);
}

int store_file_put(const char *path, const char *text, bool sync, struct err *e)
{
	CLEANUP_CLOSE int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
	int r = fd < 0 ? -errno : write_full(fd, text, strlen(text));

	if (!r && sync && fsync(fd) < 0)
		r = -errno;
	return r < 0 ? err_set_errno(e, r, "%s", path) : 0;
}

int store_file_switch(const char *path, const char *text, struct err *e)
{
	CLEANUP_FREE char *up = strdup(path);
	char tmp[PATH_MAX];
	int r = !up || snprintf(tmp, sizeof(tmp), "%s" TMP, path) >= (int)sizeof(tmp) ?
		err_set_errno(e, -ENAMETOOLONG, "%s", path) : 0;

	if (r < 0)
		return r;
	*strrchr(up, '/') = 0;
	r = store_file_put(tmp, text, false, e);
	if (r == -ENOENT && !(r = mkdir_all(up, 0700, e)))
		r = store_file_put(tmp, text, false, e);
	if (!r && rename(tmp, path) < 0)
		r = err_set_errno(e, -errno, "%s", path);
	if (r < 0)
		unlink(tmp);
	return r;
}

void store_folder_each(const char *path, void (*found)(void *opaque, const char *name), void *opaque)
{
	DIR *dir = opendir(path);
	struct dirent *de;

	while (dir && (de = readdir(dir))) {
		const char *dot = strrchr(de->d_name, '.');

		if (dot && !strcmp(dot, ".json"))
			found(opaque, de->d_name);
		else if (dot && !strcmp(dot, TMP))
			unlinkat(dirfd(dir), de->d_name, 0);
	}
	if (dir)
		closedir(dir);
}

void store_files_drop(const char *folder, const char *prefix)
{
	DIR *dir = opendir(folder);
	struct dirent *de;

	while (dir && (de = readdir(dir)))
		if (!strncmp(de->d_name, prefix, strlen(prefix)))
			unlinkat(dirfd(dir), de->d_name, 0);
	if (dir)
		closedir(dir);
}

/* Open a large file that is about to lose its name. Returns its fd; -1: a small file, or none. */
static int large_open(int dir, const char *path)
{
	struct stat st;

	if (fstatat(dir, path, &st, AT_SYMLINK_NOFOLLOW) < 0 || !S_ISREG(st.st_mode) || st.st_blocks < LARGE_SECTORS)
		return -1;
	return openat(dir, path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
}

int store_file_unlink(int dir, const char *path)
{
	int fd = large_open(dir, path), r = unlinkat(dir, path, 0) < 0 ? -errno : 0;

	file_close_async(fd);
	return r;
}

int store_file_rename(const char *from, const char *to)
{
	int fd = large_open(AT_FDCWD, to), r = rename(from, to) < 0 ? -errno : 0;

	file_close_async(fd);
	return r;
}

int store_file_remove(const char *path, struct err *e)
{
	CLEANUP_FREE char *up = strdup(path);
	int r = up ? store_file_unlink(AT_FDCWD, path) : -ENOMEM;

	if (!r) {
		*strrchr(up, '/') = 0;
		r = store_folder_sync(up);
	}
	return r < 0 && r != -ENOENT ? err_set_errno(e, r, "%s", path) : 0;
}

int store_file_end(const char *path, const char *from, const char *to, struct err *e)
{
	CLEANUP_CLOSE int fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
	char sector[SECTOR_BYTES];
	const char *at = NULL;
	ssize_t n = fd < 0 ? -1 : pread(fd, sector, sizeof(sector), 0);
	int r = n < 0 ? -errno : 0;

	if (!r)
		at = memmem(sector, (size_t)n, from, strlen(from));
	if (!r && !at)
		r = -EBADMSG;
	if (!r && pwrite(fd, to, strlen(to), at - sector) != (ssize_t)strlen(to))
		r = -EIO;
	if (!r && fdatasync(fd) < 0)
		r = -errno;
	unlink(path);
	return r < 0 ? err_set_errno(e, r, "%s", path) : 0;
}

int store_size_check(const char *path, const char *text, struct err *e)
{
	return strlen(text) <= STORE_FILE_MAX ? 0 :
		err_set(e, -EFBIG, ERR_INVALID, "%s: would exceed %d bytes", path, STORE_FILE_MAX);
}

void store_put_aside(const char *path, const char *why)
{
	char away[PATH_MAX];

	if (snprintf(away, sizeof(away), "%s.damaged", path) >= (int)sizeof(away))
		return;
	if (rename(path, away) < 0)
		log_error("store", "%s is damaged (%s) and cannot be renamed: %s", path, why,
			strerror(errno));
	else
		log_error("store", "%s is damaged (%s); it is now %s", path, why, away);
}

void store_keep_old(const char *path, int64_t version)
{
	char old[PATH_MAX];

	if (snprintf(old, sizeof(old), "%s.v%lld", path, (long long)version) >= (int)sizeof(old))
		return;
	unlink(old);
	if (link(path, old) < 0)
		log_warn("store", "%s: %s", old, strerror(errno));
}

/* The known files in a VM's folder; store_folder_clear() also removes their temporary, damaged and old versions. The
 * definition comes first: if the daemon ends between two removals, the folder without a definition is no VM, and the
 * next start removes the rest. */
static const char *const vm_files[] = {
	"definition.json",
	"state.json",
	"end",
	"log",
	"log.1",
	"touched",
	STORE_NVRAM,
	"managed.save",
	"managed.save.used",
	"schedule.json",
	"timetable.json",
	"thresholds.json",
	"space.json",
	"fork.pending",
	"import.pending",
	"imported.json",
	"devices.json",
	"promote.json",
	"promoted.json",
	"clone.pending",
	"undefine.json",
	"autostart.json",
	STORE_TRENDS,
	STORE_RENAMED,
	"template.json",
	"transient.json",
};

/* Remove a folder in a VM's folder with all its files. If it has a subfolder, both remain. */
static void files_clear(const char *path, const char *folder)
{
	char sub[PATH_MAX];
	struct dirent *de;
	DIR *at;

	if (snprintf(sub, sizeof(sub), "%s/%s", path, folder) >= (int)sizeof(sub) || !(at = opendir(sub)))
		return;
	while ((de = readdir(at)))
		if (strcmp(de->d_name, ".") && strcmp(de->d_name, ".."))
			store_file_unlink(dirfd(at), de->d_name);
	closedir(at);
	rmdir(sub);
}

int store_folder_clear(const char *path, struct err *e)
{
	static const char *const suffixes[] = { "", ".tmp", ".damaged", ".v1" };
	char file[PATH_MAX];
	int r;

	for (size_t i = 0; i < ARRAY_SIZE(vm_files) * ARRAY_SIZE(suffixes); i++) {
		if (snprintf(file, sizeof(file), "%s/%s%s", path, vm_files[i / ARRAY_SIZE(suffixes)],
			    suffixes[i % ARRAY_SIZE(suffixes)]) >= (int)sizeof(file))
			return err_set_errno(e, -ENAMETOOLONG, "%s", path);
		r = store_file_unlink(AT_FDCWD, file);
		if (r < 0 && r != -ENOENT)
			return err_set_errno(e, r, "%s", file);
	}
	files_clear(path, DUMPS_FOLDER);
	if (rmdir(path) < 0 && errno != ENOENT)
		log_warn("store", "%s is left: %s", path, strerror(errno));
	return 0;
}

int store_folder_clear_for_good(const char *path, struct err *e)
{
	CLEANUP_FREE char *up = strdup(path);
	int r = up ? store_folder_clear(path, e) : err_set_errno(e, -ENOMEM, "%s", path);

	if (r < 0)
		return r;
	r = store_folder_sync(path);
	if (!r || r == -ENOENT) {
		*strrchr(up, '/') = 0;
		r = store_folder_sync(up);
	}
	return r < 0 ? err_set_errno(e, r, "%s", path) : 0;
}

int store_move(const char *path, const char *to, struct err *e)
{
	CLEANUP_FREE char *up = strdup(to);
	int r = up ? store_file_rename(path, to) : -ENOMEM;

	if (!r) {
		*strrchr(up, '/') = 0;
		r = store_folder_sync(up);
	}
	return r < 0 ? err_set_errno(e, r, "%s", to) : 0;
}

int store_file_copy(const char *path, const char *to, struct err *e)
{
	CLEANUP_FREE char *buf = NULL;
	size_t len;
	int r = file_read(path, STORE_COPY_MAX, &buf, &len, e);

	if (r == -ENOENT)
		return 0;
	return r ? r : file_write_atomic(to, buf, len, 0600, e);
}

int store_folder_rename(const char *path, const char *text, const char *to, struct err *e)
{
	char file[PATH_MAX];
	int r;

	if (snprintf(file, sizeof(file), "%s/" STORE_RENAMED, path) >= (int)sizeof(file))
		return err_set_errno(e, -ENAMETOOLONG, "%s", path);
	r = file_write_atomic(file, text, strlen(text), 0600, e);
	if (r < 0)
		return r;
	r = store_move(path, to, e);
	if (r < 0)
		rename(to, path); /* the sync may have failed after the rename */
	if (r < 0 && unlink(file) < 0 && errno != ENOENT)
		log_error("store", "%s is left: %s", file, strerror(errno));
	return r;
}
