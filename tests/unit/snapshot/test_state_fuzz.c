/* Runs the fuzzer's seeds and some mutations through the fuzzer's entry point
 * (tests/fuzz/fuzz_state.h): nothing crashes, hangs or reads past the end. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>
#include <unistd.h>

#include "base/util.h"
#include "tests/fuzz/fuzz_state.h"

/* Mutations per seed, the same in each run. */
#define MUTATIONS 2000u

static uint8_t seed[STATE_INPUT_MAX], mutant[STATE_INPUT_MAX];

static uint64_t random_next(uint64_t *x)
{
	*x ^= *x << 13;
	*x ^= *x >> 7;
	*x ^= *x << 17;
	return *x * 0x2545f4914f6cdd1dULL >> 11;
}

static void test_seeds(void **state)
{
	static const unsigned parts[STATE_KINDS] = { 5, 5 + 1 + 2, 5 };

	(void)state;
	for (size_t i = 0; i < state_seeds(); i++)
		assert_int_equal(state_run(seed, state_seed(i, seed)), parts[i % STATE_KINDS]);
}

/* Truncate anywhere; near the start at each byte. */
static void test_truncated_seeds_are_harmless(void **state)
{
	(void)state;
	for (size_t i = 0; i < state_seeds(); i++) {
		size_t n = state_seed(i, seed);

		for (size_t len = 0; len < n; len += len < 1000 ? 1 : 1 + len / 8)
			state_run(seed, len);
	}
}

/* Set fields to values at which lengths, counts and flags fail. */
static void mutate(uint8_t *p, size_t n, uint64_t *x)
{
	static const uint64_t breaks[] = { 0, 1, 7, 8, 63, 64, 255, 511, 4095, 4096, 0x7fff, 0xffff, 0x10000,
		0x7fffffff, 0xffffffff, 12 << 20, 1ULL << 40, INT64_MAX, UINT64_MAX };
	/* Most of the input is zero; the fields are near the start. */
	size_t reach = random_next(x) % 4 ? MIN(n, (size_t)256) : n, at = 1 + random_next(x) % (reach - 1);
	size_t bytes = MIN(1ULL << random_next(x) % 4, n - at);
	uint64_t v = random_next(x) % 2 ? breaks[random_next(x) % ARRAY_SIZE(breaks)] : random_next(x);

	memcpy(p + at, &v, bytes);
}

static void test_mutations(void **state)
{
	uint64_t x = 1;

	(void)state;
	for (size_t i = 0; i < state_seeds(); i++) {
		size_t n = state_seed(i, seed);

		for (unsigned m = 0; m < MUTATIONS; m++) {
			memcpy(mutant, seed, n);
			for (uint64_t k = 1 + random_next(&x) % 4; k; k--)
				mutate(mutant, n, &x);
			state_run(mutant, n);
		}
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_seeds),
		cmocka_unit_test(test_truncated_seeds_are_harmless),
		cmocka_unit_test(test_mutations),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
