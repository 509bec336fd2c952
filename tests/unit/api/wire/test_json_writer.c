/* The JSON writer: its text is what json-c prints for the same values, and json-c reads it. */
#include "api/wire/json_writer.h"
#include "api/wire/json.h"
#include "base/cleanup.h"
#include "base/err.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void test_text_has_commas_between_members_only(void **state)
{
	struct json_writer w = { 0 };

	(void)state;
	jw_object(&w, NULL);
	jw_array(&w, "none");
	jw_array_end(&w);
	jw_int(&w, "low", INT64_MIN);
	jw_uint(&w, "high", UINT64_MAX);
	jw_str(&w, "absent", NULL);
	jw_array(&w, "list");
	jw_bool(&w, NULL, true);
	jw_object(&w, NULL);
	jw_object_end(&w);
	jw_str(&w, NULL, "[");
	jw_uint(&w, NULL, 0);
	jw_array_end(&w);
	jw_object_end(&w);
	assert_string_equal(w.text, "{\"none\":[],\"low\":-9223372036854775808,\"high\":18446744073709551615,\"list\":[true,{},\"[\",0]}");
	assert_int_equal(w.length, strlen(w.text));
	free(w.text);
}

/* Each string of one byte, and a longer one. */
static void test_strings_are_read_as_they_were(void **state)
{
	(void)state;
	for (unsigned c = 1; c < 0x80; c++) {
		char text[] = { 'a', (char)c, 'b', 0 };
		struct json_writer w = { 0 };
		CLEANUP_JS struct json_object *o = NULL;
		struct err e;

		jw_object(&w, NULL);
		jw_str(&w, "s", text);
		jw_object_end(&w);
		assert_int_equal(js_parse(w.text, w.length, "text", &o, &e), 0);
		assert_string_equal(js_get_str(o, "s"), text);
		free(w.text);
	}
}

static void test_values_of_json_c_keep_their_text(void **state)
{
	struct json_writer w = { 0 };
	struct json_object *o = json_object_new_object(), *line;
	CLEANUP_FREE char *text = NULL;
	size_t length;

	(void)state;
	js_put_str(o, "path", "/a/\xc3\xa4");
	js_put_int(o, "n", 1);
	jw_object(&w, NULL);
	jw_bool(&w, "first", false);
	jw_json(&w, "same", json_object_get(o));
	jw_members(&w, o);
	jw_json(&w, "absent", NULL);
	jw_object_end(&w);
	line = jw_value(&w);
	assert_null(w.text);
	text = js_line(line, &length);
	assert_string_equal(text, "{\"first\":false,\"same\":{\"path\":\"/a/\\u00e4\",\"n\":1},\"path\":\"/a/\\u00e4\",\"n\":1}\r\n");
	json_object_put(line);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_text_has_commas_between_members_only),
		cmocka_unit_test(test_strings_are_read_as_they_were),
		cmocka_unit_test(test_values_of_json_c_keep_their_text),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
