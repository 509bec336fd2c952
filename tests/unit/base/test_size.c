/* Valid and invalid sizes. */
#include "base/size.h"
#include "base/util.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <unistd.h>

#include <cmocka.h>

static void test_valid_sizes_are_parsed(void **state)
{
	static const struct {
		const char *text;
		uint64_t bytes;
	} good[] = { { "0", 0 }, { "512", 512 }, { "7b", 7 }, { "7bytes", 7 }, { "1K", KIB },
		{ "1k", KIB }, { "1KiB", KIB }, { "1kib", KIB }, { "1KB", 1000 }, { "24G", 24 * GIB }, { "3MB", 3000000 },
		{ "2T", 2048 * GIB }, { "15E", 15ULL << 60 }, { "1.5G", 3 * GIB / 2 }, { "1.3KB", 1300 },
		{ "0.57KB", 570 }, { "1.00", 1 }, { "0.9999999999999999999K", 1023 }, { "1.25e", 5ULL << 58 },
		{ "18446744073709551614", UINT64_MAX - 1 } };
	uint64_t n;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
		assert_int_equal(size_parse(good[i].text, 1, &n), 0);
		assert_int_equal(n, good[i].bytes);
	}
}

static void test_invalid_sizes_are_refused(void **state)
{
	static const char *const bad[] = { "", "-1", "+1", " 1", "1 ", "1 K", "K", ".5G", "1.", "1.G", "1.5.5G", "1.5",
		"1.5b", "1Z", "1Gi", "1GX", "1GiBs", "0x10", "1e3", "abc" };
	static const char *const large[] = { "18446744073709551616", "99999999999999999999", "16E", "99999999999G" };
	uint64_t n = 1;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		assert_int_equal(size_parse(bad[i], 1, &n), -EINVAL);
	assert_int_equal(n, 1);
	for (size_t i = 0; i < ARRAY_SIZE(large); i++) {
		n = 0;
		assert_int_equal(size_parse(large[i], 1, &n), -ERANGE);
		assert_int_equal(n, UINT64_MAX);
	}
}

static void test_number_without_unit_uses_default_unit(void **state)
{
	uint64_t n;

	(void)state;
	assert_int_equal(size_parse("5", KIB, &n), 0);
	assert_int_equal(n, 5 * KIB);
	assert_int_equal(size_parse("0.5", MIB, &n), 0);
	assert_int_equal(n, 512 * KIB);
	assert_int_equal(size_parse("5b", KIB, &n), 0);
	assert_int_equal(n, 5);
	assert_int_equal(size_parse("5", 0, &n), -EINVAL);
	assert_int_equal(size_parse("5M", 0, &n), 0);
	assert_int_equal(n, 5 * MIB);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_valid_sizes_are_parsed),
		cmocka_unit_test(test_invalid_sizes_are_refused),
		cmocka_unit_test(test_number_without_unit_uses_default_unit),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
