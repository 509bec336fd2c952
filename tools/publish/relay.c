#include "tools/publish/relay.h"
#include "base/util.h"

#include <errno.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#define BUFFER_BYTES (64 * 1024)
#define NO_FORWARD UINT32_MAX

/* Bytes that one side has sent and the other side has not received yet. */
struct way {
	size_t from, to;
	bool ended; /* no more comes */
	bool told;  /* the other side knows that */
	uint8_t bytes[BUFFER_BYTES];
};

struct relay {
	int fds[2];		 /* the client's, the guest's */
	bool connecting;
	unsigned at;		 /* the forward; NO_FORWARD: it is removed */
	struct way ways[2];	 /* ways[i]: from fds[i] to fds[!i] */
};

static void relay_end(struct relay *l, bool resets)
{
	const struct linger at_once = { .l_onoff = 1 };

	for (unsigned i = 0; i < 2; i++) {
		if (l->fds[i] < 0)
			continue;
		if (resets)
			setsockopt(l->fds[i], SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once));
		close(l->fds[i]);
	}
	free(l);
}

static void socket_set_up(int fd)
{
	int on = 1;

	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
}

void relay_add(struct relays *r, int client, const struct sockaddr_in *guest, unsigned at)
{
	struct relay *l = calloc(1, sizeof(*l));

	if (!l) {
		close(client);
		return;
	}
	l->at = at;
	l->connecting = true;
	l->fds[0] = client;
	l->fds[1] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (l->fds[1] < 0 || r->n == RELAYS_MAX ||
		(connect(l->fds[1], (const struct sockaddr *)guest, sizeof(*guest)) < 0 && errno != EINPROGRESS)) {
		relay_end(l, true);
		return;
	}
	socket_set_up(l->fds[0]);
	socket_set_up(l->fds[1]);
	r->list[r->n++] = l;
}

unsigned relays_poll_add(const struct relays *r, struct pollfd *fds)
{
	unsigned n = 0;

	for (unsigned k = 0; k < r->n; k++) {
		const struct relay *l = r->list[k];

		for (unsigned i = 0; i < 2; i++) {
			const struct way *in = &l->ways[i], *out = &l->ways[!i];
			short events = 0;

			if (!in->ended && in->to < BUFFER_BYTES && !(l->connecting && i))
				events |= POLLIN;
			if (out->from < out->to || (l->connecting && i))
				events |= POLLOUT;
			/* With both directions shut, a hang-up is reported without an end; before, it is a reset. */
			fds[n++] = (struct pollfd){ .fd = events || !out->told ? l->fds[i] : -1, .events = events };
		}
	}
	return n;
}

/* Returns 1: something came; 0; -errno: the connection is over. */
static int way_fill(struct relay *l, unsigned i)
{
	struct way *w = &l->ways[i];
	ssize_t got = recv(l->fds[i], w->bytes + w->to, BUFFER_BYTES - w->to, MSG_DONTWAIT);

	if (got < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -errno;
	w->ended = !got;
	w->to += (size_t)got;
	return got > 0;
}

static int way_drain(struct relay *l, unsigned i)
{
	struct way *w = &l->ways[i];
	ssize_t put = w->from < w->to ? send(l->fds[!i], w->bytes + w->from, w->to - w->from, MSG_DONTWAIT | MSG_NOSIGNAL) : 0;

	if (put < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -errno;
	w->from += (size_t)put;
	if (w->from == w->to)
		w->from = w->to = 0;
	if (w->ended && !w->to && !w->told) {
		w->told = true;
		shutdown(l->fds[!i], SHUT_WR);
	}
	return 0;
}

static int connected(struct relay *l)
{
	socklen_t size = sizeof(int);
	int error = 0;

	if (getsockopt(l->fds[1], SOL_SOCKET, SO_ERROR, &error, &size) < 0)
		return -errno;
	l->connecting = false;
	return -error;
}

/* Returns whether the connection continues. */
static bool relay_run(struct relay *l, const struct pollfd *fds, void (*came)(void *opaque, bool client, unsigned at), void *opaque)
{
	int r = 0;

	if (l->connecting && fds[1].revents)
		r = connected(l);
	for (unsigned i = 0; i < 2 && !r; i++) {
		if (!fds[i].events && fds[i].revents & (POLLERR | POLLHUP)) {
			r = -ECONNRESET;
			break;
		}
		if (!(fds[i].events & POLLIN) || !(fds[i].revents & ~POLLOUT))
			continue;
		r = way_fill(l, i);
		if (r > 0 && (i || l->at != NO_FORWARD))
			came(opaque, !i, l->at);
		r = MIN(r, 0);
	}
	for (unsigned i = 0; i < 2 && !r && !l->connecting; i++)
		r = way_drain(l, i);
	if (!r && !(l->ways[0].told && l->ways[1].told))
		return true;
	relay_end(l, r < 0);
	return false;
}

void relays_poll_done(struct relays *r, const struct pollfd *fds, unsigned n, void (*came)(void *opaque, bool client, unsigned at),
	void *opaque)
{
	unsigned stay = 0;

	for (unsigned k = 0; k < r->n; k++) {
		bool asked = 2 * k + 1 < n;

		if (!asked || !(fds[2 * k].revents || fds[2 * k + 1].revents) || relay_run(r->list[k], fds + 2 * (size_t)k, came, opaque))
			r->list[stay++] = r->list[k];
	}
	r->n = stay;
}

void relays_remove_forward(struct relays *r, unsigned at)
{
	for (unsigned k = 0; k < r->n; k++) {
		struct relay *l = r->list[k];

		if (l->at == at)
			l->at = NO_FORWARD;
		else if (l->at != NO_FORWARD && l->at > at)
			l->at--;
	}
}
