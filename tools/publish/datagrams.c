#include "tools/publish/datagrams.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define BATCH 64 /* datagrams of a forward in one round, so that others get their turn */
#define DATAGRAM_MAX 65536

static uint8_t buffer[DATAGRAM_MAX];

union control {
	struct cmsghdr head;
	char bytes[CMSG_SPACE(sizeof(struct in6_pktinfo))];
};

int datagrams_prepare(int fd, sa_family_t family)
{
	int on = 1;

	return setsockopt(fd, family == AF_INET ? IPPROTO_IP : IPPROTO_IPV6, family == AF_INET ? IP_PKTINFO : IPV6_RECVPKTINFO, &on, sizeof(on)) < 0 ?
		-errno : 0;
}

/* The sender of a datagram, and the host's address that received it. */
struct sender {
	struct sockaddr_in6 address;
	socklen_t bytes;
	struct in6_addr own;
};

/* Receive a datagram into the buffer. Returns its length; -1: none is left, or an ICMP error of an earlier answer was
 * read. */
static ssize_t datagram_receive(int fd, struct sender *from)
{
	union control control;
	struct iovec iov = { buffer, sizeof(buffer) };
	struct msghdr m = { .msg_name = &from->address, .msg_namelen = sizeof(from->address), .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control,
		.msg_controllen = sizeof(control) };
	ssize_t got = recvmsg(fd, &m, MSG_DONTWAIT);
	struct cmsghdr *c = got < 0 ? NULL : CMSG_FIRSTHDR(&m);
	struct in_pktinfo four;
	struct in6_pktinfo six;

	from->bytes = m.msg_namelen;
	memset(&from->own, 0, sizeof(from->own));
	if (c && c->cmsg_level == IPPROTO_IP && c->cmsg_type == IP_PKTINFO) {
		memcpy(&four, CMSG_DATA(c), sizeof(four));
		memcpy(&from->own, &four.ipi_spec_dst, sizeof(four.ipi_spec_dst));
	} else if (c && c->cmsg_level == IPPROTO_IPV6 && c->cmsg_type == IPV6_PKTINFO) {
		memcpy(&six, CMSG_DATA(c), sizeof(six));
		from->own = six.ipi6_addr;
	}
	return got;
}

/* Send the buffer's first `len` bytes to the client, from the address that it knows. A port of all addresses has no
 * address of its own, and the kernel might choose another one for the answer. A datagram that the host cannot send is
 * lost. */
static void datagram_answer(int fd, const struct datagram_client *c, size_t len)
{
	bool ipv6 = c->address.sin6_family == AF_INET6;
	size_t info_bytes = ipv6 ? sizeof(struct in6_pktinfo) : sizeof(struct in_pktinfo);
	union control control = { .head = { CMSG_LEN(info_bytes), ipv6 ? IPPROTO_IPV6 : IPPROTO_IP, ipv6 ? IPV6_PKTINFO : IP_PKTINFO } };
	struct iovec iov = { buffer, len };
	const struct in6_pktinfo six = { .ipi6_addr = c->own };
	struct in_pktinfo four = { 0 };
	struct msghdr m = { .msg_name = (void *)(uintptr_t)&c->address, .msg_namelen = c->address_bytes, .msg_iov = &iov, .msg_iovlen = 1,
		.msg_control = &control, .msg_controllen = CMSG_SPACE(info_bytes) };

	memcpy(&four.ipi_spec_dst, &c->own, sizeof(four.ipi_spec_dst));
	memcpy(CMSG_DATA(&control.head), ipv6 ? (const void *)&six : &four, info_bytes);
	(void)!sendmsg(fd, &m, MSG_DONTWAIT | MSG_NOSIGNAL);
}

static void client_end(struct datagrams *d, unsigned k)
{
	close(d->list[k].fd);
	d->list[k] = d->list[--d->n];
}

static struct datagram_client *client_make(struct datagrams *d, const struct sender *from, unsigned at, const struct sockaddr_in *guest)
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
	*c = (struct datagram_client){ .fd = fd, .at = at, .address = from->address, .address_bytes = from->bytes, .own = from->own };
	return c;
}

static struct datagram_client *client_of(struct datagrams *d, const struct sender *from, unsigned at, const struct sockaddr_in *guest)
{
	for (unsigned k = 0; k < d->n; k++) {
		struct datagram_client *c = &d->list[k];

		if (c->at == at && !memcmp(&c->own, &from->own, sizeof(c->own)) && c->address_bytes == from->bytes &&
			!memcmp(&c->address, &from->address, from->bytes))
			return c;
	}
	return client_make(d, from, at, guest);
}

void datagrams_receive(struct datagrams *d, int fd, unsigned at, const struct sockaddr_in *guest, uint64_t now_ns)
{
	for (unsigned i = 0; i < BATCH; i++) {
		struct sender from = { 0 };
		ssize_t got = datagram_receive(fd, &from);
		struct datagram_client *c;

		if (got < 0)
			return;
		c = client_of(d, &from, at, guest);
		if (!c)
			continue;
		c->used_ns = now_ns;
		(void)!send(c->fd, buffer, (size_t)got, MSG_DONTWAIT | MSG_NOSIGNAL); /* drop datagrams that the host cannot send */
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
			datagram_answer(fd_of(opaque, c->at), c, (size_t)got);
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
