
#include "base/hex.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>
#include <unistd.h>

static void test_every_byte_survives_printing_and_parsing(void **state)
{
	uint8_t bytes[256], back[256];
	char text[2 * sizeof(bytes) + 1];

	for (unsigned i = 0; i < sizeof(bytes); i++)
		bytes[i] = (uint8_t)i;
	hex_print(bytes, sizeof(bytes), text);
	assert_int_equal(strlen(text), 2 * sizeof(bytes));
	assert_memory_equal(text, "000102030405060708090a0b0c0d0e0f10", 34);
	assert_true(hex_parse(text, back, sizeof(back)));
	assert_memory_equal(bytes, back, sizeof(bytes));
	assert_true(hex_parse("aBCdef", back, 3));
	assert_memory_equal(back, "\xab\xcd\xef", 3);
	(void)state;
}

static void test_only_digits_have_a_value(void **state)
{
	for (int c = -128; c < 128; c++) {
		bool digit = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');

		assert_int_equal(hex_value((char)c) >= 0, digit);
	}
	(void)state;
}

static void test_text_that_is_short_or_has_another_character_is_refused(void **state)
{
	static const char *const bad[] = { "", "0", "00", "000", "00g0", "0 00", "-000", "00\x10" "0", "0x00" };
	uint8_t bytes[2] = { 7, 7 };

	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++)
		assert_false(hex_parse(bad[i], bytes, 2));
	assert_int_equal(bytes[0], 7); /* set on success only */
	(void)state;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_every_byte_survives_printing_and_parsing),
		cmocka_unit_test(test_only_digits_have_a_value),
		cmocka_unit_test(test_text_that_is_short_or_has_another_character_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
