/* Runs the seeds of fuzz_share and mutations of them through the fuzzer's entry point (tests/fuzz/fuzz_share.h). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "tests/fuzz/fuzz_share.h"

#define MUTATIONS 30u

static uint8_t seed[SHARE_INPUT_MAX];

static void test_each_request_of_the_seeds_succeeds(void **state)
{
	(void)state;
	for (size_t i = 0; i < share_seeds(); i++) {
		unsigned requests;
		size_t n = share_seed(i, seed, &requests);

		assert_int_equal(share_run(seed, n), requests);
	}
}

static void test_mutations_of_the_seeds_are_harmless(void **state)
{
	uint8_t mutant[SHARE_INPUT_MAX];
	unsigned requests;

	(void)state;
	srandom(1); /* the same in each run */
	for (size_t i = 0; i < share_seeds(); i++) {
		size_t n = share_seed(i, seed, &requests);

		for (unsigned m = 0; m < MUTATIONS; m++) {
			memcpy(mutant, seed, n);
			for (long k = 1 + random() % 4; k; k--)
				mutant[(size_t)random() % n] = (uint8_t)(random() % 3 ? random() % 8 : random());
			share_run(mutant, n - (size_t)random() % 4);
		}
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_each_request_of_the_seeds_succeeds),
		cmocka_unit_test(test_mutations_of_the_seeds_are_harmless),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
