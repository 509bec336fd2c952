#include "api/listen.h"
#include "api/paths.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/file.h"
#include "base/log.h"

#include <errno.h>
#include <grp.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#define BACKLOG 1024
#define GREETING_TIMEOUT_MS 3000
#define GROUP_NAME "cairn"

static int address(const char *path, struct sockaddr_un *sa, struct err *e)
{
	memset(sa, 0, sizeof(*sa));
	sa->sun_family = AF_UNIX;
	if (strlen(path) > PATHS_SOCKET_MAX)
		return err_set(e, -ENAMETOOLONG, ERR_INVALID, "%.200s: at most %d bytes", path,
			PATHS_SOCKET_MAX);
	snprintf(sa->sun_path, sizeof(sa->sun_path), "%s", path);
	return 0;
}

static int folder_make(const char *path, struct err *e)
{
	char dir[PATH_MAX];
	char *slash;

	snprintf(dir, sizeof(dir), "%s", path);
	slash = strrchr(dir, '/');
	if (!slash || slash == dir)
		return 0;
	*slash = 0;
	/* Its VM sockets have a folder of their own, 0700; this one may be passed through. */
	return mkdir_all(dir, 0755, e);
}

/* Is there a daemon behind it? The ring of one that was killed holds its socket for a
 * moment: it accepts connections, says nothing, and resets them. A live one greets. */
static bool somebody_greets(int fd)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };
	char byte;

	return poll(&p, 1, GREETING_TIMEOUT_MS) == 0 || recv(fd, &byte, 1, MSG_DONTWAIT) == 1;
}

int listen_prepare(const char *path, struct err *e)
{
	CLEANUP_CLOSE int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	struct sockaddr_un sa;
	int r = address(path, &sa, e);

	if (!r)
		r = folder_make(path, e);
	if (r < 0)
		return r;
	if (connect(fd, (struct sockaddr *)&sa, sizeof(sa)) == 0 ? somebody_greets(fd) :
								    errno == EAGAIN)
		return err_set(e, -EADDRINUSE, ERR_BUSY,
			"another daemon listens on %s; stop it, or use --socket", path);
	return 0;
}

static int stale_remove(const char *path, struct err *e)
{
	struct stat st;

	if (lstat(path, &st) < 0)
		return 0;
	if (!S_ISSOCK(st.st_mode))
		return err_set(e, -EEXIST, ERR_EXISTS, "%s is there and is no socket; remove it",
			path);
	log_info("start", "%s was left by a daemon that is gone; replacing it", path);
	return unlink(path) < 0 ? err_set_errno(e, -errno, "%s", path) : 0;
}

static int group_grant(const char *path, gid_t *ret_group)
{
	struct group *g = getgrnam(GROUP_NAME);

	if (!g)
		return 0;
	if (chown(path, (uid_t)-1, g->gr_gid) < 0 || chmod(path, 0660) < 0)
		return -errno;
	*ret_group = g->gr_gid;
	return 0;
}

int listen_open(const char *path, bool system, int *ret_fd, gid_t *ret_group, struct err *e)
{
	CLEANUP_CLOSE int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	struct sockaddr_un sa;
	mode_t old;
	int r = address(path, &sa, e);

	*ret_group = (gid_t)-1;
	if (!r)
		r = stale_remove(path, e);
	if (r < 0)
		return r;
	old = umask(0177);
	r = bind(fd, (struct sockaddr *)&sa, sizeof(sa)) < 0 ? -errno : 0;
	umask(old);
	if (!r && system)
		r = group_grant(path, ret_group);
	if (!r && listen(fd, BACKLOG) < 0)
		r = -errno;
	if (r < 0)
		return err_set_errno(e, r, "cannot listen on %s", path);
	*ret_fd = steal_fd(&fd);
	return 0;
}
