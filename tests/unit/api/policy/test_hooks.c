/* Which of the daemon's events have hooks, and how long they may delay. */
#include "api/policy/hook_ask.h"
#include "api/policy/hooks.h"
#include "api/wire/json.h"
#include "base/err.h"
#include "base/util.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

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

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_delays_are_bounded_in_number_and_sum),
		cmocka_unit_test(test_events_with_hooks),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
