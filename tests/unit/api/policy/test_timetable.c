/* Timetables: what is due, with a clock that is an argument; the history; the file. */
#include "api/policy/timetable.h"
#include "api/wire/json.h"
#include "base/err.h"
#include "base/util.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#define HOUR 3600LL
#define DAY (24 * HOUR)

/* "2026-11-20 10:00:00" in UTC */
static int64_t at(const char *text)
{
	struct tm tm = { 0 };

	assert_non_null(strptime(text, "%Y-%m-%d %H:%M:%S", &tm));
	return timegm(&tm);
}

static struct timetable_entry entry(const char *on, enum timetable_missed missed, int64_t last_s)
{
	struct timetable_entry t = { .name = "a", .missed = missed, .last_s = last_s };
	struct err e;

	assert_int_equal(calendar_parse(on, &t.calendar, &e), 0);
	snprintf(t.on, sizeof(t.on), "%s", on);
	return t;
}

/* Handle what is due, as timetables.c does. Returns the number of runs. */
static unsigned handle(struct timetable_entry *t, int64_t now, unsigned *missed, int64_t *ret_last)
{
	unsigned n = 0;

	for (;;) {
		struct timetable_due due = timetable_due(t, now);

		assert_true(due.run_s <= now && due.missed_s <= now);
		if (due.missed_s) {
			assert_true(due.missed_s > t->last_s);
			t->last_s = due.missed_s;
			++*missed;
		}
		if (!due.run_s)
			return n;
		assert_true(due.run_s > t->last_s);
		t->last_s = *ret_last = due.run_s;
		n++;
	}
}

/* ---- due times ---- */

static void test_each_run_on_time_is_due_once(void **state)
{
	struct timetable_entry t = entry("*:0/15", TIMETABLE_SKIP, at("2028-02-28 00:00:00"));
	unsigned runs = 0, missed = 0;
	int64_t last = 0;

	(void)state;
	/* The daemon looks each 7 s for three days, one of them the leap day. */
	for (int64_t now = t.last_s; now < at("2028-03-02 00:00:01"); now += 7) {
		unsigned n = handle(&t, now, &missed, &last);

		assert_true(n <= 1);
		assert_true(!n || now - last < 7);
		runs += n;
	}
	assert_int_equal(runs, 3 * 96 - 1); /* the last one is not looked at yet */
	assert_int_equal(missed, 0);
}

static void test_missed_runs_by_policy(void **state)
{
	static const struct {
		enum timetable_missed missed;
		const char *on;
		int64_t off_s; /* how long no daemon ran, until 2026-11-20 10:30:00 */
		unsigned runs, reports;
		const char *last;
	} rows[] = {
		{ TIMETABLE_SKIP, "hourly", 5 * HOUR, 0, 1, NULL },
		{ TIMETABLE_SKIP, "*:30", 5 * HOUR, 1, 1, "2026-11-20 10:30:00" }, /* one run is on time */
		{ TIMETABLE_SKIP, "*:29:00", 5 * HOUR, 1, 1, "2026-11-20 10:29:00" }, /* just in time */
		{ TIMETABLE_SKIP, "*:28:59", 5 * HOUR, 0, 1, NULL },
		{ TIMETABLE_SKIP, "hourly", 10 * 60, 0, 0, NULL },
		{ TIMETABLE_ONCE, "hourly", 5 * HOUR, 1, 0, "2026-11-20 10:00:00" },
		{ TIMETABLE_ONCE, "minutely", 3 * 365 * DAY, 1, 0, "2026-11-20 10:30:00" },
		{ TIMETABLE_ONCE, "yearly", 3 * HOUR, 0, 0, NULL },
		{ TIMETABLE_ALL, "hourly", 5 * HOUR, 5, 0, "2026-11-20 10:00:00" },
		{ TIMETABLE_ALL, "hourly", 10 * HOUR, 10, 0, "2026-11-20 10:00:00" },
		{ TIMETABLE_ALL, "hourly", 11 * HOUR, 10, 1, "2026-11-20 10:00:00" },
		{ TIMETABLE_ALL, "minutely", 400 * DAY, 10, 1, "2026-11-20 10:30:00" },
	};
	int64_t now = at("2026-11-20 10:30:00");

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		struct timetable_entry t = entry(rows[i].on, rows[i].missed, now - rows[i].off_s);
		unsigned missed = 0;
		int64_t last = 0;

		assert_int_equal(handle(&t, now, &missed, &last), rows[i].runs);
		assert_int_equal(missed, rows[i].reports);
		assert_int_equal(last, rows[i].last ? at(rows[i].last) : 0);
		/* Nothing is due again. */
		assert_int_equal(handle(&t, now, &missed, &last), 0);
		assert_int_equal(missed, rows[i].reports);
		assert_true(timetable_next(&t) > now);
	}
}

/* A year with leap day and both changes of the clock: each day has one run, whatever the daemon misses. */
static void test_year_with_outages(void **state)
{
	static const char *const zones[] = { "America/New_York", "Europe/Berlin", "Australia/Lord_Howe" };
	int64_t begin = at("2028-01-01 12:00:00");

	(void)state;
	srandom(1);
	for (size_t i = 0; i < ARRAY_SIZE(zones); i++) {
		struct timetable_entry t = entry("02:30", TIMETABLE_ALL, begin);
		struct time_zone *z;
		struct err e;
		unsigned runs = 0, missed = 0;
		int64_t last = 0;

		assert_int_equal(time_zone_load(zones[i], &z, &e), 0);
		t.z = z;
		for (int64_t now = begin; now < begin + 366 * DAY;) {
			now += 1 + random() % (5 * DAY);
			now = MIN(now, begin + 366 * DAY);
			runs += handle(&t, now, &missed, &last);
		}
		assert_int_equal(runs, 366);
		assert_int_equal(missed, 0);
		time_zone_free(z);
	}
}

/* ---- history and file ---- */

static void test_history_keeps_the_newest(void **state)
{
	struct timetable *t = calloc(1, sizeof(*t));
	struct timetable_run run = { .schedule = "a", .outcome = "done" };

	(void)state;
	for (int i = 0; i < 200; i++) {
		run.due_s = i;
		snprintf(run.schedule, sizeof(run.schedule), "%s", i % 2 ? "a" : "b");
		timetable_note(t, &run);
	}
	assert_int_equal(t->nhistory, TIMETABLE_HISTORY_MAX);
	assert_int_equal(t->history[0].due_s, 200 - TIMETABLE_HISTORY_MAX);
	assert_int_equal(timetable_last_run(t, "b")->due_s, 198);
	assert_null(timetable_last_run(t, "c"));
	timetable_free(t);
}

#define ENTRY \
	"{\"name\":\"n\",\"action\":\"save\",\"on\":\"daily\",\"zone\":\"\",\"missed\":\"all\",\"paused\":true,\"uid\":7," \
	"\"maker\":{\"user\":7,\"group\":8,\"groups\":[9]},\"last_s\":5,\"begun_s\":6,\"begun_run\":3}"

static struct timetable *load(const char *text, unsigned *bad)
{
	CLEANUP_JS struct json_object *o = NULL;
	struct timetable *t;
	struct err e;

	assert_int_equal(js_parse(text, strlen(text), "timetable", &o, &e), 0);
	timetable_from_json(o, &t, bad);
	return t;
}

static void test_file_has_all(void **state)
{
	CLEANUP_JS struct json_object *o = NULL;
	struct timetable_run run = { .schedule = "n", .action = TIMETABLE_SAVE, .due_s = 4, .run_s = 5, .outcome = "failed", .detail = "why" };
	struct timetable *t, *again;
	unsigned bad;

	(void)state;
	t = load("{\"schedules\":[" ENTRY "],\"history\":[]}", &bad);
	assert_int_equal(bad, 0);
	timetable_note(t, &run);
	o = timetable_to_json(t);
	timetable_from_json(o, &again, &bad);
	assert_int_equal(again->n, 1);
	assert_string_equal(again->entries[0]->name, "n");
	assert_int_equal(again->entries[0]->action, TIMETABLE_SAVE);
	assert_int_equal(again->entries[0]->missed, TIMETABLE_ALL);
	assert_true(again->entries[0]->paused && again->entries[0]->resumed);
	assert_int_equal(again->entries[0]->begun_s, 6);
	assert_int_equal(again->entries[0]->begun_run, 3);
	assert_int_equal(again->nhistory, 1);
	assert_memory_equal(&again->history[0], &run, sizeof(run));
	timetable_free(t);
	timetable_free(again);
}

static void test_malformed_schedules_are_left_out(void **state)
{
	static const char *const bad_ones[] = { "{}", "[]", "1", "null", "{\"name\":\"n\"}",
		"{\"name\":\"../n\",\"action\":\"save\",\"on\":\"daily\",\"missed\":\"all\",\"uid\":7,\"last_s\":5}",
		"{\"name\":\"n\",\"action\":\"sing\",\"on\":\"daily\",\"missed\":\"all\",\"uid\":7,\"last_s\":5}",
		"{\"name\":\"n\",\"action\":\"save\",\"on\":\"soon\",\"missed\":\"all\",\"uid\":7,\"last_s\":5}",
		"{\"name\":\"n\",\"action\":\"save\",\"on\":\"daily\",\"missed\":\"all\",\"uid\":-1,\"last_s\":5}",
		"{\"name\":\"n\",\"action\":\"save\",\"on\":\"daily\",\"missed\":\"all\",\"uid\":7,\"last_s\":-5}",
		"{\"name\":\"n\",\"action\":\"save\",\"on\":\"daily\",\"missed\":\"all\",\"uid\":7,\"last_s\":9300000000}",
		/* a maker that is not the user, or root */
		"{\"name\":\"n\",\"action\":\"save\",\"on\":\"daily\",\"missed\":\"all\",\"uid\":0,\"maker\":{\"user\":7,\"group\":8,\"groups\":[]},\"last_s\":5}",
		"{\"name\":\"n\",\"action\":\"save\",\"on\":\"daily\",\"missed\":\"all\",\"uid\":0,\"maker\":{\"user\":0,\"group\":0,\"groups\":[]},\"last_s\":5}",
		ENTRY /* the name is taken */ };
	struct timetable *t;
	char text[1024];
	unsigned bad;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(bad_ones); i++) {
		snprintf(text, sizeof(text), "{\"schedules\":[" ENTRY ",%s],\"history\":[{}, 1]}", bad_ones[i]);
		t = load(text, &bad);
		assert_int_equal(bad, 1);
		assert_int_equal(t->n, 1);
		timetable_free(t);
	}
	assert_null(load("{}", &bad));
}

static void test_impossible_begin_of_a_run_is_none(void **state)
{
	static const char *const times[] = { "-6", "9300000000", "9223372036854775807" };
	char text[1024];
	unsigned bad;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(times); i++) {
		struct timetable *t;

		snprintf(text, sizeof(text), "{\"schedules\":[{\"name\":\"n\",\"action\":\"save\",\"on\":\"daily\",\"missed\":\"all\",\"uid\":7,"
			"\"last_s\":5,\"begun_s\":%s}]}", times[i]);
		t = load(text, &bad);
		assert_int_equal(t->n, 1);
		assert_int_equal(t->entries[0]->begun_s, 0);
		assert_false(t->entries[0]->resumed);
		timetable_free(t);
	}
}

static void test_names(void **state)
{
	static const char *const good[] = { "a", "nightly-2", "A.b_c", "7" }, *const bad[] = { "", "-a", ".", "a b", "a/b", "\xc3\xa4",
		"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa" };

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(good); i++)
		assert_true(timetable_name_is_good(good[i]));
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		assert_false(timetable_name_is_good(bad[i]));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_each_run_on_time_is_due_once),
		cmocka_unit_test(test_missed_runs_by_policy),
		cmocka_unit_test(test_year_with_outages),
		cmocka_unit_test(test_history_keeps_the_newest),
		cmocka_unit_test(test_file_has_all),
		cmocka_unit_test(test_malformed_schedules_are_left_out),
		cmocka_unit_test(test_impossible_begin_of_a_run_is_none),
		cmocka_unit_test(test_names),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
