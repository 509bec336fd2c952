/* The key `balance` of a definition, and keys that huge pages exclude. */
#include "api/definition/definition.h"
#include "api/wire/json.h"
#include "base/err.h"
#include "base/util.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

/* Parse a definition with such keys. */
static int parse(const char *keys, struct definition **ret, struct err *e)
{
	CLEANUP_JS struct json_object *o = NULL;
	char text[1024];

	snprintf(text, sizeof(text), "{\"name\":\"vm1\",\"memory\":\"128M\",\"boot\":{\"kernel\":\"/k\"},%s}", keys);
	assert_int_equal(js_parse(text, strlen(text), "vm.json", &o, e), 0);
	return definition_parse(o, NULL, ret, e);
}

static struct definition *accept(const char *keys)
{
	struct definition *d = NULL;
	struct err e;

	if (parse(keys, &d, &e) < 0)
		fail_msg("%s\n  gave: %s", keys, e.msg);
	return d;
}

static void refuse_key(const char *keys, const char *words)
{
	struct definition *d = NULL;
	struct err e = { 0 };

	if (parse(keys, &d, &e) != -EINVAL || !strstr(e.msg, words))
		fail_msg("%s\n  gave: %s\n  not: %s", keys, e.msg, words);
}

static void test_balance_has_bounds_around_the_first_values(void **state)
{
	static const char good[] = "\"balloon\":true,\"current_memory\":128,\"cpu_shares\":2048,"
		"\"balance\":{\"cpu_shares\":{\"min\":2,\"max\":2048},\"memory\":{\"min\":\"64M\",\"max\":128}}";
	struct definition *d = accept(good), *again = NULL;
	CLEANUP_JS struct json_object *o = definition_to_json(d);
	struct json_object *balance = js_get(o, "balance");
	struct err e;

	(void)state;
	assert_true(d->balance.shares && d->balance.memory);
	assert_int_equal(js_get_int(js_get(balance, "cpu_shares"), "max", 0), 2048);
	assert_string_equal(js_get_str(js_get(balance, "memory"), "min"), "64M");
	assert_int_equal(definition_parse(o, NULL, &again, &e), 0);
	assert_int_equal(again->balance.memory_max, 128 * MIB);
	definition_free(again);
	definition_free(d);
	d = accept("\"balance\":{\"cpu_shares\":{}}");
	assert_true(d->balance.shares && !d->balance.memory && !d->balance.shares_max);
	definition_free(d);
}

static void test_balance_out_of_bounds_is_refused(void **state)
{
	(void)state;
	refuse_key("\"balance\":{\"cpu_shares\":{\"min\":1025}}", "balance.cpu_shares.min: 1025 is more than cpu_shares, which is 1024");
	refuse_key("\"balance\":{\"cpu_shares\":{\"max\":1000}}", "balance.cpu_shares.max: 1000 is less than cpu_shares, which is 1024");
	refuse_key("\"balance\":{\"cpu_shares\":{\"max\":1}}", "balance.cpu_shares.max: 1 is out of range");
	refuse_key("\"balance\":{\"cpu_shares\":7}", "balance.cpu_shares: must be an object");
	refuse_key("\"balance\":{\"disk\":{}}", "balance: \"disk\" is not a key");
	refuse_key("\"balance\":{\"memory\":{\"min\":\"16M\"}}", "balance.memory: has no effect without a balloon");
	refuse_key("\"balloon\":true,\"current_memory\":64,\"balance\":{\"memory\":{\"min\":65}}", "balance.memory.min: is more than the VM starts with");
	refuse_key("\"balloon\":true,\"current_memory\":64,\"balance\":{\"memory\":{\"max\":32}}", "balance.memory.max: is less than the VM starts with");
	refuse_key("\"balloon\":true,\"balance\":{\"memory\":{\"max\":\"1T\"}}", "balance.memory.max: is more than memory");
	refuse_key("\"balloon\":true,\"balance\":{\"memory\":{\"max\":\"lots\"}}", "balance.memory.max: \"lots\" is not a size");
}

static void is_only_for_small_pages(const char *key, const char *words)
{
	CLEANUP_JS struct json_object *o = NULL;
	struct definition *d;
	char keys[128];

	snprintf(keys, sizeof(keys), "\"%s\":true", key);
	d = accept(keys);
	o = definition_to_json(d);
	assert_true(js_get_bool(o, key, false));
	definition_free(d);
	snprintf(keys, sizeof(keys), "\"%s\":true,\"hugepages\":true", key);
	refuse_key(keys, words);
}

static void test_huge_pages_exclude_other_keys(void **state)
{
	(void)state;
	is_only_for_small_pages("balloon", "memory in huge pages cannot be given back");
	is_only_for_small_pages("reclaim_on_pressure", "memory in huge pages cannot be reclaimed");
	is_only_for_small_pages("small_pages", "small_pages: contradicts hugepages");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_balance_has_bounds_around_the_first_values),
		cmocka_unit_test(test_balance_out_of_bounds_is_refused),
		cmocka_unit_test(test_huge_pages_exclude_other_keys),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
