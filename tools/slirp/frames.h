/* frames: the cable between the VM's interface and this process. A packet on the socket is a header
 * of NET_HEADER bytes, as a tap with IFF_VNET_HDR has it, and an Ethernet frame. The guest may leave
 * checksums to this side, and TCP's segments of IPv4; what is left to the guest it says in a packet of
 * OFFLOADS_BYTES: the flags that a tap is told with TUNSETOFFLOAD. */
#ifndef CAIRN_TOOLS_SLIRP_FRAMES_H
#define CAIRN_TOOLS_SLIRP_FRAMES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct err;
struct frames;

#define NET_HEADER 12
/* Offsets in it (virtio 1.2, section 5.1.6), and values. */
enum { HEADER_FLAGS = 0, HEADER_SEGMENTS = 1, HEADER_HEADERS = 2, HEADER_SEGMENT = 4, HEADER_SUM_START = 6,
	HEADER_SUM_OFFSET = 8 };
enum { HEADER_SUM_WANTED = 1, HEADER_SUM_GOOD = 2, HEADER_SEGMENTS_TCP4 = 1, HEADER_SEGMENTS_ECN = 0x80 };
#define OFFLOADS_BYTES 4
#define ETHERNET_BYTES 14
#define MAC_BYTES 6
#define FRAME_TYPE_AT 12

/* fd: borrowed. Returns 0; -errno. */
int frames_new(int fd, unsigned mtu, struct frames **ret_f, struct err *e);
void frames_free(struct frames *f);

/* What to poll the socket for. */
short frames_events(const struct frames *f);
bool frames_at_end(const struct frames *f); /* the VM is gone */

/* The guest's next frame, its checksums made; TCP's segments are one, longer than the MTU. Valid until the
 * next call. NULL: there is none now, or never again. */
const uint8_t *frames_read(struct frames *f, size_t *ret_len);

/* To the guest, by the next frames_push() at the latest: what follows may become one with it. While the guest
 * does not read, QUEUE_FRAMES wait for it; what comes then is dropped. */
void frames_write(struct frames *f, const void *frame, size_t len);
void frames_push(struct frames *f);
/* The socket has room: send what waits. */
void frames_flush(struct frames *f);

#endif
