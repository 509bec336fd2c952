/* frames: the link between the VM's interface and cairn-slirp. A packet on the socket is a header of NET_HEADER bytes,
 * as on a tap with IFF_VNET_HDR, and an Ethernet frame. The guest may leave checksums and TCP segmentation over IPv4 to
 * cairn-slirp. A packet of OFFLOADS_BYTES carries the offloads that the guest accepts, as the flags of
 * TUNSETOFFLOAD. */
#ifndef CAIRN_TOOLS_SLIRP_FRAMES_H
#define CAIRN_TOOLS_SLIRP_FRAMES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct err;
struct frames;

#define NET_HEADER 12
/* Offsets in the header, and values (virtio 1.2, section 5.1.6). */
enum { HEADER_FLAGS = 0, HEADER_SEGMENTS = 1, HEADER_HEADERS = 2, HEADER_SEGMENT = 4, HEADER_SUM_START = 6,
	HEADER_SUM_OFFSET = 8 };
enum { HEADER_SUM_WANTED = 1, HEADER_SUM_GOOD = 2, HEADER_SEGMENTS_TCP4 = 1, HEADER_SEGMENTS_ECN = 0x80 };
#define OFFLOADS_BYTES 4
#define ETHERNET_BYTES 14
#define MAC_BYTES 6
#define FRAME_TYPE_AT 12

/* Create the link. fd: the socket; borrowed. mtu: limit of the guest's frames. Returns 0; -errno with a sentence. */
int frames_new(int fd, unsigned mtu, struct frames **ret_f, struct err *e);
void frames_free(struct frames *f);

/* Returns the events to poll the socket for. */
short frames_events(const struct frames *f);
bool frames_at_end(const struct frames *f); /* the VM has closed its end */

/* Read the guest's next frame and compute its checksums. Combined TCP segments are one frame, which may exceed the MTU.
 * Returns the frame, valid until the next call; NULL: none now, or the VM has ended. */
const uint8_t *frames_read(struct frames *f, size_t *ret_len);

/* Send a frame to the guest, at the latest by the next frames_push(): following TCP segments may be combined with it.
 * At most 1000 packets and 4 MiB wait while the guest does not read; further packets are dropped. */
void frames_write(struct frames *f, const void *frame, size_t len);
void frames_push(struct frames *f);
/* Send waiting frames, when the socket has room. */
void frames_flush(struct frames *f);

#endif
