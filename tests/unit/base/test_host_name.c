#include "base/host_name.h"
#include "base/util.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

static void test_names(void **state)
{
	static const char *const good[] = { "a", "web1", "a-b", "1", "x.example", "A.b.C" };
	static const char *const bad[] = { "", "-", "-a", "a-", "a b", "a_b", ".", ".a", "a.", "a..b", "a.-b", "\xc3\xa4" };

	for (size_t i = 0; i < ARRAY_SIZE(good); i++)
		assert_true(host_name_is_valid(good[i]));
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		assert_false(host_name_is_valid(bad[i]));
	assert_true(host_label_is_valid("web1"));
	assert_false(host_label_is_valid("x.example"));
	assert_false(host_label_is_valid(""));
	(void)state;
}

static void test_label_has_at_most_63_characters(void **state)
{
	char name[HOST_LABEL_MAX + 2] = "";

	memset(name, 'a', HOST_LABEL_MAX);
	assert_true(host_label_is_valid(name));
	name[HOST_LABEL_MAX] = 'a';
	assert_false(host_label_is_valid(name));
	assert_false(host_name_is_valid(name));
	(void)state;
}

static void test_name_has_at_most_253_characters(void **state)
{
	char name[HOST_NAME_BYTES + 2] = "";

	memset(name, 'a', HOST_NAME_BYTES);
	for (int i = HOST_LABEL_MAX; i < HOST_NAME_BYTES; i += HOST_LABEL_MAX + 1)
		name[i] = '.';
	assert_true(host_name_is_valid(name));
	name[HOST_NAME_BYTES] = 'a';
	assert_false(host_name_is_valid(name));
	(void)state;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_names),
		cmocka_unit_test(test_label_has_at_most_63_characters),
		cmocka_unit_test(test_name_has_at_most_253_characters),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
