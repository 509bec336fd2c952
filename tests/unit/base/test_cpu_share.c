/* A share of a processor: what is used, earned back and rested. The clock is an argument. */
#include "base/cpu_share.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#define MS 1000000ULL

static void test_share_may_be_used_without_end(void **state)
{
	struct cpu_share s = { 0 };

	(void)state;
	for (uint64_t now = 1; now < 100000 * MS; now += 100 * MS)
		assert_int_equal(cpu_share_charge(&s, 25, now, 25 * MS), 0);
}

static void test_more_than_burst_at_once_has_to_rest(void **state)
{
	struct cpu_share s = { 0 };

	(void)state;
	assert_int_equal(cpu_share_charge(&s, 25, 10000 * MS, 50 * MS), 0);
	assert_int_equal(cpu_share_charge(&s, 25, 10000 * MS, 1 * MS), (51 - 25) * 4 * MS);
	/* After the rest, half of the burst is there again. */
	assert_int_equal(cpu_share_charge(&s, 25, 10104 * MS, 25 * MS), 0);
	assert_int_equal(cpu_share_charge(&s, 25, 10104 * MS, 1 * MS), (51 - 25) * 4 * MS);
}

static void test_work_that_always_wants_more_gets_its_share(void **state)
{
	struct cpu_share s = { 0 };
	uint64_t now = 5000 * MS, used = 0;

	(void)state;
	while (now < 65000 * MS) {
		now += 3 * MS;
		used += 3 * MS;
		now += cpu_share_charge(&s, 20, now, 3 * MS);
	}
	assert_in_range(used, 60000 * MS * 19 / 100, 60000 * MS * 21 / 100);
}

/* Neither a long idle time nor an enormous use overflows. */
static void test_extreme_times(void **state)
{
	struct cpu_share s = { 0 };

	(void)state;
	assert_int_equal(cpu_share_charge(&s, 100, UINT64_MAX, 1), 0);
	assert_int_equal(s.spent_ns, 1);
	s = (struct cpu_share){ 0 };
	assert_true(cpu_share_charge(&s, 1, 0, 1000000 * MS) > 1000000 * MS);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_share_may_be_used_without_end),
		cmocka_unit_test(test_more_than_burst_at_once_has_to_rest),
		cmocka_unit_test(test_work_that_always_wants_more_gets_its_share),
		cmocka_unit_test(test_extreme_times),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
