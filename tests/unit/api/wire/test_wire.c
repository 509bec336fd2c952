/* QMP framing: the same texts result however the bytes are cut, and no client input makes the
 * buffer grow without bound. */
#include "api/wire/json.h"
#include "api/wire/wire.h"
#include "base/err.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

struct result {
	char log[4096]; /* texts in canonical form, "!" for an error, "X" for a fatal error */
};

/* Feed all bytes. Returns false after a fatal error. */
static bool feed(struct wire *w, struct result *res, const char *data, size_t len)
{
	while (len) {
		CLEANUP_JS struct json_object *o = NULL;
		char *at = res->log + strlen(res->log);
		size_t left = sizeof(res->log) - strlen(res->log), used = 0;
		struct err e;
		enum wire_result r = wire_feed(w, data, len, &used, &o, &e);

		assert_true(used > 0 && used <= len);
		data += used;
		len -= used;
		if (r == WIRE_TEXT)
			snprintf(at, left, "%s;", json_object_to_json_string_ext(o, 0));
		else if (r == WIRE_ERROR)
			snprintf(at, left, "!");
		else if (r == WIRE_FATAL) {
			snprintf(at, left, "X");
			return false;
		}
	}
	return true;
}

static void expect(const char *data, size_t len, const char *log)
{
	/* In one piece, cut in two at every byte, and byte by byte. */
	for (size_t cut = 0; cut <= len + 1; cut++) {
		struct result res = { "" };
		struct wire w;

		wire_init(&w, NULL);
		if (cut <= len) {
			feed(&w, &res, data, cut);
			feed(&w, &res, data + cut, len - cut);
		} else {
			for (size_t i = 0; i < len; i++)
				feed(&w, &res, data + i, 1);
		}
		if (strcmp(res.log, log))
			fail_msg("cut at %zu: \"%s\" instead of \"%s\"", cut, res.log, log);
		wire_done(&w);
	}
}

#define EXPECT(text, log) expect(text, sizeof(text) - 1, log)

static void test_texts_are_found_at_any_cut(void **state)
{
	(void)state;
	EXPECT("{\"execute\":\"a\"}", "{\"execute\":\"a\"};");
	EXPECT("{\"a\":1}{\"b\":2} \r\n\t{\"c\":3}\n", "{\"a\":1};{\"b\":2};{\"c\":3};");
	EXPECT("{\"a\":\"}{\",\"b\":\"\\\"}\"}", "{\"a\":\"}{\",\"b\":\"\\\"}\"};");
	EXPECT("{'a':'{\"x','b':\"'\"}", "{\"a\":\"{\\\"x\",\"b\":\"'\"};");
	EXPECT("[1,[2]]", "[1,[2]];");
	EXPECT("{\"a\":\"\xc3\xa4\"}", "{\"a\":\"\xc3\xa4\"};");
	EXPECT("", "");
	EXPECT(" \n\n ", "");
}

static void test_malformed_texts_yield_one_error(void **state)
{
	(void)state;
	EXPECT("{\"a\" 1}{\"b\":2}", "!{\"b\":2};");
	EXPECT("hello world\n{\"b\":2}", "!{\"b\":2};");
	EXPECT("hello {\"b\":2}", "!{\"b\":2};");
	EXPECT("}}}}\n}\n{\"b\":2}", "!!{\"b\":2};");
	EXPECT("{]}{\"b\":2}", "!!{\"b\":2};");
	EXPECT("{\"a\":\"\x80\"}{\"b\":2}", "!{\"b\":2};");
	EXPECT("\0{\"b\":2}", "!{\"b\":2};");
	EXPECT("{\"a\":tru}{\"b\":2}", "!{\"b\":2};");
}

static void test_integers_out_of_range_are_refused(void **state)
{
	(void)state;
	EXPECT("{\"id\":18446744073709551615}", "{\"id\":18446744073709551615};");
	EXPECT("{\"id\":18446744073709551616}", "!");
	EXPECT("{\"a\":[1,-9223372036854775808]}", "{\"a\":[1,-9223372036854775808]};");
	EXPECT("{\"a\":[1,-9223372036854775809]}{\"b\":2}", "!{\"b\":2};");
	EXPECT("{\"a\":1e30,\"b\":123456789012345678901234.5}", "{\"a\":1e30,\"b\":123456789012345678901234.5};");
	EXPECT("{\"a\":\"\\\"18446744073709551616\",'99999999999999999999':1}",
		"{\"a\":\"\\\"18446744073709551616\",\"99999999999999999999\":1};");
}

static void test_numbers_that_are_not_finite_are_refused(void **state)
{
	(void)state;
	EXPECT("{\"id\":NaN}{\"b\":2}", "!{\"b\":2};");
	EXPECT("{\"a\":[1,-Infinity]}{\"a\":nan}", "!!");
	EXPECT("{\"a\":\"NaN\",'Infinity':null}", "{\"a\":\"NaN\",\"Infinity\":null};");
	EXPECT("{\"id\":1e400}{\"a\":[-1.5E+999]}{\"b\":1e308}", "!!{\"b\":1e308};");
}

/* The server would send them back as they are. */
static void test_numbers_that_only_json_c_reads_are_refused(void **state)
{
	(void)state;
	EXPECT("{\"id\":1.}{\"id\":01.5}{\"id\":-01}{\"id\":1.e5}{\"id\":1e}{\"a\":[1.5e+]}{\"id\":-}{\"id\":1-2}{\"id\":00}", "!!!!!!!!!");
	EXPECT("{\"a\":[0,-0,0.5,1E5,1e+5,-1.25e-5],\"e\":true}", "{\"a\":[0,0,0.5,1E5,1e+5,-1.25e-5],\"e\":true};");
	EXPECT("{\"a\":\"1.\",'01':\"1e999\"}", "{\"a\":\"1.\",\"01\":\"1e999\"};");
}

static void test_duplicate_keys_are_refused(void **state)
{
	(void)state;
	EXPECT("{\"a\":1,\"a\":1}{\"b\":2}", "!{\"b\":2};");
	EXPECT("{'a':1,\"a\":1}", "!");
	EXPECT("{\"a\":1,\"\\u0061\":1}", "!");
	EXPECT("[{\"b\":[{\"a\":{\"c\":1}, \"a\":2}]}]", "!");
	EXPECT("{\"a\":{\"a\":[{\"a\":\":\"},{\"a\":2}]}}", "{\"a\":{\"a\":[{\"a\":\":\"},{\"a\":2}]}};");
}

static void test_error_names_key_and_number(void **state)
{
	static const struct {
		const char *text, *why;
	} cases[] = {
		{ "{\"id\": 1,\n\"id\": 2}", "JSON parse error: line 2: duplicate key \"id\" in one object" },
		{ "{\"id\": -Infinity}", "JSON parse error: the number -Infinity is not finite" },
		{ "{\"id\": -1.5e999}", "JSON parse error: the number -1.5e999 is too large" },
		{ "{\"id\": 1.}", "JSON parse error: the number 1. is not as JSON writes numbers" },
		{ "{\"id\": -9223372036854775809}", "JSON parse error: the number -9223372036854775809 is below -2^63 or above 2^64 - 1" },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		CLEANUP_JS struct json_object *o = NULL;
		struct wire w;
		struct err e;
		size_t used;

		wire_init(&w, NULL);
		assert_int_equal(wire_feed(&w, cases[i].text, strlen(cases[i].text), &used, &o, &e), WIRE_ERROR);
		assert_string_equal(e.msg, cases[i].why);
		wire_done(&w);
	}
}

static void test_byte_0xff_resets_parser(void **state)
{
	(void)state;
	EXPECT("\xff{\"a\":1}", "{\"a\":1};");
	EXPECT("{\"half\":\xff{\"a\":1}", "{\"a\":1};");
	EXPECT("{\"half\":\"str\xff{\"a\":1}", "{\"a\":1};");
	EXPECT("{\"a\":1}\xff\xff{\"a\":1}\xff", "{\"a\":1};{\"a\":1};");
	EXPECT("garbage\xff{\"a\":1}", "!{\"a\":1};");
}

static void test_deep_nesting_is_refused(void **state)
{
	struct result res = { "" };
	char *text = malloc(20100);
	struct wire w;

	(void)state;
	wire_init(&w, NULL);
	memset(text, '[', 10000);
	memset(text + 10000, ']', 10000);
	memcpy(text + 20000, "{\"a\":1}", 8);
	assert_true(feed(&w, &res, text, 20007));
	/* One error instead of ten thousand, and the next command is accepted. */
	assert_string_equal(res.log, "!{\"a\":1};");
	assert_true(w.cap < 4096);
	free(text);
	wire_done(&w);
}

/* Returns the result of a text of n empty objects in a list, which has 2n nodes. */
static const char *list_of(struct wire *w, struct result *res, size_t n)
{
	char text[256] = "[{}";

	for (size_t i = 1; i < n; i++)
		strcat(text, ",{}");
	strcat(text, "]");
	res->log[0] = 0;
	feed(w, res, text, strlen(text));
	return res->log;
}

static void test_nodes_are_limited_before_parsing(void **state)
{
	static const struct wire_limits ten = { 100, 10 }, twelve = { 100, 12 };
	struct result res;
	struct wire w;

	(void)state;
	wire_init(&w, &ten);
	assert_string_equal(list_of(&w, &res, 5), "[{},{},{},{},{}];");
	assert_string_equal(list_of(&w, &res, 6), "!");
	assert_string_equal(list_of(&w, &res, 20), "!");
	assert_string_equal(list_of(&w, &res, 5), "[{},{},{},{},{}];");
	w.limits = &twelve;
	assert_string_equal(list_of(&w, &res, 6), "[{},{},{},{},{},{}];");
	/* Nodes in strings do not count. */
	EXPECT("{\"a\":\"[{,:[{,:[{,:\"}", "{\"a\":\"[{,:[{,:[{,:\"};");
	wire_done(&w);
}

/* json-c skips comments: a quote in one would hide the nodes behind it from the count. */
static void test_comments_are_refused(void **state)
{
	(void)state;
	EXPECT("{/*\"*/\"a\":[{},{}],/*\"*/\"b\":1}\xff{\"b\":2}", "!{\"b\":2};");
	EXPECT("{//\n}{\"b\":2}", "!{\"b\":2};");
	EXPECT("{\"a\":\"/\"}", "{\"a\":\"\\/\"};");
}

static void test_text_has_at_most_the_limits_bytes(void **state)
{
	static const struct wire_limits ten = { 10, 10 };
	struct result res = { "" };
	struct wire w;

	(void)state;
	wire_init(&w, &ten);
	assert_true(feed(&w, &res, "{\"a\":1234}{\"b\":1}", 17));
	assert_false(feed(&w, &res, "{\"a\":12345}", 11));
	assert_string_equal(res.log, "{\"a\":1234};{\"b\":1};X");
	wire_done(&w);
}

static void flood(const char *start, char fill, const char *log)
{
	static char block[65536];
	struct result res = { "" };
	struct wire w;
	size_t sent = 0;

	wire_init(&w, NULL);
	memset(block, fill, sizeof(block));
	feed(&w, &res, start, strlen(start));
	while (sent < 100u * 1024 * 1024 && feed(&w, &res, block, sizeof(block)))
		sent += sizeof(block);
	assert_string_equal(res.log, log);
	/* Refused near the limit, not after 100 MB, and not stored. */
	assert_true(sent <= WIRE_TEXT_MAX + 2 * sizeof(block));
	assert_true(w.cap <= 4 * WIRE_TEXT_MAX);
	wire_done(&w);
}

static void test_floods_are_refused_with_bounded_memory(void **state)
{
	(void)state;
	flood("", 'a', "!X");
	flood("{\"a\":\"", 'a', "X");
	flood("{", ' ', "X");
	flood("", '[', "!X");
	flood("", '}', "!X");
}

static void test_buffer_shrinks_after_large_text(void **state)
{
	struct result res = { "" };
	char *big = malloc(500000);
	struct wire w;

	(void)state;
	memset(big, ' ', 500000);
	big[0] = '{';
	big[499999] = '}';
	wire_init(&w, NULL);
	assert_true(feed(&w, &res, big, 500000));
	assert_string_equal(res.log, "{};");
	assert_int_equal(w.cap, 0);
	free(big);
	wire_done(&w);
}

/* The server's lines are ASCII only, whatever they contain. */
static void test_output_line_is_ascii(void **state)
{
	CLEANUP_JS struct json_object *o = json_object_new_object();
	size_t len;
	char *line;

	(void)state;
	js_put_str(o, "a", "\xc3\xa4\xf0\x9f\x98\x80/\x7f\x01");
	line = js_line(o, &len);
	assert_string_equal(line, "{\"a\":\"\\u00e4\\ud83d\\ude00/\\u007f\\u0001\"}\r\n");
	assert_int_equal(len, strlen(line));
	free(line);
	js_put_str(o, "a", "\xff\xc3(\xed\xa0\x80\xe2\x82");
	line = js_line(o, &len);
	assert_string_equal(line,
		"{\"a\":\"\\ufffd\\ufffd(\\ufffd\\ufffd\\ufffd\\ufffd\\ufffd\"}\r\n");
	free(line);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_texts_are_found_at_any_cut),
		cmocka_unit_test(test_malformed_texts_yield_one_error),
		cmocka_unit_test(test_integers_out_of_range_are_refused),
		cmocka_unit_test(test_numbers_that_are_not_finite_are_refused),
		cmocka_unit_test(test_numbers_that_only_json_c_reads_are_refused),
		cmocka_unit_test(test_duplicate_keys_are_refused),
		cmocka_unit_test(test_error_names_key_and_number),
		cmocka_unit_test(test_byte_0xff_resets_parser),
		cmocka_unit_test(test_deep_nesting_is_refused),
		cmocka_unit_test(test_nodes_are_limited_before_parsing),
		cmocka_unit_test(test_comments_are_refused),
		cmocka_unit_test(test_text_has_at_most_the_limits_bytes),
		cmocka_unit_test(test_floods_are_refused_with_bounded_memory),
		cmocka_unit_test(test_buffer_shrinks_after_large_text),
		cmocka_unit_test(test_output_line_is_ascii),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
