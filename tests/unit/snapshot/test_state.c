/* state: written data reads back; damage at any byte is detected. */
#include "base/bytes.h"
#include "base/crc32c.h"
#include "base/err.h"
#include "snapshot/state.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define HEADER_BYTES 20

/* Two sections whose lengths are not multiples of 8, and an empty one. */
static void sample_write(struct state_writer *w)
{
	state_writer_init(w);
	state_section_begin(w, "serial", "0", 3);
	state_put_u8(w, 0x12);
	state_put_u16(w, 0x3456);
	state_put_u32(w, 0x789abcde);
	state_put_u64(w, 0x1122334455667788ULL);
	state_put_bytes(w, "fifo", 4);
	state_section_end(w);
	state_section_begin(w, "rtc", "", 1);
	state_section_end(w);
	state_section_begin(w, "virtio-blk", "vda", 0xffff);
	state_put_bytes(w, NULL, 0);
	state_put_u8(w, 7);
	state_section_end(w);
}

static int sections_count(const uint8_t *buf, size_t len)
{
	struct state_section s;
	struct err e = { 0 };
	size_t pos = 0;
	int n = 0, r;

	while ((r = state_section_next(buf, len, &pos, &s, &e)) == 1) {
		assert_true(pos <= len);
		assert_true(strlen(s.name) <= STATE_NAME_MAX);
		n++;
	}
	if (r < 0) {
		assert_int_equal(r, -EINVAL);
		assert_int_equal(e.cls, ERR_CORRUPT);
		assert_non_null(strstr(e.msg, "VM state"));
	}
	return r < 0 ? r : n;
}

/* Make a copy of exactly len bytes, so that the sanitizer sees a read past its end. */
static int sections_of_copy(const uint8_t *buf, size_t len)
{
	uint8_t *copy = malloc(len ? len : 1);
	int r;

	memcpy(copy, buf, len);
	r = sections_count(copy, len);
	free(copy);
	return r;
}

static void test_round_trip(void **state)
{
	struct state_writer w;
	struct state_section s;
	struct err e;
	size_t pos = 0;
	char fifo[4];

	(void)state;
	sample_write(&w);
	assert_false(w.failed);
	assert_int_equal(w.len % 8, 0);
	assert_int_equal(state_section_next(w.buf, w.len, &pos, &s, &e), 1);
	assert_string_equal(s.name, "serial");
	assert_string_equal(s.instance, "0");
	assert_int_equal(s.version, 3);
	assert_int_equal(s.content.len, 19);
	assert_int_equal(state_u8(&s.content), 0x12);
	assert_int_equal(state_u16(&s.content), 0x3456);
	assert_int_equal(state_u32(&s.content), 0x789abcde);
	assert_false(state_reader_complete(&s.content));
	assert_true(state_u64(&s.content) == 0x1122334455667788ULL);
	state_bytes(&s.content, fifo, 4);
	assert_memory_equal(fifo, "fifo", 4);
	assert_true(state_reader_complete(&s.content));
	assert_int_equal(state_section_next(w.buf, w.len, &pos, &s, &e), 1);
	assert_string_equal(s.name, "rtc");
	assert_string_equal(s.instance, "");
	assert_true(state_reader_complete(&s.content));
	assert_int_equal(state_section_next(w.buf, w.len, &pos, &s, &e), 1);
	assert_int_equal(s.version, 0xffff);
	assert_int_equal(state_u8(&s.content), 7);
	assert_int_equal(pos, w.len);
	assert_int_equal(state_section_next(w.buf, w.len, &pos, &s, &e), 0);
	state_writer_done(&w);
	state_writer_done(&w);
	state_writer_done(NULL);
}

/* The format of the header comment, byte by byte: older files have to stay readable. */
static void test_layout_on_disk(void **state)
{
	struct state_writer w;
	uint32_t crc;

	(void)state;
	state_writer_init(&w);
	state_section_begin(&w, "ab", "c", 0x0102);
	state_put_u32(&w, 0xa1b2c3d4);
	state_section_end(&w);
	assert_int_equal(w.len, 32);
	assert_memory_equal(w.buf, "SCEC\x02\x01\x02\0\x01\0\0\0\x04\0\0\0", 16);
	assert_memory_equal(w.buf + HEADER_BYTES, "abc\xd4\xc3\xb2\xa1\0\0\0\0\0", 12);
	crc = crc32c(crc32c(0, w.buf, 16), w.buf + HEADER_BYTES, 7);
	assert_int_equal(load_le32(w.buf + 16), crc);
	state_writer_done(&w);
}

static void test_every_flipped_bit_is_refused(void **state)
{
	struct state_writer w;

	(void)state;
	sample_write(&w);
	assert_int_equal(sections_of_copy(w.buf, w.len), 3);
	for (size_t bit = 0; bit < 8 * w.len; bit++) {
		w.buf[bit / 8] ^= (uint8_t)(1 << bit % 8);
		assert_int_equal(sections_of_copy(w.buf, w.len), -EINVAL);
		w.buf[bit / 8] ^= (uint8_t)(1 << bit % 8);
	}
	state_writer_done(&w);
}

static void test_every_truncation_is_refused(void **state)
{
	struct state_writer w;
	size_t ends[3], pos = 0;
	struct state_section s;
	struct err e;

	(void)state;
	sample_write(&w);
	for (int i = 0; i < 3; i++) {
		assert_int_equal(state_section_next(w.buf, w.len, &pos, &s, &e), 1);
		ends[i] = pos;
	}
	for (size_t len = 0; len < w.len; len++) {
		int want = !len ? 0 : len == ends[0] ? 1 : len == ends[1] ? 2 : -EINVAL;

		assert_int_equal(sections_of_copy(w.buf, len), want);
	}
	state_writer_done(&w);
}

/* Invalid lengths with a valid checksum: the CRC does not protect the reader. */
static void test_bad_lengths_with_a_good_crc(void **state)
{
	static const struct {
		uint16_t name, instance, reserved;
		uint32_t body;
	} rows[] = {
		{ 64, 0, 0, 0 },
		{ 0xffff, 0, 0, 0 },
		{ 0, 64, 0, 0 },
		{ 0, 0xffff, 0, 0 },
		{ 2, 1, 1, 4 },
		{ 2, 1, 0, 0xffffffff },
		{ 2, 1, 0, STATE_SECTION_MAX_BYTES + 1 },
		{ 2, 1, 0, 0x10000 },
		{ 63, 63, 0, 0xffffff00 },
		{ 2, 1, 0, 0xffffffe4 },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		uint8_t buf[256] = "SCEC\x01";

		store_le16(buf + 6, rows[i].name);
		store_le16(buf + 8, rows[i].instance);
		store_le16(buf + 10, rows[i].reserved);
		store_le32(buf + 12, rows[i].body);
		for (size_t n = 0; n < sizeof(buf) - HEADER_BYTES; n++) {
			store_le32(buf + 16, crc32c(crc32c(0, buf, 16), buf + HEADER_BYTES, n));
			assert_int_equal(sections_of_copy(buf, HEADER_BYTES + n), -EINVAL);
		}
	}
}

static void test_reader_latches_its_first_fault(void **state)
{
	struct state_reader r = { .buf = (const uint8_t *)"\x01\x02\x03", .len = 3 };
	uint8_t big[8];

	(void)state;
	assert_int_equal(state_u16(&r), 0x0201);
	assert_int_equal(state_u32(&r), 0);
	assert_true(r.failed);
	assert_int_equal(state_u8(&r), 0); /* the byte exists, but the reader has failed */
	memset(big, 0xff, sizeof(big));
	state_bytes(&r, big, sizeof(big));
	assert_int_equal(load_le64(big), 0);
	assert_false(state_reader_complete(&r));
}

static void test_names_of_the_greatest_length(void **state)
{
	char name[80];
	struct state_writer w;
	struct state_section s;
	struct err e;
	size_t pos = 0;

	(void)state;
	memset(name, 'n', sizeof(name));
	name[sizeof(name) - 1] = 0;
	state_writer_init(&w);
	state_section_begin(&w, name + sizeof(name) - 1 - STATE_NAME_MAX, name, 1); /* one name is cut */
	state_section_end(&w);
	assert_int_equal(state_section_next(w.buf, w.len, &pos, &s, &e), 1);
	assert_int_equal(strlen(s.name), STATE_NAME_MAX);
	assert_int_equal(strlen(s.instance), STATE_NAME_MAX);
	state_writer_done(&w);
}

/* Data that a reader would refuse must not be written: the loss would only show at the restore. */
static void test_section_too_large_fails_when_written(void **state)
{
	struct state_writer w;
	uint8_t *mib = calloc(1, 1 << 20);

	(void)state;
	state_writer_init(&w);
	state_section_begin(&w, "ram", "", 1);
	for (size_t n = 0; n < STATE_SECTION_MAX_BYTES; n += 1 << 20)
		state_put_bytes(&w, mib, 1 << 20);
	state_section_end(&w);
	assert_false(w.failed);
	assert_int_equal(sections_count(w.buf, w.len), 1);
	state_section_begin(&w, "ram", "", 1);
	for (size_t n = 0; n < STATE_SECTION_MAX_BYTES; n += 1 << 20)
		state_put_bytes(&w, mib, 1 << 20);
	state_put_u8(&w, 1);
	state_section_end(&w);
	assert_true(w.failed);
	state_writer_done(&w);
	free(mib);
}

static void test_random_bytes_are_refused(void **state)
{
	uint8_t buf[512];
	unsigned seed = 11;

	(void)state;
	for (int round = 0; round < 2000; round++) {
		size_t len = 1 + (size_t)rand_r(&seed) % sizeof(buf);

		for (size_t i = 0; i < len; i++)
			buf[i] = (uint8_t)rand_r(&seed);
		if (round % 2)
			memcpy(buf, "SCEC", len < 4 ? len : 4);
		assert_int_equal(sections_of_copy(buf, len), -EINVAL);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_round_trip),
		cmocka_unit_test(test_layout_on_disk),
		cmocka_unit_test(test_every_flipped_bit_is_refused),
		cmocka_unit_test(test_every_truncation_is_refused),
		cmocka_unit_test(test_bad_lengths_with_a_good_crc),
		cmocka_unit_test(test_reader_latches_its_first_fault),
		cmocka_unit_test(test_names_of_the_greatest_length),
		cmocka_unit_test(test_section_too_large_fails_when_written),
		cmocka_unit_test(test_random_bytes_are_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
