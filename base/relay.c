#include "base/relay.h"
#include "base/channel.h"
#include "base/util.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

#define VERSION 1

enum { ASK = 1, FILES = 2, SEND = 3, SENT = 4 };

/* Body of SEND: the header of the message to send, and the message's body. The first fd is the socket. */
struct send {
	struct channel_header head;
	char body[];
};

static const struct channel_type types[] = {
	[ASK] = { .known = true },
	[FILES] = { .body_max = CHANNEL_FDS_MAX * sizeof(uint16_t), .fds_max = CHANNEL_FDS_MAX, .known = true },
	[SEND] = { .body_min = sizeof(struct send), .body_max = CHANNEL_BODY_MAX, .fds_max = CHANNEL_FDS_MAX, .known = true },
	[SENT] = { .body_min = sizeof(int32_t), .body_max = sizeof(int32_t), .known = true },
};

static int socket_wait(int sock, short events)
{
	struct pollfd p = { .fd = sock, .events = events };

	return poll(&p, 1, -1) < 0 ? -errno : 0;
}

/* Wait for a message; the socket may be non-blocking. buf: of CHANNEL_BODY_MAX bytes. Returns as channel_recv(), but
 * -EPIPE at the end of the stream. */
static int message_wait(int sock, char *buf, struct channel_msg *m)
{
	int r;

	do {
		r = socket_wait(sock, POLLIN);
		if (!r)
			r = channel_recv(sock, VERSION, types, ARRAY_SIZE(types), buf, m);
	} while (r == -EINTR || r == -EAGAIN);
	return r ? r : -EPIPE;
}

/* Wait until the socket takes a message. Returns 0; -ECANCELED: the relay's other end has cancelled; -errno. */
static int room_wait(int to, int relay)
{
	struct pollfd p[] = { { .fd = to, .events = POLLOUT }, { .fd = relay, .events = POLLRDHUP } };

	if (poll(p, ARRAY_SIZE(p), -1) < 0)
		return -errno;
	return p[1].revents ? -ECANCELED : 0;
}

/* Send the message that the other end asks for, with the held files and then with the files that came. */
static int message_send(int relay, const struct channel_msg *m, const int *fds, unsigned n)
{
	const struct send *s = m->body;
	size_t len = m->head.body_bytes - sizeof(*s);
	int all[CHANNEL_FDS_MAX], r;

	if (!m->nfds || n + m->nfds - 1 > CHANNEL_FDS_MAX)
		return -EPROTO;
	memcpy(all, fds, n * sizeof(*fds));
	memcpy(all + n, m->fds + 1, (m->nfds - 1) * sizeof(*fds));
	do {
		r = channel_send(m->fds[0], s->head.version, s->head.type, s->head.seq, s->body, len, all, n + m->nfds - 1);
		if (r == -EAGAIN && (r = room_wait(m->fds[0], relay)) == 0)
			r = -EAGAIN;
	} while (r == -EINTR || r == -EAGAIN);
	return r;
}

int relay_serve(int sock, const int *fds, const uint16_t *at, unsigned n, bool again)
{
	_Alignas(16) char buf[CHANNEL_BODY_MAX];
	struct channel_msg m;
	int r;

	do {
		int32_t sent;

		r = message_wait(sock, buf, &m);
		if (r < 0)
			return r;
		sent = m.head.type == SEND ? message_send(sock, &m, fds, n) : 0;

		channel_msg_close_fds(&m);
		if (m.head.type == ASK)
			r = channel_send(sock, VERSION, FILES, 0, at, n * sizeof(*at), fds, n);
		else if (m.head.type == SEND)
			r = channel_send(sock, VERSION, SENT, 0, &sent, sizeof(sent), NULL, 0);
		else
			r = -EPROTO;
	} while (!r && again);
	return r;
}

int relay_take(int sock, int *fds, unsigned n)
{
	_Alignas(16) char buf[CHANNEL_BODY_MAX];
	struct channel_msg m;
	int r = channel_send(sock, VERSION, ASK, 0, NULL, 0, NULL, 0);

	if (!r)
		r = message_wait(sock, buf, &m);
	if (r < 0)
		return r;
	r = m.head.type == FILES && m.head.body_bytes == m.nfds * sizeof(uint16_t) ? 0 : -EPROTO;
	for (; !r && m.nfds; m.nfds--) {
		uint16_t at;

		memcpy(&at, (char *)m.body + (m.nfds - 1) * sizeof(at), sizeof(at));
		if (at >= n || fds[at] >= 0)
			r = -EPROTO;
		else
			fds[at] = m.fds[m.nfds - 1];
		if (r < 0)
			break;
	}
	channel_msg_close_fds(&m);
	return r;
}

/* First move the sockets to the relays out of the range, and then each file, because its number may be another
 * one's. */
int relay_take_at(int first, int64_t relays, int64_t n)
{
	int fds[CHANNEL_FDS_MAX], r = 0;

	if (n < 0 || n > CHANNEL_FDS_MAX || relays < 0 || relays > CHANNEL_FDS_MAX)
		return -EINVAL;
	for (int i = 0; i < n; i++)
		fds[i] = -1;
	for (int i = 0; i < relays && !r; i++) {
		r = relay_take(first + i, fds, (unsigned)n);
		close(first + i);
	}
	for (int i = 0; i < n && !r; i++) {
		int fd = fds[i] < 0 ? -1 : fcntl(fds[i], F_DUPFD_CLOEXEC, first + CHANNEL_FDS_MAX);

		r = fd < 0 ? -EBADF : 0;
		close(fds[i]);
		fds[i] = fd;
	}
	for (int i = 0; i < n && !r; i++) {
		r = dup2(fds[i], first + i) < 0 ? -errno : 0;
		close(fds[i]);
	}
	return r;
}

int relay_send_begin(int sock, const struct relay_message *x)
{
	_Alignas(16) char buf[CHANNEL_BODY_MAX];
	struct send *s = (struct send *)buf;
	int fds[CHANNEL_FDS_MAX] = { x->to };

	if (x->len > sizeof(buf) - sizeof(*s) || x->nfds >= CHANNEL_FDS_MAX)
		return -EINVAL;
	s->head = (struct channel_header){ .version = x->version, .type = x->type, .body_bytes = (uint32_t)x->len, .seq = x->seq };
	if (x->len)
		memcpy(s->body, x->body, x->len);
	if (x->nfds)
		memcpy(fds + 1, x->fds, x->nfds * sizeof(*fds));
	return channel_send(sock, VERSION, SEND, 0, s, sizeof(*s) + x->len, fds, x->nfds + 1);
}

int relay_send_end(int sock)
{
	_Alignas(16) char buf[CHANNEL_BODY_MAX];
	struct channel_msg m;
	int32_t sent;
	int r = channel_recv(sock, VERSION, types, ARRAY_SIZE(types), buf, &m);

	if (r <= 0)
		return r == -EAGAIN ? r : -EIO;
	channel_msg_close_fds(&m);
	if (m.head.type != SENT)
		return -EPROTO;
	memcpy(&sent, m.body, sizeof(sent));
	return MIN(sent, 0);
}
