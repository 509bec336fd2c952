/* cairn-slirp resets a connection in the guest's name if the last frames say that both sides have closed and have all
 * data. */
#include "tools/slirp/closing.c" /* a program's files: in no library */
#include "tools/slirp/guest_packet.c"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

/* The host's side has sent everything before 1000, and its FIN; the guest's is at 500. */
#define OURS 1000
#define THEIRS 500

static const uint8_t gateway[EGRESS_ADDRESS_BYTES] = { [10] = 0xff, [11] = 0xff, [12] = 10, [14] = 2, [15] = 2 };
static const uint8_t guest[EGRESS_ADDRESS_BYTES] = { [10] = 0xff, [11] = 0xff, [12] = 10, [14] = 2, [15] = 15 };
static const uint8_t gateway6[EGRESS_ADDRESS_BYTES] = { 0xfe, 0xc0, [15] = 2 };
static const uint8_t guest6[EGRESS_ADDRESS_BYTES] = { 0xfe, 0xc0, [15] = 15 };

struct made {
	uint8_t frame[GUEST_ANSWER_HEADERS + 100];
	size_t len;
};

/* Make a segment to the guest's port 80 from port `peer` of the gateway, or the reverse. */
static struct made make(bool ipv6, bool to_guest, uint16_t peer, uint8_t flags, uint32_t seq, uint32_t ack, size_t data)
{
	/* headers_write() answers: from and to are swapped. */
	struct guest_packet p = { .ipv6 = ipv6, .protocol = IPPROTO_TCP, .from_mac = { 0x52 }, .to_mac = { 0x54 } };
	const uint8_t *to = ipv6 ? gateway6 : gateway, *from = ipv6 ? guest6 : guest;
	struct made m = { 0 };
	uint8_t *tcp;

	memcpy(p.from, to_guest ? from : to, sizeof(p.from));
	memcpy(p.to, to_guest ? to : from, sizeof(p.to));
	tcp = headers_write(&p, TCP_BYTES + data, m.frame);
	store_be16(tcp + PORT_FROM, to_guest ? peer : 80);
	store_be16(tcp + PORT_TO, to_guest ? 80 : peer);
	store_be32(tcp + TCP_SEQUENCE, seq);
	store_be32(tcp + TCP_ACKNOWLEDGED, ack);
	tcp[TCP_OFFSET] = TCP_BYTES / 4 << 4;
	tcp[TCP_FLAGS] = flags;
	sum_store(&p, tcp + TCP_SUM, tcp, TCP_BYTES + data);
	m.len = (size_t)(tcp - m.frame) + TCP_BYTES + data;
	return m;
}

static void sent(struct closing *c, bool ipv6, uint16_t peer, uint8_t flags, uint32_t seq, uint32_t ack, size_t data)
{
	struct made m = make(ipv6, true, peer, flags, seq, ack, data);

	closing_sent(c, m.frame, m.len);
}

static void received(struct closing *c, bool ipv6, uint16_t peer, uint8_t flags, uint32_t seq, uint32_t ack, size_t data)
{
	struct made m = make(ipv6, false, peer, flags, seq, ack, data);

	closing_received(c, m.frame, m.len);
}

static bool resets(struct closing *c)
{
	size_t len;

	return closing_reset(c, &len) != NULL;
}

/* The guest's FIN acknowledges ours, and libslirp acknowledges the guest's. */
static void closed_connection_gets_reset(bool ipv6)
{
	struct closing c = { 0 };
	struct guest_packet p;
	size_t len;

	sent(&c, ipv6, 4000, TCP_FIN | TCP_ACK, OURS, THEIRS, 0);
	assert_false(resets(&c));
	received(&c, ipv6, 4000, TCP_FIN | TCP_ACK, THEIRS, OURS + 1, 7);
	assert_false(resets(&c));
	sent(&c, ipv6, 4000, TCP_ACK, OURS + 1, THEIRS + 8, 0);
	assert_non_null(closing_reset(&c, &len));
	assert_true(guest_packet_parse(c.reset, len, &p));
	assert_int_equal(p.flags, TCP_RST);
	assert_int_equal(p.sequence, THEIRS + 8);
	assert_int_equal(p.from_port, 80);
	assert_int_equal(p.to_port, 4000);
	assert_memory_equal(p.from, ipv6 ? guest6 : guest, sizeof(p.from));
	assert_memory_equal(p.to, ipv6 ? gateway6 : gateway, sizeof(p.to));
	received(&c, ipv6, 4000, TCP_ACK, THEIRS + 8, OURS + 1, 0);
	assert_false(resets(&c));
}

static void test_connection_that_both_sides_closed_gets_reset(void **state)
{
	(void)state;
	closed_connection_gets_reset(false);
	closed_connection_gets_reset(true);
}

/* Play the end of a connection with one difference. */
struct end {
	uint16_t fin_peer, answer_peer;
	uint32_t acknowledged; /* by the guest's FIN */
	uint8_t answer_flags;
	uint32_t answer_seq, answer_ack;
	size_t answer_data;
};

static bool end_resets(struct end e)
{
	struct closing c = { 0 };

	sent(&c, false, 4000, TCP_FIN | TCP_ACK, OURS, THEIRS, 0);
	received(&c, false, e.fin_peer, TCP_FIN | TCP_ACK, THEIRS, e.acknowledged, 0);
	sent(&c, false, e.answer_peer, e.answer_flags, e.answer_seq, e.answer_ack, e.answer_data);
	return resets(&c);
}

static void test_other_ends_get_none(void **state)
{
	const struct end right = { 4000, 4000, OURS + 1, TCP_ACK, OURS + 1, THEIRS + 1, 0 };
	struct end e = right;

	(void)state;
	assert_true(end_resets(e));
	e.fin_peer = 4001; /* of another connection */
	assert_false(end_resets(e));
	e = right;
	e.answer_peer = 4001;
	assert_false(end_resets(e));
	e = right;
	e.acknowledged = OURS; /* the guest has not had our FIN */
	assert_false(end_resets(e));
	e = right;
	e.answer_ack = THEIRS; /* libslirp lacks data of the guest */
	assert_false(end_resets(e));
	e = right;
	e.answer_seq = OURS;
	assert_false(end_resets(e));
	e = right;
	e.answer_data = 1;
	assert_false(end_resets(e));
	e = right;
	e.answer_flags = TCP_ACK | TCP_RST;
	assert_false(end_resets(e));
}

static void test_guest_that_closes_first_gets_none(void **state)
{
	struct closing c = { 0 };

	(void)state;
	received(&c, false, 4000, TCP_FIN | TCP_ACK, THEIRS, OURS, 0);
	sent(&c, false, 4000, TCP_ACK, OURS, THEIRS + 1, 0);
	assert_false(resets(&c));
}

/* The oldest FIN gives way to the newest. */
static void test_only_last_fins_are_known(void **state)
{
	(void)state;
	for (unsigned more = CLOSING_MAX - 1; more <= CLOSING_MAX; more++) {
		struct closing c = { 0 };

		sent(&c, false, 4000, TCP_FIN | TCP_ACK, OURS, THEIRS, 0);
		for (unsigned i = 0; i < more; i++)
			sent(&c, false, (uint16_t)(5000 + i), TCP_FIN | TCP_ACK, OURS, THEIRS, 0);
		received(&c, false, 4000, TCP_FIN | TCP_ACK, THEIRS, OURS + 1, 0);
		sent(&c, false, 4000, TCP_ACK, OURS + 1, THEIRS + 1, 0);
		assert_int_equal(resets(&c), more < CLOSING_MAX);
	}
}

static void test_short_and_foreign_frames_are_ignored(void **state)
{
	struct made m = make(false, true, 4000, TCP_FIN | TCP_ACK, OURS, THEIRS, 0);
	struct closing c = { 0 };

	(void)state;
	for (size_t len = 0; len < m.len; len++) {
		closing_received(&c, m.frame, len);
		closing_sent(&c, m.frame, len);
		assert_false(resets(&c));
	}
	assert_int_equal(c.next, 0);
	m.frame[NEXT_IPV4] = IPPROTO_UDP;
	closing_sent(&c, m.frame, m.len);
	assert_int_equal(c.next, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_connection_that_both_sides_closed_gets_reset),
		cmocka_unit_test(test_other_ends_get_none),
		cmocka_unit_test(test_guest_that_closes_first_gets_none),
		cmocka_unit_test(test_only_last_fins_are_known),
		cmocka_unit_test(test_short_and_foreign_frames_are_ignored),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
