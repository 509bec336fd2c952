/* TCP segments merged into one frame: the guest's segmentation yields the original segments. */
#include "tools/slirp/segments.c" /* a program's files: in no library */

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

#define MSS 1460

struct made {
	uint8_t frame[HEADERS + 65000];
	size_t len;
};

static void sums_make(struct made *m)
{
	uint8_t *f = m->frame;

	store_be16(f + IP_SUM_AT, 0);
	store_be16(f + IP_SUM_AT, (uint16_t)~sum_fold(sum_add(0, f + IP_AT, TCP_AT - IP_AT)));
	store_be16(f + TCP_SUM_AT, 0);
	store_be16(
		f + TCP_SUM_AT, (uint16_t)~sum_fold(sum_add(sum_pseudo(f + IP_AT, m->len - TCP_AT),
					f + TCP_AT, m->len - TCP_AT)));
}

/* Make a segment of a stream whose bytes depend on their position. */
static void make(struct made *m, uint32_t seq, size_t data)
{
	uint8_t *f = m->frame;

	memset(f, 0x52, ETHERNET_BYTES);
	store_be16(f + FRAME_TYPE_AT, ETHERTYPE_IP);
	memset(f + IP_AT, 0, HEADERS - IP_AT);
	m->len = HEADERS + data;
	f[IP_AT] = 0x45;
	store_be16(f + IP_LENGTH_AT, (uint16_t)(m->len - IP_AT));
	store_be16(f + IP_ID_AT, (uint16_t)seq);
	f[IP_AT + 8] = 64;
	f[IP_PROTOCOL_AT] = IPPROTO_TCP;
	store_be32(f + IP_FROM_AT, 0x0a000202);
	store_be32(f + IP_FROM_AT + 4, 0x0a00020f);
	store_be32(f + TCP_AT, 0x00501234);
	store_be32(f + TCP_SEQ_AT, seq);
	store_be32(f + TCP_ACK_AT, 77);
	f[TCP_OFFSET_AT] = 0x50;
	f[TCP_FLAGS_AT] = FLAG_ACK;
	store_be16(f + TCP_WINDOW_AT, 65535);
	for (size_t i = 0; i < data; i++)
		f[HEADERS + i] = (uint8_t)((seq + i) * 7 + ((seq + i) >> 8));
	sums_make(m);
}

static bool add(struct segments *s, const struct made *m)
{
	return segments_add(s, m->frame, m->len);
}

/* Segment a packet as a guest does (virtio 1.2, section 5.1.6.4) and return the nth segment. The
 * sender chooses the identification. */
static void cut(const uint8_t *packet, size_t len, unsigned nth, struct made *ret)
{
	const uint8_t *frame = packet + NET_HEADER;
	size_t bytes = load_le16(packet + HEADER_SEGMENT), all = len - NET_HEADER - HEADERS, at,
	       data;

	if (!packet[HEADER_SEGMENTS])
		bytes = all;
	at = nth * bytes;
	data = MIN(bytes, all - at);
	memcpy(ret->frame, frame, HEADERS);
	memcpy(ret->frame + HEADERS, frame + HEADERS + at, data);
	ret->len = HEADERS + data;
	store_be16(ret->frame + IP_LENGTH_AT, (uint16_t)(ret->len - IP_AT));
	store_be32(ret->frame + TCP_SEQ_AT, load_be32(frame + TCP_SEQ_AT) + (uint32_t)at);
	if (at + data < all)
		ret->frame[TCP_FLAGS_AT] &= (uint8_t)~FLAG_PUSH;
	sums_make(ret);
}

static void assert_cut(const uint8_t *packet, size_t len, unsigned nth, const struct made *want)
{
	static struct made got;

	cut(packet, len, nth, &got);
	memcpy(got.frame + IP_ID_AT, want->frame + IP_ID_AT, 2);
	sums_make(&got);
	assert_int_equal(got.len, want->len);
	assert_memory_equal(got.frame, want->frame, want->len);
}

static void what_follows_becomes_one(void **state)
{
	static const size_t last[] = {1, 7, MSS - 1, MSS};
	static struct segments s;
	static struct made m[5];
	const uint8_t *p;
	size_t len;

	(void)state;
	for (size_t n = 0; n < ARRAY_SIZE(last); n++) {
		for (unsigned i = 0; i < 5; i++) {
			/* Sequence numbers that wrap around. */
			make(&m[i], UINT32_MAX - 2 * MSS + i * MSS, i == 4 ? last[n] : MSS);
			if (i == 4)
				m[i].frame[TCP_FLAGS_AT] |= FLAG_PUSH;
			sums_make(&m[i]);
			assert_true(add(&s, &m[i]));
		}
		p = segments_end(&s, &len);
		assert_non_null(p);
		assert_int_equal(p[HEADER_FLAGS], HEADER_SUM_WANTED);
		assert_int_equal(p[HEADER_SEGMENTS], HEADER_SEGMENTS_TCP4);
		assert_int_equal(load_le16(p + HEADER_HEADERS), HEADERS);
		assert_int_equal(load_le16(p + HEADER_SEGMENT), MSS);
		assert_int_equal(len, NET_HEADER + HEADERS + 4 * MSS + last[n]);
		assert_int_equal(
			load_be16(p + NET_HEADER + IP_LENGTH_AT), len - NET_HEADER - IP_AT);
		assert_int_equal(
			sum_fold(sum_add(0, p + NET_HEADER + IP_AT, TCP_AT - IP_AT)), 0xffff);
		for (unsigned i = 0; i < 5; i++)
			assert_cut(p, len, i, &m[i]);
		assert_null(segments_end(&s, &len));
	}
}

static void one_is_no_segment(void **state)
{
	static struct segments s;
	static struct made m;
	const uint8_t *p;
	size_t len;

	(void)state;
	assert_null(segments_end(&s, &len));
	make(&m, 5, 100);
	assert_true(add(&s, &m));
	p = segments_end(&s, &len);
	assert_int_equal(len, NET_HEADER + HEADERS + 100);
	assert_int_equal(p[HEADER_FLAGS], HEADER_SUM_WANTED);
	assert_int_equal(p[HEADER_SEGMENTS], 0);
	assert_int_equal(load_le16(p + HEADER_SUM_START), TCP_AT);
	assert_int_equal(load_le16(p + HEADER_SUM_OFFSET), 16);
	assert_cut(p, len, 0, &m);
}

/* A segment that differs from the previous ones in a field is not merged, and leaves the merged
 * frame unchanged. */
static void what_differs_stays_apart(void **state)
{
	static const uint8_t at[] = {0, 6, IP_AT + 1, IP_FRAGMENT_AT, IP_AT + 8, IP_FROM_AT,
		IP_FROM_AT + 4, TCP_AT, TCP_AT + 2, TCP_SEQ_AT + 3, TCP_ACK_AT, TCP_WINDOW_AT,
		TCP_URGENT_AT};
	static struct segments s;
	static struct made first, next;
	const uint8_t *p;
	size_t len;

	(void)state;
	make(&first, 1000, MSS);
	for (size_t i = 0; i < ARRAY_SIZE(at); i++) {
		make(&next, 1000 + MSS, MSS);
		next.frame[at[i]] ^= 0x40;
		assert_true(add(&s, &first));
		assert_false(add(&s, &next));
		p = segments_end(&s, &len);
		assert_int_equal(len, NET_HEADER + HEADERS + MSS);
		assert_cut(p, len, 0, &first);
	}
}

static void nothing_follows_one_that_ends(void **state)
{
	static struct segments s;
	static struct made m;
	size_t len;

	(void)state;
	/* With PUSH. */
	make(&m, 0, MSS);
	m.frame[TCP_FLAGS_AT] |= FLAG_PUSH;
	assert_true(add(&s, &m));
	make(&m, MSS, MSS);
	assert_false(add(&s, &m));
	segments_end(&s, &len);
	/* Shorter. */
	make(&m, 0, MSS);
	assert_true(add(&s, &m));
	make(&m, MSS, MSS - 1);
	assert_true(add(&s, &m));
	make(&m, 2 * MSS - 1, MSS - 1);
	assert_false(add(&s, &m));
	segments_end(&s, &len);
	/* Longer than the first. */
	make(&m, 0, MSS);
	assert_true(add(&s, &m));
	make(&m, MSS, MSS + 1);
	assert_false(add(&s, &m));
	segments_end(&s, &len);
}

static void as_many_as_a_packet_of_ip_holds(void **state)
{
	static struct segments s;
	static struct made m;
	const uint8_t *p;
	unsigned n = 0;
	size_t len;

	(void)state;
	for (make(&m, 0, MSS); add(&s, &m); make(&m, n * MSS, MSS))
		n++;
	assert_int_equal(n, (65535 - (HEADERS - IP_AT)) / MSS);
	/* The largest remainder. */
	make(&m, n * MSS, 65535 - (HEADERS - IP_AT) - n * MSS + 1);
	assert_false(add(&s, &m));
	make(&m, n * MSS, 65535 - (HEADERS - IP_AT) - n * MSS);
	assert_true(add(&s, &m));
	p = segments_end(&s, &len);
	assert_int_equal(len, PACKET_BYTES_MAX);
	assert_int_equal(load_be16(p + NET_HEADER + IP_LENGTH_AT), 65535);
}

static void refused(struct made *m, unsigned at, uint8_t value)
{
	static struct segments s;

	make(m, 0, 100);
	m->frame[at] = value;
	assert_false(add(&s, m));
	assert_int_equal(s.len, 0);
}

static void what_is_no_data_of_tcp_is_not_taken(void **state)
{
	static struct segments s;
	static struct made m;

	(void)state;
	refused(&m, FRAME_TYPE_AT, 0x86);
	refused(&m, IP_AT, 0x65);
	refused(&m, IP_AT, 0x46);           /* options */
	refused(&m, IP_LENGTH_AT + 1, 139); /* padding */
	refused(&m, IP_LENGTH_AT + 1, 141);
	refused(&m, IP_FRAGMENT_AT, 0x20);
	refused(&m, IP_FRAGMENT_AT + 1, 1);
	refused(&m, IP_PROTOCOL_AT, IPPROTO_UDP);
	refused(&m, TCP_OFFSET_AT, 0x60); /* options */
	for (unsigned flag = 1; flag < 0x100; flag <<= 1)
		if (flag != FLAG_PUSH)
			refused(&m, TCP_FLAGS_AT, (uint8_t)(FLAG_ACK ^ flag));
	make(&m, 0, 0);
	assert_false(add(&s, &m));
	for (m.len = 0; m.len <= HEADERS; m.len++)
		assert_false(add(&s, &m));
}

/* In one piece or several, at any address: equals the plain sum of words. */
static void sums_are_those_of_words(void **state)
{
	static uint8_t bytes[70000];

	(void)state;
	memset(bytes, 0xff, sizeof(bytes)); /* the largest sums */
	for (unsigned round = 0; round < 200; round++) {
		size_t from = (size_t)rand() % 9,
		       len = round ? (size_t)rand() % (round < 100 ? 40 : 60000) : 65535;
		size_t part = ((size_t)rand() % (len + 1)) & ~(size_t)1;
		const uint8_t *p = bytes + from;
		uint64_t want = 0;

		for (size_t i = 0; i < len; i++)
			want += i & 1 ? p[i] : (uint64_t)p[i] * 256;
		assert_int_equal(sum_fold(sum_add(0, p, len)), sum_fold(want));
		assert_int_equal(sum_fold(sum_add(sum_add(0, p, part), p + part, len - part)),
			sum_fold(want));
		for (size_t i = 0; i < sizeof(bytes); i++)
			bytes[i] = (uint8_t)rand();
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_follows_becomes_one),
		cmocka_unit_test(one_is_no_segment),
		cmocka_unit_test(what_differs_stays_apart),
		cmocka_unit_test(nothing_follows_one_that_ends),
		cmocka_unit_test(as_many_as_a_packet_of_ip_holds),
		cmocka_unit_test(what_is_no_data_of_tcp_is_not_taken),
		cmocka_unit_test(sums_are_those_of_words),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
