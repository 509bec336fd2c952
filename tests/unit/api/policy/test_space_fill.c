/* How a file system fills: when space is low and enough again, and when the next look is due. */
#include "api/policy/space_fill.h"
#include "base/clock.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#define MIB (1ULL << 20)
#define GIB (1ULL << 30)
#define NS CLOCK_NS_PER_S

static struct space_fill after(uint64_t free_bytes, uint64_t total_bytes)
{
	struct space_fill f = { 0 };

	space_fill_add(&f, free_bytes, total_bytes, NS);
	return f;
}

static void test_low_is_a_twentieth_and_at_most_four_gib(void **state)
{
	(void)state;
	assert_false(after(5 * GIB - 1, 100 * GIB).low);
	assert_true(after(4 * GIB - 1, 100 * GIB).low);
	assert_false(after(4 * GIB, 10000 * GIB).low);
	assert_true(after(49 * MIB, 1000 * MIB).low);
	assert_false(after(50 * MIB, 1000 * MIB).low);
	assert_false(after(0, 0).low);
}

static void test_enough_is_a_quarter_above_the_limit(void **state)
{
	struct space_fill f = after(49 * MIB, 1000 * MIB);

	(void)state;
	space_fill_add(&f, 62 * MIB, 1000 * MIB, 100 * NS);
	assert_true(f.low);
	space_fill_add(&f, 63 * MIB, 1000 * MIB, 200 * NS);
	assert_false(f.low);
	space_fill_add(&f, 51 * MIB, 1000 * MIB, 100000 * NS);
	assert_false(f.low);
}

static void test_space_that_goes_in_five_minutes_is_low(void **state)
{
	struct space_fill f = after(100 * GIB, 1000 * GIB);

	(void)state;
	assert_true(space_fill_seconds_left(&f) < 0);
	/* 0.5 GiB/s: full in 190 s. */
	space_fill_add(&f, 95 * GIB, 1000 * GIB, 11 * NS);
	assert_false(f.low); /* a burst of ten seconds counts half */
	space_fill_add(&f, 85 * GIB, 1000 * GIB, 31 * NS);
	assert_true(f.low);
	assert_true(space_fill_seconds_left(&f) > 160 && space_fill_seconds_left(&f) < 180);
	/* The guest has stopped. */
	space_fill_add(&f, 85 * GIB, 1000 * GIB, 60 * NS);
	assert_false(f.low);
	assert_true(space_fill_seconds_left(&f) < 0);
}

static void test_looks_are_closer_near_the_limit(void **state)
{
	struct space_fill f = after(100 * MIB, 1000 * MIB);

	(void)state;
	assert_int_equal(space_fill_next_ns(&f), 5 * NS);
	assert_int_equal(space_fill_next_bytes(&f), 50 * MIB / 4);
	/* 100 KiB/s: low in 490 s. */
	space_fill_add(&f, 98 * MIB, 1000 * MIB, 21 * NS);
	assert_int_equal(space_fill_next_ns(&f), 5 * NS);
	/* 4 MiB/s: low in 2 s, so the next look is due at once. */
	space_fill_add(&f, 58 * MIB, 1000 * MIB, 31 * NS);
	assert_true(f.low);
	f.low = false;
	assert_int_equal(space_fill_next_ns(&f), NS);
	assert_int_equal(space_fill_next_bytes(&f), 8 * MIB / 4);
	/* Once it is low, only the return of space is of interest. */
	space_fill_add(&f, 10 * MIB, 1000 * MIB, 32 * NS);
	assert_int_equal(space_fill_next_ns(&f), 5 * NS);
	assert_true(space_fill_next_bytes(&f) == UINT64_MAX);
}

static void test_another_file_system_has_no_rate(void **state)
{
	struct space_fill f = after(100 * MIB, 1000 * MIB);

	(void)state;
	space_fill_add(&f, 60 * MIB, 1000 * MIB, 11 * NS);
	assert_true(f.rate > 0);
	space_fill_add(&f, 50 * MIB, 900 * MIB, 21 * NS);
	assert_true(f.rate == 0);
	space_fill_add(&f, 0, 0, 31 * NS);
	assert_false(f.low);
	assert_int_equal(space_fill_next_ns(&f), 5 * NS);
	/* A process that lies does not overflow. */
	space_fill_add(&f, UINT64_MAX, UINT64_MAX, 41 * NS);
	space_fill_add(&f, 0, UINT64_MAX, 42 * NS);
	assert_true(f.low);
	assert_int_equal(space_fill_next_ns(&f), 5 * NS);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_low_is_a_twentieth_and_at_most_four_gib),
		cmocka_unit_test(test_enough_is_a_quarter_above_the_limit),
		cmocka_unit_test(test_space_that_goes_in_five_minutes_is_low),
		cmocka_unit_test(test_looks_are_closer_near_the_limit),
		cmocka_unit_test(test_another_file_system_has_no_rate),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
