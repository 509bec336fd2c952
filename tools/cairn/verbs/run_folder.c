#include "tools/cairn/verbs/run_folder.h"
#include "base/cleanup.h"

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

#define NAME "cairn-guest-" /* older versions, which lock nothing, have another one */
#define SOCKET "vsock"
#define TRIES 10

static const char *parent_path(void)
{
	const char *run = getenv("XDG_RUNTIME_DIR");

	return run && run[0] == '/' && strlen(run) <= RUN_FOLDER_PARENT_MAX ? run : "/tmp";
}

int run_folder_lock(const struct run_folder *f)
{
	CLEANUP_CLOSE int fd = open(f->path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	struct stat held, named;

	if (fd < 0)
		return errno == ENOENT ? -ESTALE : -errno;
	/* After other errors, no lock is possible, and no run can remove the folder. */
	if (flock(fd, LOCK_SH | LOCK_NB) < 0 && errno == EWOULDBLOCK)
		return -ESTALE;
	/* Another run may have removed it before it was locked. */
	if (fstat(fd, &held) < 0 || stat(f->path, &named) < 0 || held.st_ino != named.st_ino || held.st_dev != named.st_dev)
		return -ESTALE;
	return steal_fd(&fd);
}

int run_folder_make(struct run_folder *ret)
{
	int fd = -ESTALE;

	ret->socket[0] = 0;
	for (unsigned i = 0; fd == -ESTALE && i < TRIES; i++) {
		snprintf(ret->path, sizeof(ret->path), "%s/" NAME "XXXXXX", parent_path());
		if (!mkdtemp(ret->path))
			return -errno;
		fd = run_folder_lock(ret);
	}
	if (fd >= 0)
		snprintf(ret->socket, sizeof(ret->socket), "%s/" SOCKET, ret->path);
	else
		rmdir(ret->path);
	return fd;
}

void run_folder_remove(const struct run_folder *f)
{
	if (!f->socket[0])
		return;
	unlink(f->socket);
	rmdir(f->path);
}

/* Whether an entry of a folder is a folder of this user. Asks no file system that another user has mounted there, and
 * that may not answer. */
static bool is_ours(int parent, const char *name)
{
	struct statx st;

	return statx(parent, name, AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT | AT_STATX_DONT_SYNC, STATX_TYPE | STATX_UID, &st) == 0 &&
		S_ISDIR(st.stx_mode) && st.stx_uid == geteuid() && (st.stx_attributes_mask & STATX_ATTR_MOUNT_ROOT) &&
		!(st.stx_attributes & STATX_ATTR_MOUNT_ROOT);
}

static void unused_remove(int parent, const char *name)
{
	CLEANUP_CLOSE int fd = is_ours(parent, name) ? openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC) : -1;

	if (fd < 0 || flock(fd, LOCK_EX | LOCK_NB) < 0)
		return;
	unlinkat(fd, SOCKET, 0);
	unlinkat(parent, name, AT_REMOVEDIR);
}

void run_folders_sweep(void)
{
	DIR *d = opendir(parent_path());
	struct dirent *entry;

	while (d && (entry = readdir(d)))
		if (!strncmp(entry->d_name, NAME, strlen(NAME)))
			unused_remove(dirfd(d), entry->d_name);
	if (d)
		closedir(d);
}
