/* bitmap: searches at word boundaries, growth, and comparison with a model. */
#include "base/bitmap.h"
#include "base/util.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static void test_empty(void **state)
{
	struct bitmap b;

	(void)state;
	assert_int_equal(bitmap_init(&b, 0), 0);
	assert_false(bitmap_test(&b, 0));
	assert_false(bitmap_test(&b, SIZE_MAX));
	assert_int_equal(bitmap_next_set(&b, 0), 0);
	assert_int_equal(bitmap_next_clear(&b, 0), 0);
	assert_int_equal(bitmap_count(&b), 0);
	bitmap_done(&b);
	bitmap_done(&b); /* accepts a freed or half-built bitmap */
	bitmap_done(NULL);
}

static void test_each_bit_of_each_size(void **state)
{
	(void)state;
	for (size_t n = 1; n <= 130; n++) {
		struct bitmap b;

		assert_int_equal(bitmap_init(&b, n), 0);
		for (size_t i = 0; i < n; i++) {
			bitmap_set(&b, i);
			assert_true(bitmap_test(&b, i));
			assert_int_equal(bitmap_count(&b), 1);
			for (size_t from = 0; from <= n + 1; from++)
				assert_int_equal(bitmap_next_set(&b, from), from <= i ? i : n);
			bitmap_clear(&b, i);
		}
		assert_int_equal(bitmap_count(&b), 0);
		assert_int_equal(bitmap_next_set(&b, 0), n);
		bitmap_done(&b);
	}
}

static void test_no_clear_bit_beyond_a_full_one(void **state)
{
	(void)state;
	for (size_t n = 1; n <= 130; n++) {
		struct bitmap b;

		assert_int_equal(bitmap_init(&b, n), 0);
		for (size_t i = 0; i < n; i++)
			bitmap_set(&b, i);
		assert_int_equal(bitmap_count(&b), n);
		for (size_t from = 0; from <= n + 70; from++)
			assert_int_equal(bitmap_next_clear(&b, from), n);
		bitmap_clear(&b, n - 1);
		assert_int_equal(bitmap_next_clear(&b, 0), n - 1);
		assert_false(bitmap_test(&b, n)); /* bits outside read as clear */
		bitmap_done(&b);
	}
}

static void test_growth_keeps_bits_and_adds_clear_ones(void **state)
{
	static const size_t sizes[] = { 1, 63, 64, 65, 64, 128, 129, 4096, 10, 100000 };
	struct bitmap b;
	size_t n = 0;

	(void)state;
	assert_int_equal(bitmap_init(&b, 0), 0);
	for (size_t k = 0; k < ARRAY_SIZE(sizes); k++) {
		size_t old = n;

		n = MAX(n, sizes[k]); /* a bitmap never shrinks */
		assert_int_equal(bitmap_grow(&b, sizes[k]), 0);
		assert_int_equal(b.nbits, n);
		assert_int_equal(bitmap_count(&b), old);
		assert_int_equal(bitmap_next_clear(&b, 0), old);
		for (size_t i = old; i < n; i++)
			bitmap_set(&b, i);
	}
	assert_int_equal(bitmap_count(&b), 100000);
	bitmap_done(&b);
}

static void test_random_operations_match_model(void **state)
{
	enum { N = 777 };
	bool model[N] = { false };
	struct bitmap b;
	unsigned seed = 1;

	(void)state;
	assert_int_equal(bitmap_init(&b, N), 0);
	for (int round = 0; round < 3000; round++) {
		size_t i = (size_t)rand_r(&seed) % N, from = (size_t)rand_r(&seed) % (N + 1);
		size_t set = from, clear = from;

		model[i] = rand_r(&seed) & 1;
		if (model[i])
			bitmap_set(&b, i);
		else
			bitmap_clear(&b, i);
		while (set < N && !model[set])
			set++;
		while (clear < N && model[clear])
			clear++;
		assert_int_equal(bitmap_next_set(&b, from), set);
		assert_int_equal(bitmap_next_clear(&b, from), clear);
	}
	bitmap_done(&b);
}

static void test_set_range_and_resize(void **state)
{
	(void)state;
	for (size_t from = 0; from < 200; from += 7)
		for (size_t n = 0; n < 200 - from; n += 3) {
			struct bitmap b;

			assert_int_equal(bitmap_init(&b, 200), 0);
			bitmap_set_range(&b, from, n);
			assert_int_equal(bitmap_count(&b), n);
			assert_int_equal(bitmap_next_set(&b, 0), n ? from : 200);
			assert_int_equal(bitmap_next_clear(&b, from), from + n);
			assert_int_equal(bitmap_resize(&b, from + n / 2), 0);
			assert_int_equal(bitmap_count(&b), n / 2);
			assert_int_equal(bitmap_resize(&b, 300), 0); /* the bits that were cut off do not come back */
			assert_int_equal(b.nbits, 300);
			assert_int_equal(bitmap_count(&b), n / 2);
			bitmap_done(&b);
		}
}

static void test_set_all(void **state)
{
	(void)state;
	for (size_t n = 0; n < 200; n++) {
		struct bitmap b;

		assert_int_equal(bitmap_init(&b, n), 0);
		bitmap_set_all(&b);
		assert_int_equal(bitmap_count(&b), n);
		assert_int_equal(bitmap_next_clear(&b, 0), n);
		bitmap_done(&b);
	}
}

static void test_copy_or_and_clear_all(void **state)
{
	(void)state;
	for (size_t n = 1; n < 200; n++) {
		struct bitmap a, b;

		assert_int_equal(bitmap_init(&a, n), 0);
		assert_int_equal(bitmap_init(&b, n), 0);
		bitmap_set(&a, n - 1);
		bitmap_set_all(&b);
		bitmap_copy(&b, &a);
		assert_int_equal(bitmap_count(&b), 1);
		assert_true(bitmap_test(&b, n - 1));
		bitmap_clear_all(&a);
		assert_int_equal(bitmap_count(&a), 0);
		bitmap_set(&a, 0);
		bitmap_or(&a, &b);
		assert_true(bitmap_test(&a, 0) && bitmap_test(&a, n - 1));
		assert_int_equal(bitmap_count(&a), n > 1 ? 2 : 1);
		bitmap_done(&a);
		bitmap_done(&b);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_empty),
		cmocka_unit_test(test_each_bit_of_each_size),
		cmocka_unit_test(test_no_clear_bit_beyond_a_full_one),
		cmocka_unit_test(test_growth_keeps_bits_and_adds_clear_ones),
		cmocka_unit_test(test_random_operations_match_model),
		cmocka_unit_test(test_set_range_and_resize),
		cmocka_unit_test(test_set_all),
		cmocka_unit_test(test_copy_or_and_clear_all),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
