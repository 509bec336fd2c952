/* clone_plan: names of clones by a pattern. */
#include "api/jobs/clone_plan.h"
#include "base/err.h"
#include "base/util.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static void test_pattern_makes_names(void **state)
{
	static const struct {
		const char *pattern, *want;
		unsigned i;
	} cases[] = {
		{ "web-%d", "web-7", 7 }, { "%d", "7", 7 }, { "%d.example", "12.example", 12 },
		{ "web-%02d", "web-07", 7 }, { "web-%02d", "web-123", 123 }, { "a%03db", "a001b", 1 },
		{ "w%3d", "w  7", 7 }, { "w%0d", "w7", 7 }, { "w%009d", "w000000007", 7 },
	};
	char name[64];
	struct err e;

	(void)state;
	for (size_t k = 0; k < ARRAY_SIZE(cases); k++) {
		assert_int_equal(clone_pattern_name(cases[k].pattern, cases[k].i, name, sizeof(name), &e), 0);
		assert_string_equal(name, cases[k].want);
	}
}

/* A pattern is never passed to printf() as a format. */
static void test_invalid_patterns_are_refused(void **state)
{
	static const char *const wrong[] = { "", "web", "%", "%%", "web-%", "%s", "%n", "%d%d", "%d%", "%d%s", "%%d",
		"%-3d", "%+d", "% d", "%'d", "%*d", "%1$d", "%ld", "%x", "%.2d", "%10d", "%99999999999d" };
	char name[64];
	struct err e;

	(void)state;
	for (size_t k = 0; k < ARRAY_SIZE(wrong); k++) {
		assert_int_equal(clone_pattern_name(wrong[k], 1, name, sizeof(name), &e), -EINVAL);
		assert_non_null(strstr(e.msg, "name-pattern: "));
	}
}

static void test_too_long_names_are_refused(void **state)
{
	char name[8];
	struct err e;

	(void)state;
	assert_int_equal(clone_pattern_name("web-%03d", 1, name, sizeof(name), &e), 0);
	assert_string_equal(name, "web-001");
	assert_int_equal(clone_pattern_name("web-%03d", 1000, name, sizeof(name), &e), -EINVAL);
	assert_int_equal(clone_pattern_name("web-%04d", 1, name, sizeof(name), &e), -EINVAL);
	assert_int_equal(clone_pattern_name("%9d", 1, name, sizeof(name), &e), -EINVAL);
	assert_non_null(strstr(e.msg, "name-pattern: the names would have more than 255 bytes"));
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_pattern_makes_names),
		cmocka_unit_test(test_invalid_patterns_are_refused),
		cmocka_unit_test(test_too_long_names_are_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
