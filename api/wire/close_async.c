#include "api/wire/close_async.h"
#include "base/channel.h"
#include "base/log.h"
#include "base/oom.h"
#include "base/util.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define CHANNEL 3 /* the process's socket */
#define VERSION 1
#define CLOSE 1 /* type of the only message */
/* Its fds. A process with a copy of the socket closes it before PIPE_WRITE, so the end of the pipe shows that no other
 * copy is left. */
enum { SOCKET, PIPE_READ, PIPE_WRITE, CLOSE_FDS };
/* Most closes that may hang at a time. Further sockets wait in the daemon. */
#define HANGING_MAX 64
/* Bytes to throw away in the daemon; the kernel's default for a queue is 208 KiB. */
#define DRAIN_ROUNDS 64
#define DRAIN_BYTES 4096

struct closer {
	int sock; /* -1: the process has not been started */
	pid_t pid;
};

/* ---- the process ---- */

/* Close the socket in a child process, which has the last reference to it. Without a process, it leaks: that does
 * less harm than a closer that hangs. Returns whether there is a process. */
static bool close_apart(const int *fds)
{
	char byte;
	pid_t pid = fork();

	if (pid == 0) {
		close(CHANNEL); /* so that the daemon sees the end of the parent */
		close(fds[PIPE_WRITE]);
		_exit(read(fds[PIPE_READ], &byte, 1) != 0);
	}
	if (pid > 0)
		close(fds[SOCKET]);
	close(fds[PIPE_READ]);
	close(fds[PIPE_WRITE]);
	return pid > 0;
}

/* Block SIGCHLD, and report it on an fd instead. Returns the fd; -1. */
static int children_watch(void)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGCHLD);
	return sigprocmask(SIG_BLOCK, &set, NULL) < 0 ? -1 : signalfd(-1, &set, 0);
}

/* Returns how many processes have ended. */
static unsigned children_reap(int watch)
{
	struct signalfd_siginfo si;
	unsigned n = 0;

	if (read(watch, &si, sizeof(si)) < 0)
		_exit(1);
	while (waitpid(-1, NULL, WNOHANG) > 0)
		n++;
	return n;
}

static _Noreturn void closer_main(int sock)
{
	static const struct channel_type types[] = { [CLOSE] = { .fds_max = CLOSE_FDS, .known = true } };
	static _Alignas(16) char buf[CHANNEL_BODY_MAX];
	struct pollfd p[2] = { { .fd = CHANNEL }, { .events = POLLIN } };
	struct channel_msg m;
	unsigned hanging = 0;

	oom_protection_drop();
	if (dup2(sock, CHANNEL) < 0 || close_range(CHANNEL + 1, ~0U, 0) < 0 || setpgid(0, 0) < 0 ||
		prctl(PR_SET_DUMPABLE, 0) < 0 || (p[1].fd = children_watch()) < 0)
		_exit(1);
	for (;;) {
		p[0].events = hanging < HANGING_MAX ? POLLIN : 0; /* the daemon's end is reported always */
		if (poll(p, ARRAY_SIZE(p), -1) < 0)
			_exit(1);
		if (p[1].revents)
			hanging -= children_reap(p[1].fd);
		if (!p[0].revents)
			continue;
		if (channel_recv(CHANNEL, VERSION, types, ARRAY_SIZE(types), buf, &m) != 1 || m.nfds != CLOSE_FDS)
			_exit(0);
		hanging += close_apart(m.fds);
	}
}

static int closer_start(struct closer *c)
{
	int pair[2];
	pid_t pid;

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		return -errno;
	pid = fcntl(pair[0], F_SETFL, O_NONBLOCK) < 0 ? -1 : fork();
	if (pid == 0)
		closer_main(pair[1]);
	close(pair[1]);
	if (pid < 0) {
		close(pair[0]);
		return -EAGAIN;
	}
	*c = (struct closer){ pair[0], pid };
	return 0;
}

static void closer_stop(struct closer *c)
{
	if (c->sock < 0)
		return;
	close(c->sock);
	c->sock = -1;
	waitpid(c->pid, NULL, WNOHANG);
}

/* ---- the daemon ---- */

struct closer *closer_new(void)
{
	struct closer *c = must_alloc(malloc(sizeof(*c)));

	c->sock = -1;
	return c;
}

void closer_free(struct closer *c)
{
	if (c)
		closer_stop(c);
	free(c);
}

/* Let reads and looks see fds that came with an out-of-band byte. Only Unix streams have such bytes. */
static void oob_inline(int sock)
{
	int on = 1;

	if (setsockopt(sock, SOL_SOCKET, SO_OOBINLINE, &on, sizeof(on)) < 0)
		log_warn("socket", "SO_OOBINLINE: %s", strerror(errno));
}

int close_async_accept(int listening, int flags)
{
	int fd = accept4(listening, NULL, NULL, flags);

	if (fd >= 0)
		oob_inline(fd);
	return fd;
}

/* Whether a socket is empty of which recv() has returned 0. On other sockets than streams, a packet of zero bytes
 * looks like the end, and others may be behind it. With SO_PASSCRED, control data come with each packet. */
static bool is_at_end(int sock)
{
	socklen_t len = sizeof(int);
	int type = 0, on = 1;
	char byte;

	if (getsockopt(sock, SOL_SOCKET, SO_TYPE, &type, &len) < 0)
		return false;
	return type == SOCK_STREAM || (setsockopt(sock, SOL_SOCKET, SO_PASSCRED, &on, sizeof(on)) == 0 &&
		close_async_recv(sock, &byte, 1) == 0);
}

/* Discard the data in the socket's queue. Returns whether the queue has no fds any more. */
static bool socket_drain(int sock)
{
	char buf[DRAIN_BYTES];
	ssize_t n;

	oob_inline(sock);
	for (int i = 0; i < DRAIN_ROUNDS; i++) {
		n = close_async_recv(sock, buf, sizeof(buf));
		if (n == 0)
			return is_at_end(sock);
		if (n < 0 && errno != ECONNRESET && errno != EINTR)
			return errno == EAGAIN;
	}
	return false;
}

/* fds: the first is closed on success, the others always. */
static int fds_send(struct closer *c, const int *fds)
{
	int r = c->sock < 0 ? -EPIPE : channel_send(c->sock, VERSION, CLOSE, 0, NULL, 0, fds, CLOSE_FDS);

	if (r == -EPIPE || r == -ECONNRESET) { /* there is no process, or somebody killed it */
		closer_stop(c);
		r = closer_start(c);
		if (!r)
			r = channel_send(c->sock, VERSION, CLOSE, 0, NULL, 0, fds, CLOSE_FDS);
	}
	if (!r)
		close(fds[SOCKET]);
	close(fds[PIPE_READ]);
	close(fds[PIPE_WRITE]);
	return r;
}

int closer_take(struct closer *c, int sock)
{
	int fds[CLOSE_FDS] = { sock };

	if (socket_drain(sock)) {
		close(sock);
		return 0;
	}
	return pipe2(fds + PIPE_READ, O_CLOEXEC) < 0 ? -errno : fds_send(c, fds);
}

static void take_or_leak(struct closer *c, int sock)
{
	if (closer_take(c, sock) < 0)
		log_warn("socket", "cannot close a socket that open files were sent to");
}

void closer_drop(struct closer *c, int sock)
{
	shutdown(sock, SHUT_RDWR);
	take_or_leak(c, sock);
}

/* Look at what is first in the queue, which stays there. Returns as close_async_recv(). */
static ssize_t queue_look(int sock, void *buf, size_t size)
{
	struct iovec iov = { buf, size };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1 };
	/* Without room for control data, a look reports fds by MSG_CTRUNC and leaves them in the queue. */
	ssize_t n = recvmsg(sock, &m, MSG_PEEK | MSG_DONTWAIT);

	if (n < 0 || !(m.msg_flags & MSG_CTRUNC))
		return n;
	errno = EPERM;
	return -1;
}

void closer_close(struct closer *c, int fd)
{
	char byte;

	if (queue_look(fd, &byte, 1) < 0 && errno == EPERM)
		take_or_leak(c, fd);
	else
		close(fd);
}

ssize_t close_async_recv(int sock, void *buf, size_t size)
{
	ssize_t n = queue_look(sock, buf, size);

	return n > 0 ? recv(sock, buf, (size_t)n, MSG_DONTWAIT) : n;
}
