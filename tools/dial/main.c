/* cairn-dial FD LISTENER PATH: connect a guest's vsock connections to Unix sockets of the host (base/vsock_dial.h). For
 * port N that is PATH_N. It runs with the rights of the user who added PATH to the definition, and ends when the VM's
 * process closes the other end of FD. If FD is a pipe, it only waits for that end.
 *
 * At its end it removes the socket PATH. Until then it keeps LISTENER, the socket that is bound to PATH, open: the VM's
 * next start makes no new socket there while somebody listens (api/definition/vsock_socket.c).
 *
 * The VM's process is not trusted: it gets connections to these sockets and to nothing else. */
#include "base/call_filter.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/lockdown.h"
#include "base/program.h"
#include "base/unix_socket.h"
#include "base/util.h"
#include "base/vsock_dial.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/landlock.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

/* The socket of the host that this process removes. */
struct own_socket {
	int folder; /* -1: it removes none */
	const char *name;
	struct stat st;
};

static void socket_find(const char *path, struct own_socket *ret)
{
	char folder[UNIX_PATH_MAX + 1];
	const char *slash = strrchr(path, '/');

	snprintf(folder, sizeof(folder), "%.*s", (int)MAX(slash - path, 1), path);
	ret->name = slash + 1;
	ret->folder = open(folder, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (ret->folder >= 0 && fstatat(ret->folder, ret->name, &ret->st, AT_SYMLINK_NOFOLLOW) < 0) {
		close(ret->folder);
		ret->folder = -1;
	}
}

/* Leave what somebody else has made there since. Its inode differs, because the listener keeps that of the socket. */
static void socket_remove(const struct own_socket *s)
{
	struct stat now;

	if (s->folder >= 0 && fstatat(s->folder, s->name, &now, AT_SYMLINK_NOFOLLOW) == 0 && now.st_dev == s->st.st_dev &&
		now.st_ino == s->st.st_ino)
		unlinkat(s->folder, s->name, 0);
}

/* A listener whose queue is full refuses, too: nobody waits here. */
static int port_connect(const char *path, uint32_t port, int *ret_fd)
{
	char to[UNIX_PATH_MAX + 1];
	int n = snprintf(to, sizeof(to), "%s_%u", path, port);

	if (n >= (int)sizeof(to))
		return -ENAMETOOLONG;
	*ret_fd = unix_connect(to, SOCK_NONBLOCK);
	return MIN(*ret_fd, 0);
}

/* fd: -1: none. Returns whether the VM's process lives. */
static bool answer_send(int sock, const struct vsock_dial_answer *a, int fd)
{
	union {
		char buf[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} control = { 0 };
	struct iovec iov = { (void *)(uintptr_t)a, sizeof(*a) };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1 };
	ssize_t n;

	if (fd >= 0) {
		struct cmsghdr *c;

		m.msg_control = control.buf;
		m.msg_controllen = sizeof(control.buf);
		c = CMSG_FIRSTHDR(&m);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(c), &fd, sizeof(fd));
	}
	do {
		n = sendmsg(sock, &m, MSG_NOSIGNAL);
	} while (n < 0 && errno == EINTR);
	return n == (ssize_t)sizeof(*a);
}

static void requests_serve(int sock, const char *path)
{
	struct vsock_dial_request ask;
	bool lives = true;
	ssize_t n;

	while (lives && ((n = recv(sock, &ask, sizeof(ask), 0)) > 0 || (n < 0 && errno == EINTR))) {
		CLEANUP_CLOSE int fd = -1;
		struct vsock_dial_answer a = { .id = ask.id };

		if (n != (ssize_t)sizeof(ask))
			continue;
		a.error = port_connect(path, ask.port, &fd);
		lives = answer_send(sock, &a, fd);
	}
}

static void end_await(int pipe)
{
	char byte;

	errno = 0;
	while (read(pipe, &byte, sizeof(byte)) > 0 || errno == EINTR)
		errno = 0;
}

static int confine(const struct own_socket *own, struct err *e)
{
	static const struct lockdown_limit limits[] = { { RLIMIT_NOFILE, 16 }, { RLIMIT_FSIZE, 0 } };
	static const int calls[] = { SYS_recvfrom, SYS_sendmsg, SYS_connect, SYS_close, SYS_read, SYS_write, SYS_newfstatat,
		SYS_exit, SYS_exit_group, SYS_rt_sigreturn, SYS_restart_syscall };
	struct call_filter f;
	int r = lockdown_begin(0, limits, ARRAY_SIZE(limits), e);

	if (r < 0)
		return r;
	r = lockdown_inside(own->folder, LANDLOCK_ACCESS_FS_REMOVE_FILE);
	if (r < 0)
		return err_set_errno(e, r, "landlock");
	call_filter_init(&f);
	call_filter_value(&f, SYS_socket, SECCOMP_RET_ALLOW, 0, AF_UNIX);
	if (own->folder >= 0)
		call_filter_value(&f, SYS_unlinkat, SECCOMP_RET_ALLOW, 0, (uint32_t)own->folder);
	call_filter_calls(&f, SECCOMP_RET_ALLOW, calls, ARRAY_SIZE(calls));
	return lockdown_calls(&f, SECCOMP_RET_KILL_PROCESS, false, e);
}

int main(int argc, char **argv)
{
	struct err e = { 0 };
	struct own_socket own;
	struct stat st;
	char *end = NULL;
	long sock = argc == 4 ? strtol(argv[1], &end, 10) : -1;

	if (argc != 4 || *end || sock < 3 || argv[3][0] != '/' || fstat((int)sock, &st) < 0) {
		fputs("cairn-dial is started with a VM that has a socket of the host\nusage: cairn-dial FD LISTENER PATH\n", stderr);
		return 2;
	}
	signal(SIGHUP, SIG_IGN); /* this process ends with the VM */
	signal(SIGINT, SIG_IGN);
	if (program_begin(&e) < 0 || (socket_find(argv[3], &own), confine(&own, &e)) < 0) {
		fprintf(stderr, "cairn-dial: %s\n", e.msg);
		return 1;
	}
	if (S_ISFIFO(st.st_mode))
		end_await((int)sock);
	else
		requests_serve((int)sock, argv[3]);
	socket_remove(&own);
	return 0;
}
