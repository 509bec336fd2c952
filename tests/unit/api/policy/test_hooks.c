/* Tests which events have hooks, how many events wait for hooks, and how long hooks may delay a start. */
#include "api/policy/hook_ask.h"
#include "api/policy/hooks.h"
#include "api/wire/json.h"
#include "base/err.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/util.h"
#include "tests/unit/tmp.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#define CHANGE(from, state) "{\"event\":\"VM_STATE_CHANGE\",\"data\":{\"from\":\"" from "\",\"state\":\"" state "\"}}"

static void test_events_with_hooks(void **state)
{
	static const struct {
		const char *event, *name;
	} rows[] = {
		{ CHANGE("shutoff", "running"), "started" },
		{ CHANGE("saved", "paused"), "started" },
		{ CHANGE("crashed", "running"), "started" },
		{ CHANGE("running", "paused"), NULL },
		{ CHANGE("paused", "running"), NULL },
		{ CHANGE("running", "shutoff"), "stopped" },
		{ CHANGE("running", "saved"), "stopped" },
		{ CHANGE("running", "crashed"), "crashed" },
		{ CHANGE("saved", "shutoff"), NULL },
		{ CHANGE("crashed", "shutoff"), NULL },
		{ CHANGE("crashed", "crashed"), NULL },
		{ "{\"event\":\"SNAPSHOT_CREATED\",\"data\":{}}", "snapshot" },
		{ "{\"event\":\"THRESHOLD\",\"data\":{}}", "threshold" },
		{ "{\"event\":\"SCHEDULE_RUN\",\"data\":{}}", "schedule" },
		{ "{\"event\":\"BLOCK_IO_ERROR\",\"data\":{\"nospace\":true}}", "disk-space" },
		{ "{\"event\":\"POOL_SPACE\",\"data\":{\"state\":\"low\"}}", "disk-space" },
		{ "{\"event\":\"POOL_SPACE\",\"data\":{\"state\":\"enough\"}}", NULL },
		{ "{\"event\":\"DISK_SPACE\",\"data\":{\"state\":\"low\"}}", "disk-space" },
		{ "{\"event\":\"DISK_SPACE\",\"data\":{\"state\":\"enough\"}}", NULL },
		{ "{\"event\":\"BLOCK_IO_ERROR\",\"data\":{\"nospace\":false}}", NULL },
		{ "{\"event\":\"JOB_PROGRESS\",\"data\":{}}", NULL },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		CLEANUP_JS struct json_object *o = NULL;
		const char *name;
		struct err e;

		assert_int_equal(js_parse(rows[i].event, strlen(rows[i].event), "event", &o, &e), 0);
		name = hooks_event_of(o);
		if (rows[i].name)
			assert_string_equal(name, rows[i].name);
		else
			assert_null(name);
	}
}

static void test_delays_are_bounded_in_number_and_sum(void **state)
{
	struct hook_delays d = { 0 };
	struct hook_answer a = { HOOK_LATER, HOOK_DELAY_MAX_S - 1, "r" };

	(void)state;
	hook_delays_add(&d, &a);
	a.delay_s = 2;
	hook_delays_add(&d, &a);
	assert_int_equal(a.says, HOOK_NO);
	assert_string_equal(a.reason, "r (it was delayed 1 times, by 3599 s)");
	a = (struct hook_answer){ HOOK_LATER, 1, "" };
	hook_delays_add(&d, &a);
	assert_int_equal(a.says, HOOK_LATER);
	assert_int_equal(d.sum_s, HOOK_DELAY_MAX_S);

	d = (struct hook_delays){ 0 };
	for (unsigned i = 0; i <= HOOK_DELAYS_MAX; i++)
		hook_delays_add(&d, &a);
	assert_int_equal(a.says, HOOK_NO);
	assert_int_equal(d.n, HOOK_DELAYS_MAX);

	/* A reason that fills its space. */
	a.says = HOOK_LATER;
	memset(a.reason, 'x', HOOK_REASON_MAX);
	a.reason[HOOK_REASON_MAX] = 0;
	hook_delays_add(&d, &a);
	assert_int_equal(strlen(a.reason), HOOK_REASON_MAX);
}

/* ---- the queue ---- */

#define LEFT_OUT 5

struct queue {
	char dir[96], program[128], folder[128], ran[128], log[128];
	struct loop *loop;
	struct hooks *hooks;
};

static void queue_setup(struct queue *q)
{
	/* Instead of cairn-hook: it adds the event to a file. */
	static const char script[] = "#!/bin/sh\nexec cat /proc/self/fd/0 >>\"$1/../ran\"\n";
	char path[160];
	struct err e;
	FILE *file;

	snprintf(q->dir, sizeof(q->dir), "%s/cairn-test-XXXXXX", tmp_folder());
	assert_non_null(mkdtemp(q->dir));
	snprintf(q->program, sizeof(q->program), "%s/program", q->dir);
	snprintf(q->folder, sizeof(q->folder), "%s/hooks", q->dir);
	snprintf(q->ran, sizeof(q->ran), "%s/ran", q->dir);
	snprintf(q->log, sizeof(q->log), "%s/log", q->dir);
	file = fopen(q->program, "w");
	assert_non_null(file);
	fputs(script, file);
	assert_int_equal(fclose(file), 0);
	assert_int_equal(chmod(q->program, 0755), 0);
	assert_int_equal(mkdir(q->folder, 0755), 0);
	snprintf(path, sizeof(path), "%s/snapshot", q->folder);
	assert_int_equal(mkdir(path, 0755), 0);
	log_set_fd(open(q->log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600));
	assert_int_equal(loop_new(16, &q->loop, &e), 0);
	q->hooks = hooks_new(q->loop, q->program, q->folder);
}

static void queue_teardown(struct queue *q)
{
	char command[128];

	hooks_free(q->hooks);
	loop_free(q->loop);
	log_set_fd(STDERR_FILENO);
	snprintf(command, sizeof(command), "rm -r %s", q->dir);
	assert_int_equal(system(command), 0);
}

static void event_tell_of(struct queue *q, const char *vm, unsigned number)
{
	CLEANUP_JS struct json_object *o = NULL;
	char text[80];
	struct err e;

	snprintf(text, sizeof(text), "{\"event\":\"SNAPSHOT_CREATED\",\"data\":{\"vm-uuid\":\"%s\",\"number\":%u}}", vm, number);
	assert_int_equal(js_parse(text, strlen(text), "event", &o, &e), 0);
	hooks_notify(q->hooks, o);
}

static void event_tell(struct queue *q, unsigned number)
{
	event_tell_of(q, "a", number);
}

/* Return the content of a file; "": there is none. */
static const char *content(const char *path, char *buf, size_t size)
{
	FILE *file = fopen(path, "r");
	size_t n = file ? fread(buf, 1, size - 1, file) : 0;

	if (file)
		fclose(file);
	buf[n] = 0;
	return buf;
}

/* Return where an event is in the file, from 1; 0: it has not run. */
static size_t place_of(const char *ran, unsigned number)
{
	const char *at;
	char text[40];

	snprintf(text, sizeof(text), "\"number\":%u}", number);
	at = strstr(ran, text);
	return at ? (size_t)(at - ran) + 1 : 0;
}

static bool has_run(const char *ran, unsigned number)
{
	return place_of(ran, number);
}

/* Run the loop until so many hooks have run. */
static void run_until(struct queue *q, unsigned n, char *buf, size_t size)
{
	for (unsigned lines = 0; lines < n;) {
		loop_run_once(q->loop, 10000000);
		lines = 0;
		for (const char *at = content(q->ran, buf, size); (at = strchr(at, '\n')); at++)
			lines++;
	}
}

/* The daemon's loop does not run while the events come, so no hook ends before the last one. */
static void test_events_beyond_the_queue_are_left_out_and_counted(void **state)
{
	static char ran[1 << 16], log[4096];
	const unsigned n = HOOKS_RUNNING_MAX + HOOKS_WAITING_MAX;
	struct queue q = { 0 };

	(void)state;
	queue_setup(&q);
	for (unsigned i = 0; i < n + LEFT_OUT; i++)
		event_tell(&q, i);
	assert_string_equal(content(q.log, log, sizeof(log)), "");
	run_until(&q, n, ran, sizeof(ran));
	for (unsigned i = 0; i < n + LEFT_OUT; i++)
		assert_int_equal(has_run(ran, i), i < n);
	assert_non_null(strstr(content(q.log, log, sizeof(log)), "5 events came faster than their hooks ran, and were left out"));
	/* The queue has room again, and the count begins anew. */
	event_tell(&q, n + LEFT_OUT);
	run_until(&q, n + 1, ran, sizeof(ran));
	assert_true(has_run(ran, n + LEFT_OUT));
	content(q.log, log, sizeof(log));
	assert_null(strstr(strstr(log, "left out") + 1, "left out"));
	queue_teardown(&q);
}

/* Many events of one VM, and then one of each of two others. */
static void test_vm_with_many_events_neither_displaces_nor_delays_those_of_others(void **state)
{
	static char ran[1 << 16];
	const unsigned n = HOOKS_RUNNING_MAX + HOOKS_WAITING_MAX;
	struct queue q = { 0 };

	(void)state;
	queue_setup(&q);
	for (unsigned i = 0; i < n; i++)
		event_tell(&q, i);
	event_tell_of(&q, "b", n);
	event_tell_of(&q, "c", n + 1);
	run_until(&q, n, ran, sizeof(ran));
	for (unsigned i = 0; i < n; i++)
		assert_int_equal(has_run(ran, i), i < n - 2);
	for (unsigned i = n; i < n + 2; i++)
		assert_in_range(place_of(ran, i), 1, place_of(ran, n - 3) - 1);
	queue_teardown(&q);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_delays_are_bounded_in_number_and_sum),
		cmocka_unit_test(test_events_with_hooks),
		cmocka_unit_test(test_events_beyond_the_queue_are_left_out_and_counted),
		cmocka_unit_test(test_vm_with_many_events_neither_displaces_nor_delays_those_of_others),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
