/* Schedules: the syntax, when one is due, and which snapshots are kept. The clock is an
 * argument. */
#include "api/policy/schedule.h"
#include "api/schema/schema.h"
#include "base/err.h"
#include "base/util.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#define HOUR 3600LL
#define DAY (24 * HOUR)
#define WEEK (7 * DAY)

/* "2026-11-20T10:00" */
static int64_t at(const char *text)
{
	struct tm tm = {0};

	assert_non_null(strptime(text, "%Y-%m-%dT%H:%M", &tm));
	return timegm(&tm);
}

static struct schedule_plan plan(const char *every, const char *keep)
{
	struct schedule_plan p = {0};
	struct err e;

	assert_int_equal(schedule_set_every(&p, every, &e), 0);
	assert_int_equal(schedule_set_keep(&p, keep, &e), 0);
	assert_int_equal(schedule_set_min_free(&p, SCHEDULE_MIN_FREE_DEFAULT, &e), 0);
	return p;
}

/* ---- text ---- */

static void test_schedule_text_is_parsed(void **state)
{
	static const char *const good[][2] = {{"1m", "1m"}, {"60m", "1h"}, {"90m", "90m"},
		{"24h", "1d"}, {"14d", "2w"}, {"52w", "52w"}, {"1y", "1y"}, {"366d", "366d"}};
	static const char *const bad[] = {"", "h", "0h", "1", "1s", "-1h", "1 h", "1hh", "53w", "367d", "2y",
		"99999999999999999999h", "1.5h", "all"};
	struct schedule_plan p = {0}, before;
	char buf[SCHEDULE_TEXT_MAX];
	struct err e;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
		assert_int_equal(schedule_set_every(&p, good[i][0], &e), 0);
		schedule_print_every(&p, buf);
		assert_string_equal(buf, good[i][1]);
	}
	before = p;
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		assert_int_equal(schedule_set_every(&p, bad[i], &e), -22);
	assert_memory_equal(&p, &before, sizeof(p));
}

static void test_retention_text_is_parsed(void **state)
{
	static const char *const bad[] = {"", ",", "24h", "24h:", ":all", "24h:all,", "24h:al",
		"24h:allx", "0h:all", "24h:all;7d:daily", "101y:all", "h:all", "24h all",
		"1h:all,1h:all,1h:all,1h:all,1h:all,1h:all,1h:all,1h:all,1h:all"};
	struct schedule_plan p = {0}, before;
	char buf[SCHEDULE_TEXT_MAX];
	struct err e;

	(void)state;
	assert_int_equal(
		schedule_set_keep(
			&p, "30m:all,24h:hourly,7d:daily,4w:weekly,52w:monthly,100y:yearly", &e),
		0);
	schedule_print_keep(&p, buf);
	assert_string_equal(buf, "30m:all,1d:hourly,1w:daily,4w:weekly,52w:monthly,100y:yearly");
	before = p;
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		assert_int_equal(schedule_set_keep(&p, bad[i], &e), -22);
	assert_memory_equal(&p, &before, sizeof(p));
}

static void test_min_free(void **state)
{
	static const char *const bad[] = {
		"", "-1", "101%", "5X", "5G ", "5GX", "%", "G", " 5", "99999999999999999999"};
	struct schedule_plan p = {0};
	char buf[SCHEDULE_TEXT_MAX];
	struct err e;

	(void)state;
	assert_int_equal(schedule_set_min_free(&p, "10%", &e), 0);
	assert_true(schedule_space_is_short(&p, 99, 1000));
	assert_false(schedule_space_is_short(&p, 100, 1000));
	schedule_print_min_free(&p, buf);
	assert_string_equal(buf, "10%");
	assert_int_equal(schedule_set_min_free(&p, "2G", &e), 0);
	assert_true(schedule_space_is_short(&p, (2ULL << 30) - 1, 1ULL << 40));
	assert_false(schedule_space_is_short(&p, 2ULL << 30, 1ULL << 40));
	schedule_print_min_free(&p, buf);
	assert_string_equal(buf, "2G");
	assert_int_equal(schedule_set_min_free(&p, "2GB", &e), 0);
	assert_false(schedule_space_is_short(&p, 2000000000, 1ULL << 40));
	assert_int_equal(schedule_set_min_free(&p, "1500", &e), 0);
	schedule_print_min_free(&p, buf);
	assert_string_equal(buf, "1500");
	assert_int_equal(schedule_set_min_free(&p, "0", &e), 0);
	assert_false(schedule_space_is_short(&p, 0, 1000));
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		assert_int_equal(schedule_set_min_free(&p, bad[i], &e), -22);
}

static void test_names_of_automatic_snapshots(void **state)
{
	static const char *const others[] = {"", "auto", "auto-", "auto-2026-11-20T10:00",
		"auto-2026-11-20T10:00Z-", "auto-2026-11-20T10:00Z-x", "auto-2026-11-20T10:00Zx",
		"Auto-2026-11-20T10:00Z", "auto-2026-11-20 10:00Z", "before-upgrade"};
	char name[SCHEDULE_NAME_MAX];

	(void)state;
	schedule_name(at("2026-11-20T10:00") + 59, 1, name);
	assert_string_equal(name, "auto-2026-11-20T10:00Z");
	assert_true(schedule_is_name(name));
	schedule_name(at("2026-11-20T10:00"), 12, name);
	assert_string_equal(name, "auto-2026-11-20T10:00Z-12");
	assert_true(schedule_is_name(name));
	for (size_t i = 0; i < ARRAY_SIZE(others); i++)
		assert_false(schedule_is_name(others[i]));
}

/* ---- due times ---- */

static void test_slots_of_intervals(void **state)
{
	struct schedule_plan hourly = plan("1h", "24h:all"), weekly = plan("1w", "4w:all");

	(void)state;
	assert_int_equal(schedule_slot(&hourly, at("2026-11-20T10:00")), at("2026-11-20T10:00"));
	assert_int_equal(schedule_slot(&hourly, at("2026-11-20T10:59")), at("2026-11-20T10:00"));
	assert_int_equal(schedule_slot(&hourly, -1), -HOUR);
	/* A Friday; its week begins on Monday. */
	assert_int_equal(schedule_slot(&weekly, at("2026-11-20T10:00")), at("2026-11-16T00:00"));
}

/* A day minute by minute: one run an hour, on the hour. */
static void test_one_run_per_slot_is_due(void **state)
{
	struct schedule_plan p = plan("1h", "24h:all");
	int64_t last = at("2026-11-20T00:00"), now = last;
	unsigned runs = 0;

	(void)state;
	for (; now < at("2026-11-21T00:00"); now += 60) {
		if (schedule_due(&p, last, now) != SCHEDULE_DUE)
			continue;
		assert_int_equal(now % HOUR, 0);
		last = schedule_slot(&p, now);
		runs++;
	}
	assert_int_equal(runs, 23);
	/* After more than three days without the daemon: one run, then on the hour again. */
	now = last + 3 * DAY + 23 * 60;
	assert_int_equal(schedule_due(&p, last, now), SCHEDULE_DUE);
	last = schedule_slot(&p, now);
	assert_int_equal(schedule_due(&p, last, now), SCHEDULE_NOT_YET);
	assert_int_equal(schedule_due(&p, last, last + HOUR - 1), SCHEDULE_NOT_YET);
	assert_int_equal(schedule_due(&p, last, last + HOUR), SCHEDULE_DUE);
}

static void test_clock_going_back_is_noticed(void **state)
{
	struct schedule_plan p = plan("1h", "24h:all");
	int64_t last = at("2026-11-20T10:00");

	(void)state;
	assert_int_equal(schedule_due(&p, last, last - 1), SCHEDULE_NOT_YET);
	assert_int_equal(schedule_due(&p, last, last - HOUR), SCHEDULE_NOT_YET);
	assert_int_equal(schedule_due(&p, last, last - 2 * HOUR), SCHEDULE_ANEW);
	assert_int_equal(schedule_due(&p, last, last - 3650 * DAY), SCHEDULE_ANEW);
	last = schedule_slot(&p, last - 3650 * DAY);
	assert_int_equal(schedule_due(&p, last, last), SCHEDULE_NOT_YET);
	assert_int_equal(schedule_due(&p, last, last + HOUR), SCHEDULE_DUE);
}

/* ---- retention ---- */

/* now is 2026-11-20T10:00, a Friday; 'k': kept, '-': deleted. */
static void test_retention_rules_keep_expected_snapshots(void **state)
{
	static const struct {
		const char *keep, *times, *stays;
	} rows[] = {
		{"2h:all", "2026-11-20T10:00 2026-11-20T09:00 2026-11-20T08:01 2026-11-20T08:00",
			"kkk-"},
		/* The newest is kept at any age. */
		{"2h:all", "2026-11-19T09:00 2026-11-19T10:00", "-k"},
		/* The first snapshot of a day is kept, not the last. */
		{"2d:daily",
			"2026-11-19T11:00 2026-11-19T12:00 2026-11-20T01:00 2026-11-20T02:00 "
			"2026-11-20T03:00",
			"k-k-k"},
		/* When the first snapshot of a day leaves the window, the second does not replace
		 * it. */
		{"1d:daily", "2026-11-19T09:00 2026-11-19T11:00 2026-11-20T09:00", "--k"},
		/* Weeks begin on Monday, the 16th. */
		{"4w:weekly", "2026-11-15T23:59 2026-11-16T00:00 2026-11-16T01:00 2026-11-20T09:00",
			"kk-k"},
		{"100d:monthly",
			"2026-10-31T23:59 2026-11-01T00:00 2026-11-02T00:00 2026-11-20T09:00",
			"kk-k"},
		{"3y:yearly", "2025-12-31T23:59 2026-01-01T00:00 2026-01-02T00:00 2026-11-20T09:00",
			"kk-k"},
		{"1d:hourly", "2026-11-20T08:00 2026-11-20T08:30 2026-11-20T09:59", "k-k"},
		/* Two snapshots of the same time both count. */
		{"1d:all", "2026-11-20T08:00 2026-11-20T08:00", "kk"},
		{"1d:hourly", "2026-11-20T08:00 2026-11-20T08:00 2026-11-20T09:00", "k-k"},
		/* Snapshots dated in the future by a wrong clock neither expire early nor replace
		 * the newest. */
		{"2h:all", "2036-01-01T00:00 2026-11-20T01:00 2026-11-20T02:00", "k-k"},
		/* A snapshot is kept if any rule keeps it. */
		{"2h:all,2d:daily",
			"2026-11-19T11:00 2026-11-19T12:00 2026-11-20T09:00 2026-11-20T10:00",
			"k-kk"},
		{"1d:all", "", ""},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		struct schedule_plan p = plan("1h", rows[i].keep);
		int64_t times[8];
		bool keep[8];
		size_t n = strlen(rows[i].stays);

		for (size_t k = 0; k < n; k++)
			times[k] = at(rows[i].times + 17 * k);
		schedule_keep(&p, at("2026-11-20T10:00"), times, n, keep);
		for (size_t k = 0; k < n; k++)
			if (keep[k] != (rows[i].stays[k] == 'k'))
				fail_msg("row %zu: snapshot %zu", i, k);
	}
}

/* Delete the snapshots that are not kept. Returns the number left. */
static size_t thin(const struct schedule_plan *p, int64_t now, int64_t *times, size_t n)
{
	bool keep[4096];
	size_t left = 0;

	schedule_keep(p, now, times, n, keep);
	for (size_t i = 0; i < n; i++)
		if (keep[i])
			times[left++] = times[i];
	return left;
}

/* The manual's example over half a year. */
/* With a leap day. Retention counts in UTC, so no zone changes it. */
static void test_default_retention_over_a_year(void **state)
{
	struct schedule_plan p = plan("1h", SCHEDULE_KEEP_DEFAULT);
	int64_t times[64], begin = at("2028-01-01T00:00"), now = begin;
	size_t n = 0, days = 0, weeks = 0;

	(void)state;
	for (; now <= begin + 366 * DAY; now += HOUR) {
		times[n++] = now;
		n = thin(&p, now, times, n);
		assert_true(n <= 24 + 7 + 4);
	}
	now -= HOUR;
	for (size_t i = 0; i < n; i++) {
		int64_t age = now - times[i];

		if (age < DAY)
			continue;
		assert_int_equal(times[i] % DAY, 0);
		if (age < WEEK)
			days++;
		else
			weeks++;
		assert_true(age < 4 * WEEK);
	}
	assert_int_equal(days, 6); /* the seventh is still within the 24 hours */
	assert_int_equal(weeks, 3);
}

static int64_t dice(int64_t below)
{
	return (int64_t)(((uint64_t)random() << 31 | (uint64_t)random()) % (uint64_t)below);
}

static void random_plan(struct schedule_plan *p)
{
	static const int64_t lengths[] = {HOUR, DAY, WEEK, 30 * DAY, 365 * DAY};

	*p = (struct schedule_plan){.every_s = HOUR};
	p->nrules = 1 + (size_t)dice(3);
	for (size_t i = 0; i < p->nrules; i++)
		p->rules[i] =
			(struct schedule_rule){lengths[dice(ARRAY_SIZE(lengths))] * (1 + dice(5)),
				(enum schedule_period)dice(SCHEDULE_PERIOD_COUNT)};
}

/* Thinning twice equals thinning once; a deleted snapshot does not come back; another rule or
 * snapshot deletes nothing more (except the former newest). */
static void test_retention_is_idempotent_and_monotonic(void **state)
{
	int64_t now = at("2026-11-20T10:00");

	(void)state;
	srandom(1);
	for (unsigned round = 0; round < 3000; round++) {
		struct schedule_plan p, more;
		int64_t times[40], left[40], later[40];
		bool a[40], b[40];
		size_t n = 2 + (size_t)dice(38), m;
		int64_t span = DAY << dice(10), newest = -1;

		random_plan(&p);
		for (size_t i = 0; i < n; i++)
			times[i] = now - dice(span);
		memcpy(left, times, sizeof(left));
		m = thin(&p, now, left, n);
		assert_true(m >= 1);
		memcpy(later, left, sizeof(later));
		assert_int_equal(thin(&p, now, later, m), m);

		schedule_keep(&p, now, times, n, a);
		schedule_keep(&p, now + dice(60 * DAY), times, n, b);
		for (size_t i = 0; i < n; i++)
			assert_false(b[i] && !a[i]);

		more = p;
		more.rules[more.nrules++] = (struct schedule_rule){WEEK, SCHEDULE_DAILY};
		schedule_keep(&more, now, times, n, b);
		for (size_t i = 0; i < n; i++)
			assert_false(a[i] && !b[i]);

		for (size_t i = 0; i < n; i++)
			newest = newest < times[i] ? times[i] : newest;
		schedule_keep(&p, now, times, n - 1, a);
		if (times[n - 1] != newest)
			continue;
		schedule_keep(&p, now, times, n, b);
		newest = -1;
		for (size_t i = 0; i < n - 1; i++)
			newest = newest < times[i] ? times[i] : newest;
		for (size_t i = 0; i < n - 1; i++)
			assert_false(a[i] && !b[i] && times[i] != newest);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_schedule_text_is_parsed),
		cmocka_unit_test(test_retention_text_is_parsed),
		cmocka_unit_test(test_min_free),
		cmocka_unit_test(test_names_of_automatic_snapshots),
		cmocka_unit_test(test_slots_of_intervals),
		cmocka_unit_test(test_one_run_per_slot_is_due),
		cmocka_unit_test(test_clock_going_back_is_noticed),
		cmocka_unit_test(test_retention_rules_keep_expected_snapshots),
		cmocka_unit_test(test_default_retention_over_a_year),
		cmocka_unit_test(test_retention_is_idempotent_and_monotonic),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
