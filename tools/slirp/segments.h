/* segments: combine consecutive TCP segments to the guest into one frame, for guests that accept TSO and partial
 * checksums (virtio 1.2, section 5.1.6): the cost of a frame hardly depends on its size. Only the pseudo-header's
 * checksum is stored: the guest takes such a frame for correct. */
#ifndef CAIRN_TOOLS_SLIRP_SEGMENTS_H
#define CAIRN_TOOLS_SLIRP_SEGMENTS_H

#include "tools/slirp/frames.h"

#define PACKET_BYTES_MAX (NET_HEADER + ETHERNET_BYTES + 65535)

struct segments {
	size_t len;	 /* length of `packet`; 0: none */
	uint16_t first;	 /* data bytes of each segment except the last */
	uint32_t next;	 /* sequence number that must follow */
	bool complete;	 /* no segment may follow */
	uint8_t packet[PACKET_BYTES_MAX];
};

/* Append a segment. Returns false if the frame is no TCP segment with data over IPv4 that can be combined, or does not
 * follow the previous one. */
bool segments_add(struct segments *s, const uint8_t *frame, size_t len);
/* Take all segments. Returns one packet with its header, valid until the next segments_add(); NULL: none. */
const uint8_t *segments_end(struct segments *s, size_t *ret_len);

#endif
