#include "tools/slirp/closing.h"
#include "base/bytes.h"

#include <net/ethernet.h>
#include <netinet/in.h>
#include <string.h>

/* Offsets in frames without IP options or extension headers. */
enum { NEXT_IPV4 = ETHERNET_BYTES + 9, FLAGS_IPV4 = ETHERNET_BYTES + 20 + 13, NEXT_IPV6 = ETHERNET_BYTES + 6,
	FLAGS_IPV6 = ETHERNET_BYTES + 40 + 13 };

/* Parse a frame of TCP if it has the flag. */
static bool flagged_parse(const uint8_t *frame, size_t len, uint8_t flag, struct guest_packet *ret_p)
{
	bool ipv6 = len > FLAGS_IPV6 && load_be16(frame + FRAME_TYPE_AT) == ETHERTYPE_IPV6;
	unsigned next = ipv6 ? NEXT_IPV6 : NEXT_IPV4, flags = ipv6 ? FLAGS_IPV6 : FLAGS_IPV4;

	return len > flags && frame[next] == IPPROTO_TCP && (frame[flags] & flag) && guest_packet_parse(frame, len, ret_p);
}

/* Return whether the two packets have each other's sender and receiver. */
static bool is_answer(const struct guest_packet *a, const struct guest_packet *b)
{
	return a->from_port == b->to_port && a->to_port == b->from_port && !memcmp(a->from, b->to, sizeof(a->from)) &&
		!memcmp(a->to, b->from, sizeof(a->to));
}

static uint32_t end_of(const struct guest_packet *p)
{
	return p->sequence + (uint32_t)p->data_bytes + !!(p->flags & TCP_FIN);
}

void closing_received(struct closing *c, const uint8_t *frame, size_t len)
{
	struct guest_packet p;

	c->last.flags = 0;
	c->reset_bytes = 0;
	if (!flagged_parse(frame, len, TCP_FIN, &p) || !(p.flags & TCP_ACK))
		return;
	for (unsigned i = 0; i < CLOSING_MAX; i++) {
		struct closing_sent *s = &c->sent[i];

		if (!s->packet.flags || !is_answer(&p, &s->packet) || p.acknowledged != s->end)
			continue;
		s->packet.flags = 0;
		c->last = p;
	}
}

void closing_sent(struct closing *c, const uint8_t *frame, size_t len)
{
	struct guest_packet p;

	if (c->last.flags && flagged_parse(frame, len, TCP_ACK, &p) && is_answer(&p, &c->last) && p.flags == TCP_ACK &&
		!p.data_bytes && p.acknowledged == end_of(&c->last) && p.sequence == c->last.acknowledged)
		c->reset_bytes = guest_packet_reset(&p, c->reset);
	else if (flagged_parse(frame, len, TCP_FIN, &p)) {
		c->sent[c->next] = (struct closing_sent){ p, end_of(&p) };
		c->next = (c->next + 1) % CLOSING_MAX;
	}
}

const uint8_t *closing_reset(struct closing *c, size_t *ret_len)
{
	*ret_len = c->reset_bytes;
	return c->reset_bytes ? c->reset : NULL;
}
