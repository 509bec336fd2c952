/* Which of the daemon's events have hooks. */
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

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_events_with_hooks),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
