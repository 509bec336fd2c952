/* cairn-dial FD PATH: connect a guest's vsock connections to Unix sockets of the host (base/vsock_dial.h). For port N
 * that is PATH_N. It runs with the rights of the user who added PATH to the definition, and ends when the VM's process
 * closes the other end of FD.
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
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

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

static int confine(struct err *e)
{
	static const struct lockdown_limit limits[] = { { RLIMIT_NOFILE, 16 }, { RLIMIT_FSIZE, 0 } };
	static const int calls[] = { SYS_recvfrom, SYS_sendmsg, SYS_connect, SYS_close, SYS_write, SYS_exit, SYS_exit_group,
		SYS_rt_sigreturn, SYS_restart_syscall };
	struct call_filter f;
	int r = lockdown_begin(LOCKDOWN_OUTSIDE, limits, ARRAY_SIZE(limits), e);

	if (r < 0)
		return r;
	call_filter_init(&f);
	call_filter_value(&f, SYS_socket, SECCOMP_RET_ALLOW, 0, AF_UNIX);
	call_filter_calls(&f, SECCOMP_RET_ALLOW, calls, ARRAY_SIZE(calls));
	return lockdown_calls(&f, SECCOMP_RET_KILL_PROCESS, false, e);
}

int main(int argc, char **argv)
{
	struct err e = { 0 };
	char *end = NULL;
	long sock = argc == 3 ? strtol(argv[1], &end, 10) : -1;

	if (argc != 3 || *end || sock < 3 || argv[2][0] != '/') {
		fputs("cairn-dial is started with a VM that has a vsock device\nusage: cairn-dial FD PATH\n", stderr);
		return 2;
	}
	signal(SIGHUP, SIG_IGN); /* this process ends with the VM */
	signal(SIGINT, SIG_IGN);
	if (program_begin(&e) < 0 || confine(&e) < 0) {
		fprintf(stderr, "cairn-dial: %s\n", e.msg);
		return 1;
	}
	requests_serve((int)sock, argv[2]);
	return 0;
}
