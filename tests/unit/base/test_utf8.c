#include "base/utf8.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

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
		assert_int_equal(utf8_is_clean(text), c >= 0x20 && (c < 0x7f || c >= 0xa0) && c != 0x61c);
	}
	assert_true(utf8_is_clean(""));
	assert_true(utf8_is_clean("\xe2\x82\xac \xf0\x9f\x98\x80"));
	assert_false(utf8_is_clean("a\x9b"));
	assert_false(utf8_is_clean("a\xe2\x82"));
}

/* A name in which the end is shown from right to left. */
#define DECEIVES "web\xe2\x80\xae" "1"

static void test_characters_that_set_the_direction_are_controls(void **state)
{
	char text[] = DECEIVES "\xe2\x81\xa6 \xd7\xa9\xe2\x80\x8f \xe2\x80\xa8";

	(void)state;
	assert_false(utf8_is_clean(DECEIVES));
	utf8_clean(text);
	assert_string_equal(text, "web???1??? \xd7\xa9??? ???");
	assert_true(utf8_is_clean("\xe2\x80\x8b\xe2\x80\x90\xe2\x80\xaf")); /* a space without width, a hyphen, a narrow space */
}

static void test_names_that_look_alike_are_not_plain(void **state)
{
	static const char *const plain[] = { "web1", "a b", "\xc3\xa4", "\xd7\xa9", "\xf0\x9f\x98\x80", "" };
	static const char *const others[] = { DECEIVES, " web1", "web1 ", "web\xe2\x80\x8b" "1", "web\xc2\xad" "1", "a\xc2\xa0" "b", "web1\xef\xb8\x8f",
		"\xf3\xa0\x80\x81", "\xe3\x85\xa4", "web1\x1b" };

	(void)state;
	for (size_t i = 0; i < sizeof(plain) / sizeof(*plain); i++)
		assert_true(utf8_is_plain_name(plain[i]));
	for (size_t i = 0; i < sizeof(others) / sizeof(*others); i++)
		assert_false(utf8_is_plain_name(others[i]));
}

/* Clean a text in two pieces, which end at `at`. */
static void stream_check(const char *text, const char *expected, size_t at)
{
	struct utf8_stream s = { 0 };
	char copy[64];
	size_t len = strlen(text);

	memcpy(copy, text, len + 1);
	utf8_stream_clean(&s, copy, at, "\n\t");
	utf8_stream_clean(&s, copy + at, len - at, "\n\t");
	assert_string_equal(copy, expected);
}

static void test_streams_are_sanitized(void **state)
{
	/* U+009B; a byte 9B on its own; an overlong U+009B; ESC and CR; a surrogate; beyond U+10FFFF */
	static const char text[] = "a\t\n\xc3\xa4 \xf0\x9f\x98\x80 \xe2\x9b\x84|\xc2\x9b \x9b \xe0\x82\x9b \x1b\r\x7f \xed\xa0\x80 \xf4\x90\x80\x80";

	(void)state;
	stream_check(DECEIVES, "web???1", 0);
	stream_check(text, "a\t\n\xc3\xa4 \xf0\x9f\x98\x80 \xe2\x9b\x84|?? ? ??? ??? ??? ????", 0);
}

/* Return whether the text has a control character, or a byte from 0x80 to 0x9f that continues nothing. */
static bool is_obeyed(const char *text)
{
	unsigned char before = 0;

	for (; *text; before = (unsigned char)*text++) {
		unsigned char c = (unsigned char)*text;

		if (c < 0x20 || c == 0x7f || (c >= 0x80 && c < 0xa0 && (before < 0x80 || before == 0xc2)))
			return true;
	}
	return false;
}

static void test_pieces_may_end_anywhere(void **state)
{
	static const char *const texts[] = { "x\xc2\x9b" "31m", "\xe2\x82\xac", "\xf0\x9f\x98\x80", "\xe2\x9b" "31m", "\xc2\x1b[m",
		"\xe0\x82\x9b", "\xf0\x9f\x9b\x9b\x9b" };

	(void)state;
	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
		for (size_t at = 1; at < strlen(texts[i]); at++) {
			struct utf8_stream s = { 0 };
			char text[16];

			snprintf(text, sizeof(text), "%s", texts[i]);
			utf8_stream_clean(&s, text, at, "");
			utf8_stream_clean(&s, text + at, strlen(text + at), "");
			assert_false(is_obeyed(text));
		}
	}
	stream_check("\xe2\x82\xac", "\xe2\x82\xac", 1);
	stream_check("\xe2\x82\xac", "\xe2\x82\xac", 2);
	stream_check("\xc2\x9b", "\xc2?", 1);
	stream_check(DECEIVES, "web\xe2\x80?1", 5);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_strings_are_sanitized),
		cmocka_unit_test(test_only_control_characters_and_invalid_bytes_are_unclean),
		cmocka_unit_test(test_characters_that_set_the_direction_are_controls),
		cmocka_unit_test(test_names_that_look_alike_are_not_plain),
		cmocka_unit_test(test_streams_are_sanitized),
		cmocka_unit_test(test_pieces_may_end_anywhere),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
