#include "base/spaces.h"
#include "base/cleanup.h"
#include "base/util.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

int spaces_enter_user(void)
{
	char uids[64], gids[64];
	const struct {
		const char *path, *text;
	} files[] = { { "/proc/self/setgroups", "deny" }, { "/proc/self/uid_map", uids }, { "/proc/self/gid_map", gids } };

	snprintf(uids, sizeof(uids), "%u %u 1\n", (unsigned)geteuid(), (unsigned)geteuid());
	snprintf(gids, sizeof(gids), "%u %u 1\n", (unsigned)getegid(), (unsigned)getegid());
	if (unshare(CLONE_NEWUSER) < 0)
		return -errno;
	for (size_t i = 0; i < ARRAY_SIZE(files); i++) {
		CLEANUP_CLOSE int fd = open(files[i].path, O_WRONLY | O_CLOEXEC);

		if (fd < 0 || write(fd, files[i].text, strlen(files[i].text)) < 0)
			return -errno;
	}
	return 0;
}

/* Replace all file systems of the calling process's own mount namespace by an empty one. Mount that on /proc, a folder
 * that every host has. Then enter the namespace again, to get its root: a process that was started in a chroot would
 * still have another root. */
static int root_replace(void)
{
	CLEANUP_CLOSE int own = open("/proc/self/ns/mnt", O_RDONLY | O_CLOEXEC);
	struct stat empty, root;

	if (own < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
		mount("none", "/proc", "tmpfs", MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=0555,size=4k,nr_inodes=1") < 0 ||
		chdir("/proc") < 0 || stat(".", &empty) < 0 || syscall(SYS_pivot_root, ".", ".") < 0 ||
		umount2(".", MNT_DETACH) < 0 || setns(own, CLONE_NEWNS) < 0 || stat("/", &root) < 0)
		return -errno;
	return root.st_dev == empty.st_dev ? 0 : -EXDEV;
}

int spaces_enter_empty_root(void)
{
	return unshare(CLONE_NEWNS) < 0 ? -errno : root_replace();
}
