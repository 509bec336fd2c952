/* A flow through a bucket of tokens. The clock is an argument. */
#include "base/token_bucket.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#define S 1000000000ULL
#define MS 1000000ULL

/* Let units of this size pass from *now_ns to end_ns. Return how many have passed. late_ns: how much later than asked
 * for the flow comes back after a wait. */
static uint64_t flow(struct token_bucket *b, uint64_t unit, uint64_t *now_ns, uint64_t end_ns, uint64_t late_ns)
{
	uint64_t n = 0;

	while (*now_ns < end_ns) {
		uint64_t wait_ns = token_bucket_wait(b, *now_ns);

		if (wait_ns) {
			*now_ns += wait_ns + late_ns;
			continue;
		}
		token_bucket_take(b, unit);
		n++;
	}
	return n;
}

static void test_without_limit_all_passes(void **state)
{
	struct token_bucket b = { 0 };

	(void)state;
	for (unsigned i = 0; i < 1000; i++) {
		assert_int_equal(token_bucket_wait(&b, 5), 0);
		token_bucket_take(&b, UINT64_MAX);
	}
	token_bucket_set(&b, 10, 1, 5);
	token_bucket_take(&b, 5);
	assert_true(token_bucket_wait(&b, 5) > 0);
	token_bucket_set(&b, 0, 0, 5);
	assert_int_equal(token_bucket_wait(&b, 5), 0);
}

static void test_burst_passes_at_once_and_then_the_rate(void **state)
{
	struct token_bucket b = { 0 };
	uint64_t now = 7 * S;

	(void)state;
	token_bucket_set(&b, 1000, 50, now);
	for (unsigned i = 0; i < 50; i++) {
		assert_int_equal(token_bucket_wait(&b, now), 0);
		token_bucket_take(&b, 1);
	}
	assert_int_equal(token_bucket_wait(&b, now), MS);
	assert_int_equal(token_bucket_wait(&b, now + MS - 1), 1);
	assert_int_equal(token_bucket_wait(&b, now + MS), 0);
	/* An idle bucket holds one burst, not more. */
	now += 1000 * S;
	assert_int_equal(token_bucket_wait(&b, now), 0);
	assert_int_equal(b.tokens, 50);
}

/* The rate holds to within 5 %, the burst and one unit, from a byte a second to the largest number, also for units
 * larger than the bucket and for a loop that is late. */
static void test_flow_gets_its_rate(void **state)
{
	static const uint64_t rates[] = { 1, 7, 999, 12500000, 125000000000ULL, 4294967295ULL * 1024 };
	static const uint64_t late[] = { 0, 1, 3 * MS };

	(void)state;
	for (unsigned i = 0; i < sizeof(rates) / sizeof(*rates); i++)
		for (unsigned k = 0; k < 3; k++) {
			uint64_t unit = rates[i] / 500 + 1, depth = rates[i] / 10, now = 3 * S, begin = now, n;
			struct token_bucket b = { 0 };
			double had, wanted;

			token_bucket_set(&b, rates[i], depth, now);
			n = flow(&b, unit, &now, now + 100 * S, late[k]);
			had = (double)(n * unit);
			wanted = (double)rates[i] * (double)(now - begin) / S;
			assert_true(had <= wanted + (double)(depth + unit + 1));
			assert_true(had >= wanted * 0.95 - (double)(unit + 1));
		}
}

static void test_unit_larger_than_bucket_waits_for_its_debt(void **state)
{
	struct token_bucket b = { 0 };

	(void)state;
	token_bucket_set(&b, 100, 1, 0);
	assert_int_equal(token_bucket_wait(&b, 0), 0);
	token_bucket_take(&b, 1001);
	assert_int_equal(token_bucket_wait(&b, 0), 1001 * S / 100);
	assert_int_equal(token_bucket_wait(&b, 5 * S), 501 * S / 100);
	assert_int_equal(token_bucket_wait(&b, 1001 * S / 100), 0);
}

/* A change gives no burst, and a change back and forth does not evade the limit. */
static void test_change_gives_no_burst(void **state)
{
	struct token_bucket b = { 0 };
	uint64_t passed = 0;

	(void)state;
	token_bucket_set(&b, 1000, 100, 0);
	for (uint64_t now = 0; now < S; now += MS) {
		while (!token_bucket_wait(&b, now)) {
			token_bucket_take(&b, 1);
			passed++;
		}
		token_bucket_set(&b, now % (2 * MS) ? 1000 : 1001, 100, now);
	}
	assert_in_range(passed, 1000, 1105);
	/* A smaller bucket loses what it cannot hold. */
	token_bucket_set(&b, 1000, 100, 10 * S);
	token_bucket_set(&b, 1000, 10, 20 * S);
	assert_int_equal(b.tokens, 10);
}

static void test_extreme_values(void **state)
{
	struct token_bucket b = { 0 };

	(void)state;
	token_bucket_set(&b, UINT64_MAX, UINT64_MAX, 1);
	assert_int_equal(token_bucket_wait(&b, UINT64_MAX), 0);
	token_bucket_take(&b, INT64_MAX);
	assert_int_equal(token_bucket_wait(&b, UINT64_MAX), 1);
	token_bucket_set(&b, 1, 1, UINT64_MAX);
	token_bucket_take(&b, 1ULL << 62);
	assert_int_equal(token_bucket_wait(&b, UINT64_MAX), INT64_MAX);
	/* A clock that goes back earns nothing. */
	assert_int_equal(token_bucket_wait(&b, 0), INT64_MAX);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_without_limit_all_passes),
		cmocka_unit_test(test_burst_passes_at_once_and_then_the_rate),
		cmocka_unit_test(test_flow_gets_its_rate),
		cmocka_unit_test(test_unit_larger_than_bucket_waits_for_its_debt),
		cmocka_unit_test(test_change_gives_no_burst),
		cmocka_unit_test(test_extreme_values),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
