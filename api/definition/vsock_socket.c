#include "api/definition/vsock_socket.h"
#include "api/definition/detached_program.h"
#include "api/store/paths.h"
#include "base/cleanup.h"
#include "base/err.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define BACKLOG 128
#define LISTENER_WAIT_MS 2000

/* ---- the socket for the host's clients ---- */

/* Whether a program listens on the socket. The kernel keeps the sockets of a killed VM's process for a moment. */
static bool is_listened_on(const struct sockaddr_un *address)
{
	bool listens = true;

	for (unsigned i = 0; i < LISTENER_WAIT_MS / 10 && listens; i++) {
		CLEANUP_CLOSE int probe = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

		if (i)
			usleep(10000);
		listens = probe < 0 || connect(probe, (const struct sockaddr *)address, sizeof(*address)) == 0 ||
			(errno != ECONNREFUSED && errno != ENOENT);
	}
	return listens;
}

/* Remove the socket of a VM that has ended. Returns 0; -EBUSY: a program listens on it; -errno. */
static int stale_remove(const char *path, const char *key, const struct sockaddr_un *address, struct err *e)
{
	struct stat st;

	if (lstat(path, &st) < 0)
		return errno == ENOENT ? 0 : err_set_errno(e, -errno, "%s: %s", key, path);
	if (!S_ISSOCK(st.st_mode))
		return err_set(e, -EEXIST, ERR_EXISTS, "%s: %s exists and is no socket; remove it or choose another path", key,
			path);
	if (is_listened_on(address))
		return err_set(e, -EBUSY, ERR_BUSY, "%s: a program listens on %s, perhaps another VM; end it, or choose another path",
			key, path);
	return unlink(path) < 0 && errno != ENOENT ? err_set_errno(e, -errno, "%s: %s", key, path) : 0;
}

int path_listen(const char *path, const char *key, struct err *e)
{
	CLEANUP_CLOSE int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int r;

	if (fd < 0 || fchmod(fd, 0600) < 0)
		return err_set_errno(e, -errno, "%s: %s", key, path);
	snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
	r = stale_remove(path, key, &address, e);
	if (r < 0)
		return r;
	if (bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0 || listen(fd, BACKLOG) < 0)
		return err_set_errno(e, -errno, "%s: cannot make the socket %s", key, path);
	return steal_fd(&fd);
}

/* ---- cairn-dial ---- */

/* ends: the caller's and the program's; taken. */
static int dial_start(const int ends[2], const char *path, const char *key, int listener, struct err *e)
{
	char program[PATH_MAX];
	char *argv[] = { "cairn-dial", "3", "4", (char *)path, NULL };
	int r = paths_helper("cairn-dial", program, sizeof(program), e);

	if (!r) {
		r = detached_program_start(program, argv, (const int[]){ ends[1], listener }, 2);
		r = r < 0 ? err_set_errno(e, r, "%s: cannot start %s", key, program) : 0;
	}
	close(ends[1]);
	if (r < 0)
		close(ends[0]);
	return r < 0 ? r : ends[0];
}

int vsock_dial_start(const char *path, const char *key, int listener, struct err *e)
{
	int pair[2];

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		return err_set_errno(e, -errno, "%s", key);
	return dial_start(pair, path, key, listener, e);
}

int socket_guard_start(const char *path, const char *key, int listener, struct err *e)
{
	int fds[2];

	if (pipe2(fds, O_CLOEXEC) < 0)
		return err_set_errno(e, -errno, "%s", key);
	return dial_start((const int[]){ fds[1], fds[0] }, path, key, listener, e);
}
