/* crc32c: test vectors of RFC 3720, and both implementations compared with each other. The source
 * file is included, because the CPU decides which implementation runs. */
#include "base/crc32c.c"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

/* RFC 3720, appendix B.4, which shows the CRC as bytes on the wire. */
static const uint8_t iscsi_read_pdu[48] = { 0x01, 0xc0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
	0x14, 0, 0, 0, 0, 0, 0x04, 0, 0, 0, 0, 0x14, 0, 0, 0, 0x18, 0x28, 0, 0, 0, 0, 0, 0, 0,
	0x02 };

static void vectors_check(uint32_t (*crc)(uint32_t, const void *, size_t))
{
	uint8_t b[32];

	memset(b, 0, sizeof(b));
	assert_int_equal(crc(0, b, 32), 0x8a9136aa);
	memset(b, 0xff, sizeof(b));
	assert_int_equal(crc(0, b, 32), 0x62a8ab43);
	for (unsigned i = 0; i < 32; i++)
		b[i] = (uint8_t)i;
	assert_int_equal(crc(0, b, 32), 0x46dd794e);
	for (unsigned i = 0; i < 32; i++)
		b[i] = (uint8_t)(31 - i);
	assert_int_equal(crc(0, b, 32), 0x113fdb5c);
	assert_int_equal(crc(0, iscsi_read_pdu, 48), 0xd9963a56);
	assert_int_equal(crc(0, "123456789", 9), 0xe3069283);
	assert_int_equal(crc(0, "", 0), 0);
	assert_int_equal(crc(0x12345678, "", 0), 0x12345678);
}

static uint32_t by_table(uint32_t crc, const void *p, size_t len)
{
	return ~crc32c_table(~crc, p, len);
}

static void test_rfc3720_vectors(void **state)
{
	(void)state;
	vectors_check(crc32c);
	vectors_check(by_table);
}

/* The CPU instruction takes 8 bytes at a time: test every head, length and tail around that. */
static void test_implementations_agree_at_every_alignment(void **state)
{
	uint8_t buf[160];
	unsigned seed = 7;

	(void)state;
	for (size_t i = 0; i < sizeof(buf); i++)
		buf[i] = (uint8_t)rand_r(&seed);
	for (size_t off = 0; off < 16; off++)
		for (size_t len = 0; len <= 128; len++)
			assert_int_equal(crc32c(0xdeadbeef, buf + off, len),
				by_table(0xdeadbeef, buf + off, len));
}

static void test_continues_where_it_stopped(void **state)
{
	uint8_t buf[97];
	uint32_t whole;

	(void)state;
	for (size_t i = 0; i < sizeof(buf); i++)
		buf[i] = (uint8_t)(i * 37);
	whole = crc32c(0, buf, sizeof(buf));
	for (size_t cut = 0; cut <= sizeof(buf); cut++)
		assert_int_equal(crc32c(crc32c(0, buf, cut), buf + cut, sizeof(buf) - cut), whole);
}

static void test_sees_every_single_bit(void **state)
{
	uint8_t buf[64] = { 0 };
	uint32_t good = crc32c(0, buf, sizeof(buf));

	(void)state;
	for (size_t bit = 0; bit < 8 * sizeof(buf); bit++) {
		buf[bit / 8] ^= (uint8_t)(1 << bit % 8);
		assert_int_not_equal(crc32c(0, buf, sizeof(buf)), good);
		buf[bit / 8] ^= (uint8_t)(1 << bit % 8);
	}
}

/* Long buffers are processed in three parallel stretches. */
static void test_implementations_agree_on_long_buffers(void **state)
{
	size_t cap = 200000;
	uint8_t *buf = malloc(cap);
	unsigned seed = 11;

	(void)state;
	for (size_t i = 0; i < cap; i++)
		buf[i] = (uint8_t)rand_r(&seed);
	for (unsigned i = 0; i < 400; i++) {
		size_t off = (unsigned)rand_r(&seed) % 1000, len = (unsigned)rand_r(&seed) % (cap - off);
		uint32_t from = (uint32_t)rand_r(&seed);

		if (i < 40) /* lengths around multiples of the three stretches */
			len = 3 * 5440 * (1 + i % 10) - 20 + i;
		assert_int_equal(crc32c(from, buf + off, len), by_table(from, buf + off, len));
	}
	free(buf);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_rfc3720_vectors),
		cmocka_unit_test(test_implementations_agree_at_every_alignment),
		cmocka_unit_test(test_implementations_agree_on_long_buffers),
		cmocka_unit_test(test_continues_where_it_stopped),
		cmocka_unit_test(test_sees_every_single_bit),
	};

	if (!__builtin_cpu_supports("sse4.2"))
		fprintf(stderr, "note: no SSE4.2 here, only the table is tested\n");
	return cmocka_run_group_tests(tests, NULL, NULL);
}
