#include "tools/agent/root.h"
#include "base/agent_frame.h"
#include "base/util.h"
#include "tools/agent/network.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/input.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define DISK "/dev/vda"
#define KEPT_DISK "/dev/vdb"
#define INPUTS_MAX 4

struct mount_row {
	const char *source, *target, *type, *data;
	unsigned long flags;
	bool needed;
};

/* The mount points of the parts while the root is put together. */
static const struct mount_row parts[] = {
	{ "dev", "/dev", "devtmpfs", NULL, 0, true },
	{ DISK, "/lower", "squashfs", NULL, MS_RDONLY, true },
};

/* The guest's writes: in memory, or on a disk that later runs use again. */
static const struct mount_row uppers[] = {
	{ "tmpfs", "/upper", "tmpfs", "mode=0700", 0, true },
	{ KEPT_DISK, "/upper", "ext4", "noinit_itable", 0, true },
};

static const struct mount_row folders[] = {
	{ "proc", "proc", "proc", NULL, MS_NOSUID | MS_NODEV | MS_NOEXEC, false },
	{ "sysfs", "sys", "sysfs", NULL, MS_NOSUID | MS_NODEV | MS_NOEXEC, false },
	{ "dev", "dev", "devtmpfs", NULL, MS_NOSUID, false },
	{ "devpts", "dev/pts", "devpts", "mode=0620,ptmxmode=0666", MS_NOSUID | MS_NOEXEC, false },
	{ "tmpfs", "dev/shm", "tmpfs", "mode=1777", MS_NOSUID | MS_NODEV, false },
};

/* Beside a folder of the host, which gets no temporary files. An image's /tmp is a part of its root. */
static const struct mount_row folder_tmp = { "tmpfs", "tmp", "tmpfs", "mode=1777", MS_NOSUID | MS_NODEV, false };

static const char *const links[][2] = { { "/proc/self/fd", "dev/fd" }, { "/proc/self/fd/0", "dev/stdin" },
	{ "/proc/self/fd/1", "dev/stdout" }, { "/proc/self/fd/2", "dev/stderr" } };

static int rows_mount(const struct mount_row *rows, size_t n, const char **ret_what)
{
	for (size_t i = 0; i < n; i++) {
		mkdir(rows[i].target, 0755);
		if (mount(rows[i].source, rows[i].target, rows[i].type, rows[i].flags, rows[i].data) < 0 && rows[i].needed && errno != EBUSY) {
			*ret_what = rows[i].type;
			return -errno;
		}
	}
	return 0;
}

/* The root folder of an overlay has the mode and owner of the upper one. */
static int overlay_mount(void)
{
	struct stat st;
	bool is_new;

	if ((mkdir("/upper/work", 0700) < 0 && errno != EEXIST) || stat("/lower", &st) < 0)
		return -errno;
	is_new = mkdir("/upper/root", 0755) == 0;
	if (!is_new && errno != EEXIST)
		return -errno;
	if (is_new && (chown("/upper/root", st.st_uid, st.st_gid) < 0 || chmod("/upper/root", st.st_mode & 07777) < 0))
		return -errno;
	mkdir("/root", 0755);
	return mount("overlay", "/root", "overlay", 0, "lowerdir=/lower,upperdir=/upper/root,workdir=/upper/work") < 0 ? -errno : 0;
}

/* As switch_root(8) does it: ".." of the new root leads nowhere. */
static int root_change(void)
{
	if (mount(".", "/", NULL, MS_MOVE, NULL) < 0 || chroot(".") < 0 || chdir("/") < 0)
		return -errno;
	return 0;
}

/* Mount the image below a writable layer. */
static int image_mount(const char **ret_what)
{
	int r = rows_mount(parts, ARRAY_SIZE(parts), ret_what);

	if (!r)
		r = rows_mount(&uppers[getenv("CAIRN_KEEP") != NULL], 1, ret_what);
	if (r < 0)
		return r;
	*ret_what = "overlay";
	return overlay_mount();
}

static int folder_mount(const char *tag, const char **ret_what)
{
	mkdir("/root", 0755);
	*ret_what = "virtiofs";
	return mount(tag, "/root", "virtiofs", 0, NULL) < 0 ? -errno : 0;
}

int root_enter(const char **ret_what)
{
	const char *root = getenv("CAIRN_ROOT");
	bool is_folder = strcmp(root, "1") != 0;
	int r;

	umask(022);
	r = is_folder ? folder_mount(root, ret_what) : image_mount(ret_what);
	if (!r && chdir("/root") < 0)
		r = -errno;
	if (r < 0)
		return r;
	rows_mount(folders, ARRAY_SIZE(folders), ret_what);
	if (is_folder)
		rows_mount(&folder_tmp, 1, ret_what);
	else if (mkdir("tmp", 0700) == 0)
		chmod("tmp", 01777);
	for (size_t i = 0; i < ARRAY_SIZE(links); i++)
		if (symlink(links[i][0], links[i][1]) < 0)
			continue; /* it is there */
	*ret_what = "the root folder";
	r = root_change();
	if (!r)
		network_begin(getenv("CAIRN_NET"), getenv("CAIRN_NAME"), is_folder);
	return r;
}

int root_folder_make(const char *folder)
{
	char path[PATH_MAX];

	if (strlen(folder) >= sizeof(path))
		return -ENAMETOOLONG;
	strcpy(path, folder);
	for (char *p = strchr(path + 1, '/'); p; p = strchr(p + 1, '/')) {
		*p = 0;
		mkdir(path, 0755);
		*p = '/';
	}
	return mkdir(path, 0755) < 0 && errno != EEXIST ? -errno : 0;
}

int root_share_mount(const char *tag, const char *folder)
{
	int r = root_folder_make(folder);

	return !r && mount(tag, folder, "virtiofs", 0, NULL) < 0 ? -errno : r;
}

/* ---- the first process ---- */

/* Wait for the power button, and power off. */
static void button_await(void)
{
	struct pollfd p[INPUTS_MAX];
	char path[] = "/dev/input/event0";
	struct input_event event;
	nfds_t n = 0;

	for (; n < INPUTS_MAX; n++) {
		path[sizeof(path) - 2] = (char)('0' + n);
		p[n] = (struct pollfd){ .fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK), .events = POLLIN };
	}
	while (poll(p, n, -1) > 0)
		for (nfds_t i = 0; i < n; i++)
			while (read(p[i].fd, &event, sizeof(event)) == (ssize_t)sizeof(event))
				if (event.type == EV_KEY && event.code == KEY_POWER && event.value) {
					sync();
					reboot(RB_POWER_OFF);
				}
	_exit(0);
}

void root_fork(void)
{
	pid_t agent = fork(), ended;

	if (!agent)
		return;
	if (!fork())
		button_await();
	while ((ended = wait(NULL)) != agent)
		if (ended < 0 && errno == ECHILD)
			break;
	sync();
	reboot(RB_POWER_OFF);
	_exit(1);
}
