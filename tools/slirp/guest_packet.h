/* guest_packet: reads the headers of a frame of the guest, and makes answers to it. */
#ifndef CAIRN_TOOLS_SLIRP_GUEST_PACKET_H
#define CAIRN_TOOLS_SLIRP_GUEST_PACKET_H

#include "base/egress.h"
#include "tools/slirp/frames.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { TCP_FIN = 1, TCP_SYN = 2, TCP_RST = 4, TCP_ACK = 16 };

/* The source and destination of a guest's packet. */
struct guest_packet {
	bool ipv6;
	uint8_t protocol; /* of the packet; IPPROTO_ICMPV6 with IPv6 */
	uint8_t type;	  /* ICMP: the message's type */
	uint8_t flags;	  /* TCP */
	uint8_t from_mac[MAC_BYTES], to_mac[MAC_BYTES];
	uint8_t from[EGRESS_ADDRESS_BYTES], to[EGRESS_ADDRESS_BYTES]; /* IPv4 as ::ffff:a.b.c.d */
	uint16_t from_port, to_port; /* TCP and UDP */
	uint32_t sequence, acknowledged; /* TCP */
	const uint8_t *data; /* of a datagram or a segment, in the frame */
	size_t data_bytes;
};

/* Parse an IPv4 packet without options or an IPv6 packet without extension headers. No fragment passes. Returns false
 * if the packet is anything else, or is not complete. */
bool guest_packet_parse(const uint8_t *frame, size_t len, struct guest_packet *ret_p);

#define GUEST_ANSWER_HEADERS (ETHERNET_BYTES + 40 + 20)
/* Write the frame of a datagram that answers p. out: has room for GUEST_ANSWER_HEADERS and the data. Returns its
 * length. */
size_t guest_packet_answer(const struct guest_packet *p, const uint8_t *data, size_t len, uint8_t *out);
/* Write the frame of a TCP reset that refuses the segment p. */
size_t guest_packet_reset(const struct guest_packet *p, uint8_t out[GUEST_ANSWER_HEADERS]);

#endif
