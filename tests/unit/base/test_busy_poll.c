/* When a loop polls before it sleeps, and for how long. The times are arguments. */
#include "base/busy_poll.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#define US 1000u

static void test_long_sleeps_open_no_window(void **state)
{
	struct busy_poll b = { 0 };

	(void)state;
	for (unsigned i = 0; i < 1000; i++) {
		busy_poll_slept(&b, 1000 * US);
		assert_int_equal(b.window_ns, 0);
	}
}

static void test_short_sleeps_open_window_and_a_long_one_closes_it(void **state)
{
	struct busy_poll b = { 0 };

	(void)state;
	busy_poll_slept(&b, 60 * US);
	assert_in_range(b.window_ns, 1, BUSY_POLL_NS - 1);
	for (unsigned i = 0; i < 10; i++)
		busy_poll_slept(&b, 60 * US);
	assert_int_equal(b.window_ns, BUSY_POLL_NS);
	busy_poll_ended(&b, true, false);
	assert_int_equal(b.window_ns, BUSY_POLL_NS);
	busy_poll_slept(&b, BUSY_POLL_SLEEPS * BUSY_POLL_NS + 1);
	assert_int_equal(b.window_ns, 0);
}

static void test_owner_chooses_longest_poll(void **state)
{
	struct busy_poll b = { .max_ns = 5 * US };

	(void)state;
	for (unsigned i = 0; i < 10; i++) {
		busy_poll_slept(&b, 20 * US);
		assert_int_equal(b.window_ns, 5 * US);
	}
	busy_poll_slept(&b, 20 * US + 1);
	assert_int_equal(b.window_ns, 0);
	b.max_ns = 200 * US;
	for (unsigned i = 0; i < 10; i++)
		busy_poll_slept(&b, 800 * US);
	assert_int_equal(b.window_ns, 200 * US);
}

/* Return the share of `events` polls that a loop makes whose polls find nothing, though its sleeps are short. */
static double futile_polls(bool contended, unsigned events)
{
	struct busy_poll b = { 0 };
	unsigned polls = 0;

	for (unsigned i = 0; i < events; i++) {
		if (b.window_ns) {
			polls++;
			busy_poll_ended(&b, false, contended);
		}
		busy_poll_slept(&b, 150 * US);
	}
	return (double)polls / events;
}

static void test_polls_that_find_nothing_become_rare(void **state)
{
	(void)state;
	assert_true(futile_polls(false, 10) > 0.5);
	assert_true(futile_polls(false, 100000) < 0.01);
}

static void test_polls_on_a_contended_processor_become_rare_at_once(void **state)
{
	(void)state;
	assert_true(futile_polls(true, 20) < 0.3);
	assert_true(futile_polls(true, 100000) < 0.01);
}

static void test_work_found_ends_the_back_off(void **state)
{
	struct busy_poll b = { 0 };

	(void)state;
	for (unsigned i = 0; i < 100000; i++) {
		if (b.window_ns)
			busy_poll_ended(&b, false, false);
		busy_poll_slept(&b, 150 * US);
	}
	while (!b.window_ns)
		busy_poll_slept(&b, 150 * US);
	busy_poll_ended(&b, true, false);
	assert_int_equal(b.failed, 0);
	assert_true(b.window_ns > 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_long_sleeps_open_no_window),
		cmocka_unit_test(test_short_sleeps_open_window_and_a_long_one_closes_it),
		cmocka_unit_test(test_owner_chooses_longest_poll),
		cmocka_unit_test(test_polls_that_find_nothing_become_rare),
		cmocka_unit_test(test_polls_on_a_contended_processor_become_rare_at_once),
		cmocka_unit_test(test_work_found_ends_the_back_off),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
