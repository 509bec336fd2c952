#include "tools/publish/relay.h"
#include "base/loop.h"
#include "base/util.h"

#include <errno.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
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
	uint64_t source;	 /* the client's IPv4 address, or the first 64 bits of its IPv6 address */
	uint64_t active_ns;	 /* its beginning, or when data last moved */
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

static uint64_t source_of(const struct sockaddr_storage *from)
{
	uint64_t network;

	if (from->ss_family == AF_INET)
		return ((const struct sockaddr_in *)from)->sin_addr.s_addr;
	memcpy(&network, &((const struct sockaddr_in6 *)from)->sin6_addr, sizeof(network));
	return network;
}

/* Find the connection to end for a further client. r->n is not 0. */
static unsigned relays_idlest(const struct relays *r)
{
	uint64_t sources[RELAYS_MAX];
	unsigned best = 0, most = 0;

	for (unsigned k = 0; k < r->n; k++)
		sources[k] = r->list[k]->source;
	for (unsigned k = 0; k < r->n; k++) {
		unsigned n = 0;

		for (unsigned i = 0; i < r->n; i++)
			n += sources[i] == sources[k];
		if (n > most || (n == most && r->list[k]->active_ns < r->list[best]->active_ns)) {
			best = k;
			most = n;
		}
	}
	return best;
}

uint64_t relays_room_ns(const struct relays *r)
{
	return r->n < RELAYS_MAX ? 0 : r->list[relays_idlest(r)]->active_ns + RELAY_IDLE_NS;
}

void relay_add(struct relays *r, int client, const struct sockaddr_storage *from, const struct sockaddr_in *guest, unsigned at)
{
	struct relay *l = calloc(1, sizeof(*l));
	unsigned k;

	if (!l) {
		close(client);
		return;
	}
	if (r->n == RELAYS_MAX) {
		k = relays_idlest(r);
		relay_end(r->list[k], true);
		r->list[k] = r->list[--r->n];
	}
	l->at = at;
	l->source = source_of(from);
	l->active_ns = loop_now_ns();
	l->connecting = true;
	l->fds[0] = client;
	l->fds[1] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (l->fds[1] < 0 || (connect(l->fds[1], (const struct sockaddr *)guest, sizeof(*guest)) < 0 && errno != EINPROGRESS)) {
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
	if (got > 0)
		l->active_ns = loop_now_ns();
	return got > 0;
}

static int way_drain(struct relay *l, unsigned i)
{
	struct way *w = &l->ways[i];
	ssize_t put = w->from < w->to ? send(l->fds[!i], w->bytes + w->from, w->to - w->from, MSG_DONTWAIT | MSG_NOSIGNAL) : 0;

	if (put < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -errno;
	w->from += (size_t)put;
	if (put > 0)
		l->active_ns = loop_now_ns();
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
