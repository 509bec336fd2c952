/* audit: no client makes a line long, no user pushes out the lines of others, and no part of a line damages the next
 * one. */
#include "api/access/audit.h"
#include "api/access/audit_file.h"
#include "api/access/audit_share.h"
#include "api/wire/json.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/file.h"
#include "base/loop.h"
#include "base/util.h"
#include "tests/unit/tmp.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

struct fixture {
	char dir[96], path[128];
	struct loop *loop;
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
	assert_int_equal(loop_new(8, &f->loop, &e), 0);
	assert_int_equal(audit_open(f->loop, f->dir, &f->audit, &e), 0);
	*state = f;
	return 0;
}

/* Wait until all lines are on stable storage. */
static void settle(struct fixture *f)
{
	while (audit_owes(f->audit))
		loop_run_once(f->loop, UINT64_MAX);
}

static int fixture_close(void **state)
{
	struct fixture *f = *state;

	settle(f);
	audit_close(f->audit);
	loop_free(f->loop);
	for (unsigned i = 0; i < 2 * AUDIT_FILES; i++) {
		snprintf(f->path, sizeof(f->path), i / 2 ? "%s/%s.%u" : "%s/%s", f->dir, i % 2 ? "audit.log" : "audit-users.log", i / 2);
		unlink(f->path);
	}
	assert_int_equal(rmdir(f->dir), 0);
	free(f);
	return 0;
}

static void reopen(struct fixture *f)
{
	struct err e;

	settle(f);
	audit_close(f->audit);
	assert_int_equal(audit_open(f->loop, f->dir, &f->audit, &e), 0);
}

/* Take arguments, add a line with them and return the line as it is in the file. */
static char *line_add(struct fixture *f, const char *vm, struct json_object *arguments)
{
	CLEANUP_JS struct json_object *line = json_object_new_object();
	char *text, *last, *copy;
	size_t len;

	js_put_int(line, "time", 1);
	js_put_int(line, "uid", 0);
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

static void test_tokens_in_urls_are_masked(void **state)
{
	CLEANUP_FREE char *line = line_add(*state, "a", parsed("{\"url\":\"https://u:xyzzy@a:1/xyzzy@c?t=xyzzy\",\"l\":[{\"url\":\"http://a#xyzzy\"},"
		"{\"url\":\"u:xyzzy@a\"},{\"url\":\"https://a\"},{\"url\":5},{\"url\":\"\"}]}"));

	assert_null(strstr(line, "xyzzy"));
	assert_non_null(strstr(line, "{\"url\":\"https://(masked)@a:1/(masked)\",\"l\":[{\"url\":\"http://a/(masked)\"},"
		"{\"url\":\"(masked)@a\"},{\"url\":\"https://a\"},{\"url\":5},{\"url\":\"\"}]}"));
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
	CLEANUP_JS struct json_object *line = parsed("{\"uid\":0,\"command\":\"vm-start\",\"vm\":\"lost\",\"outcome\":\"ok\"}");
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

/* Users other than the test's own. */
#define USER 4000000000
#define STRANGER (USER + 1)

/* Add lines of a user, each of the same size, until `bytes` were offered. Returns their number. */
static unsigned user_lines_add(struct fixture *f, int64_t uid, const char *outcome, size_t bytes)
{
	CLEANUP_FREE char *text = repeated("x", 200);
	CLEANUP_JS struct json_object *line = json_object_new_object();
	unsigned n;

	js_put_int(line, "time", 7);
	js_put_int(line, "uid", uid);
	js_put_str(line, "vm", text);
	js_put_str(line, "outcome", outcome);
	n = (unsigned)(bytes / (strlen(json_object_to_json_string_ext(line, JSON_C_TO_STRING_PLAIN)) + 1));
	for (unsigned i = 0; i < n; i++) {
		audit_add(f->audit, line);
		if (i % 500 == 0)
			settle(f);
	}
	return n;
}

struct user_lines {
	unsigned written;
	int64_t left_out, since; /* since: of the last line with the outcome "any" */
};

/* Read the lines of the users from first to last; -1: those that state no uid. */
static struct user_lines users_lines_read(struct fixture *f, int64_t first, int64_t last)
{
	struct audit_query q = { .uid = -1 };
	struct user_lines found = { 0 };
	bool more = true;

	while (more) {
		CLEANUP_JS struct json_object *page = audit_page(f->audit, &q);
		struct json_object *lines = js_get_array(page, "lines");

		for (size_t i = 0; i < json_object_array_length(lines); i++) {
			struct json_object *o = json_object_array_get_idx(lines, i);
			int64_t uid = js_get_int(o, "uid", -1);

			if (uid < first || uid > last)
				continue;
			if (!js_get(o, "left-out")) {
				found.written++;
				continue;
			}
			found.left_out += js_get_int(o, "left-out", 0);
			if (!strcmp(js_get_str(o, "outcome"), "any"))
				found.since = js_get_int(o, "since", 0);
		}
		q.from = (uint64_t)js_get_int(page, "next", 0);
		more = js_get_bool(page, "more", false);
	}
	return found;
}

static struct user_lines user_lines_read(struct fixture *f, int64_t uid)
{
	return users_lines_read(f, uid, uid);
}

static void test_user_lines_above_share_are_counted(void **state)
{
	struct fixture *f = *state;
	unsigned n = user_lines_add(f, USER, "ok", 2 * AUDIT_SHARE_BYTES);
	unsigned m = user_lines_add(f, 0, "ok", 2 * AUDIT_SHARE_BYTES);
	CLEANUP_JS struct json_object *denials = parsed("{\"time\":9,\"uid\":4000000000,\"outcome\":\"PermissionDenied\","
		"\"left-out\":1000,\"since\":8}");
	struct user_lines found;

	assert_int_equal(user_lines_read(f, USER).left_out, 0);
	/* These lines are short: some of them fit although the others do not. */
	for (unsigned i = 0; i < 10; i++)
		audit_add(f->audit, denials);
	reopen(f);
	found = user_lines_read(f, USER);
	assert_true(found.written >= n / 2 - 1 && found.written <= n / 2 + 1000);
	assert_int_equal(found.left_out + found.written, n + 10000);
	assert_int_equal(found.since, 7);
	assert_int_equal(user_lines_read(f, 0).written, m);
	/* The shares are full again. */
	user_lines_add(f, USER, "ok", 1000);
	assert_true(user_lines_read(f, USER).written > found.written);
}

static void test_denied_calls_take_no_share_of_their_own(void **state)
{
	struct fixture *f = *state;
	unsigned all = 0, written;

	for (int64_t uid = STRANGER; uid < STRANGER + 100; uid++)
		all += user_lines_add(f, uid, "PermissionDenied", AUDIT_SHARE_BYTES / 10);
	user_lines_add(f, USER, "ok", AUDIT_SHARE_BYTES / 2);
	reopen(f);
	written = users_lines_read(f, STRANGER, STRANGER + 99).written;
	assert_true(written > all / 11 && written < all / 9);
	assert_int_equal(user_lines_read(f, -1).left_out, all - written);
	assert_int_equal(user_lines_read(f, USER).left_out, 0);
}

/* Read the times of all lines, page by page, and check that each page continues the one before. Returns their number.
 */
static size_t times_read(struct fixture *f, int64_t *times, size_t max)
{
	struct audit_query q = { .uid = -1 };
	bool more = true;
	size_t n = 0;

	while (more) {
		CLEANUP_JS struct json_object *page = audit_page(f->audit, &q);
		struct json_object *lines = js_get_array(page, "lines");
		uint64_t next = (uint64_t)js_get_int(page, "next", 0);

		for (size_t i = 0; i < json_object_array_length(lines) && n < max; i++)
			times[n++] = js_get_int(json_object_array_get_idx(lines, i), "time", 0);
		more = js_get_bool(page, "more", false);
		assert_true(!more || next != q.from);
		assert_true(next < UINT64_C(1) << 53);
		q.from = next;
	}
	return n;
}

static void line_of(struct fixture *f, int64_t uid, int64_t time)
{
	CLEANUP_FREE char *text = repeated("x", 200);
	CLEANUP_JS struct json_object *line = json_object_new_object();

	js_put_int(line, "time", time);
	js_put_int(line, "uid", uid);
	js_put_str(line, "vm", text);
	js_put_str(line, "outcome", "ok");
	audit_add(f->audit, line);
}

#define TIMES 3000

/* Long runs of one class, which are longer than what one page reads, and lines that alternate. */
static void test_lines_of_both_classes_are_read_by_time(void **state)
{
	struct fixture *f = *state;
	CLEANUP_FREE int64_t *times = calloc(TIMES + 1, sizeof(*times));

	assert_non_null(times);
	for (int64_t i = 0; i < TIMES; i++) {
		line_of(f, i < 1000 ? 0 : i < 2200 ? USER : i % 3 ? USER : 0, i + 1);
		if (i % 700 == 0)
			reopen(f);
	}
	assert_int_equal(times_read(f, times, TIMES + 1), TIMES);
	for (int64_t i = 0; i < TIMES; i++)
		assert_int_equal(times[i], i + 1);
}

/* Let a class begin at a place, as if so many bytes had been written to it and dropped. */
static void class_begin(struct fixture *f, const char *name, uint64_t base)
{
	char path[160], head[48];
	int n = snprintf(head, sizeof(head), "{\"base\":%llu}\n", (unsigned long long)base);

	snprintf(path, sizeof(path), "%s/%s", f->dir, name);
	assert_int_equal(file_write_atomic(path, head, (size_t)n, 0600, NULL), 0);
}

/* A client that keeps numbers as doubles gets the same number back, however much was written: the classes pass a place
 * whose lower bits are all 0, or begin with them all 1. */
static void test_cursor_is_exact_as_a_double(void **state)
{
	static const uint64_t bases[][2] = { { (UINT64_C(1) << 40) - 100000, (UINT64_C(3) << 26) - 200000 },
		{ (UINT64_C(1) << 26) - 1, (UINT64_C(1) << 50) - 1 }, { (UINT64_C(1) << 26) - 300000, 1 } };
	struct fixture *f = *state;
	CLEANUP_FREE int64_t *times = calloc(TIMES + 1, sizeof(*times));

	assert_non_null(times);
	for (unsigned k = 0; k < ARRAY_SIZE(bases); k++) {
		class_begin(f, "audit.log", bases[k][0]);
		class_begin(f, "audit-users.log", bases[k][1]);
		reopen(f);
		for (int64_t i = 0; i < TIMES; i++)
			line_of(f, i % 3 ? USER : 0, i + 1);
		assert_int_equal(times_read(f, times, TIMES + 1), TIMES);
		for (int64_t i = 0; i < TIMES; i++)
			assert_int_equal(times[i], i + 1);
	}
}

/* Users fill all files of their class. */
static void test_users_push_out_no_line_of_root(void **state)
{
	struct fixture *f = *state;
	char oldest[160];

	line_of(f, 0, 1);
	for (int64_t uid = USER; uid < USER + 22; uid++) {
		user_lines_add(f, uid, "ok", AUDIT_SHARE_BYTES);
		if (uid == USER + 10)
			reopen(f); /* the shares are full again */
	}
	line_of(f, 0, 2);
	snprintf(oldest, sizeof(oldest), "%s/audit-users.log.%d", f->dir, AUDIT_FILES - 1);
	assert_int_equal(access(oldest, F_OK), 0);
	assert_int_equal(user_lines_read(f, 0).written, 2);
}

/* A client may have a cursor from an older Cairn, whose log had only one class. */
static void test_cursor_of_older_cairn_goes_on(void **state)
{
	struct fixture *f = *state;
	CLEANUP_FREE char *first = line_add(f, "a", NULL), *second = line_add(f, "b", NULL);
	struct audit_query q = { .uid = -1, .from = 1 + strlen("{\"base\":1}\n") + strlen(first) + 1 };
	CLEANUP_JS struct json_object *page = audit_page(f->audit, &q);
	struct json_object *lines = js_get_array(page, "lines");

	assert_int_equal(json_object_array_length(lines), 1);
	assert_string_equal(js_get_str(json_object_array_get_idx(lines, 0), "vm"), "b");
}

static void stored_note(void *opaque, int r)
{
	*(int *)opaque = r;
}

static void test_required_log_refuses_users_without_share(void **state)
{
	struct fixture *f = *state;
	CLEANUP_JS struct json_object *line = parsed("{\"time\":1,\"uid\":4000000000,\"vm\":\"promised\",\"outcome\":\"ok\"}");
	struct err e;
	int stored = 1;
	unsigned n;

	user_lines_add(f, USER, "ok", 2 * AUDIT_SHARE_BYTES);
	assert_int_equal(audit_check(f->audit, (uid_t)USER, &e), 0);
	audit_require(f->audit);
	assert_int_equal(audit_check(f->audit, (uid_t)USER, &e), -EDQUOT);
	assert_int_equal(e.cls, ERR_QUOTA);
	assert_int_equal(audit_check(f->audit, (uid_t)STRANGER, &e), 0);
	assert_int_equal(audit_check(f->audit, geteuid(), &e), 0);
	/* Calls that were allowed before are recorded. */
	n = user_lines_read(f, USER).written;
	for (unsigned i = 0; i < 100; i++)
		assert_int_equal(audit_add_call(f->audit, line, true, stored_note, &stored), 1);
	assert_int_equal(audit_add_call(f->audit, line, false, stored_note, NULL), 0);
	assert_int_equal(stored, 1);
	settle(f);
	assert_int_equal(stored, 0);
	assert_int_equal(user_lines_read(f, USER).written, n + 100);
}

static unsigned open_fds(void)
{
	unsigned n = 0;

	for (int fd = 0; fd < 1024; fd++)
		n += fcntl(fd, F_GETFD) >= 0;
	return n;
}

/* Lines come while a file that is no longer the present one is synced. */
static void test_file_is_replaced_during_sync(void **state)
{
	struct fixture *f = *state;
	unsigned before;

	line_of(f, 0, 1);
	settle(f);
	before = open_fds();
	for (int64_t i = 0; i < 5; i++) {
		line_of(f, 0, i);
		assert_int_equal(unlink(f->path), 0);
		line_of(f, 0, i);
		assert_int_equal(unlink(f->path), 0);
		line_of(f, 0, i);
		if (i % 2)
			settle(f);
	}
	settle(f);
	assert_int_equal(lines_readable(f), 1);
	assert_int_equal(open_fds(), before);
}

#define HOUR_NS (3600 * 1000000000ULL)

/* Take as many lines of a size as the user's share has room for. Returns the bytes. */
static size_t share_empty(struct audit_share *shares, int64_t uid, size_t line_bytes, uint64_t now_ns)
{
	size_t n = 0;

	while (audit_share_take(audit_share_of(shares, uid, false, now_ns), line_bytes))
		n += line_bytes;
	return n;
}

static void test_share_refills_with_time_and_not_above_its_size(void **state)
{
	struct audit_share shares[AUDIT_SHARES] = { 0 };
	uint64_t now = 5 * HOUR_NS;
	size_t bytes = 0;

	(void)state;
	assert_int_equal(share_empty(shares, 7, 1, now), AUDIT_SHARE_BYTES);
	/* Small steps lose no part of the refill, and give no more. */
	for (unsigned i = 0; i < 7200; i++)
		bytes += share_empty(shares, 7, 1, now += HOUR_NS / 3600);
	assert_in_range(bytes, 2 * AUDIT_SHARE_REFILL - 1, 2 * AUDIT_SHARE_REFILL);
	assert_int_equal(share_empty(shares, 7, 1, now + 100 * HOUR_NS), AUDIT_SHARE_BYTES);
	/* 100 calls a minute of 300 bytes pass for half an hour, while another user floods. */
	memset(shares, 0, sizeof(shares));
	for (unsigned i = 0; i < 3000; i++) {
		now += HOUR_NS / 6000;
		share_empty(shares, 9, 4096, now);
		assert_true(audit_share_take(audit_share_of(shares, 7, false, now), 300));
	}
}

static void test_many_users_together_are_limited(void **state)
{
	struct audit_share shares[AUDIT_SHARES] = { 0 };
	uint64_t now = HOUR_NS, end = now + 7 * HOUR_NS;
	size_t bytes = 0;

	(void)state;
	for (int64_t uid = 1; now < end; now += HOUR_NS / 6)
		for (unsigned i = 0; i < 100; i++)
			bytes += share_empty(shares, uid++, 4096, now);
	assert_true(bytes <= AUDIT_SHARES * (AUDIT_SHARE_BYTES + 7 * AUDIT_SHARE_REFILL));
}

/* A user keeps the bucket while no line has the user's count, so the line with the count has the user's uid, too. */
static void test_share_with_count_stays_its_users(void **state)
{
	struct audit_share shares[AUDIT_SHARES] = { 0 };
	struct audit_share *s = audit_share_of(shares, 7, false, HOUR_NS);

	(void)state;
	s->left_out = 1;
	assert_ptr_equal(audit_share_of(shares, 7, true, 100 * HOUR_NS), s);
	assert_ptr_not_equal(audit_share_of(shares, 8, false, 100 * HOUR_NS), s);
	s->left_out = 0;
	assert_ptr_equal(audit_share_of(shares, 8, false, 100 * HOUR_NS), s);
	assert_ptr_equal(audit_share_of(shares, -1, false, 100 * HOUR_NS), &shares[AUDIT_SHARES - 1]);
}

/* Return the fields of the next entry before MESSAGE. buf: gets the entry. */
static const char *entry_fields(int journal, char *buf, size_t size)
{
	ssize_t n = recv(journal, buf, size - 1, MSG_DONTWAIT);
	char *message;

	assert_true(n > 0);
	buf[n] = 0;
	message = strstr(buf, "MESSAGE=");
	assert_non_null(message);
	*message = 0;
	return buf;
}

/* A client chooses the name, if there is no such VM. */
static void test_copies_in_the_journal_have_the_vms_name(void **state)
{
	static const char begin[] = "PRIORITY=5\nSYSLOG_FACILITY=10\nSYSLOG_IDENTIFIER=cairnd-audit\nCAIRN_AUDIT_UID=0\n";
	static const struct {
		const char *vm, *field;
	} rows[] = { { "web1", "CAIRN_VM=web1\n" }, { "x\nPRIORITY=0", "CAIRN_VM=x?PRIORITY=0\n" }, { "", "" }, { NULL, "" } };
	struct fixture *f = *state;
	struct sockaddr_un at = { .sun_family = AF_UNIX };
	int journal = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	char buf[8192], want[256];

	snprintf(at.sun_path, sizeof(at.sun_path), "%s/journal", f->dir);
	assert_int_equal(bind(journal, (const struct sockaddr *)&at, sizeof(at)), 0);
	audit_copy_to_journal(f->audit, at.sun_path);
	for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
		free(line_add(f, rows[i].vm, NULL));
		snprintf(want, sizeof(want), "%s%s", begin, rows[i].field);
		assert_string_equal(entry_fields(journal, buf, sizeof(buf)), want);
	}
	close(journal);
	unlink(at.sun_path);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_long_texts_are_cut_and_counted, fixture_open, fixture_close),
		cmocka_unit_test_setup_teardown(test_many_arguments_are_cut_and_counted, fixture_open, fixture_close),
		cmocka_unit_test_setup_teardown(test_deep_arguments_and_long_numbers_are_cut, fixture_open, fixture_close),
		cmocka_unit_test_setup_teardown(test_secrets_are_masked, fixture_open, fixture_close),
		cmocka_unit_test_setup_teardown(test_tokens_in_urls_are_masked, fixture_open, fixture_close),
		cmocka_unit_test_setup_teardown(test_line_after_power_cut_is_readable, fixture_open, fixture_close),
		cmocka_unit_test_setup_teardown(test_line_after_full_disk_is_readable, fixture_open, fixture_close),
		cmocka_unit_test_setup_teardown(test_user_lines_above_share_are_counted, fixture_open, fixture_close),
		cmocka_unit_test_setup_teardown(test_denied_calls_take_no_share_of_their_own, fixture_open, fixture_close),
		cmocka_unit_test_setup_teardown(test_lines_of_both_classes_are_read_by_time, fixture_open, fixture_close),
		cmocka_unit_test_setup_teardown(test_cursor_is_exact_as_a_double, fixture_open, fixture_close),
		cmocka_unit_test_setup_teardown(test_users_push_out_no_line_of_root, fixture_open, fixture_close),
		cmocka_unit_test_setup_teardown(test_cursor_of_older_cairn_goes_on, fixture_open, fixture_close),
		cmocka_unit_test_setup_teardown(test_required_log_refuses_users_without_share, fixture_open, fixture_close),
		cmocka_unit_test_setup_teardown(test_file_is_replaced_during_sync, fixture_open, fixture_close),
		cmocka_unit_test_setup_teardown(test_copies_in_the_journal_have_the_vms_name, fixture_open, fixture_close),
		cmocka_unit_test(test_share_refills_with_time_and_not_above_its_size),
		cmocka_unit_test(test_many_users_together_are_limited),
		cmocka_unit_test(test_share_with_count_stays_its_users),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
