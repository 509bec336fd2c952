#include "base/kvm_host.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

static void test_huge_pages_are_safe_from_linux_6_6_on(void **state)
{
	static const struct {
		const char *release;
		bool safe;
	} rows[] = { { "6.6.0", true }, { "6.12.95+deb12-amd64", true }, { "7.0-rc1", true }, { "10.1", true }, { "6.5.9", false },
		{ "6.1.0-56-amd64", false }, { "5.15.0", false }, { "5.6", false }, { "", false }, { "x", false } };

	(void)state;
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
		assert_int_equal(kvm_host_huge_pages_safe(rows[i].release), rows[i].safe);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(test_huge_pages_are_safe_from_linux_6_6_on) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}
