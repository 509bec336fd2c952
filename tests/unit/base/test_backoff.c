/* Retries after 0, 1, 2, 4, … seconds, limited per window. The clock is an argument. */
#include "base/backoff.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <unistd.h>

#include <cmocka.h>

#define S 1000000000ULL

static const struct backoff_rule usual = { 1, 60, 5, 300 };

static void test_wait_grows_until_limit_of_tries(void **state)
{
	static const uint64_t waits[] = { 0, 1, 2, 4, 8 };
	struct backoff b = { 0 };
	uint64_t wait, now = 1000 * S;

	(void)state;
	for (unsigned i = 0; i < 5; i++) {
		assert_true(backoff_again(&usual, &b, now, &wait));
		assert_int_equal(wait, waits[i] * S);
		now += wait + S;
	}
	assert_false(backoff_again(&usual, &b, now, &wait));
	assert_false(backoff_again(&usual, &b, 1300 * S, &wait));
	assert_int_equal(b.n, 5);
	/* The next window. */
	assert_true(backoff_again(&usual, &b, 1300 * S + 1, &wait));
	assert_int_equal(wait, 0);
	assert_int_equal(b.n, 1);
}

static void test_wait_never_exceeds_maximum(void **state)
{
	static const struct backoff_rule rule = { 7, 20, 1000, 100000 };
	struct backoff b = { 0 };
	uint64_t wait = 0;

	(void)state;
	for (unsigned i = 0; i < 1000; i++)
		assert_true(backoff_again(&rule, &b, i, &wait));
	assert_int_equal(wait, 20 * S);
}

static void test_unlimited_tries_continue(void **state)
{
	static const struct backoff_rule rule = { 1, 60, 0, 10 };
	struct backoff b = { 0 };
	uint64_t wait = 0, now = 1;

	(void)state;
	for (unsigned i = 0; i < 100; i++)
		assert_true(backoff_again(&rule, &b, now += 10 * S, &wait));
	assert_int_equal(wait, 60 * S);
	/* The VM ran longer than the window, so the back-off starts again. */
	assert_true(backoff_again(&rule, &b, now + 10 * S + 1, &wait));
	assert_int_equal(wait, 0);
}

static void test_frequent_events_are_slowed(void **state)
{
	struct backoff b = { 0 };

	(void)state;
	for (unsigned i = 0; i < 5; i++)
		assert_int_equal(backoff_slow(&usual, &b, i), 0);
	for (unsigned i = 0; i < 6; i++)
		assert_int_equal(backoff_slow(&usual, &b, i), S << i);
	for (unsigned i = 0; i < 100; i++)
		assert_int_equal(backoff_slow(&usual, &b, i), 60 * S);
	assert_int_equal(backoff_slow(&usual, &b, 301 * S), 0);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_wait_grows_until_limit_of_tries),
		cmocka_unit_test(test_wait_never_exceeds_maximum),
		cmocka_unit_test(test_unlimited_tries_continue),
		cmocka_unit_test(test_frequent_events_are_slowed),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
