#include "base/fd_send.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

union control {
	struct cmsghdr align;
	char buf[CMSG_SPACE(sizeof(int))];
};

ssize_t fd_send(int sock, const void *p, size_t len, int fd, int flags)
{
	struct iovec iov = { (void *)(size_t)p, len };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1 };
	union control control = { .align = { .cmsg_len = CMSG_LEN(sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS } };

	if (fd >= 0) {
		memcpy(CMSG_DATA(&control.align), &fd, sizeof(int));
		m.msg_control = &control;
		m.msg_controllen = sizeof(control.buf);
	}
	return sendmsg(sock, &m, MSG_NOSIGNAL | flags);
}

int fd_receive(int sock)
{
	char byte;
	struct iovec iov = { &byte, 1 };
	union control control;
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control) };
	struct cmsghdr *h;
	ssize_t n;
	int fd;

	do {
		n = recvmsg(sock, &m, MSG_CMSG_CLOEXEC);
	} while (n < 0 && errno == EINTR);
	if (n < 0)
		return -errno;
	h = CMSG_FIRSTHDR(&m);
	if (!n || !h || h->cmsg_level != SOL_SOCKET || h->cmsg_type != SCM_RIGHTS)
		return -EPIPE;
	memcpy(&fd, CMSG_DATA(h), sizeof(int));
	return fd;
}
