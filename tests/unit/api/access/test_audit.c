/* audit: no client makes a line long, and no part of a line damages the next one. */
#include "api/access/audit.h"
#include "api/wire/json.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/file.h"
#include "tests/unit/tmp.h"

#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cmocka.h>

struct fixture {
	char dir[96], path[128];
	struct audit *audit;
};

static int fixture_open(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	struct err e;

	assert_non_null(f);
	snprintf(f->dir, sizeof(f->dir), "%s/cairn-audit-XXXXXX", tmp_folder());
	assert_non_null(mkdtemp(f->dir));
	snprintf(f->path, sizeof(f->path), "%s/audit.log", f->dir);
	assert_int_equal(audit_open(f->dir, &f->audit, &e), 0);
	*state = f;
	return 0;
}

static int fixture_close(void **state)
{
	struct fixture *f = *state;

	audit_close(f->audit);
	unlink(f->path);
	rmdir(f->dir);
	free(f);
	return 0;
}

static void reopen(struct fixture *f)
{
	struct err e;

	audit_close(f->audit);
	assert_int_equal(audit_open(f->dir, &f->audit, &e), 0);
}

/* Take arguments, add a line with them and return the line as it is in the file. */
static char *line_add(struct fixture *f, const char *vm, struct json_object *arguments)
{
	CLEANUP_JS struct json_object *line = json_object_new_object();
	char *text, *last, *copy;
	size_t len;

	js_put_int(line, "time", 1);
	js_put_str(line, "command", "vm-start");
	js_put_str(line, "vm", vm);
	js_put(line, "arguments", arguments);
	js_put_str(line, "outcome", "ok");
	audit_add(f->audit, line);
	assert_int_equal(file_read(f->path, 1 << 20, &text, &len, NULL), 0);
	assert_int_equal(text[len - 1], '\n');
	text[len - 1] = 0;
	last = strrchr(text, '\n') + 1;
	assert_true(strlen(last) < 4096);
	copy = strdup(last);
	free(text);
	return copy;
}

static struct json_object *parsed(const char *text)
{
	struct json_object *o;

	assert_int_equal(js_parse(text, strlen(text), "line", &o, NULL), 0);
	return o;
}

static char *repeated(const char *unit, size_t n)
{
	size_t len = strlen(unit);
	char *s = malloc(n * len + 1);

	assert_non_null(s);
	for (size_t i = 0; i < n; i++)
		memcpy(s + i * len, unit, len);
	s[n * len] = 0;
	return s;
}

static void test_long_texts_are_cut_and_counted(void **state)
{
	/* U+00E4 ends at even offsets here, and the cut does not. */
	CLEANUP_FREE char *vm = repeated("\xc3\xa4", 500000), *quotes = repeated("\"", 1000), *line;
	CLEANUP_JS struct json_object *o;
	struct json_object *args = json_object_new_object();
	const char *cut;

	js_put_str(args, "vm", vm);
	js_put_str(args, "a", quotes);
	js_put_str(args, "b", quotes);
	js_put_str(args, quotes, "c");
	js_put_str(args, "fits", "\xc3\xa4 \x1b[2J \xc2\x9b");
	line = line_add(*state, vm, args);
	o = parsed(line);
	cut = js_get_str(o, "vm");
	assert_true(strlen(cut) <= 255 && strlen(cut) > 250);
	assert_non_null(strstr(cut, "\xc3\xa4...(1000000 bytes)"));
	args = js_get(o, "arguments");
	assert_int_equal(strlen(js_get_str(args, "vm")), strlen(cut));
	assert_non_null(strstr(js_get_str(args, "a"), "\"...(1000 bytes)"));
	assert_string_equal(js_get_str(args, "fits"), "\xc3\xa4 ?[2J ??");
	assert_string_equal(js_get_str(o, "outcome"), "ok");
}

static void test_many_arguments_are_cut_and_counted(void **state)
{
	CLEANUP_FREE char *line;
	CLEANUP_JS struct json_object *o;
	struct json_object *args = json_object_new_object(), *list = json_object_new_array(), *member;
	char key[16];

	for (unsigned i = 0; i < 3000; i++)
		json_object_array_add(list, json_object_new_int(100));
	js_put(args, "list", list);
	for (unsigned i = 0; i < 100; i++) {
		snprintf(key, sizeof(key), "k%u", i);
		js_put_bool(args, key, true);
	}
	line = line_add(*state, "a", args);
	o = parsed(line);
	args = js_get(o, "arguments");
	list = js_get_array(args, "list");
	member = json_object_array_get_idx(list, json_object_array_length(list) - 1);
	assert_true(json_object_array_length(list) > 500);
	snprintf(key, sizeof(key), "...(%zu more)", 3001 - json_object_array_length(list));
	assert_string_equal(json_object_get_string(member), key);
	assert_int_equal(js_get_int(args, "...", 0), 102 - json_object_object_length(args));
}

static void test_deep_arguments_and_long_numbers_are_cut(void **state)
{
	CLEANUP_FREE char *digits = repeated("7", 100000), *open = repeated("[", 60), *close = repeated("]", 60);
	CLEANUP_FREE char *number = NULL, *deep = NULL, *first = NULL, *second = NULL;

	assert_true(asprintf(&number, "{\"a\":0.%s,\"b\":null}", digits) > 0);
	first = line_add(*state, "a", parsed(number));
	assert_non_null(strstr(first, "\"arguments\":{\"a\":0.77"));
	assert_non_null(strstr(first, ",\"b\":null}"));
	assert_true(asprintf(&deep, "%s%s", open, close) > 0);
	second = line_add(*state, "a", parsed(deep));
	assert_non_null(strstr(second, "[[[[\"...\"]]]]"));
}

static void test_secrets_are_masked(void **state)
{
	CLEANUP_FREE char *line = line_add(*state, "a",
		parsed("{\"d\":[{\"Secret-Key\":\"xyzzy\"}],\"password\":{\"a\":\"xyzzy\"},\"disk\":\"b\"}"));

	assert_null(strstr(line, "xyzzy"));
	assert_non_null(strstr(line, "{\"d\":[{\"Secret-Key\":\"(masked)\"}],\"password\":\"(masked)\",\"disk\":\"b\"}"));
}

static size_t lines_readable(struct fixture *f)
{
	struct audit_query q = { .uid = -1 };
	CLEANUP_JS struct json_object *page = audit_page(f->audit, &q);

	return json_object_array_length(js_get_array(page, "lines"));
}

static void test_line_after_power_cut_is_readable(void **state)
{
	struct fixture *f = *state;
	CLEANUP_CLOSE int fd = open(f->path, O_WRONLY | O_APPEND | O_CLOEXEC);

	free(line_add(f, "a", NULL));
	assert_int_equal(write_full(fd, "{\"time\":1,\"uid\"", 15), 0);
	reopen(f);
	free(line_add(f, "b", NULL));
	assert_int_equal(lines_readable(f), 2);
	reopen(f);
	assert_int_equal(lines_readable(f), 2);
}

/* RLIMIT_FSIZE stands for a full disk: the kernel writes the bytes that fit. */
static void test_line_after_full_disk_is_readable(void **state)
{
	struct fixture *f = *state;
	CLEANUP_JS struct json_object *line = parsed("{\"command\":\"vm-start\",\"vm\":\"lost\",\"outcome\":\"ok\"}");
	struct rlimit had, low;

	free(line_add(f, "a", NULL));
	signal(SIGXFSZ, SIG_IGN);
	assert_int_equal(getrlimit(RLIMIT_FSIZE, &had), 0);
	low = had;
	low.rlim_cur = (rlim_t)(strlen("{\"base\":1}\n") + 100);
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &low), 0);
	audit_add(f->audit, line);
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &had), 0);
	free(line_add(f, "b", NULL));
	assert_int_equal(lines_readable(f), 2);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_long_texts_are_cut_and_counted, fixture_open, fixture_close),
		cmocka_unit_test_setup_teardown(test_many_arguments_are_cut_and_counted, fixture_open, fixture_close),
		cmocka_unit_test_setup_teardown(test_deep_arguments_and_long_numbers_are_cut, fixture_open, fixture_close),
		cmocka_unit_test_setup_teardown(test_secrets_are_masked, fixture_open, fixture_close),
		cmocka_unit_test_setup_teardown(test_line_after_power_cut_is_readable, fixture_open, fixture_close),
		cmocka_unit_test_setup_teardown(test_line_after_full_disk_is_readable, fixture_open, fixture_close),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
