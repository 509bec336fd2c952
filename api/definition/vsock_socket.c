#include "api/definition/vsock_socket.h"
#include "api/store/paths.h"
#include "base/cleanup.h"
#include "base/err.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/close_range.h>
#include <stdbool.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#define BACKLOG 128
#define LISTENER_WAIT_MS 2000
#define DIAL_FD 3

/* ---- the socket for the host's clients ---- */

/* Whether a program listens on the socket. The kernel keeps the sockets of a killed VM's process for a moment. */
static bool is_listened_on(const struct sockaddr_un *address)
{
	bool listens = true;

	for (unsigned i = 0; i < LISTENER_WAIT_MS / 10 && listens; i++) {
		CLEANUP_CLOSE int probe = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

		if (i)
			usleep(10000);
		listens = probe < 0 || connect(probe, (const struct sockaddr *)address, sizeof(*address)) == 0 || errno != ECONNREFUSED;
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
	return unlink(path) < 0 ? err_set_errno(e, -errno, "%s: %s", key, path) : 0;
}

int vsock_listen(const char *path, const char *key, struct err *e)
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

/* Become cairn-dial. Returns -errno only if that fails. */
static int dial_become(const char *program, const char *path, int sock)
{
	/* The caller's process group may be killed, and not all of its fds are close-on-exec. */
	if (setsid() < 0 || (sock != DIAL_FD && dup2(sock, DIAL_FD) < 0) || fcntl(DIAL_FD, F_SETFD, 0) < 0 ||
		close_range(DIAL_FD + 1, ~0U, CLOSE_RANGE_CLOEXEC) < 0)
		return -errno;
	execl(program, "cairn-dial", "3", path, (char *)NULL);
	return -errno;
}

/* Start the program as an orphan, so that nobody has to reap it. Returns 0; -errno, also of execve(). */
static int program_start(const char *program, const char *path, int sock)
{
	int pipe_fds[2], error = 0;
	pid_t child;

	if (pipe2(pipe_fds, O_CLOEXEC) < 0)
		return -errno;
	child = fork();
	if (child == 0) {
		pid_t own = fork();

		if (own == 0)
			error = dial_become(program, path, sock);
		else if (own < 0)
			error = -errno;
		if (own <= 0)
			(void)!write(pipe_fds[1], &error, sizeof(error));
		_exit(0);
	}
	if (child < 0)
		error = -errno;
	close(pipe_fds[1]);
	if (child > 0) {
		while (waitpid(child, NULL, 0) < 0 && errno == EINTR)
			;
		if (read(pipe_fds[0], &error, sizeof(error)) < 0)
			error = -errno;
	}
	close(pipe_fds[0]);
	return error;
}

int vsock_dial_start(const char *path, const char *key, struct err *e)
{
	char program[PATH_MAX];
	int pair[2], r = paths_helper("cairn-dial", program, sizeof(program), e);

	if (r < 0)
		return r;
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		return err_set_errno(e, -errno, "%s", key);
	r = program_start(program, path, pair[1]);
	close(pair[1]);
	if (r < 0) {
		close(pair[0]);
		return err_set_errno(e, r, "%s: cannot start %s", key, program);
	}
	return pair[0];
}
