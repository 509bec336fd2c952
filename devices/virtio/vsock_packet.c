#include "devices/virtio/vsock_packet.h"
#include "base/bytes.h"

/* struct virtio_vsock_hdr, little-endian. */
enum { SRC_CID = 0, DST_CID = 8, SRC_PORT = 16, DST_PORT = 20, LEN = 24, TYPE = 28, OP = 30, FLAGS = 32,
	BUF_ALLOC = 36, FWD_CNT = 40 };

void vsock_header_parse(const uint8_t raw[VSOCK_HEADER_BYTES], struct vsock_header *ret)
{
	*ret = (struct vsock_header){ .src_cid = load_le64(raw + SRC_CID), .dst_cid = load_le64(raw + DST_CID),
		.src_port = load_le32(raw + SRC_PORT), .dst_port = load_le32(raw + DST_PORT), .len = load_le32(raw + LEN),
		.type = load_le16(raw + TYPE), .op = load_le16(raw + OP), .flags = load_le32(raw + FLAGS),
		.buf_alloc = load_le32(raw + BUF_ALLOC), .fwd_cnt = load_le32(raw + FWD_CNT) };
}

void vsock_header_print(const struct vsock_header *h, uint8_t raw[VSOCK_HEADER_BYTES])
{
	store_le64(raw + SRC_CID, h->src_cid);
	store_le64(raw + DST_CID, h->dst_cid);
	store_le32(raw + SRC_PORT, h->src_port);
	store_le32(raw + DST_PORT, h->dst_port);
	store_le32(raw + LEN, h->len);
	store_le16(raw + TYPE, h->type);
	store_le16(raw + OP, h->op);
	store_le32(raw + FLAGS, h->flags);
	store_le32(raw + BUF_ALLOC, h->buf_alloc);
	store_le32(raw + FWD_CNT, h->fwd_cnt);
}

bool vsock_credit_receive(struct vsock_credit *c, uint32_t bytes, uint32_t alloc)
{
	uint32_t held = c->received - c->forwarded; /* at most alloc */

	if (bytes > alloc - held)
		return false;
	c->received += bytes;
	return true;
}

void vsock_credit_forward(struct vsock_credit *c, uint32_t bytes)
{
	c->forwarded += bytes;
}

/* Send a credit update to a guest without credit when a quarter of the buffer is free. */
bool vsock_credit_is_due(const struct vsock_credit *c, uint32_t alloc)
{
	return c->forwarded - c->told >= alloc / 4;
}

/* A guest may say anything. Data that it claims to have taken before it was sent gives no room. */
uint32_t vsock_credit_room(const struct vsock_credit *c)
{
	uint32_t held = c->sent - c->peer_forwarded;

	return held < c->peer_alloc ? c->peer_alloc - held : 0;
}
