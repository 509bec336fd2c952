/* vsock_packet: the header of virtio-vsock's packets and the arithmetic of credit (virtio 1.2, section 5.10.6).
 *
 * Each side says how large its receive buffer is (buf_alloc) and how many bytes it has taken out of it so far
 * (fwd_cnt), and sends no more than fits. All counts wrap at 2^32.
 * Threading: none. */
#ifndef CAIRN_DEVICES_VIRTIO_VSOCK_PACKET_H
#define CAIRN_DEVICES_VIRTIO_VSOCK_PACKET_H

#include <stdbool.h>
#include <stdint.h>

#define VSOCK_HEADER_BYTES 44
#define VSOCK_CID_HOST 2
#define VSOCK_TYPE_STREAM 1

enum vsock_op {
	VSOCK_OP_REQUEST = 1,
	VSOCK_OP_RESPONSE = 2,
	VSOCK_OP_RST = 3,
	VSOCK_OP_SHUTDOWN = 4,
	VSOCK_OP_RW = 5,
	VSOCK_OP_CREDIT_UPDATE = 6,
	VSOCK_OP_CREDIT_REQUEST = 7,
};

/* Flags of VSOCK_OP_SHUTDOWN: the directions that the sender closes. */
#define VSOCK_SHUTDOWN_RECEIVE 1u
#define VSOCK_SHUTDOWN_SEND 2u
#define VSOCK_SHUTDOWN_BOTH 3u

struct vsock_header {
	uint64_t src_cid, dst_cid;
	uint32_t src_port, dst_port;
	uint32_t len; /* bytes of data that follow */
	uint16_t type, op;
	uint32_t flags, buf_alloc, fwd_cnt;
};

void vsock_header_parse(const uint8_t raw[VSOCK_HEADER_BYTES], struct vsock_header *ret);
void vsock_header_print(const struct vsock_header *h, uint8_t raw[VSOCK_HEADER_BYTES]);

/* The device's side of a connection's credit. */
struct vsock_credit {
	uint32_t received, forwarded; /* bytes that came from the guest; of these, bytes that left the buffer */
	uint32_t told; /* `forwarded` as the guest knows it */
	uint32_t sent; /* bytes that went to the guest */
	uint32_t peer_alloc, peer_forwarded; /* as the guest has said */
};

/* Count data that the guest sent. alloc: size of the receive buffer. Returns false if it exceeds the credit that the
 * guest was given. */
bool vsock_credit_receive(struct vsock_credit *c, uint32_t bytes, uint32_t alloc);
/* Count data that left the receive buffer. */
void vsock_credit_forward(struct vsock_credit *c, uint32_t bytes);
/* Return whether so much of the buffer has become free that the guest should get a credit update. */
bool vsock_credit_is_due(const struct vsock_credit *c, uint32_t alloc);
/* Return how many bytes the guest has room for. */
uint32_t vsock_credit_room(const struct vsock_credit *c);

#endif
