#include "api/wire/close_async.h"
#include "base/log.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define STACK_BYTES (128 * 1024)

struct batch {
	int sock; /* a Unix socket to close after the fds that are queued in it; -1: none */
	size_t n;
	int fds[];
};

/* Receive without blocking, and return the received fds, too. Returns the same as recv(). */
static ssize_t packet_receive(int sock, void *buf, size_t size, int fds[CLOSE_ASYNC_FDS_MAX], size_t *ret_n)
{
	union {
		struct cmsghdr align;
		char buf[CMSG_SPACE(CLOSE_ASYNC_FDS_MAX * sizeof(int))];
	} control;
	struct iovec iov = { buf, size };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control,
		.msg_controllen = sizeof(control) };
	ssize_t got = recvmsg(sock, &m, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);

	*ret_n = 0;
	for (struct cmsghdr *h = got < 0 ? NULL : CMSG_FIRSTHDR(&m); h; h = CMSG_NXTHDR(&m, h)) {
		if (h->cmsg_level != SOL_SOCKET || h->cmsg_type != SCM_RIGHTS)
			continue;
		*ret_n = (h->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		memcpy(fds, CMSG_DATA(h), *ret_n * sizeof(int));
	}
	return got;
}

/* Clear SO_LINGER first, so that most sockets close at once. */
static void all_close(const int *fds, size_t n)
{
	static const struct linger none;

	for (size_t i = 0; i < n; i++) {
		if (setsockopt(fds[i], SOL_SOCKET, SO_LINGER, &none, sizeof(none)) < 0 && errno != ENOTSOCK)
			log_debug("socket", "SO_LINGER: %s", strerror(errno));
		close(fds[i]);
	}
}

static void *batch_close(void *opaque)
{
	struct batch *b = opaque;
	int fds[CLOSE_ASYNC_FDS_MAX];
	char buf[4096];
	size_t n;

	while (b->sock >= 0 && (packet_receive(b->sock, buf, sizeof(buf), fds, &n) > 0 || n))
		all_close(fds, n);
	all_close(b->fds, b->n);
	if (b->sock >= 0)
		close(b->sock);
	free(b);
	return NULL;
}

/* Start a thread that closes the fds. If memory or threads run out, the fds leak, because a leak does less harm than a
 * blocked loop. */
static void batch_start(int sock, const int *fds, size_t n)
{
	struct batch *b = malloc(sizeof(*b) + n * sizeof(*fds));
	pthread_attr_t attr;
	pthread_t thread;
	int r = ENOMEM;

	if (b && !(r = pthread_attr_init(&attr))) {
		*b = (struct batch){ .sock = sock, .n = n };
		if (n)
			memcpy(b->fds, fds, n * sizeof(*fds));
		pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
		pthread_attr_setstacksize(&attr, STACK_BYTES);
		r = pthread_create(&thread, &attr, batch_close, b);
		pthread_attr_destroy(&attr);
	}
	if (!r)
		return;
	free(b);
	log_warn("socket", "cannot close files or sockets: %s", strerror(r));
}

void close_async_fds(const int *fds, size_t n)
{
	if (n)
		batch_start(-1, fds, n);
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

/* Whether fds may be queued in the socket. On other sockets than streams, always assume so: a packet of zero bytes
 * looks like the end of the stream, but may carry fds. */
static bool may_hold_fds(int sock)
{
	int type = 0;
	socklen_t len = sizeof(type);
	char byte;

	return recv(sock, &byte, 1, MSG_PEEK | MSG_DONTWAIT) > 0 ||
		getsockopt(sock, SOL_SOCKET, SO_TYPE, &type, &len) < 0 || type != SOCK_STREAM;
}

void close_async_socket(int sock)
{
	shutdown(sock, SHUT_RDWR); /* nothing can be queued from here on */
	oob_inline(sock);
	if (may_hold_fds(sock))
		batch_start(sock, NULL, 0);
	else
		close(sock);
}

void close_async_listener(int listening)
{
	int fd;

	shutdown(listening, SHUT_RDWR);
	while ((fd = accept4(listening, NULL, NULL, SOCK_CLOEXEC)) >= 0)
		close_async_socket(fd);
	close(listening);
}

ssize_t close_async_recv(int sock, void *buf, size_t size, int *ret_fd)
{
	int fds[CLOSE_ASYNC_FDS_MAX];
	size_t n;
	ssize_t got = packet_receive(sock, buf, size, fds, &n);

	if (n && ret_fd)
		*ret_fd = fds[--n];
	close_async_fds(fds, n);
	return got;
}

ssize_t close_async_recv_without_fds(int sock, void *buf, size_t size)
{
	struct iovec iov = { buf, size };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1 };
	/* Without room for control data, a look reports fds by MSG_CTRUNC and leaves them in the queue. */
	ssize_t n = recvmsg(sock, &m, MSG_PEEK | MSG_DONTWAIT);

	if (n >= 0 && (m.msg_flags & MSG_CTRUNC)) {
		errno = EPERM;
		return -1;
	}
	return n > 0 ? recv(sock, buf, (size_t)n, MSG_DONTWAIT) : n;
}
