/* bytes: loads and stores at any alignment, and a cursor that stays within bounds. */
#include "base/bytes.h"
#include "base/util.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

static const uint8_t ramp[16] = { 0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x07, 0x88, 0x99, 0xaa, 0xbb,
	0xcc, 0xdd, 0xee, 0xff, 0x10 };

static void test_byte_order_at_any_alignment(void **state)
{
	(void)state;
	for (size_t off = 0; off < 8; off++) {
		uint8_t buf[32] = { 0 };

		memcpy(buf + off, ramp, sizeof(ramp));
		assert_int_equal(load_le16(buf + off), 0x0201);
		assert_int_equal(load_be16(buf + off), 0x0102);
		assert_int_equal(load_le32(buf + off), 0x04030201);
		assert_int_equal(load_be32(buf + off), 0x01020304);
		assert_true(load_le64(buf + off) == 0x8807060504030201ULL);
		assert_true(load_be64(buf + off) == 0x0102030405060788ULL);
		store_be64(buf + off, 0x1122334455667788ULL);
		assert_int_equal(buf[off], 0x11);
		assert_int_equal(buf[off + 7], 0x88);
		store_le32(buf + off, 0xa1b2c3d4);
		assert_int_equal(buf[off], 0xd4);
		assert_int_equal(buf[off + 3], 0xa1);
		assert_int_equal(buf[off + 4], 0x55);
	}
}

static void test_value_of_1_2_4_8_bytes(void **state)
{
	uint8_t buf[8];

	(void)state;
	assert_int_equal(load_le(ramp, 1), 0x01);
	assert_int_equal(load_le(ramp, 2), 0x0201);
	assert_int_equal(load_le(ramp, 4), 0x04030201);
	assert_true(load_le(ramp, 8) == 0x8807060504030201ULL);
	for (unsigned size = 0; size <= 16; size++) {
		memset(buf, 0xee, sizeof(buf));
		if (size == 1 || size == 2 || size == 4 || size == 8) {
			store_le(buf, size, 0x8877665544332211ULL);
			for (unsigned i = 0; i < 8; i++)
				assert_int_equal(buf[i], i < size ? 0x11 * (i + 1) : 0xee);
			continue;
		}
		assert_int_equal(load_le(ramp, size), 0);
		store_le(buf, size, 0);
		for (unsigned i = 0; i < 8; i++)
			assert_int_equal(buf[i], 0xee);
	}
}

static void test_cursor_reads_in_order(void **state)
{
	struct cursor c = cursor_over((void *)ramp, sizeof(ramp));
	uint8_t rest[4];

	(void)state;
	assert_int_equal(cursor_u8(&c), 0x01);
	assert_int_equal(cursor_le16(&c), 0x0302);
	assert_int_equal(cursor_be32(&c), 0x04050607);
	assert_int_equal(cursor_be16(&c), 0x8899);
	cursor_skip(&c, 3);
	assert_int_equal(cursor_left(&c), 4);
	cursor_bytes(&c, rest, sizeof(rest));
	assert_memory_equal(rest, ramp + 12, 4);
	assert_int_equal(cursor_left(&c), 0);
	assert_true(cursor_ok(&c));
	assert_non_null(cursor_take(&c, 0)); /* taking 0 bytes at the end is allowed */
	assert_true(cursor_ok(&c));
}

/* Each kind of access, with every number of missing bytes. The buffer is an allocation of its own,
 * so that the sanitizer sees an access past its end. */
static void test_cursor_stops_at_the_end(void **state)
{
	(void)state;
	for (size_t len = 0; len < 8; len++) {
		uint8_t *buf = malloc(len ? len : 1);
		uint8_t got[8];
		struct cursor c;

		memset(buf, 0x55, len ? len : 1);
		for (int kind = 0; kind < 8; kind++) {
			static const size_t need[] = { 1, 2, 2, 4, 4, 8, 8, 8 };
			uint64_t v = 0;

			c = cursor_over(buf, len);
			switch (kind) {
			case 0:
				v = cursor_u8(&c);
				break;
			case 1:
				v = cursor_le16(&c);
				break;
			case 2:
				v = cursor_be16(&c);
				break;
			case 3:
				v = cursor_le32(&c);
				break;
			case 4:
				v = cursor_be32(&c);
				break;
			case 5:
				v = cursor_le64(&c);
				break;
			case 6:
				v = cursor_be64(&c);
				break;
			case 7:
				memset(got, 0xff, sizeof(got));
				cursor_bytes(&c, got, sizeof(got));
				v = load_le64(got);
				break;
			}
			assert_int_equal(cursor_ok(&c), len >= need[kind]);
			assert_int_equal(v != 0, len >= need[kind]);
		}
		free(buf);
	}
}

static void test_cursor_latches_its_first_fault(void **state)
{
	uint8_t buf[6] = { 1, 2, 3, 4, 5, 6 };
	struct cursor c = cursor_over(buf, sizeof(buf));

	(void)state;
	assert_int_equal(cursor_le32(&c), 0x04030201);
	assert_int_equal(cursor_le32(&c), 0); /* only two bytes are left */
	assert_false(cursor_ok(&c));
	assert_int_equal(cursor_u8(&c), 0); /* one byte would fit, but the cursor has failed */
	assert_int_equal(cursor_left(&c), 0);
	assert_null(cursor_take(&c, 0));
	cursor_put_u8(&c, 0xff);
	cursor_put_be16(&c, 0xffff);
	cursor_put_bytes(&c, "xx", 2);
	assert_int_equal(buf[4], 5);
	assert_int_equal(buf[5], 6);
}

static void test_cursor_lengths_that_wrap(void **state)
{
	uint8_t buf[8] = { 0 };
	struct cursor c = cursor_over(buf, sizeof(buf));

	(void)state;
	cursor_skip(&c, 4);
	assert_null(cursor_take(&c, SIZE_MAX));
	assert_false(cursor_ok(&c));
	c = cursor_over(buf, sizeof(buf));
	cursor_skip(&c, 4);
	assert_null(cursor_take(&c, SIZE_MAX - 3)); /* pos + n would overflow to 0 */
	assert_false(cursor_ok(&c));
	c = cursor_over(NULL, 0);
	assert_int_equal(cursor_u8(&c), 0);
	assert_false(cursor_ok(&c));
}

static void test_cursor_writes_and_stops(void **state)
{
	uint8_t buf[16];
	struct cursor c = cursor_over(buf, 15);

	(void)state;
	memset(buf, 0xee, sizeof(buf));
	cursor_put_u8(&c, 0x01);
	cursor_put_le16(&c, 0x0302);
	cursor_put_be32(&c, 0x04050607);
	cursor_put_bytes(&c, "\x88\x99", 2);
	cursor_put_le32(&c, 0xddccbbaa);
	assert_int_equal(c.pos, 13);
	cursor_put_be32(&c, 0); /* only two bytes are left */
	assert_false(cursor_ok(&c));
	assert_memory_equal(
		buf, "\x01\x02\x03\x04\x05\x06\x07\x88\x99\xaa\xbb\xcc\xdd\xee\xee\xee", 16);
}

static void test_range_inside_does_not_wrap(void **state)
{
	(void)state;
	assert_true(range_inside(0, 0, 0));
	assert_true(range_inside(10, 0, 10));
	assert_true(range_inside(0, 10, 10));
	assert_false(range_inside(11, 0, 10));
	assert_false(range_inside(1, 10, 10));
	assert_false(range_inside(UINT64_MAX, 2, 10));
	assert_false(range_inside(2, UINT64_MAX, 10));
	assert_true(range_inside(1, UINT64_MAX - 1, UINT64_MAX));
}

static void test_bits_are_compared_from_the_highest(void **state)
{
	static const uint8_t a[] = { 0xac, 0x10 }, b[] = { 0xac, 0x1f }, c[] = { 0x2c, 0x10 };

	(void)state;
	assert_true(bits_are_equal(a, b, 12));
	assert_false(bits_are_equal(a, b, 13));
	assert_true(bits_are_equal(a, a, 16));
	assert_true(bits_are_equal(a, c, 0));
	assert_false(bits_are_equal(a, c, 1));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_byte_order_at_any_alignment),
		cmocka_unit_test(test_value_of_1_2_4_8_bytes),
		cmocka_unit_test(test_cursor_reads_in_order),
		cmocka_unit_test(test_cursor_stops_at_the_end),
		cmocka_unit_test(test_cursor_latches_its_first_fault),
		cmocka_unit_test(test_cursor_lengths_that_wrap),
		cmocka_unit_test(test_cursor_writes_and_stops),
		cmocka_unit_test(test_range_inside_does_not_wrap),
		cmocka_unit_test(test_bits_are_compared_from_the_highest),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
