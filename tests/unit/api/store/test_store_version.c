/* Files of an older Cairn are converted to the current version; files of a newer or unknown version
 * are recognized as such. */
#include "api/wire/json.h"
#include "api/store/store_version.h"
#include "base/err.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static struct json_object *parsed(const char *text)
{
	struct json_object *o = NULL;

	assert_int_equal(js_parse(text, strlen(text), "test", &o, NULL), 0);
	return o;
}

static int64_t lifted(const char *path, const char *text, struct json_object **ret_o, struct err *e)
{
	*ret_o = parsed(text);
	return store_version_lift(path, *ret_o, e);
}

/* Each step for each kind of file exists, whatever the file contains. */
static void test_each_kind_converts_from_each_version(void **state)
{
	const char *file;
	struct err e;

	(void)state;
	for (unsigned i = 0; (file = store_version_of_vm(i)); i++)
		for (int64_t v = 1; v <= store_version(file); v++) {
			CLEANUP_JS struct json_object *o = parsed("{}");

			js_put_int(o, "version", v);
			assert_int_equal(store_version_lift(file, o, &e), v);
			assert_int_equal(js_get_int(o, "version", 0), store_version(file));
		}
}

static void test_scheduled_shutdown_is_converted(void **state)
{
	static const char *const words[] = { "leave", "destroy", "save" };
	struct err e;

	(void)state;
	for (size_t i = 0; i < 3; i++) {
		CLEANUP_JS struct json_object *o = NULL;
		char text[96];

		snprintf(text, sizeof(text), "{\"version\":1,\"shutdown\":{\"then\":%zu,\"message\":\"m\"},\"n\":7}", i);
		assert_int_equal(lifted("x/vms/a/state.json", text, &o, &e), 1);
		assert_string_equal(js_get_str(js_get(o, "shutdown"), "then"), words[i]);
		assert_string_equal(js_get_str(js_get(o, "shutdown"), "message"), "m");
		assert_int_equal(js_get_int(o, "n", 0), 7);
		assert_int_equal(store_version_lift("state.json", o, &e), 2); /* nothing is converted twice */
		assert_string_equal(js_get_str(js_get(o, "shutdown"), "then"), words[i]);
	}
}

static void test_file_of_no_version_is_damage(void **state)
{
	static const char *const texts[] = { "{}", "[]", "7", "{\"version\":\"1\"}", "{\"version\":0}", "{\"version\":-1}",
		"{\"version\":1.0}", "{\"version\":1,\"shutdown\":7}", "{\"version\":1,\"shutdown\":{\"then\":3}}",
		"{\"version\":1,\"shutdown\":{\"then\":-1}}" };
	struct err e;

	(void)state;
	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
		CLEANUP_JS struct json_object *o = NULL;

		assert_int_equal(lifted("state.json", texts[i], &o, &e), -EINVAL);
		assert_true(e.msg[0]);
	}
}

static void test_newer_file_is_recognized(void **state)
{
	static const char text[] = "{\"version\":9223372036854775807,\"shutdown\":7}";
	CLEANUP_JS struct json_object *o = NULL, *same = parsed(text);
	struct err e;

	(void)state;
	assert_int_equal(lifted("state.json", text, &o, &e), -ENOTSUP);
	assert_true(json_object_equal(o, same));
	assert_non_null(strstr(e.msg,
		"a newer Cairn wrote the file: it has version 9223372036854775807, and this Cairn knows up to 2"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_each_kind_converts_from_each_version),
		cmocka_unit_test(test_scheduled_shutdown_is_converted),
		cmocka_unit_test(test_file_of_no_version_is_damage),
		cmocka_unit_test(test_newer_file_is_recognized),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
