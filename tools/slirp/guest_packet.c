#include "tools/slirp/guest_packet.h"
#include "base/bytes.h"
#include "base/inet_sum.h"

#include <net/ethernet.h>
#include <netinet/in.h>
#include <string.h>

/* RFC 791, RFC 8200, RFC 768 and RFC 9293: offsets in the headers. */
enum { IPV4_LENGTH = 2, IPV4_FRAGMENT = 6, IPV4_TTL = 8, IPV4_PROTOCOL = 9, IPV4_SUM = 10, IPV4_FROM = 12, IPV4_TO = 16,
	IPV4_BYTES = 20 };
enum { IPV6_LENGTH = 4, IPV6_NEXT = 6, IPV6_HOPS = 7, IPV6_FROM = 8, IPV6_TO = 24, IPV6_BYTES = 40 };
enum { PORT_FROM = 0, PORT_TO = 2, UDP_LENGTH = 4, UDP_SUM = 6, UDP_BYTES = 8 };
enum { TCP_SEQUENCE = 4, TCP_ACKNOWLEDGED = 8, TCP_OFFSET = 12, TCP_FLAGS = 13, TCP_SUM = 16, TCP_BYTES = 20 };
#define FRAGMENT_BITS 0xbfff /* all but "don't fragment" */
#define IPV4_NO_OPTIONS 0x45
#define HOPS 64

/* ---- reading ---- */

static bool ipv4_parse(const uint8_t *ip, size_t len, struct guest_packet *p, size_t *ret_bytes)
{
	size_t total;

	if (len < IPV4_BYTES || ip[0] != IPV4_NO_OPTIONS || (load_be16(ip + IPV4_FRAGMENT) & FRAGMENT_BITS))
		return false;
	total = load_be16(ip + IPV4_LENGTH);
	if (total < IPV4_BYTES || total > len)
		return false;
	p->protocol = ip[IPV4_PROTOCOL];
	memcpy(p->from, egress_ipv4_form, EGRESS_IPV4_AT);
	memcpy(p->from + EGRESS_IPV4_AT, ip + IPV4_FROM, 4);
	memcpy(p->to, egress_ipv4_form, EGRESS_IPV4_AT);
	memcpy(p->to + EGRESS_IPV4_AT, ip + IPV4_TO, 4);
	p->data = ip + IPV4_BYTES;
	*ret_bytes = total - IPV4_BYTES;
	return true;
}

static bool ipv6_parse(const uint8_t *ip, size_t len, struct guest_packet *p, size_t *ret_bytes)
{
	if (len < IPV6_BYTES || ip[0] >> 4 != 6)
		return false;
	*ret_bytes = load_be16(ip + IPV6_LENGTH);
	if (*ret_bytes > len - IPV6_BYTES)
		return false;
	p->ipv6 = true;
	p->protocol = ip[IPV6_NEXT];
	memcpy(p->from, ip + IPV6_FROM, sizeof(p->from));
	memcpy(p->to, ip + IPV6_TO, sizeof(p->to));
	p->data = ip + IPV6_BYTES;
	return true;
}

static bool tcp_parse(struct guest_packet *p, size_t bytes)
{
	const uint8_t *tcp = p->data;
	size_t header;

	if (bytes < TCP_BYTES)
		return false;
	header = (tcp[TCP_OFFSET] >> 4) * 4u;
	if (header < TCP_BYTES || header > bytes)
		return false;
	p->from_port = load_be16(tcp + PORT_FROM);
	p->to_port = load_be16(tcp + PORT_TO);
	p->sequence = load_be32(tcp + TCP_SEQUENCE);
	p->acknowledged = load_be32(tcp + TCP_ACKNOWLEDGED);
	p->flags = tcp[TCP_FLAGS];
	p->data += header;
	p->data_bytes = bytes - header;
	return true;
}

static bool udp_parse(struct guest_packet *p, size_t bytes)
{
	const uint8_t *udp = p->data;
	size_t length;

	if (bytes < UDP_BYTES)
		return false;
	length = load_be16(udp + UDP_LENGTH);
	if (length < UDP_BYTES || length > bytes)
		return false;
	p->from_port = load_be16(udp + PORT_FROM);
	p->to_port = load_be16(udp + PORT_TO);
	p->data += UDP_BYTES;
	p->data_bytes = length - UDP_BYTES;
	return true;
}

bool guest_packet_parse(const uint8_t *frame, size_t len, struct guest_packet *ret_p)
{
	size_t bytes = 0;
	bool valid;

	*ret_p = (struct guest_packet){ 0 };
	if (len < ETHERNET_BYTES)
		return false;
	memcpy(ret_p->to_mac, frame, MAC_BYTES);
	memcpy(ret_p->from_mac, frame + MAC_BYTES, MAC_BYTES);
	if (load_be16(frame + FRAME_TYPE_AT) == ETHERTYPE_IP)
		valid = ipv4_parse(frame + ETHERNET_BYTES, len - ETHERNET_BYTES, ret_p, &bytes);
	else
		valid = load_be16(frame + FRAME_TYPE_AT) == ETHERTYPE_IPV6 &&
			ipv6_parse(frame + ETHERNET_BYTES, len - ETHERNET_BYTES, ret_p, &bytes);
	if (!valid)
		return false;
	switch (ret_p->protocol) {
	case IPPROTO_TCP:
		return tcp_parse(ret_p, bytes);
	case IPPROTO_UDP:
		return udp_parse(ret_p, bytes);
	case IPPROTO_ICMP:
	case IPPROTO_ICMPV6:
		ret_p->data_bytes = bytes;
		ret_p->type = bytes ? ret_p->data[0] : 0;
		return bytes > 0 && ret_p->ipv6 == (ret_p->protocol == IPPROTO_ICMPV6);
	default:
		return true; /* the caller knows no such protocol */
	}
}

/* ---- answers ---- */

/* Write the headers of Ethernet and IP of a packet back to the guest. Returns the place of the next header. */
static uint8_t *headers_write(const struct guest_packet *p, size_t bytes, uint8_t *out)
{
	uint8_t *ip = out + ETHERNET_BYTES;

	memcpy(out, p->from_mac, MAC_BYTES);
	memcpy(out + MAC_BYTES, p->to_mac, MAC_BYTES);
	if (p->to_mac[0] & 1) { /* broadcast: take libslirp's address for the gateway and the resolver */
		out[MAC_BYTES] = 0x52;
		out[MAC_BYTES + 1] = 0x55;
		memcpy(out + MAC_BYTES + 2, p->to + 12, 4);
	}
	store_be16(out + FRAME_TYPE_AT, p->ipv6 ? ETHERTYPE_IPV6 : ETHERTYPE_IP);
	memset(ip, 0, p->ipv6 ? IPV6_BYTES : IPV4_BYTES);
	if (p->ipv6) {
		ip[0] = 6 << 4;
		store_be16(ip + IPV6_LENGTH, (uint16_t)bytes);
		ip[IPV6_NEXT] = p->protocol;
		ip[IPV6_HOPS] = HOPS;
		memcpy(ip + IPV6_FROM, p->to, sizeof(p->to));
		memcpy(ip + IPV6_TO, p->from, sizeof(p->from));
		return ip + IPV6_BYTES;
	}
	ip[0] = IPV4_NO_OPTIONS;
	store_be16(ip + IPV4_LENGTH, (uint16_t)(IPV4_BYTES + bytes));
	ip[IPV4_TTL] = HOPS;
	ip[IPV4_PROTOCOL] = p->protocol;
	memcpy(ip + IPV4_FROM, p->to + EGRESS_IPV4_AT, 4);
	memcpy(ip + IPV4_TO, p->from + EGRESS_IPV4_AT, 4);
	store_be16(ip + IPV4_SUM, (uint16_t)~sum_fold(sum_add(0, ip, IPV4_BYTES)));
	return ip + IPV4_BYTES;
}

/* Store the checksum of the data after the IP header. 0 would mean that there is none, so it is stored as 0xffff. */
static void sum_store(const struct guest_packet *p, uint8_t *at, const uint8_t *begin, size_t bytes)
{
	const uint8_t *addresses = begin - (p->ipv6 ? 32 : 8);
	uint16_t sum = (uint16_t)~sum_fold(sum_add(sum_add(p->protocol + bytes, addresses, p->ipv6 ? 32 : 8), begin, bytes));

	store_be16(at, sum ? sum : UINT16_MAX);
}

size_t guest_packet_answer(const struct guest_packet *p, const uint8_t *data, size_t len, uint8_t *out)
{
	uint8_t *udp = headers_write(p, UDP_BYTES + len, out);

	store_be16(udp + PORT_FROM, p->to_port);
	store_be16(udp + PORT_TO, p->from_port);
	store_be16(udp + UDP_LENGTH, (uint16_t)(UDP_BYTES + len));
	store_be16(udp + UDP_SUM, 0);
	memcpy(udp + UDP_BYTES, data, len);
	sum_store(p, udp + UDP_SUM, udp, UDP_BYTES + len);
	return (size_t)(udp - out) + UDP_BYTES + len;
}

size_t guest_packet_reset(const struct guest_packet *p, uint8_t out[GUEST_ANSWER_HEADERS])
{
	uint8_t *tcp = headers_write(p, TCP_BYTES, out);
	uint32_t next = p->sequence + (uint32_t)p->data_bytes + !!(p->flags & TCP_SYN) + !!(p->flags & TCP_FIN);

	memset(tcp, 0, TCP_BYTES);
	store_be16(tcp + PORT_FROM, p->to_port);
	store_be16(tcp + PORT_TO, p->from_port);
	tcp[TCP_OFFSET] = TCP_BYTES / 4 << 4;
	tcp[TCP_FLAGS] = TCP_RST;
	if (p->flags & TCP_ACK) {
		store_be32(tcp + TCP_SEQUENCE, p->acknowledged);
	} else {
		store_be32(tcp + TCP_ACKNOWLEDGED, next);
		tcp[TCP_FLAGS] |= TCP_ACK;
	}
	sum_store(p, tcp + TCP_SUM, tcp, TCP_BYTES);
	return (size_t)(tcp - out) + TCP_BYTES;
}
