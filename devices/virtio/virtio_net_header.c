#include "devices/virtio/virtio_net_header.h"
#include "base/bytes.h"

#include <linux/if_tun.h>
#include <string.h>

enum { FLAGS = 0, SEGMENTS = 1, HEADERS_BYTES = 2, SEGMENT_BYTES = 4, SUM_START = 6, SUM_OFFSET = 8 };
enum { FLAG_SUM_WANTED = 1 };
enum { SEGMENTS_NONE = 0, SEGMENTS_TCP4 = 1, SEGMENTS_TCP6 = 4, SEGMENTS_ECN = 0x80 };

#define SUM_BYTES 2

/* Return whether the negotiated features allow this kind of segments; the features are those of one
 * direction. */
static bool segments_allowed(uint8_t kind, uint64_t features, uint64_t tcp4, uint64_t tcp6, uint64_t ecn)
{
	if ((kind & SEGMENTS_ECN) && !(features & ecn))
		return false;
	switch (kind & ~SEGMENTS_ECN) {
	case SEGMENTS_TCP4:
		return features & tcp4;
	case SEGMENTS_TCP6:
		return features & tcp6;
	default:
		return false;
	}
}

static bool sum_parse(const uint8_t *raw, uint64_t frame_bytes, uint64_t features, uint8_t *ret)
{
	uint32_t start = load_le16(raw + SUM_START), offset = load_le16(raw + SUM_OFFSET);

	if (!(features & NET_F_CSUM) || start < NET_FRAME_MIN || start + offset + SUM_BYTES > frame_bytes)
		return false;
	ret[FLAGS] = FLAG_SUM_WANTED;
	memcpy(ret + SUM_START, raw + SUM_START, 4);
	return true;
}

static bool segments_parse(const uint8_t *raw, uint64_t frame_bytes, uint64_t features, uint8_t *ret)
{
	uint32_t headers = load_le16(raw + HEADERS_BYTES);

	/* Each segment needs a checksum of its own. */
	if (ret[FLAGS] != FLAG_SUM_WANTED || !load_le16(raw + SEGMENT_BYTES) || headers > frame_bytes)
		return false;
	if (!segments_allowed(raw[SEGMENTS], features, NET_F_HOST_TSO4, NET_F_HOST_TSO6, NET_F_HOST_ECN))
		return false;
	memcpy(ret + SEGMENTS, raw + SEGMENTS, 5);
	return true;
}

bool net_header_parse(const uint8_t raw[NET_HEADER_BYTES], uint64_t frame_bytes, uint64_t features,
	uint8_t ret[NET_HEADER_BYTES])
{
	memset(ret, 0, NET_HEADER_BYTES);
	if (frame_bytes < NET_FRAME_MIN)
		return false;
	if ((raw[FLAGS] & FLAG_SUM_WANTED) && !sum_parse(raw, frame_bytes, features, ret))
		return false;
	return raw[SEGMENTS] == SEGMENTS_NONE || segments_parse(raw, frame_bytes, features, ret);
}

bool net_header_fit(uint8_t header[NET_HEADER_BYTES], uint64_t features)
{
	if (!(features & NET_F_GUEST_CSUM)) {
		if (header[FLAGS] & FLAG_SUM_WANTED)
			return false;
		header[FLAGS] = 0; /* without GUEST_CSUM, not even the flag for a valid checksum may be set */
	}
	return header[SEGMENTS] == SEGMENTS_NONE ||
		segments_allowed(header[SEGMENTS], features, NET_F_GUEST_TSO4, NET_F_GUEST_TSO6,
			NET_F_GUEST_ECN);
}

unsigned net_header_offloads(uint64_t features)
{
	unsigned want = 0;

	if (!(features & NET_F_GUEST_CSUM))
		return 0;
	want |= TUN_F_CSUM;
	want |= features & NET_F_GUEST_TSO4 ? TUN_F_TSO4 : 0;
	want |= features & NET_F_GUEST_TSO6 ? TUN_F_TSO6 : 0;
	/* The kernel accepts TSO_ECN only together with TSO4 or TSO6. */
	if ((features & NET_F_GUEST_ECN) && (want & (TUN_F_TSO4 | TUN_F_TSO6)))
		want |= TUN_F_TSO_ECN;
	return want;
}
