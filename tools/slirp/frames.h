/* frames: the cable between the VM's interface and this process. A packet on the socket is a header
 * of NET_HEADER bytes, as a tap with IFF_VNET_HDR has it, and an Ethernet frame. Nothing is left
 * to the other side: the header is zeros, and frames with a flag or segments in it are dropped. */
#ifndef CAIRN_TOOLS_SLIRP_FRAMES_H
#define CAIRN_TOOLS_SLIRP_FRAMES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct err;
struct frames;

#define NET_HEADER 12
#define ETHERNET_BYTES 14
#define MAC_BYTES 6
#define FRAME_TYPE_AT 12

/* fd: borrowed. Returns 0; -errno. */
int frames_new(int fd, unsigned mtu, struct frames **ret_f, struct err *e);
void frames_free(struct frames *f);

/* What to poll the socket for. */
short frames_events(const struct frames *f);
bool frames_at_end(const struct frames *f); /* the VM is gone */

/* The guest's next frame; valid until the next call. NULL: there is none now, or never again. */
const uint8_t *frames_read(struct frames *f, size_t *ret_len);

/* To the guest. While it does not read, QUEUE_FRAMES wait for it; what comes then is dropped. */
void frames_write(struct frames *f, const void *frame, size_t len);
/* The socket has room: send what waits. */
void frames_flush(struct frames *f);

#endif
