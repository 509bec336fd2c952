/* ratelimit: a burst, then a count; a new window. */
#include "base/ratelimit.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <unistd.h>

#include <cmocka.h>

static void test_burst_passes_then_rest_is_counted(void **state)
{
	struct ratelimit l = { 0 };
	uint64_t left_out = 7, now = 1000;

	(void)state;
	for (unsigned i = 0; i < RATELIMIT_BURST; i++) {
		assert_true(ratelimit_take(&l, now++, &left_out));
		assert_int_equal(left_out, 0);
	}
	for (unsigned i = 0; i < 100; i++)
		assert_false(ratelimit_take(&l, now++, &left_out));
	assert_false(ratelimit_take(&l, 1000 + RATELIMIT_WINDOW_NS - 1, &left_out));
	assert_true(ratelimit_take(&l, 1000 + RATELIMIT_WINDOW_NS, &left_out));
	assert_int_equal(left_out, 101);
	assert_true(ratelimit_take(&l, 1001 + RATELIMIT_WINDOW_NS, &left_out));
	assert_int_equal(left_out, 0);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_burst_passes_then_rest_is_counted),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
