#include "api/definition/vnc_start.h"
#include "api/definition/definition.h"
#include "api/definition/detached_program.h"
#include "api/definition/vsock_socket.h"
#include "api/store/paths.h"
#include "base/cleanup.h"
#include "base/err.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define PASSWORD_MAX 8 /* VNC's passwords have no more bytes */

/* Open the file of the password and check it; cairn-vnc reads it. Returns an owned fd; -errno. */
static int password_open(const char *path, struct err *e)
{
	CLEANUP_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	char text[PASSWORD_MAX + 3] = "";
	struct stat st;
	size_t len;

	if (fd < 0 || fstat(fd, &st) < 0)
		return err_set_errno(e, -errno, "vnc.password_file: %s", path);
	if (!S_ISREG(st.st_mode))
		return err_set(e, -EINVAL, ERR_INVALID, "vnc.password_file: %s is no file", path);
	if (pread(fd, text, sizeof(text) - 1, 0) < 0)
		return err_set_errno(e, -errno, "vnc.password_file: %s", path);
	len = strcspn(text, "\r\n");
	explicit_bzero(text, sizeof(text));
	if (!len || len > PASSWORD_MAX)
		return err_set(e, -EINVAL, ERR_INVALID, "vnc.password_file: the first line of %s has to have 1 to %d bytes, since VNC's "
			"passwords have no more", path, PASSWORD_MAX);
	return steal_fd(&fd);
}

int vnc_start(const struct definition *d, int listener, struct err *e)
{
	const char *path = d->vnc.password_file;
	CLEANUP_CLOSE int password = path ? password_open(path, e) : -1, guard = -1;
	char program[PATH_MAX];
	char *argv[] = { "cairn-vnc", (char *)d->name, path ? "password" : NULL, NULL };
	int pair[2], r = paths_helper("cairn-vnc", program, sizeof(program), e);
	int fds[4], n = 0;

	if (r < 0 || (path && password < 0))
		return r < 0 ? r : password;
	if (d->vnc.path && (guard = socket_guard_start(d->vnc.path, "vnc.path", listener, e)) < 0)
		return guard;
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		return err_set_errno(e, -errno, "vnc");
	fds[n++] = pair[1];
	fds[n++] = listener;
	if (path)
		fds[n++] = password;
	if (guard >= 0)
		fds[n++] = guard; /* cairn-vnc keeps it to its end, and does not use it */
	r = detached_program_start(program, argv, fds, (unsigned)n);
	close(pair[1]);
	if (r < 0) {
		close(pair[0]);
		return err_set_errno(e, r, "vnc: cannot start %s", program);
	}
	return pair[0];
}
