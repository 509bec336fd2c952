#include "base/relay.h"
#include "base/channel.h"

#include <errno.h>
#include <poll.h>
#include <string.h>

#define VERSION 1

enum { ASK = 1, FILES = 2 };

/* Wait for a message; the socket may be non-blocking. buf: of CHANNEL_BODY_MAX bytes. Returns as channel_recv(), but
 * -EPIPE at the end of the stream. */
static int message_wait(int sock, char *buf, struct channel_msg *m)
{
	static const struct channel_type types[] = { [ASK] = { .known = true },
		[FILES] = { .body_max = CHANNEL_FDS_MAX * sizeof(uint16_t), .fds_max = CHANNEL_FDS_MAX, .known = true } };
	struct pollfd p = { .fd = sock, .events = POLLIN };
	int r;

	do {
		r = poll(&p, 1, -1) < 0 ? -errno : channel_recv(sock, VERSION, types, FILES + 1, buf, m);
	} while (r == -EINTR || r == -EAGAIN);
	return r ? r : -EPIPE;
}

int relay_serve(int sock, const int *fds, const uint16_t *at, unsigned n)
{
	_Alignas(16) char buf[CHANNEL_BODY_MAX];
	struct channel_msg m;
	int r = message_wait(sock, buf, &m);

	if (r < 0)
		return r;
	channel_msg_close_fds(&m);
	return m.head.type == ASK ? channel_send(sock, VERSION, FILES, 0, at, n * sizeof(*at), fds, n) : -EPROTO;
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
