#include "tools/publish/datagrams.h"

#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#define BATCH 64 /* datagrams of a forward in one round, so that others get their turn */
#define DATAGRAM_MAX 65536

static uint8_t buffer[DATAGRAM_MAX];

static void client_end(struct datagrams *d, unsigned k)
{
	close(d->list[k].fd);
	d->list[k] = d->list[--d->n];
}

static struct datagram_client *client_make(struct datagrams *d, const struct sockaddr_in *from, unsigned at, const struct sockaddr_in *guest)
{
	struct datagram_client *c;
	unsigned oldest = 0;
	int fd;

	for (unsigned k = 1; k < d->n; k++)
		if (d->list[k].used_ns < d->list[oldest].used_ns)
			oldest = k;
	if (d->n == DATAGRAM_CLIENTS_MAX)
		client_end(d, oldest);
	fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return NULL;
	if (connect(fd, (const struct sockaddr *)guest, sizeof(*guest)) < 0) {
		close(fd);
		return NULL;
	}
	c = &d->list[d->n++];
	*c = (struct datagram_client){ .fd = fd, .at = at, .address = *from };
	return c;
}

static struct datagram_client *client_of(struct datagrams *d, const struct sockaddr_in *from, unsigned at, const struct sockaddr_in *guest)
{
	for (unsigned k = 0; k < d->n; k++) {
		struct datagram_client *c = &d->list[k];

		if (c->at == at && c->address.sin_port == from->sin_port && c->address.sin_addr.s_addr == from->sin_addr.s_addr)
			return c;
	}
	return client_make(d, from, at, guest);
}

void datagrams_receive(struct datagrams *d, int fd, unsigned at, const struct sockaddr_in *guest, uint64_t now_ns)
{
	for (unsigned i = 0; i < BATCH; i++) {
		struct sockaddr_in from;
		socklen_t size = sizeof(from);
		ssize_t got = recvfrom(fd, buffer, sizeof(buffer), MSG_DONTWAIT, (struct sockaddr *)&from, &size);
		struct datagram_client *c;

		if (got < 0)
			return; /* no datagram is left, or an ICMP error of an earlier answer was read */
		c = client_of(d, &from, at, guest);
		if (!c)
			continue;
		c->used_ns = now_ns;
		(void)!send(c->fd, buffer, (size_t)got, MSG_DONTWAIT | MSG_NOSIGNAL); /* what the host cannot send is lost */
	}
}

unsigned datagrams_poll_add(const struct datagrams *d, struct pollfd *fds)
{
	for (unsigned k = 0; k < d->n; k++)
		fds[k] = (struct pollfd){ .fd = d->list[k].fd, .events = POLLIN };
	return d->n;
}

bool datagrams_poll_done(struct datagrams *d, const struct pollfd *fds, unsigned n, int (*fd_of)(const void *opaque, unsigned at),
	const void *opaque)
{
	bool any = false;

	for (unsigned k = 0; k < n; k++) {
		const struct datagram_client *c = &d->list[k];
		ssize_t got;

		for (unsigned i = 0; fds[k].revents && i < BATCH; i++) {
			got = recv(c->fd, buffer, sizeof(buffer), MSG_DONTWAIT);
			if (got < 0)
				break;
			any = true;
			(void)!sendto(fd_of(opaque, c->at), buffer, (size_t)got, MSG_DONTWAIT | MSG_NOSIGNAL, (const struct sockaddr *)&c->address,
				sizeof(c->address));
		}
	}
	return any;
}

void datagrams_remove_forward(struct datagrams *d, unsigned at)
{
	for (unsigned k = 0; k < d->n;) {
		if (d->list[k].at == at) {
			client_end(d, k);
			continue;
		}
		d->list[k].at -= d->list[k].at > at;
		k++;
	}
}
