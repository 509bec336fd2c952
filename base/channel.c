#include "base/channel.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

union fd_control {
	struct cmsghdr align;
	char buf[CMSG_SPACE(sizeof(int) * CHANNEL_FDS_MAX)];
};

int channel_send(int sock, uint16_t version, uint16_t type, uint64_t seq, const void *body,
	size_t body_bytes, const int *fds, unsigned nfds)
{
	struct channel_header head = { .version = version, .type = type,
		.body_bytes = (uint32_t)body_bytes, .seq = seq };
	struct iovec iov[2] = { { &head, sizeof(head) }, { (void *)body, body_bytes } };
	struct msghdr msg = { .msg_iov = iov, .msg_iovlen = body_bytes ? 2 : 1 };
	union fd_control control;

	if (nfds > CHANNEL_FDS_MAX || body_bytes > CHANNEL_BODY_MAX)
		return -EINVAL;
	if (nfds) {
		struct cmsghdr *c = &control.align;

		memset(&control, 0, sizeof(control));
		msg.msg_control = &control;
		msg.msg_controllen = CMSG_SPACE(sizeof(int) * nfds);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(sizeof(int) * nfds);
		memcpy(CMSG_DATA(c), fds, sizeof(int) * nfds);
	}
	while (sendmsg(sock, &msg, MSG_NOSIGNAL) < 0)
		if (errno != EINTR)
			return -errno;
	return 0;
}

static void take_fds(struct msghdr *msg, struct channel_msg *m)
{
	for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c; c = CMSG_NXTHDR(msg, c)) {
		size_t n;

		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		for (size_t i = 0; i < n; i++) {
			int fd;

			memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(fd));
			if (m->nfds < CHANNEL_FDS_MAX)
				m->fds[m->nfds++] = fd;
			else
				close(fd);
		}
	}
}

static bool msg_allowed(const struct channel_msg *m, size_t got, const struct channel_type *types,
	size_t ntypes)
{
	const struct channel_type *t;

	if (got < sizeof(m->head) || m->head.type >= ntypes)
		return false;
	t = &types[m->head.type];
	return m->head.body_bytes == got - sizeof(m->head) && t->known &&
		m->head.body_bytes >= t->body_min && m->head.body_bytes <= t->body_max &&
		m->nfds <= t->fds_max;
}

int channel_recv(int sock, uint16_t version, const struct channel_type *types, size_t ntypes,
	void *buf, struct channel_msg *m)
{
	struct iovec iov[2] = { { &m->head, sizeof(m->head) }, { buf, CHANNEL_BODY_MAX } };
	union fd_control control;
	struct msghdr msg = { .msg_iov = iov, .msg_iovlen = 2, .msg_control = &control,
		.msg_controllen = sizeof(control) };
	unsigned reset = 0;
	ssize_t n;

	m->nfds = 0;
	m->body = buf;
	/* A peer that closes with unread data resets the socket. recvmsg() reports the reset once,
	 * before the messages that the peer sent earlier, so retry. */
	do {
		n = recvmsg(sock, &msg, MSG_CMSG_CLOEXEC);
	} while (n < 0 && (errno == EINTR || (errno == ECONNRESET && !reset++)));
	if (n < 0)
		return -errno;
	take_fds(&msg, m);
	if (!n && !m->nfds)
		return 0;
	if (n >= (ssize_t)sizeof(m->head) && m->head.version != version) {
		channel_msg_close_fds(m);
		return -EPROTONOSUPPORT;
	}
	/* An empty message looks like the end of the stream, but it may carry fds, which must be closed. */
	if ((msg.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) ||
		!msg_allowed(m, (size_t)n, types, ntypes)) {
		channel_msg_close_fds(m);
		return -EPROTO;
	}
	return 1;
}

/* Returns 1: fds come with the next message; 0: none; -errno. */
static int fds_peek(int sock)
{
	union {
		struct cmsghdr align;
		char buf[CMSG_SPACE(sizeof(struct ucred))];
	} control;
	char byte;
	struct iovec iov = { &byte, 1 };
	unsigned reset = 0;
	ssize_t n;

	/* The credentials fill the room for control data, so the peek reports fds by MSG_CTRUNC and leaves them in the
	 * queue. */
	do {
		struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control,
			.msg_controllen = sizeof(control) };

		n = recvmsg(sock, &msg, MSG_PEEK);
		if (n >= 0)
			return !!(msg.msg_flags & MSG_CTRUNC);
	} while (errno == EINTR || (errno == ECONNRESET && !reset++));
	return -errno;
}

int channel_recv_no_fds(int sock, uint16_t version, const struct channel_type *types, size_t ntypes, void *buf,
	struct channel_msg *m)
{
	int r = fds_peek(sock);

	return r < 0 ? r : r > 0 ? -EPERM : channel_recv(sock, version, types, ntypes, buf, m);
}

void channel_msg_close_fds(struct channel_msg *m)
{
	for (unsigned i = 0; i < m->nfds; i++)
		close(m->fds[i]);
	m->nfds = 0;
}
