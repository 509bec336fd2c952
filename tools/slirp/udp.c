#include "tools/slirp/udp.h"
#include "base/bytes.h"
#include "base/err.h"
#include "base/inet_sum.h"
#include "base/log.h"

#include <errno.h>
#include <net/ethernet.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#define CLIENTS_MAX 256 /* clients of a forward; beyond that, the least recently active one is dropped */
#define BATCH 64 /* datagrams of a forward in one round, so that others get their turn */

/* RFC 791 and RFC 768: offsets in their headers. */
enum { IPV4_LENGTH = 2, IPV4_ID = 4, IPV4_FRAGMENT = 6, IPV4_TTL = 8, IPV4_PROTOCOL = 9, IPV4_SUM = 10, IPV4_FROM = 12,
	IPV4_TO = 16, IPV4_BYTES = 20 };
enum { UDP_FROM = 0, UDP_TO = 2, UDP_LENGTH = 4, UDP_SUM = 6, UDP_BYTES = 8 };
enum { ARP_SENDER = 14 }; /* RFC 826, for IPv4 */
#define FRAGMENT_MASK 0x3fff /* flag "more fragments" and fragment offset */
#define TTL 64
#define HEADERS (ETHERNET_BYTES + IPV4_BYTES + UDP_BYTES)

/* Address and port in network byte order. */
struct place {
	uint8_t ip[4], port[2];
};

struct client {
	struct place real;
	struct place seen; /* as the guest sees the client */
	uint64_t used_ns; /* 0: unused entry */
};

struct udp_forward {
	uint8_t mac[MAC_BYTES]; /* MAC address of the guest from its last packet; broadcast before the first */
	struct client clients[CLIENTS_MAX];
};

struct udp {
	const struct options *options;
	struct frames *frames;
	uint8_t gateway_mac[MAC_BYTES];
	uint16_t id;
	struct udp_forward *forwards[FORWARDS_MAX]; /* NULL: a TCP forward */
	size_t room; /* size limit of a datagram */
	uint8_t frame[];
};

int udp_new(const struct options *o, struct frames *f, struct udp **ret_u, struct err *e)
{
	struct udp *u = calloc(1, sizeof(*u) + ETHERNET_BYTES + o->mtu);

	if (!u)
		return err_set_errno(e, -ENOMEM, "UDP");
	u->options = o;
	u->frames = f;
	u->room = o->mtu - IPV4_BYTES - UDP_BYTES;
	/* Use libslirp's MAC address of the gateway, so that the guest sees only one. */
	u->gateway_mac[0] = 0x52;
	u->gateway_mac[1] = 0x55;
	memcpy(u->gateway_mac + 2, &o->gateway, 4);
	for (unsigned i = 0; i < o->nforwards; i++)
		if (o->forwards[i].udp && udp_add_forward(u, i) < 0) {
			udp_free(u);
			return err_set_errno(e, -ENOMEM, "UDP");
		}
	*ret_u = u;
	return 0;
}

int udp_add_forward(struct udp *u, unsigned at)
{
	u->forwards[at] = calloc(1, sizeof(*u->forwards[at]));
	if (!u->forwards[at])
		return -ENOMEM;
	memset(u->forwards[at]->mac, 0xff, MAC_BYTES);
	return 0;
}

void udp_remove_forward(struct udp *u, unsigned at)
{
	free(u->forwards[at]);
	memmove(&u->forwards[at], &u->forwards[at + 1], (FORWARDS_MAX - at - 1) * sizeof(u->forwards[0]));
	u->forwards[FORWARDS_MAX - 1] = NULL;
}

void udp_free(struct udp *u)
{
	for (unsigned i = 0; u && i < FORWARDS_MAX; i++)
		free(u->forwards[i]);
	free(u);
}

/* Returns the checksum of the datagram and its pseudo-header; 0 if a checksum in the datagram is correct. */
static uint16_t udp_sum(const uint8_t *ip, const uint8_t *udp, size_t len)
{
	return (uint16_t)~sum_fold(sum_add(sum_pseudo(ip, len), udp, len));
}

/* ---- clients of a forward ---- */

static bool client_is_same(const struct place *a, const struct place *b)
{
	return !memcmp(a, b, sizeof(*a));
}

static struct client *client_seen_as(struct udp_forward *f, const struct place *seen)
{
	for (unsigned i = 0; i < CLIENTS_MAX; i++)
		if (f->clients[i].used_ns && client_is_same(&f->clients[i].seen, seen))
			return &f->clients[i];
	return NULL;
}

/* Choose the address and port under which the guest sees a client. If another client already has this address and port,
 * take the next free port. */
static void client_name(struct udp *u, struct udp_forward *f, struct client *c)
{
	uint32_t ip = load_be32(c->real.ip), mask = ntohl(u->options->mask.s_addr);
	uint16_t port = load_be16(c->real.port);
	struct place seen = c->real;

	if (ip >> 24 == 127 || (ip & mask) == ntohl(u->options->network.s_addr))
		memcpy(seen.ip, &u->options->gateway, sizeof(seen.ip));
	while (client_seen_as(f, &seen)) {
		port = port == UINT16_MAX ? 1024 : (uint16_t)(port + 1);
		store_be16(seen.port, port);
	}
	c->seen = seen;
}

static struct client *client_of(struct udp *u, struct udp_forward *f, const struct place *real, uint64_t now_ns)
{
	struct client *oldest = &f->clients[0];

	for (unsigned i = 0; i < CLIENTS_MAX; i++) {
		struct client *c = &f->clients[i];

		if (c->used_ns && client_is_same(&c->real, real)) {
			c->used_ns = now_ns;
			return c;
		}
		if (c->used_ns < oldest->used_ns)
			oldest = c;
	}
	*oldest = (struct client){ .real = *real };
	client_name(u, f, oldest);
	oldest->used_ns = now_ns;
	return oldest;
}

/* ---- datagrams to the guest ---- */

/* Add the headers around a datagram that is already in place. */
static void frame_complete(struct udp *u, unsigned at, const struct place *from, size_t len)
{
	const struct forward *to = &u->options->forwards[at];
	uint8_t *ethernet = u->frame, *ip = ethernet + ETHERNET_BYTES, *udp = ip + IPV4_BYTES;

	memcpy(ethernet, u->forwards[at]->mac, MAC_BYTES);
	memcpy(ethernet + MAC_BYTES, u->gateway_mac, MAC_BYTES);
	store_be16(ethernet + FRAME_TYPE_AT, ETHERTYPE_IP);
	memset(ip, 0, IPV4_BYTES + UDP_BYTES);
	ip[0] = 0x45;
	store_be16(ip + IPV4_LENGTH, (uint16_t)(IPV4_BYTES + UDP_BYTES + len));
	store_be16(ip + IPV4_ID, u->id++);
	ip[IPV4_TTL] = TTL;
	ip[IPV4_PROTOCOL] = IPPROTO_UDP;
	memcpy(ip + IPV4_FROM, from->ip, 4);
	memcpy(ip + IPV4_TO, &to->guest, 4);
	store_be16(ip + IPV4_SUM, (uint16_t)~sum_fold(sum_add(0, ip, IPV4_BYTES)));
	memcpy(udp + UDP_FROM, from->port, 2);
	store_be16(udp + UDP_TO, to->port);
	store_be16(udp + UDP_LENGTH, (uint16_t)(UDP_BYTES + len));
	store_be16(udp + UDP_SUM, udp_sum(ip, udp, UDP_BYTES + len));
	if (!load_be16(udp + UDP_SUM)) /* 0 would mean no checksum */
		store_be16(udp + UDP_SUM, 0xffff);
}

void udp_receive(struct udp *u, unsigned at, uint64_t now_ns)
{
	struct sockaddr_in from;
	struct place real;

	for (unsigned i = 0; i < BATCH; i++) {
		socklen_t size = sizeof(from);
		ssize_t got = recvfrom(u->options->forwards[at].fd, u->frame + HEADERS, u->room,
			MSG_DONTWAIT | MSG_TRUNC, (struct sockaddr *)&from, &size);

		if (got < 0)
			return; /* no datagram is left, or an ICMP error of an earlier answer was read */
		if ((size_t)got > u->room) {
			log_guest("forward", "a datagram of %zd bytes does not fit into a frame: dropped", got);
			continue;
		}
		memcpy(real.ip, &from.sin_addr, sizeof(real.ip));
		memcpy(real.port, &from.sin_port, sizeof(real.port));
		frame_complete(u, at, &client_of(u, u->forwards[at], &real, now_ns)->seen, (size_t)got);
		frames_write(u->frames, u->frame, HEADERS + (size_t)got);
	}
}

/* ---- datagrams from the guest ---- */

/* Send a datagram of the guest to its client. Returns false if the destination is no known client. */
static bool datagram_send(struct udp *u, unsigned at, const uint8_t *ip, const uint8_t *udp, size_t len)
{
	struct sockaddr_in to = { .sin_family = AF_INET };
	struct place seen;
	struct client *c;

	memcpy(seen.ip, ip + IPV4_TO, sizeof(seen.ip));
	memcpy(seen.port, udp + UDP_TO, sizeof(seen.port));
	c = client_seen_as(u->forwards[at], &seen);
	if (!c)
		return false;
	if (load_be16(udp + UDP_SUM) && udp_sum(ip, udp, len))
		return true;
	memcpy(&to.sin_addr, c->real.ip, sizeof(c->real.ip));
	memcpy(&to.sin_port, c->real.port, sizeof(c->real.port));
	/* A datagram that the host cannot send is lost. */
	(void)!sendto(u->options->forwards[at].fd, udp + UDP_BYTES, len - UDP_BYTES, MSG_DONTWAIT | MSG_NOSIGNAL,
		(struct sockaddr *)&to, sizeof(to));
	return true;
}

/* Returns the UDP header and the length of a whole datagram without checking the checksum; NULL: another packet. */
static const uint8_t *udp_parse(const uint8_t *ip, size_t len, size_t *ret_len)
{
	size_t header, total, bytes;

	if (len < IPV4_BYTES || ip[0] >> 4 != 4 || ip[IPV4_PROTOCOL] != IPPROTO_UDP ||
		(load_be16(ip + IPV4_FRAGMENT) & FRAGMENT_MASK))
		return NULL;
	header = (ip[0] & 15u) * 4;
	total = load_be16(ip + IPV4_LENGTH);
	if (header < IPV4_BYTES || total > len || total < header + UDP_BYTES)
		return NULL;
	bytes = load_be16(ip + header + UDP_LENGTH);
	if (bytes < UDP_BYTES || bytes > total - header)
		return NULL;
	*ret_len = bytes;
	return ip + header;
}

/* Returns the sender's IPv4 address of an ARP or IPv4 packet; NULL: another packet. */
static const uint8_t *frame_sender(const uint8_t *frame, size_t len)
{
	const uint8_t *packet = frame + ETHERNET_BYTES;

	if (len < ETHERNET_BYTES + IPV4_BYTES)
		return NULL;
	switch (load_be16(frame + FRAME_TYPE_AT)) {
	case ETHERTYPE_ARP:
		return packet + ARP_SENDER;
	case ETHERTYPE_IP:
		return packet + IPV4_FROM;
	default:
		return NULL;
	}
}

bool udp_answer(struct udp *u, const uint8_t *frame, size_t len)
{
	const uint8_t *sender = frame_sender(frame, len), *ip = frame + ETHERNET_BYTES, *udp = NULL;
	size_t bytes = 0;

	if (sender && load_be16(frame + FRAME_TYPE_AT) == ETHERTYPE_IP)
		udp = udp_parse(ip, len - ETHERNET_BYTES, &bytes);
	for (unsigned i = 0; sender && i < u->options->nforwards; i++) {
		const struct forward *f = &u->options->forwards[i];

		if (!f->udp || memcmp(sender, &f->guest, 4))
			continue;
		memcpy(u->forwards[i]->mac, frame + MAC_BYTES, MAC_BYTES);
		if (udp && load_be16(udp + UDP_FROM) == f->port && datagram_send(u, i, ip, udp, bytes))
			return true;
	}
	return false;
}
