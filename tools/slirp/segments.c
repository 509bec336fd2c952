#include "tools/slirp/segments.h"
#include "base/bytes.h"
#include "base/inet_sum.h"
#include "base/util.h"

#include <net/ethernet.h>
#include <netinet/in.h>
#include <string.h>

/* RFC 791 and RFC 9293, without options: offsets in a frame. */
enum {
	IP_AT = ETHERNET_BYTES,
	IP_LENGTH_AT = IP_AT + 2,
	IP_ID_AT = IP_AT + 4,
	IP_FRAGMENT_AT = IP_AT + 6,
	IP_PROTOCOL_AT = IP_AT + 9,
	IP_SUM_AT = IP_AT + 10,
	IP_FROM_AT = IP_AT + 12,
	TCP_AT = IP_AT + 20
};
enum {
	TCP_SEQ_AT = TCP_AT + 4,
	TCP_ACK_AT = TCP_AT + 8,
	TCP_OFFSET_AT = TCP_AT + 12,
	TCP_FLAGS_AT = TCP_AT + 13,
	TCP_WINDOW_AT = TCP_AT + 14,
	TCP_SUM_AT = TCP_AT + 16,
	TCP_URGENT_AT = TCP_AT + 18,
	HEADERS = TCP_AT + 20
};
enum { FLAG_PUSH = 8, FLAG_ACK = 16 };
#define FRAGMENT_MASK 0x3fff /* flag "more fragments" and fragment offset */

static bool is_data(const uint8_t *frame, size_t len)
{
	return len > HEADERS && load_be16(frame + FRAME_TYPE_AT) == ETHERTYPE_IP &&
	       frame[IP_AT] == 0x45 && load_be16(frame + IP_LENGTH_AT) == len - IP_AT &&
	       !(load_be16(frame + IP_FRAGMENT_AT) & FRAGMENT_MASK) &&
	       frame[IP_PROTOCOL_AT] == IPPROTO_TCP && frame[TCP_OFFSET_AT] == 0x50 &&
	       (frame[TCP_FLAGS_AT] & ~FLAG_PUSH) == FLAG_ACK;
}

/* Compare all fields except the length, the IP identification, the sequence number, the flags and
 * the checksums. */
static bool is_same_stream(const uint8_t *a, const uint8_t *b)
{
	static const struct {
		uint8_t from, to;
	} same[] = {{0, IP_LENGTH_AT}, {IP_FRAGMENT_AT, IP_SUM_AT}, {IP_FROM_AT, TCP_SEQ_AT},
		{TCP_ACK_AT, TCP_FLAGS_AT}, {TCP_WINDOW_AT, TCP_SUM_AT}, {TCP_URGENT_AT, HEADERS}};

	for (size_t i = 0; i < ARRAY_SIZE(same); i++)
		if (memcmp(a + same[i].from, b + same[i].from, (size_t)(same[i].to - same[i].from)))
			return false;
	return true;
}

static void segments_begin(struct segments *s, const uint8_t *frame, size_t len)
{
	memset(s->packet, 0, NET_HEADER);
	memcpy(s->packet + NET_HEADER, frame, len);
	s->len = NET_HEADER + len;
	s->first = (uint16_t)(len - HEADERS);
	s->next = load_be32(frame + TCP_SEQ_AT) + s->first;
	s->complete = frame[TCP_FLAGS_AT] & FLAG_PUSH;
}

bool segments_add(struct segments *s, const uint8_t *frame, size_t len)
{
	size_t data = len - HEADERS;
	uint8_t *head = s->packet + NET_HEADER;

	if (len > PACKET_BYTES_MAX - NET_HEADER || !is_data(frame, len))
		return false;
	if (!s->len) {
		segments_begin(s, frame, len);
		return true;
	}
	if (s->complete || data > s->first || s->len + data > PACKET_BYTES_MAX ||
		load_be32(frame + TCP_SEQ_AT) != s->next || !is_same_stream(head, frame))
		return false;
	memcpy(s->packet + s->len, frame + HEADERS, data);
	s->len += data;
	s->next += (uint32_t)data;
	s->complete = data < s->first || (frame[TCP_FLAGS_AT] & FLAG_PUSH);
	head[TCP_FLAGS_AT] |= frame[TCP_FLAGS_AT];
	return true;
}

const uint8_t *segments_end(struct segments *s, size_t *ret_len)
{
	uint8_t *header = s->packet, *frame = header + NET_HEADER;
	size_t bytes = s->len - NET_HEADER; /* bytes of the frame */

	if (!s->len)
		return NULL;
	header[HEADER_FLAGS] = HEADER_SUM_WANTED;
	store_le16(header + HEADER_SUM_START, TCP_AT);
	store_le16(header + HEADER_SUM_OFFSET, TCP_SUM_AT - TCP_AT);
	if (bytes > HEADERS + (size_t)s->first) {
		header[HEADER_SEGMENTS] = HEADER_SEGMENTS_TCP4;
		store_le16(header + HEADER_HEADERS, HEADERS);
		store_le16(header + HEADER_SEGMENT, s->first);
		store_be16(frame + IP_LENGTH_AT, (uint16_t)(bytes - IP_AT));
		store_be16(frame + IP_SUM_AT, 0);
		store_be16(frame + IP_SUM_AT,
			(uint16_t)~sum_fold(sum_add(0, frame + IP_AT, TCP_AT - IP_AT)));
	}
	store_be16(frame + TCP_SUM_AT, sum_fold(sum_pseudo(frame + IP_AT, bytes - TCP_AT)));
	*ret_len = s->len;
	s->len = 0;
	return s->packet;
}
