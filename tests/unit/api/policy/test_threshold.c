/* Thresholds: limits as texts, hysteresis and duration, and the stored form. */
#include "api/policy/threshold.h"
#include "api/wire/json.h"
#include "base/err.h"
#include "base/util.h"

#include <errno.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#define NOW_S 1800000000

static int limits(enum threshold_measure m, const char *above, const char *below, struct threshold *ret, struct err *e)
{
	*ret = (struct threshold){ .measure = m, .for_s = 10, .value = NAN };
	return threshold_set_limits(ret, above, below, e);
}

static void test_limits_have_the_measures_units(void **state)
{
	struct threshold t;
	struct err e;

	(void)state;
	assert_int_equal(limits(THRESHOLD_CPU, "90%", "80", &t, &e), 0);
	assert_true(t.above == 90 && t.below == 80);
	assert_int_equal(limits(THRESHOLD_LATENCY, "20ms", NULL, &t, &e), 0);
	assert_true(t.above == 20e6 && t.below == 20e6);
	assert_int_equal(limits(THRESHOLD_NET, "1.5M", NULL, &t, &e), 0);
	assert_true(t.above == 1.5 * 1048576);
	assert_int_equal(limits(THRESHOLD_IO_ERRORS, "0", NULL, &t, &e), 0);
	assert_true(t.above == 0);
}

static void test_bad_limits_get_a_sentence(void **state)
{
	static const struct {
		enum threshold_measure m;
		const char *above, *below, *says;
	} bad[] = {
		{ THRESHOLD_CPU, "101", NULL, "above: no figure is above 100 %; give less than 100, not 101" },
		{ THRESHOLD_MEMORY, "100", NULL, "above: no figure is above 100 %; give less than 100" },
		{ THRESHOLD_MEMORY, "99", "100", "below: no figure is above 100 %; give less than 100" },
		{ THRESHOLD_DISK_SPACE, "90", "95", "not be more than `above`" },
		{ THRESHOLD_CPU, "-1", NULL, "no percentage" },
		{ THRESHOLD_CPU, "nan", NULL, "no percentage" },
		{ THRESHOLD_CPU, "0x10", NULL, "no percentage" },
		{ THRESHOLD_CPU, "", NULL, "no percentage" },
		{ THRESHOLD_LATENCY, "20", NULL, "no latency" },
		{ THRESHOLD_LATENCY, "2000000s", NULL, "no latency" },
		{ THRESHOLD_NET, "fast", NULL, "no number of bytes a second" },
		{ THRESHOLD_NET, "16E", NULL, "no number of bytes a second" },
		{ THRESHOLD_IO_ERRORS, "1%", NULL, "no number of errors" },
		{ THRESHOLD_IO_ERRORS, "1e999", NULL, "no number of errors" },
		{ THRESHOLD_IO_ERRORS, "1e19", NULL, "no number of errors" },
	};
	struct threshold t;
	struct err e;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		assert_int_equal(limits(bad[i].m, bad[i].above, bad[i].below, &t, &e), -EINVAL);
		if (!strstr(e.msg, bad[i].says))
			fail_msg("%s: %s", bad[i].above, e.msg);
	}
}

/* Look once a second, n times. Returns the last change that is one, and in *at the second of it. */
static enum threshold_change look(struct threshold *t, double value, unsigned n, unsigned *at)
{
	enum threshold_change last = THRESHOLD_SAME;

	for (unsigned i = 1; i <= n; i++) {
		enum threshold_change c = threshold_update(t, value, 1, NOW_S);

		if (c != THRESHOLD_SAME && at)
			*at = i;
		last = c != THRESHOLD_SAME ? c : last;
	}
	return last;
}

static void test_raised_and_cleared_after_their_time(void **state)
{
	struct threshold t;
	struct err e;
	unsigned at;

	(void)state;
	assert_int_equal(limits(THRESHOLD_CPU, "90", "80", &t, &e), 0);
	assert_int_equal(look(&t, 95, 9, NULL), THRESHOLD_SAME);
	assert_int_equal(look(&t, 90, 1, NULL), THRESHOLD_SAME); /* not above: begins anew */
	assert_int_equal(look(&t, 95, 20, &at), THRESHOLD_RAISED);
	assert_int_equal(at, 10);
	assert_int_equal(t.raised_s, NOW_S);
	assert_int_equal(look(&t, 85, 100, NULL), THRESHOLD_SAME); /* between the two */
	assert_int_equal(look(&t, 80, 9, NULL), THRESHOLD_SAME);
	assert_int_equal(look(&t, 81, 1, NULL), THRESHOLD_SAME);
	assert_int_equal(look(&t, 80, 20, &at), THRESHOLD_CLEARED);
	assert_int_equal(at, 10);
	assert_int_equal(t.raised_s, 0);
}

static void test_unknown_values_count_for_neither(void **state)
{
	struct threshold t;
	struct err e;

	(void)state;
	assert_int_equal(limits(THRESHOLD_LATENCY, "10ms", "5ms", &t, &e), 0);
	assert_int_equal(look(&t, 20e6, 5, NULL), THRESHOLD_SAME);
	assert_int_equal(look(&t, NAN, 100, NULL), THRESHOLD_SAME);
	assert_int_equal(look(&t, 20e6, 5, NULL), THRESHOLD_RAISED);
	assert_int_equal(look(&t, NAN, 100, NULL), THRESHOLD_SAME);
	assert_true(t.value == 20e6);
}

static void test_time_of_zero_acts_at_once_and_long_samples_count_whole(void **state)
{
	struct threshold t;
	struct err e;

	(void)state;
	assert_int_equal(limits(THRESHOLD_IO_ERRORS, "0", NULL, &t, &e), 0);
	t.for_s = 0;
	assert_int_equal(look(&t, 0, 3, NULL), THRESHOLD_SAME);
	assert_int_equal(threshold_update(&t, 0.1, 1, NOW_S), THRESHOLD_RAISED);
	assert_int_equal(threshold_update(&t, 0, 1, NOW_S), THRESHOLD_CLEARED);
	t.for_s = 60;
	assert_int_equal(threshold_update(&t, 1, 60, NOW_S), THRESHOLD_RAISED);
}

static void test_stored_form_is_read_back_and_damage_is_left_out(void **state)
{
	static const char text[] = "{\"thresholds\":["
		"{\"name\":\"cpu\",\"measure\":\"cpu\",\"above\":90.5,\"below\":80,\"for_s\":300,\"then\":\"suspend\",\"uid\":0,\"raised_s\":5},"
		"{\"name\":\"cpu\",\"measure\":\"cpu\",\"above\":90,\"below\":80,\"for_s\":300,\"uid\":0},"
		"{\"name\":\"a\",\"measure\":\"cpu\",\"above\":80,\"below\":90,\"for_s\":300,\"uid\":0},"
		"{\"name\":\"b\",\"measure\":\"wind\",\"above\":80,\"below\":80,\"for_s\":300,\"uid\":0},"
		"{\"name\":\"c\",\"measure\":\"cpu\",\"above\":80,\"below\":80,\"for_s\":-1,\"uid\":0},"
		"{\"name\":\"d\",\"measure\":\"cpu\",\"above\":80,\"below\":80,\"for_s\":1,\"uid\":1000,\"maker\":{\"user\":0}},"
		"{\"name\":\"../e\",\"measure\":\"cpu\",\"above\":80,\"below\":80,\"for_s\":1,\"uid\":0}, 7]}";
	CLEANUP_JS struct json_object *o = NULL, *again = NULL;
	struct thresholds *all;
	struct err e;
	unsigned bad;

	(void)state;
	assert_int_equal(js_parse(text, strlen(text), "thresholds", &o, &e), 0);
	thresholds_from_json(o, &all, &bad);
	assert_int_equal(bad, 7);
	assert_int_equal(all->n, 1);
	assert_true(all->list[0]->above == 90.5 && all->list[0]->raised_s == 5 && all->list[0]->then == THRESHOLD_SUSPEND);
	again = thresholds_to_json(all);
	thresholds_done(all);
	thresholds_from_json(again, &all, &bad);
	assert_int_equal(bad, 0);
	assert_true(all->list[0]->above == 90.5 && all->list[0]->for_s == 300);
	thresholds_done(all);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_limits_have_the_measures_units),
		cmocka_unit_test(test_bad_limits_get_a_sentence),
		cmocka_unit_test(test_raised_and_cleared_after_their_time),
		cmocka_unit_test(test_unknown_values_count_for_neither),
		cmocka_unit_test(test_time_of_zero_acts_at_once_and_long_samples_count_whole),
		cmocka_unit_test(test_stored_form_is_read_back_and_damage_is_left_out),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
