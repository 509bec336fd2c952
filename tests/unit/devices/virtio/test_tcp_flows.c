/* The TCP connections of an interface, before and after a revert. */
#include "fixture.h"

#include "base/bytes.h"
#include "devices/virtio/tcp_flows.h"

#include <stdlib.h>
#include <string.h>

enum { FIN = 1, SYN = 2, RST = 4, ACK = 16 };
#define MARK 77

struct frame {
	uint8_t bytes[TCP_FLOWS_HEAD_BYTES];
	size_t len, tcp; /* tcp: offset of the TCP header */
};

/* A segment of the connection from the guest's port to the peer's port 80. */
static struct frame segment(enum tcp_side from, bool ipv6, uint16_t port, uint8_t flags, uint32_t seq, uint32_t ack, uint16_t data)
{
	struct frame f = { .tcp = ipv6 ? 54 : 34, .len = ipv6 ? 74 : 54 };
	uint8_t *ip = f.bytes + 14, *tcp = f.bytes + f.tcp;

	memset(f.bytes, from == TCP_GUEST ? 0xbb : 0xaa, 6);
	memset(f.bytes + 6, from == TCP_GUEST ? 0xaa : 0xbb, 6);
	store_be16(f.bytes + 12, ipv6 ? 0x86dd : 0x0800);
	ip[0] = ipv6 ? 0x60 : 0x45;
	store_be16(ip + (ipv6 ? 4 : 2), (uint16_t)(data + (ipv6 ? 20 : 40)));
	ip[ipv6 ? 6 : 9] = 6;
	memset(ip + (ipv6 ? 8 : 12), from == TCP_GUEST ? 1 : 2, ipv6 ? 16 : 4);
	memset(ip + (ipv6 ? 24 : 16), from == TCP_GUEST ? 2 : 1, ipv6 ? 16 : 4);
	store_be16(tcp, from == TCP_GUEST ? port : 80);
	store_be16(tcp + 2, from == TCP_GUEST ? 80 : port);
	store_be32(tcp + 4, seq);
	store_be32(tcp + 8, ack);
	tcp[12] = 5 << 4;
	tcp[13] = flags;
	return f;
}

static bool passes(struct tcp_flows *t, enum tcp_side from, struct frame f)
{
	return tcp_flows_note(t, from, true, f.bytes, f.len);
}

static uint16_t sum(const uint8_t *p, size_t len, uint32_t s)
{
	for (size_t i = 0; i < len; i++)
		s += i & 1 ? p[i] : (uint32_t)p[i] << 8;
	while (s >> 16)
		s = (s & 0xffff) + (s >> 16);
	return (uint16_t)s;
}

/* The next frame to a side is this one, with right checksums. */
static void assert_due(struct tcp_flows *t, enum tcp_side to, bool ipv6, uint8_t flags, uint32_t seq, uint32_t ack, uint16_t data)
{
	struct frame want = segment(to == TCP_GUEST ? TCP_PEER : TCP_GUEST, ipv6, 1000, flags, seq, ack, data);
	uint8_t got[TCP_FLOWS_FRAME_BYTES], *tcp = got + want.tcp;
	size_t len = tcp_flows_next(t, to, got), addresses = ipv6 ? 32 : 8;

	assert_int_equal(len, want.len + data);
	assert_memory_equal(got, want.bytes, 14);
	assert_memory_equal(tcp - addresses, want.bytes + want.tcp - addresses, addresses);
	assert_memory_equal(tcp, want.bytes + want.tcp, 14);
	assert_int_equal(sum(tcp - addresses, addresses + 20 + data, 6 + 20 + data), 0xffff);
	if (!ipv6)
		assert_int_equal(sum(got + 14, 20, 0), 0xffff);
}

static void assert_none_due(struct tcp_flows *t)
{
	uint8_t out[TCP_FLOWS_FRAME_BYTES];

	assert_int_equal(tcp_flows_next(t, TCP_GUEST, out), 0);
	assert_int_equal(tcp_flows_next(t, TCP_PEER, out), 0);
}

static struct tcp_flows *flows(void)
{
	struct tcp_flows *t;

	assert_int_equal(tcp_flows_new(&t), 0);
	return t;
}

static void both_sides_of_a_moved_flow_are_reset_by_their_numbers(void **state)
{
	(void)state;
	for (unsigned ipv6 = 0; ipv6 < 2; ipv6++) {
		struct tcp_flows *t = flows();

		tcp_flows_mark(t, MARK);
		assert_true(passes(t, TCP_GUEST, segment(TCP_GUEST, ipv6, 1000, ACK, 100, 500, 10)));
		assert_true(passes(t, TCP_PEER, segment(TCP_PEER, ipv6, 1000, ACK, 500, 110, 7)));
		assert_true(passes(t, TCP_GUEST, segment(TCP_GUEST, ipv6, 1000, ACK, 110, 507, 20)));
		tcp_flows_revert(t, MARK, false);
		assert_due(t, TCP_PEER, ipv6, RST | ACK, 110, 507, 0); /* its last acknowledgement */
		assert_due(t, TCP_PEER, ipv6, RST | ACK, 130, 507, 0); /* all that the guest has sent */
		assert_due(t, TCP_GUEST, ipv6, ACK, 507 - (1u << 30), 130, 1);
		assert_none_due(t);
		/* The guest answers with the numbers of before. */
		assert_false(passes(t, TCP_GUEST, segment(TCP_GUEST, ipv6, 1000, ACK, 100, 500, 0)));
		assert_due(t, TCP_GUEST, ipv6, RST | ACK, 500, 100, 0);
		assert_false(passes(t, TCP_PEER, segment(TCP_PEER, ipv6, 1000, ACK, 507, 111, 5)));
		assert_due(t, TCP_PEER, ipv6, RST | ACK, 111, 512, 0);
		assert_none_due(t);
		/* Resets pass, and a SYN begins a new connection. */
		assert_true(passes(t, TCP_PEER, segment(TCP_PEER, ipv6, 1000, RST, 507, 0, 0)));
		assert_true(passes(t, TCP_GUEST, segment(TCP_GUEST, ipv6, 1000, SYN, 9000, 0, 0)));
		assert_true(passes(t, TCP_PEER, segment(TCP_PEER, ipv6, 1000, SYN | ACK, 4, 9001, 0)));
		assert_none_due(t);
		tcp_flows_free(t);
	}
}

static void quiet_flow_passes(void **state)
{
	struct tcp_flows *t = flows();

	(void)state;
	passes(t, TCP_GUEST, segment(TCP_GUEST, false, 1000, ACK, 100, 500, 10));
	tcp_flows_mark(t, MARK);
	passes(t, TCP_PEER, segment(TCP_PEER, false, 1000, ACK, 500, 110, 0));
	tcp_flows_revert(t, MARK, false);
	assert_none_due(t);
	assert_true(passes(t, TCP_GUEST, segment(TCP_GUEST, false, 1000, ACK, 110, 500, 1)));
	assert_true(passes(t, TCP_PEER, segment(TCP_PEER, false, 2000, ACK, 1, 1, 1))); /* never seen: quiet as well */
	tcp_flows_revert(t, MARK, false);
	assert_false(passes(t, TCP_GUEST, segment(TCP_GUEST, false, 1000, ACK, 111, 500, 0)));
	tcp_flows_free(t);
}

static void every_kind_of_move_counts(void **state)
{
	static const struct {
		uint8_t flags;
		uint16_t data;
		bool moves;
	} kinds[] = { { ACK, 0, false }, { ACK, 1, true }, { ACK | FIN, 0, true }, { SYN, 0, true }, { SYN | ACK, 0, true }, { RST, 0, true } };

	(void)state;
	for (unsigned i = 0; i < sizeof(kinds) / sizeof(*kinds); i++) {
		struct tcp_flows *t = flows();

		passes(t, TCP_GUEST, segment(TCP_GUEST, false, 1000, ACK, 100, 500, 0));
		tcp_flows_mark(t, MARK);
		passes(t, TCP_PEER, segment(TCP_PEER, false, 1000, kinds[i].flags, 500, 100, kinds[i].data));
		tcp_flows_revert(t, MARK, false);
		assert_int_equal(passes(t, TCP_GUEST, segment(TCP_GUEST, false, 1000, ACK, 100, 500, 0)), !kinds[i].moves);
		tcp_flows_free(t);
	}
}

static void revert_counts_as_a_move_for_all_other_snapshots(void **state)
{
	struct tcp_flows *t = flows();

	(void)state;
	tcp_flows_mark(t, 1);
	passes(t, TCP_GUEST, segment(TCP_GUEST, false, 1000, ACK, 100, 500, 1));
	tcp_flows_mark(t, 2);
	tcp_flows_revert(t, 1, false);
	tcp_flows_revert(t, 2, false); /* alive there, but its peer was reset */
	assert_false(passes(t, TCP_GUEST, segment(TCP_GUEST, false, 1000, ACK, 101, 500, 0)));
	tcp_flows_free(t);
}

static void unknown_snapshot_resets_all(void **state)
{
	struct tcp_flows *t = flows();

	(void)state;
	tcp_flows_revert(t, MARK, false);
	assert_false(passes(t, TCP_PEER, segment(TCP_PEER, false, 1000, ACK, 500, 100, 3)));
	assert_due(t, TCP_PEER, false, RST | ACK, 100, 503, 0);
	assert_due(t, TCP_GUEST, false, ACK, 503 - (1u << 30), 100, 1);
	assert_none_due(t);
	assert_true(passes(t, TCP_GUEST, segment(TCP_GUEST, false, 2000, SYN, 1, 0, 0)));
	assert_true(passes(t, TCP_PEER, segment(TCP_PEER, false, 2000, SYN | ACK, 1, 2, 0)));
	assert_true(passes(t, TCP_GUEST, segment(TCP_GUEST, false, 2000, ACK, 2, 2, 9)));
	tcp_flows_free(t);
}

static void flow_that_gave_way_is_reset_all_the_same(void **state)
{
	struct tcp_flows *t = flows();
	uint8_t out[TCP_FLOWS_FRAME_BYTES];
	unsigned resets = 0;

	(void)state;
	tcp_flows_mark(t, MARK);
	for (unsigned port = 1; port < 20000; port++)
		passes(t, TCP_GUEST, segment(TCP_GUEST, false, (uint16_t)port, ACK, 100, 500, 1));
	tcp_flows_revert(t, MARK, false);
	while (tcp_flows_next(t, TCP_PEER, out))
		resets++;
	assert_in_range(resets, 1000, 4096);
	assert_false(passes(t, TCP_PEER, segment(TCP_PEER, false, 1, ACK, 500, 101, 0)));
	/* Connections of afterwards stay, however many there are. */
	for (unsigned port = 20001; port < 65000; port++)
		assert_true(passes(t, TCP_GUEST, segment(TCP_GUEST, false, (uint16_t)port, SYN, 100, 0, 0)));
	for (unsigned port = 20001; port < 65000; port++)
		assert_true(passes(t, TCP_GUEST, segment(TCP_GUEST, false, (uint16_t)port, ACK, 101, 500, 1)));
	tcp_flows_free(t);
}

/* A guest in promiscuous mode, or behind a mirror port, gets segments between others. Their connections must stay. */
static void flows_between_others_are_left_alone(void **state)
{
	struct frame there = segment(TCP_PEER, false, 1000, ACK, 500, 100, 7), back = segment(TCP_GUEST, false, 1000, ACK, 100, 507, 7);
	struct tcp_flows *t = flows();

	(void)state;
	tcp_flows_mark(t, MARK);
	for (unsigned i = 0; i < 2; i++) {
		assert_true(tcp_flows_note(t, TCP_PEER, false, there.bytes, there.len));
		assert_true(tcp_flows_note(t, TCP_PEER, false, back.bytes, back.len));
		tcp_flows_revert(t, i ? 0 : MARK, false);
		assert_none_due(t);
		assert_true(tcp_flows_note(t, TCP_PEER, false, there.bytes, there.len));
		assert_none_due(t);
	}
	tcp_flows_free(t);
	/* But a guest that sends as well is an end, whatever address it has. */
	t = flows();
	tcp_flows_mark(t, MARK);
	assert_true(tcp_flows_note(t, TCP_PEER, false, there.bytes, there.len));
	assert_true(passes(t, TCP_GUEST, segment(TCP_GUEST, false, 1000, ACK, 100, 507, 0)));
	assert_true(tcp_flows_note(t, TCP_PEER, false, there.bytes, there.len));
	tcp_flows_revert(t, MARK, false);
	assert_due(t, TCP_PEER, false, RST | ACK, 100, 507, 0);
	assert_due(t, TCP_GUEST, false, ACK, 507 - (1u << 30), 100, 1);
	assert_false(tcp_flows_note(t, TCP_PEER, false, there.bytes, there.len));
	tcp_flows_free(t);
}

/* A snapshot right after a revert has the guest that has not heard yet that its connections are dead. */
static void guest_of_a_snapshot_after_a_revert_is_told_as_well(void **state)
{
	struct tcp_flows *t = flows();

	(void)state;
	tcp_flows_mark(t, 1);
	passes(t, TCP_GUEST, segment(TCP_GUEST, false, 1000, ACK, 100, 500, 10));
	tcp_flows_revert(t, 1, false);
	tcp_flows_mark(t, 2);
	assert_due(t, TCP_GUEST, false, ACK, 500 - (1u << 30), 110, 1);
	assert_due(t, TCP_PEER, false, RST | ACK, 110, 500, 0);
	tcp_flows_revert(t, 2, false);
	assert_due(t, TCP_GUEST, false, ACK, 500 - (1u << 30), 110, 1);
	assert_none_due(t); /* the peer knows */
	tcp_flows_free(t);
}

/* Flows of a time before a revert to an unknown snapshot die, unless the VM has reverted to a time before it. */
static void unknown_flow_dies_after_later_reverts_as_well(void **state)
{
	struct tcp_flows *t = flows();

	(void)state;
	tcp_flows_mark(t, 1);
	tcp_flows_revert(t, MARK, false);
	tcp_flows_mark(t, 2);
	tcp_flows_revert(t, 2, false);
	assert_false(passes(t, TCP_PEER, segment(TCP_PEER, false, 1000, ACK, 500, 100, 3)));
	tcp_flows_revert(t, 1, false);
	assert_true(passes(t, TCP_PEER, segment(TCP_PEER, false, 2000, ACK, 500, 100, 3)));
	/* Not if flows of afterwards may be among the unknown ones. */
	tcp_flows_revert(t, 2, false);
	for (unsigned port = 20001; port < 65000; port++)
		passes(t, TCP_GUEST, segment(TCP_GUEST, false, (uint16_t)port, SYN, 100, 0, 0));
	tcp_flows_mark(t, 3);
	tcp_flows_revert(t, 3, false);
	for (unsigned port = 20001; port < 65000; port++)
		assert_true(passes(t, TCP_GUEST, segment(TCP_GUEST, false, (uint16_t)port, ACK, 101, 500, 1)));
	tcp_flows_free(t);
}

/* Reverts to one snapshot, again and again, do not send more and more. */
static void flows_born_since_are_not_told_again(void **state)
{
	struct tcp_flows *t = flows();

	(void)state;
	for (unsigned all = 0; all < 2; all++) {
		tcp_flows_mark(t, MARK + all);
		for (unsigned i = 0; i < 3; i++) {
			assert_true(passes(t, TCP_PEER, segment(TCP_PEER, false, 1000, SYN, 4, 0, 0)));
			assert_true(passes(t, TCP_GUEST, segment(TCP_GUEST, false, 1000, SYN | ACK, 99, 5, 0)));
			assert_true(passes(t, TCP_PEER, segment(TCP_PEER, false, 1000, ACK, 5, 100, 0)));
			tcp_flows_revert(t, MARK + all, all);
			assert_due(t, TCP_PEER, false, RST | ACK, 100, 5, 0);
			if (all) /* the connection is older than this snapshot */
				assert_due(t, TCP_GUEST, false, ACK, 5 - (1u << 30), 100, 1);
			assert_none_due(t);
			tcp_flows_revert(t, MARK + all, all);
			if (all)
				assert_due(t, TCP_GUEST, false, ACK, 5 - (1u << 30), 100, 1);
			assert_none_due(t);
		}
	}
	tcp_flows_free(t);
}

static void old_marks_are_forgotten(void **state)
{
	struct tcp_flows *t = flows();

	(void)state;
	for (unsigned i = 0; i <= TCP_FLOWS_MARKS; i++)
		tcp_flows_mark(t, 1000 + i);
	tcp_flows_revert(t, 1001, false);
	assert_true(passes(t, TCP_PEER, segment(TCP_PEER, false, 1, ACK, 500, 101, 0)));
	tcp_flows_revert(t, 1000, false);
	assert_false(passes(t, TCP_PEER, segment(TCP_PEER, false, 2, ACK, 500, 101, 0)));
	tcp_flows_free(t);
}

static void other_frames_pass(void **state)
{
	struct tcp_flows *t = flows();
	uint64_t seed = 1;

	(void)state;
	tcp_flows_revert(t, 0, false);
	for (unsigned ipv6 = 0; ipv6 < 2; ipv6++) {
		struct frame f = segment(TCP_GUEST, ipv6, 1000, ACK, 1, 1, 0), g;

		for (size_t len = 0; len < f.len; len++) {
			uint8_t *cut = malloc(len + 1);

			memcpy(cut, f.bytes, len);
			assert_true(tcp_flows_note(t, TCP_GUEST, true, cut, len));
			free(cut);
		}
		g = f;
		g.bytes[f.tcp + 12] = 4 << 4; /* a header of 16 bytes */
		assert_true(passes(t, TCP_GUEST, g));
		g.bytes[f.tcp + 12] = 6 << 4; /* longer than the packet */
		assert_true(passes(t, TCP_GUEST, g));
		g = f;
		g.bytes[14 + (ipv6 ? 6 : 9)] = 17;
		assert_true(passes(t, TCP_GUEST, g));
		g = f;
		g.bytes[20] = ipv6 ? 44 : 0x20; /* a fragment */
		assert_true(passes(t, TCP_GUEST, g));
	}
	for (unsigned i = 0; i < 100000; i++) {
		enum tcp_side from = i & 1 ? TCP_PEER : TCP_GUEST;
		struct frame f = segment(from, i & 2, 1000, ACK, 1, 1, 0);
		uint8_t out[TCP_FLOWS_FRAME_BYTES];

		seed = seed * 6364136223846793005ULL + 1442695040888963407ULL;
		f.bytes[(seed >> 33) % sizeof(f.bytes)] ^= (uint8_t)(seed >> 50);
		tcp_flows_note(t, from, seed >> 60 & 1, f.bytes, (seed >> 20) % (sizeof(f.bytes) + 1));
		assert_in_range(tcp_flows_next(t, from, out), 0, sizeof(out));
	}
	tcp_flows_free(t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(both_sides_of_a_moved_flow_are_reset_by_their_numbers),
		cmocka_unit_test(quiet_flow_passes),
		cmocka_unit_test(every_kind_of_move_counts),
		cmocka_unit_test(revert_counts_as_a_move_for_all_other_snapshots),
		cmocka_unit_test(unknown_snapshot_resets_all),
		cmocka_unit_test(flow_that_gave_way_is_reset_all_the_same),
		cmocka_unit_test(flows_between_others_are_left_alone),
		cmocka_unit_test(guest_of_a_snapshot_after_a_revert_is_told_as_well),
		cmocka_unit_test(unknown_flow_dies_after_later_reverts_as_well),
		cmocka_unit_test(flows_born_since_are_not_told_again),
		cmocka_unit_test(old_marks_are_forgotten),
		cmocka_unit_test(other_frames_pass),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
