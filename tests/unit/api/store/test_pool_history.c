/* The history of a pool's space: points an hour apart, growth and the days that are left. */
#include "api/store/pool_history.h"
#include "api/wire/json.h"
#include "base/err.h"
#include "base/util.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#define BEGIN_S 1800000000LL
#define TOTAL (1000 * GIB)

static void add(struct pool_history *h, int64_t time_s, uint64_t used)
{
	pool_history_add(h, &(struct pool_point){ time_s, used, TOTAL });
}

/* Look each ten minutes for so many hours: `used` at the begin, and more each hour. */
static void look(struct pool_history *h, int64_t from_s, unsigned hours, uint64_t used, uint64_t more)
{
	for (unsigned i = 0; i <= hours * 6; i++)
		add(h, from_s + i * 600, used + i * more / 6);
}

static void test_points_are_an_hour_apart_for_two_weeks(void **state)
{
	struct pool_history h = { .n = 0 };

	(void)state;
	look(&h, BEGIN_S, 24 * 30, 100 * GIB, GIB / 24);
	assert_int_equal(h.n, POOL_HISTORY_POINTS);
	for (size_t i = 1; i + 1 < h.n; i++)
		assert_int_equal(h.points[i].time_s - h.points[i - 1].time_s, 3600);
	assert_int_equal(h.points[h.n - 1].time_s, BEGIN_S + 24 * 30 * 3600);
}

static void test_growth_is_that_of_the_last_week(void **state)
{
	struct pool_history h = { .n = 0 };
	double growth;

	(void)state;
	look(&h, BEGIN_S, 24 * 4, 100 * GIB, 0);
	look(&h, BEGIN_S + 4 * 86400 + 600, 24 * 8, 100 * GIB, GIB); /* 24 GiB a day */
	assert_true(pool_history_growth(&h, &growth));
	assert_true(growth > 23.9 * (double)GIB && growth < 24.1 * (double)GIB);
	/* 900 - 192 GiB at 24 a day. */
	assert_true(pool_history_days_left(&h) > 29.3 && pool_history_days_left(&h) < 29.7);
}

static void test_growth_is_unknown_at_first_and_no_growth_has_no_end(void **state)
{
	struct pool_history h = { .n = 0 };
	double growth;

	(void)state;
	assert_false(pool_history_growth(&h, &growth));
	assert_true(pool_history_days_left(&h) < 0);
	look(&h, BEGIN_S, 5, GIB, GIB);
	assert_false(pool_history_growth(&h, &growth));
	look(&h, BEGIN_S + 5 * 3600 + 600, 4, 6 * GIB, 0);
	assert_true(pool_history_growth(&h, &growth));
	h.n = 0;
	look(&h, BEGIN_S, 48, 500 * GIB, 0);
	assert_true(pool_history_growth(&h, &growth));
	assert_true(pool_history_days_left(&h) < 0);
}

static void test_low_has_hysteresis(void **state)
{
	struct pool_history h = { .n = 0 };

	(void)state;
	assert_false(pool_history_is_low(&h, false));
	add(&h, BEGIN_S, 890 * GIB);
	assert_false(pool_history_is_low(&h, false));
	assert_true(pool_history_is_low(&h, true));
	add(&h, BEGIN_S + 3600, 901 * GIB);
	assert_true(pool_history_is_low(&h, false));
	add(&h, BEGIN_S + 7200, 849 * GIB);
	assert_false(pool_history_is_low(&h, true));
	/* Half empty, but full in five days. */
	h.n = 0;
	look(&h, BEGIN_S, 24, 400 * GIB, 100 * GIB / 24);
	assert_true(pool_history_is_low(&h, false));
}

static void test_clock_set_back_drops_points_of_the_future(void **state)
{
	struct pool_history h = { .n = 0 };

	(void)state;
	look(&h, BEGIN_S + 1000000, 10, GIB, 0);
	add(&h, BEGIN_S, 2 * GIB);
	assert_int_equal(h.n, 1);
	assert_int_equal(h.points[0].used_bytes, 2 * GIB);
}

static void test_stored_points_are_read_back_and_damage_is_left_out(void **state)
{
	static const char text[] = "[[10,1,2],[5,1,2],[\"x\",1,2],[7200,-1,2],[7200,1],7,[7200,3,4]]";
	struct pool_history h = { .n = 0 }, again;
	CLEANUP_JS struct json_object *o = NULL, *bad = NULL;
	struct err e;

	(void)state;
	look(&h, BEGIN_S, 24 * 20, GIB, GIB);
	o = pool_history_to_json(&h);
	pool_history_from_json(o, &again);
	assert_int_equal(again.n, h.n);
	assert_memory_equal(again.points, h.points, h.n * sizeof(h.points[0]));
	assert_int_equal(js_parse(text, strlen(text), "points", &bad, &e), 0);
	pool_history_from_json(bad, &again);
	assert_int_equal(again.n, 2);
	assert_int_equal(again.points[1].used_bytes, 3);
	pool_history_from_json(NULL, &again);
	assert_int_equal(again.n, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_points_are_an_hour_apart_for_two_weeks),
		cmocka_unit_test(test_growth_is_that_of_the_last_week),
		cmocka_unit_test(test_growth_is_unknown_at_first_and_no_growth_has_no_end),
		cmocka_unit_test(test_low_has_hysteresis),
		cmocka_unit_test(test_clock_set_back_drops_points_of_the_future),
		cmocka_unit_test(test_stored_points_are_read_back_and_damage_is_left_out),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
