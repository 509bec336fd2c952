#include "base/utf8.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

static void test_strings_are_sanitized(void **state)
{
	char text[] = "a\x1b[2J\n\x7f \xc3\xa4 \xf0\x9f\x98\x80 \xff \xc3( \xc2\x9b \xe2\x82";

	(void)state;
	assert_false(utf8_is_clean(text));
	utf8_clean(text);
	assert_true(utf8_is_clean(text));
	assert_string_equal(text, "a?[2J?? \xc3\xa4 \xf0\x9f\x98\x80 ? ?( ?? ??");
}

static void test_only_control_characters_and_invalid_bytes_are_unclean(void **state)
{
	(void)state;
	for (unsigned c = 1; c < 0x800; c++) {
		char text[4] = { (char)c };

		if (c >= 0x80) {
			text[0] = (char)(0xc0 | c >> 6);
			text[1] = (char)(0x80 | (c & 0x3f));
		}
		assert_int_equal(utf8_is_clean(text), c >= 0x20 && (c < 0x7f || c >= 0xa0));
	}
	assert_true(utf8_is_clean(""));
	assert_true(utf8_is_clean("\xe2\x82\xac \xf0\x9f\x98\x80"));
	assert_false(utf8_is_clean("a\x9b"));
	assert_false(utf8_is_clean("a\xe2\x82"));
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_strings_are_sanitized),
		cmocka_unit_test(test_only_control_characters_and_invalid_bytes_are_unclean),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
