/* openmetrics: hostile texts cannot leave their label. */
#include "api/wire/json.h"
#include "base/cleanup.h"
#include "tools/metrics/openmetrics.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

static char *printed(const char *json)
{
	struct metrics m = { .vms = json ? json_tokener_parse(json) : NULL };
	char *text = NULL;
	size_t size;
	FILE *f = open_memstream(&text, &size);

	openmetrics_print(f, &m);
	fclose(f);
	metrics_done(&m);
	return text;
}

static void test_texts_are_escaped(void **state)
{
	CLEANUP_FREE char *text = printed("[{\"name\":\"a\\\"} 1\\n# EOF\\\\<script>\",\"uuid\":\"u\",\"word\":\"running\","
					  "\"disks\":[{\"id\":\"\\u00e9\\n\",\"errors\":3}]}]");

	(void)state;
	assert_non_null(strstr(text, "cairn_domain_info{domain=\"a\\\"} 1\\n# EOF\\\\<script>\",uuid=\"u\"} 1\n"));
	assert_non_null(strstr(text, ",target_device=\"\xc3\xa9\\n\"} 3\n"));
	/* The only end mark is the last line. */
	assert_string_equal(strstr(text, "\n# EOF"), "\n# EOF\n");
}

static void test_numbers_are_exact(void **state)
{
	CLEANUP_FREE char *text = printed("[{\"name\":\"a\",\"cpu-time\":18446744073709551615,\"memory\":0,\"since\":1000000001}]");

	(void)state;
	assert_non_null(strstr(text, "cairn_domain_cpu_time_seconds_total{domain=\"a\"} 18446744073.709551615\n"));
	assert_non_null(strstr(text, "cairn_domain_maximum_memory_bytes{domain=\"a\"} 0\n"));
	assert_non_null(strstr(text, "cairn_domain_state_since_timestamp_seconds{domain=\"a\"} 1.000000001\n"));
}

/* While the rate is being measured, there is none. */
static void test_dirty_rate_is_there_once_measured(void **state)
{
	CLEANUP_FREE char *text = printed("[{\"name\":\"a\",\"dirty-rate\":{\"start-time\":17,\"bytes-per-second\":4096}},"
					  "{\"name\":\"b\",\"dirty-rate\":{\"start-time\":18}},{\"name\":\"c\"}]");

	(void)state;
	assert_non_null(strstr(text, "\ncairn_domain_dirty_rate_bytes_per_second{domain=\"a\"} 4096\n#"));
	assert_non_null(strstr(text, "\ncairn_domain_dirty_rate_start_timestamp_seconds{domain=\"a\"} 17\n"
				     "cairn_domain_dirty_rate_start_timestamp_seconds{domain=\"b\"} 18\n#"));
}

static void test_daemon_away(void **state)
{
	CLEANUP_FREE char *text = printed(NULL);

	(void)state;
	assert_non_null(strstr(text, "\ncairn_up 0\n"));
	assert_null(strstr(text, "cairn_domain"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_texts_are_escaped),
		cmocka_unit_test(test_numbers_are_exact),
		cmocka_unit_test(test_dirty_rate_is_there_once_measured),
		cmocka_unit_test(test_daemon_away),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
