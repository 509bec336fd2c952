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
	utf8_clean(text);
	assert_string_equal(text, "a?[2J?? \xc3\xa4 \xf0\x9f\x98\x80 ? ?( ?? ??");
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_strings_are_sanitized),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
