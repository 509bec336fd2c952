/* Output of the command line, byte for byte as users of virsh know it. */
#include "tools/cairn/output.c" /* a program's file: in no library */
#include "base/err.h"

#include <setjmp.h>
#include <stdarg.h>
#include <unistd.h>

#include <cmocka.h>

static char *text;
static size_t text_len;

static FILE *start(void)
{
	return open_memstream(&text, &text_len);
}

static void finish(FILE *f, const char *want)
{
	fclose(f);
	assert_string_equal(text, want);
	free(text);
}

static void test_table_is_aligned(void **state)
{
	static const char *const heads[] = { "Id", "Name", "State" };
	struct table t;
	FILE *f = start();

	(void)state;
	table_init(&t, heads, 3);
	table_add(&t, (const char *const[]){ "1", "vm1", "running" });
	table_add(&t, (const char *const[]){ "-", "longer-name", "shut off" });
	table_add(&t, (const char *const[]){ "12", "w\xc3\xa4", "paused" });
	table_finish(&t, f);
	finish(f, " Id   Name          State\n"
		  "------------------------------\n"
		  " 1    vm1           running\n"
		  " -    longer-name   shut off\n"
		  " 12   w\xc3\xa4            paused\n"
		  "\n");
}

static void test_empty_table(void **state)
{
	static const char *const heads[] = { "Id", "Name", "State" };
	struct table t;
	FILE *f = start();

	(void)state;
	table_init(&t, heads, 3);
	table_finish(&t, f);
	finish(f, " Id   Name   State\n"
		  "--------------------\n"
		  "\n");
}

static void test_labels_are_aligned(void **state)
{
	FILE *f = start();

	(void)state;
	label_print(f, "Id:", "%d", 1);
	label_print(f, "Managed save:", "no");
	finish(f, "Id:             1\nManaged save:   no\n");
}

static void format(const char *json, enum cli_format how, const char *want)
{
	CLEANUP_JS struct json_object *o = NULL;
	struct err e;
	FILE *f;

	assert_int_equal(js_parse(json, strlen(json), "x", &o, &e), 0);
	f = start();
	output_print(f, how, o);
	finish(f, want);
}

static void test_csv(void **state)
{
	(void)state;
	format("[{\"a\":1,\"b\":\"x\"},{\"a\":2,\"c\":\"q\\\"u,o\\nte\"}]", CLI_CSV,
		"a,b,c\r\n1,x,\r\n2,,\"q\"\"u,o\nte\"\r\n");
	format("{\"a\":true,\"b\":[1,2]}", CLI_CSV, "a,b\r\ntrue,\"[1,2]\"\r\n");
	format("[]", CLI_CSV, "\r\n");
}

static void test_yaml(void **state)
{
	(void)state;
	format("{\"a\":1,\"b\":{\"c\":\"x: y\",\"d\":[]},\"e\":[1,{\"f\":null,\"g\":{}}],\"h\":{}}",
		CLI_YAML,
		"a: 1\nb:\n  c: \"x: y\"\n  d: []\ne:\n  - 1\n  - f: null\n    g: {}\nh: {}\n");
	format("[{\"a\":1,\"b\":[2]},{\"a\":3}]", CLI_YAML,
		"- a: 1\n  b:\n    - 2\n- a: 3\n");
	format("[]", CLI_YAML, "[]\n");
}

static void test_json(void **state)
{
	(void)state;
	format("{\"path\":\"/a\"}", CLI_JSON, "{\n  \"path\": \"/a\"\n}\n");
	assert_int_equal(output_format_parse("yaml"), CLI_YAML);
	assert_int_equal(output_format_parse("xml"), -1);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_table_is_aligned),
		cmocka_unit_test(test_empty_table),
		cmocka_unit_test(test_labels_are_aligned),
		cmocka_unit_test(test_csv),
		cmocka_unit_test(test_yaml),
		cmocka_unit_test(test_json),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
