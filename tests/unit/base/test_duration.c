/* Durations: which texts are parsed, and how one is printed. */
#include "base/duration.h"
#include "base/util.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

static void test_lengths(void **state)
{
	static const char *const good[][2] = { { "45s", "45s" }, { "60s", "1m" }, { "90m", "90m" },
		{ "24h", "1d" }, { "366d", "366d" }, { "0s", "0s" } };
	static const char *const bad[] = { "", "s", "5", "5x", "5mm", "-5m", "5 m", "1.5h", "367d",
		"99999999999999999999s", "m5" };
	char buf[DURATION_TEXT];
	uint32_t s = 7;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		assert_int_equal(duration_parse(bad[i], &s), -22);
	assert_int_equal(s, 7);
	for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
		assert_int_equal(duration_parse(good[i][0], &s), 0);
		duration_print(s, buf);
		assert_string_equal(buf, good[i][1]);
	}
}

int main(void)
{
	static const struct CMUnitTest tests[] = { cmocka_unit_test(test_lengths) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}
