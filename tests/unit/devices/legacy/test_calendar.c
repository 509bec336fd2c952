#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "devices/legacy/calendar.h"

#include <time.h>
#include <unistd.h>

/* calendar compared with libc, over the years 0 to 9999 in odd steps. */
static void agrees_with_libc(void **state)
{
	(void)state;
	for (int64_t s = -62167219200LL; s < 253402300800LL; s += 86399 * 37 + 11) {
		time_t t = (time_t)s;
		struct calendar_date c;
		struct tm tm;

		calendar_from_seconds(s, &c);
		gmtime_r(&t, &tm);
		assert_int_equal(c.year, tm.tm_year + 1900);
		assert_int_equal(c.month, tm.tm_mon + 1);
		assert_int_equal(c.day, tm.tm_mday);
		assert_int_equal(c.hour, tm.tm_hour);
		assert_int_equal(c.minute, tm.tm_min);
		assert_int_equal(c.second, tm.tm_sec);
		assert_int_equal(c.weekday, tm.tm_wday);
		assert_int_equal(calendar_seconds(&c), s);
	}
}

static void fields_carry_over(void **state)
{
	struct calendar_date c = { .year = 1999, .month = 14, .day = 31, .hour = 23, .minute = 59,
		.second = 127 };
	struct tm tm = { .tm_year = 99, .tm_mon = 13, .tm_mday = 31, .tm_hour = 23, .tm_min = 59,
		.tm_sec = 127 };

	(void)state;
	assert_int_equal(calendar_seconds(&c), timegm(&tm));
	c.month = 0;
	c.day = 0;
	tm = (struct tm){ .tm_year = 99, .tm_mon = -1, .tm_mday = 0, .tm_hour = 23, .tm_min = 59,
		.tm_sec = 127 };
	assert_int_equal(calendar_seconds(&c), timegm(&tm));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(agrees_with_libc),
		cmocka_unit_test(fields_carry_over),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
