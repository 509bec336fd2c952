#include "api/wire/listen.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/file.h"
#include "base/log.h"

#include <errno.h>
#include <grp.h>
#include <limits.h>
#include <poll.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#define BACKLOG 1024
#define GREETING_TIMEOUT_MS 3000
#define GROUP_NAME "cairn"
#define PASSED_FD 3 /* SD_LISTEN_FDS_START */

static int socket_address(const char *path, struct sockaddr_un *sa, struct err *e)
{
	memset(sa, 0, sizeof(*sa));
	sa->sun_family = AF_UNIX;
	if (strlen(path) > LISTEN_PATH_MAX)
		return err_set(e, -ENAMETOOLONG, ERR_INVALID, "%.200s: at most %d bytes", path,
			LISTEN_PATH_MAX);
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
	/* Others may search this folder; the VM processes' sockets lie in a folder of mode 0700. */
	return mkdir_all(dir, 0755, e);
}

/* Whether a live daemon serves the socket: it sends its greeting, or keeps the connection open for 3 s without one. For
 * a moment, the io_uring of a killed daemon keeps the daemon's socket open: such a socket accepts connections, sends
 * nothing, and resets them. */
static bool is_served(int fd)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };
	char byte;

	return poll(&p, 1, GREETING_TIMEOUT_MS) == 0 || recv(fd, &byte, 1, MSG_DONTWAIT) == 1;
}

int listen_prepare(const char *path, bool replace, struct err *e)
{
	CLEANUP_CLOSE int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	struct sockaddr_un sa;
	int r = socket_address(path, &sa, e);

	if (!r)
		r = folder_make(path, e);
	if (r < 0 || replace)
		return r;
	if (connect(fd, (struct sockaddr *)&sa, sizeof(sa)) == 0 ? is_served(fd) :
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
		return err_set(e, -EEXIST, ERR_EXISTS, "%s exists and is not a socket; remove it",
			path);
	log_info("start", "replacing %s, the socket of a daemon that has ended", path);
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
	int r = socket_address(path, &sa, e);

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

/* ---- sockets passed by a service manager ---- */

static long env_number(const char *name)
{
	const char *v = getenv(name);
	char *end;
	long n = v && *v ? strtol(v, &end, 10) : 0;

	return v && *v && !*end ? n : 0;
}

static int socket_option(int fd, int name)
{
	socklen_t len = sizeof(int);
	int v = -1;

	return getsockopt(fd, SOL_SOCKET, name, &v, &len) < 0 ? -1 : v;
}

int listen_passed_fd(int *ret_fd, struct err *e)
{
	long n = env_number("LISTEN_PID") == getpid() ? env_number("LISTEN_FDS") : 0;

	/* Child processes must not see these variables. */
	unsetenv("LISTEN_PID");
	unsetenv("LISTEN_FDS");
	unsetenv("LISTEN_FDNAMES");
	if (n <= 0)
		return 0;
	if (n > 1)
		return err_set(e, -EINVAL, ERR_INVALID, "LISTEN_FDS passes %ld sockets; pass one", n);
	if (socket_option(PASSED_FD, SO_TYPE) != SOCK_STREAM || socket_option(PASSED_FD, SO_ACCEPTCONN) != 1)
		return err_set(e, -EINVAL, ERR_INVALID, "the fd passed by LISTEN_FDS is not a listening stream socket");
	if (fcntl(PASSED_FD, F_SETFD, FD_CLOEXEC) < 0 || fcntl(PASSED_FD, F_SETFL, O_NONBLOCK) < 0)
		return err_set_errno(e, -errno, "the socket that was passed");
	*ret_fd = PASSED_FD;
	return 1;
}

int listen_passed(int *ret_fd, char *path, size_t size, struct err *e)
{
	struct sockaddr_un sa = { .sun_family = AF_UNSPEC };
	socklen_t len = sizeof(sa);
	int fd, r = listen_passed_fd(&fd, e);

	if (r <= 0)
		return r;
	if (socket_option(fd, SO_DOMAIN) != AF_UNIX)
		return err_set(e, -EINVAL, ERR_INVALID, "the socket passed by LISTEN_FDS is not a Unix socket");
	if (getsockname(fd, (struct sockaddr *)&sa, &len) < 0)
		return err_set_errno(e, -errno, "the socket that was passed");
	if (len <= offsetof(struct sockaddr_un, sun_path) || sa.sun_path[0] != '/' ||
		snprintf(path, size, "%.*s", (int)sizeof(sa.sun_path), sa.sun_path) >= (int)size)
		return err_set(e, -EINVAL, ERR_INVALID,
			"the socket passed by LISTEN_FDS has no absolute path; see ListenStream");
	*ret_fd = fd;
	return 1;
}

int listen_adopt(const char *path, bool system, gid_t *ret_group, struct err *e)
{
	int r;

	*ret_group = (gid_t)-1;
	r = system ? group_grant(path, ret_group) : 0;
	return r < 0 ? err_set_errno(e, r, "%s", path) : 0;
}
