/* log: one call is one line, whatever a guest puts into it; a flood is counted instead of
 * written. */
#include "base/log.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

struct capture {
	int fd[2];
	char text[65536];
};

static int capture_setup(void **state)
{
	static struct capture c;

	if (pipe2(c.fd, O_CLOEXEC | O_NONBLOCK) < 0)
		return -1;
	log_set_fd(c.fd[1]);
	log_set_owner("");
	log_set_level(LOG_LEVEL_INFO);
	*state = &c;
	return 0;
}

static int capture_teardown(void **state)
{
	struct capture *c = *state;

	log_set_fd(2);
	close(c->fd[0]);
	close(c->fd[1]);
	return 0;
}

static const char *captured(struct capture *c)
{
	ssize_t n = read(c->fd[0], c->text, sizeof(c->text) - 1);

	c->text[n > 0 ? n : 0] = 0;
	return c->text;
}

static size_t lines_in(const char *s)
{
	size_t n = 0;

	for (; *s; s++)
		n += *s == '\n';
	return n;
}

static void test_time_level_owner_device(void **state)
{
	const char *s;
	int year, ms;

	log_set_owner("vm1");
	log_write(LOG_LEVEL_WARN, "vda", "flush took %d ms", 12);
	s = captured(*state);
	assert_int_equal(sscanf(s, "%4d-%*2d-%*2dT%*2d:%*2d:%*2d.%3dZ", &year, &ms), 2);
	assert_in_range(year, 2024, 2200);
	assert_string_equal(
		s + strlen("2026-11-20T06:58:19.123Z"), " warning vm1/vda: flush took 12 ms\n");
	log_write(LOG_LEVEL_ERROR, NULL, "x");
	assert_non_null(strstr(captured(*state), "Z error vm1: x\n"));
	log_set_owner("");
	log_write(LOG_LEVEL_INFO, "vda", "x");
	assert_non_null(strstr(captured(*state), "Z info vda: x\n"));
	log_write(LOG_LEVEL_INFO, NULL, "x");
	assert_non_null(strstr(captured(*state), "Z info x\n"));
}

static void test_level_filters(void **state)
{
	log_info(NULL, "seen");
	log_debug(NULL, "not seen");
	assert_int_equal(lines_in(captured(*state)), 1);
	log_set_level(LOG_LEVEL_ERROR);
	log_warn(NULL, "not seen");
	assert_false(log_enabled(LOG_LEVEL_WARN));
	log_error(NULL, "seen");
	assert_int_equal(lines_in(captured(*state)), 1);
	log_set_level(LOG_LEVEL_TRACE);
	log_debug(NULL, "seen");
	assert_int_equal(lines_in(captured(*state)), 1);
}

/* Control characters are removed, so that nobody can forge a second line or an escape sequence. */
static void test_no_control_characters(void **state)
{
	char all[256];
	const char *s;

	for (int i = 1; i < 256; i++)
		all[i - 1] = (char)i;
	all[255] = 0;
	log_info(NULL, "a\nb\r\033[31mc%s", all);
	s = captured(*state);
	assert_int_equal(lines_in(s), 1);
	for (const char *p = s; p[1]; p++) {
		assert_false((unsigned char)*p < 0x20);
		assert_int_not_equal(*p, 0x7f);
	}
	assert_non_null(strstr(s, "a?b??[31mc"));
	log_info("vda", "\xc2\x9b[31m \xc3\xa4 \x9b");
	assert_non_null(strstr(captured(*state), "vda: ??[31m \xc3\xa4 ?\n"));
}

/* Names come from definitions, so they are untrusted as well. */
static void test_no_control_characters_in_names(void **state)
{
	log_set_owner("vm\n1");
	log_info("vd\na", "text");
	assert_string_equal(
		captured(*state) + strlen("2026-11-20T06:58:19.123Z"), " info vm?1/vd?a: text\n");
}

static void test_lines_of_process_are_limited(void **state)
{
	const char *s;

	log_set_limit(20);
	for (unsigned i = 0; i < 100; i++) {
		log_warn("vda", "warning %u", i);
		log_info("net0", "note %u", i);
		log_debug("net0", "not written");
	}
	s = captured(*state);
	assert_int_equal(lines_in(s), 20);
	assert_non_null(strstr(s, "note 9\n"));
	/* Warnings do not hide errors. */
	for (unsigned i = 0; i < 100; i++)
		log_error("vda", "error %u", i);
	assert_int_equal(lines_in(captured(*state)), 20);
	log_set_level(LOG_LEVEL_DEBUG);
	for (unsigned i = 0; i < 50; i++)
		log_debug("net0", "asked for");
	assert_int_equal(lines_in(captured(*state)), 50);
	log_set_limit(0);
	log_warn("vda", "no limit");
	assert_int_equal(lines_in(captured(*state)), 1);
	/* A limit that has room again tells how many lines it suppressed. */
	log_set_limit(1000);
	log_warn("vda", "room");
	s = captured(*state);
	assert_int_equal(lines_in(s), 2);
	assert_non_null(strstr(s, " 180 lines left out: more than 1000 in a minute\n"));
	log_set_limit(0);
}

static void test_long_lines_are_cut_and_end(void **state)
{
	char big[4000];
	const char *s;

	memset(big, 'x', sizeof(big));
	big[sizeof(big) - 1] = 0;
	log_set_owner(big);
	log_info("vda", "%s", big);
	s = captured(*state);
	assert_int_equal(lines_in(s), 1);
	assert_int_equal(s[strlen(s) - 1], '\n');
	log_info(big, "%s", big);
	s = captured(*state);
	assert_in_range(strlen(s), 500, 1100);
	assert_int_equal(lines_in(s), 1);
	assert_int_equal(s[strlen(s) - 1], '\n');
}

static void test_flood_is_limited_and_counted(void **state)
{
	struct ratelimit r = { 0 };
	unsigned passed = 0;

	for (int i = 0; i < 1000; i++)
		passed += log_ratelimit_pass(&r);
	assert_int_equal(passed, 10);
	assert_string_equal(captured(*state), "");
	r.since_ns = 1; /* the window has ended long ago */
	assert_true(log_ratelimit_pass(&r));
	assert_non_null(strstr(captured(*state), "990 similar lines left out"));
	for (int i = 0; i < 1000; i++)
		passed += log_ratelimit_pass(&r);
	assert_int_equal(passed, 19);
}

static void flood(void)
{
	for (int i = 0; i < 100; i++)
		log_guest("virtio0", "descriptor %d is beyond RAM", i);
}

/* Each call site has a rate limit of its own. */
static void test_guest_lines_are_limited(void **state)
{
	flood();
	flood();
	assert_int_equal(lines_in(captured(*state)), 10);
	log_guest("virtio0", "another place");
	assert_int_equal(lines_in(captured(*state)), 1);
}

static void test_closed_log_fd_is_harmless(void **state)
{
	(void)state;
	log_set_fd(-1);
	log_error("vda", "nobody reads this");
	log_set_fd(2);
}

/* As the log of a VM's process (api/vm/vm_log.h). */
static void test_full_pipe_loses_lines_and_counts_them(void **state)
{
	char text[1 << 17];
	int ends[2];
	ssize_t n;

	(void)state;
	assert_int_equal(pipe2(ends, O_NONBLOCK | O_CLOEXEC), 0);
	log_set_fd(ends[1]);
	while (write(ends[1], text, 1024) > 0)
		;
	log_error("vda", "first");
	log_error("vda", "second");
	while (read(ends[0], text, sizeof(text)) > 0)
		;
	log_error("vda", "third");
	log_error("vda", "fourth");
	log_set_fd(2);
	n = read(ends[0], text, sizeof(text) - 1);
	assert_true(n > 0);
	text[n] = 0;
	assert_non_null(strstr(text, "warning 2 lines lost: the log's reader did not keep up\n"));
	assert_non_null(strstr(text, "third\n"));
	assert_non_null(strstr(text, "fourth\n"));
	assert_int_equal(lines_in(text), 3);
	close(ends[0]);
	close(ends[1]);
}

struct taken {
	bool all;
	enum log_level level;
	char vm[300], text[2000];
};

static bool take(void *opaque, enum log_level level, const char *vm, const char *text)
{
	struct taken *t = opaque;

	t->level = level;
	snprintf(t->vm, sizeof(t->vm), "%s", vm ? vm : "-");
	snprintf(t->text, sizeof(t->text), "%s", text);
	return t->all;
}

/* As the daemon's lines in the journal (api/access/journal.h). */
static void test_sink_gets_the_vm_that_a_line_is_about(void **state)
{
	struct taken t = { .all = true };

	log_set_owner("cairnd");
	log_set_sink(&(struct log_sink){ take, &t });
	log_warn("state", "VM '%s': %s", "web1", "runs");
	assert_int_equal(t.level, LOG_LEVEL_WARN);
	assert_string_equal(t.vm, "web1");
	assert_string_equal(t.text, "state: VM 'web1': runs");
	log_error(NULL, "VM '%s' is lost", "o'b'\nPRIORITY=0");
	assert_string_equal(t.vm, "o'b'?PRIORITY=0");
	assert_string_equal(t.text, "VM 'o'b'?PRIORITY=0' is lost");
	/* The text of a message names no VM. */
	log_info("state", "%s", "VM 'web1': runs");
	assert_string_equal(t.vm, "-");
	log_debug("state", "VM '%s'", "not written");
	assert_string_equal(t.text, "state: VM 'web1': runs");
	assert_string_equal(captured(*state), "");
	t.all = false;
	log_info("state", "VM '%s': %s", "web1", "is back");
	assert_non_null(strstr(captured(*state), " info cairnd/state: VM 'web1': is back\n"));
	log_set_sink(NULL);
	log_info("state", "VM '%s' runs", "web1");
	assert_string_equal(t.text, "state: VM 'web1': is back");
	assert_int_equal(lines_in(captured(*state)), 1);
}

int main(void)
{
#define LOG_TEST(t) cmocka_unit_test_setup_teardown(t, capture_setup, capture_teardown)
	const struct CMUnitTest tests[] = {
		LOG_TEST(test_time_level_owner_device),
		LOG_TEST(test_level_filters),
		LOG_TEST(test_sink_gets_the_vm_that_a_line_is_about),
		LOG_TEST(test_no_control_characters),
		LOG_TEST(test_lines_of_process_are_limited),
		LOG_TEST(test_no_control_characters_in_names),
		LOG_TEST(test_long_lines_are_cut_and_end),
		LOG_TEST(test_flood_is_limited_and_counted),
		LOG_TEST(test_guest_lines_are_limited),
		LOG_TEST(test_closed_log_fd_is_harmless),
		LOG_TEST(test_full_pipe_loses_lines_and_counts_them),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
