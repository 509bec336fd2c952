/* virtio_net_header: the header before each frame (virtio 1.2, section 5.1.6), which asks the other
 * side to complete checksums and segmentation.
 *
 *   0  u8   flags: 1 compute the checksum, 2 the data is known to be valid
 *   1  u8   kind of segments: 0 none, 1 TCP over IPv4, 4 over IPv6; 0x80 with ECN
 *   2  u16  length of all headers; a hint
 *   4  u16  bytes of each segment
 *   6  u16  start of the checksummed range in the frame
 *   8  u16  offset of the checksum field from that start
 *  10  u16  number of buffers that a received frame takes */
#ifndef CAIRN_DEVICES_VIRTIO_VIRTIO_NET_HEADER_H
#define CAIRN_DEVICES_VIRTIO_VIRTIO_NET_HEADER_H

#include <stdbool.h>
#include <stdint.h>

#define NET_HEADER_BYTES 12
#define NET_HEADER_BUFFERS 10
#define NET_FRAME_MIN 14 /* an Ethernet header */

#define NET_F_CSUM (1ULL << 0)
#define NET_F_GUEST_CSUM (1ULL << 1)
#define NET_F_MTU (1ULL << 3)
#define NET_F_MAC (1ULL << 5)
#define NET_F_GUEST_TSO4 (1ULL << 7)
#define NET_F_GUEST_TSO6 (1ULL << 8)
#define NET_F_GUEST_ECN (1ULL << 9)
#define NET_F_HOST_TSO4 (1ULL << 11)
#define NET_F_HOST_TSO6 (1ULL << 12)
#define NET_F_HOST_ECN (1ULL << 13)
#define NET_F_MRG_RXBUF (1ULL << 15)
#define NET_F_STATUS (1ULL << 16)
#define NET_F_CTRL_VQ (1ULL << 17)
#define NET_F_CTRL_RX (1ULL << 18)
#define NET_F_CTRL_VLAN (1ULL << 19)
#define NET_F_GUEST_ANNOUNCE (1ULL << 21)
#define NET_F_MQ (1ULL << 22)
#define NET_F_CTRL_MAC_ADDR (1ULL << 23)

/* Check a header that a guest with these features sent before a frame of frame_bytes, and write to
 * ret the part that the tap or socket gets. Returns false when the frame must be dropped. */
bool net_header_parse(const uint8_t raw[NET_HEADER_BYTES], uint64_t frame_bytes, uint64_t features,
	uint8_t ret[NET_HEADER_BYTES]);

/* Change the host's header of a received frame to one that a guest with these features understands.
 * Returns false when the guest must not get the frame: it may have been queued before the driver
 * chose its features. */
bool net_header_fit(uint8_t header[NET_HEADER_BYTES], uint64_t features);

/* Return the TUN_F_* flags of the offloads that a guest with these features accepts. */
unsigned net_header_offloads(uint64_t features);

#endif
