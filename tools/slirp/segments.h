/* segments: TCP's to the guest that follow one another become one frame, when the guest takes such
 * (virtio 1.2, section 5.1.6): nearly all that a frame costs is the same for a large one. Its
 * checksum is left to the guest, which knows by that that the data is good. */
#ifndef CAIRN_TOOLS_SLIRP_SEGMENTS_H
#define CAIRN_TOOLS_SLIRP_SEGMENTS_H

#include "tools/slirp/frames.h"

#define PACKET_BYTES_MAX (NET_HEADER + ETHERNET_BYTES + 65535)

struct segments {
	size_t len;	 /* of `packet`; 0: none */
	uint16_t first;	 /* bytes of data of each but the last */
	uint32_t next;	 /* the sequence number that follows */
	bool complete;	 /* nothing may follow */
	uint8_t packet[PACKET_BYTES_MAX];
};

/* False: the frame does not follow what is there, or is nothing of TCP's with data. */
bool segments_add(struct segments *s, const uint8_t *frame, size_t len);
/* The packet with all of them, header included; valid until the next is added. NULL: there is none. */
const uint8_t *segments_end(struct segments *s, size_t *ret_len);

#endif
