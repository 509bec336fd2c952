/* Calendar expressions and time zones: fixed times, daylight saving time both ways in three zones over a leap year,
 * comparison with systemd-analyze and with the C library. No clock. */
#include "api/policy/calendar.h"
#include "base/err.h"
#include "base/util.h"

#include <limits.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#define HOUR 3600LL
#define DAY (24 * HOUR)

/* Seconds since 1970 of a text such as "2026-11-20 10:00:00", in UTC. */
static int64_t at(const char *text)
{
	struct tm tm = { 0 };

	assert_non_null(strptime(text, "%Y-%m-%d %H:%M:%S", &tm));
	return timegm(&tm);
}

static const char *text_of(int64_t s, char buf[32])
{
	time_t t = (time_t)s;
	struct tm tm;

	gmtime_r(&t, &tm);
	strftime(buf, 32, "%Y-%m-%d %H:%M:%S", &tm);
	return buf;
}

static struct calendar parsed(const char *text)
{
	struct calendar c;
	struct err e;

	if (calendar_parse(text, &c, &e) < 0)
		fail_msg("%s: %s", text, e.msg);
	return c;
}

static struct time_zone *zone(const char *name)
{
	struct time_zone *z = NULL;
	struct err e;

	if (time_zone_load(name, &z, &e) < 0)
		fail_msg("%s", e.msg);
	return z;
}

/* ---- fixed times ---- */

static void test_matches_of_fixed_expressions(void **state)
{
	static const struct {
		const char *text, *after, *next[3];
	} rows[] = {
		{ "Mon..Fri *-*-* 02:30:00", "2026-11-20 02:30:00", { "2026-11-23 02:30:00", "2026-11-24 02:30:00", "2026-11-25 02:30:00" } },
		{ "daily", "2026-12-31 00:00:00", { "2027-01-01 00:00:00", "2027-01-02 00:00:00", "2027-01-03 00:00:00" } },
		{ "*:0/15", "2026-11-20 23:40:01", { "2026-11-20 23:45:00", "2026-11-21 00:00:00", "2026-11-21 00:15:00" } },
		{ "2026-*~3", "2026-01-29 00:00:00", { "2026-02-26 00:00:00", "2026-03-29 00:00:00", "2026-04-28 00:00:00" } },
		{ "Sat *-*-1..7", "2026-11-20 00:00:00", { "2026-12-05 00:00:00", "2027-01-02 00:00:00", "2027-02-06 00:00:00" } },
		{ "*-02-29 12:00", "2026-01-01 00:00:00", { "2028-02-29 12:00:00", "2032-02-29 12:00:00", "2036-02-29 12:00:00" } },
		{ "Fri *-*-13", "2026-01-01 00:00:00", { "2026-02-13 00:00:00", "2026-03-13 00:00:00", "2026-11-13 00:00:00" } },
		{ "*-*~07/1 3:5:7", "2026-02-01 00:00:00", { "2026-02-22 03:05:07", "2026-02-23 03:05:07", "2026-02-24 03:05:07" } },
		{ "sun,wed 9..17/4:00", "2026-11-25 00:00:00", { "2026-11-25 09:00:00", "2026-11-25 13:00:00", "2026-11-25 17:00:00" } },
		{ "weekly", "2026-11-25 00:00:00", { "2026-11-30 00:00:00", "2026-12-07 00:00:00", "2026-12-14 00:00:00" } },
		{ "quarterly", "2026-11-25 00:00:00", { "2027-01-01 00:00:00", "2027-04-01 00:00:00", "2027-07-01 00:00:00" } },
		{ "12-24 18:00", "2026-11-25 00:00:00", { "2026-12-24 18:00:00", "2027-12-24 18:00:00", "2028-12-24 18:00:00" } },
		{ "@1798761600", "2026-11-25 00:00:00", { "2027-01-01 00:00:00", NULL } },
		{ "2199-12-31", "2026-11-25 00:00:00", { "2199-12-31 00:00:00", NULL } },
		{ "2026-02-30", "2026-01-01 00:00:00", { NULL } },
	};
	char buf[32];

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		struct calendar c = parsed(rows[i].text);
		int64_t t = at(rows[i].after);

		for (size_t k = 0; k < 3; k++) {
			if (!rows[i].next[k]) {
				assert_false(calendar_next(&c, NULL, t, &t));
				break;
			}
			assert_true(calendar_next(&c, NULL, t, &t));
			assert_string_equal(text_of(t, buf), rows[i].next[k]);
		}
	}
}

static void test_error_names_the_wrong_part(void **state)
{
	static const struct {
		const char *text, *says;
	} rows[] = {
		{ "", "is empty" }, { "   ", "is empty" }, { "soon", "\"soon\" is no list of weekdays" },
		{ "Mon..", "weekdays" }, { "Fri..Mon", "weekdays" }, { "Mon.Tue", "weekdays" }, { "Mon,,Tue", "weekdays" },
		{ "25:00", "hour \"25\" is out of range 0 to 23" }, { "2:60", "minute \"60\" is out of range" },
		{ "2:00:60", "second \"60\"" }, { "2:00:1.5", "fraction" }, { "*/5:00", "cron's form" }, { "0/0:00", "no step" },
		{ "3..3:00", "range of at most one value" }, { "5..3:00", "range" }, { "3..:00", "range without an end" },
		{ "2026-13-01", "month \"13\"" }, { "*-*-32", "day \"32\"" }, { "1969-01-01", "year \"1969\"" }, { "2200-01-01", "year \"2200\"" },
		{ "*-*-0", "day \"0\"" }, { "2026~1-1", "neither a date nor a time" }, { "1-2-3-4", "neither a date nor a time" },
		{ "12", "neither a date nor a time" }, { "*-x-1", "month \"x\" is not a number" }, { "*-*-1/40", "step beyond" },
		{ "02:30 *-*-1", "not expected there" }, { "*-*-1 *-*-2", "not expected there" }, { "Mon *-*-* 2:30 UTC Tue", "one word too many" },
		{ "daily 02:30", "\"daily\" is no list of weekdays" }, { "@", "no number of seconds" }, { "@9999999999999", "no number of seconds" },
		{ "Mon @5", "not expected there" }, { "*,5:00", "mixes" }, { "2:3a", "minute \"3a\" is malformed" }, { "a\tb", "plain ASCII" },
		{ "2\xc3\xa9:00", "plain ASCII" }, { "1,:00", "hour \"\"" }, { ":", "hour \"\"" }, { "*-*-* 1:2:3:4", "second \"3:4\"" },
	};
	struct calendar c, before;
	struct err e;

	(void)state;
	memset(&c, 0x5a, sizeof(c));
	before = c;
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		assert_int_equal(calendar_parse(rows[i].text, &c, &e), -22);
		if (!strstr(e.msg, rows[i].says) || strncmp(e.msg, "calendar: ", 10))
			fail_msg("\"%s\": %s", rows[i].text, e.msg);
		if (!strstr(e.msg, "give") && !strstr(e.msg, "example"))
			fail_msg("no example for \"%s\": %s", rows[i].text, e.msg);
	}
	assert_memory_equal(&c, &before, sizeof(c));
}

static void test_zone_at_the_end(void **state)
{
	struct calendar c = parsed("Mon 02:30 America/New_York");

	(void)state;
	assert_string_equal(c.zone, "America/New_York");
	assert_string_equal(parsed("daily utc").zone, "UTC");
	assert_string_equal(parsed("daily").zone, "");
}

static void test_frequent_expressions_are_told(void **state)
{
	struct calendar often = parsed("*:*:*"), twice = parsed("2:30:0,30"), minutely = parsed("minutely");

	(void)state;
	assert_true(calendar_is_frequent(&often));
	assert_true(calendar_is_frequent(&twice));
	assert_false(calendar_is_frequent(&minutely));
}

static void test_last_match(void **state)
{
	struct calendar c = parsed("*:0/15"), yearly = parsed("*-02-29");
	int64_t t, now = at("2026-11-20 10:07:00");
	char buf[32];

	(void)state;
	assert_true(calendar_last(&c, NULL, now - 3 * 365 * DAY, now, &t));
	assert_string_equal(text_of(t, buf), "2026-11-20 10:00:00");
	assert_true(calendar_last(&c, NULL, t - 1, t, &t));
	assert_false(calendar_last(&c, NULL, t, now, &t));
	assert_true(calendar_last(&yearly, NULL, 0, now, &t));
	assert_string_equal(text_of(t, buf), "2024-02-29 00:00:00");
}

/* ---- daylight saving time ---- */

/* All matches of a leap year, each as local time. */
struct year {
	const char *zone, *gap, *fold; /* a local time that does not exist, and one that comes twice */
	int64_t gap_s;		       /* length of the gap */
};

static const struct year years[] = {
	{ "America/New_York", "2028-03-12 02:30:00", "2028-11-05 01:30:00", HOUR },
	{ "Europe/Berlin", "2028-03-26 02:30:00", "2028-10-29 02:30:00", HOUR },
	{ "Australia/Lord_Howe", "2028-10-01 02:15:00", "2028-04-02 01:45:00", HOUR / 2 },
};

static int64_t local_of(const struct time_zone *z, int64_t utc)
{
	return utc + time_zone_at(z, utc).offset_s;
}

/* A schedule at a time of day comes once on each of the 366 days: at the change if the time does not exist, and the
 * first time if it comes twice. */
static void test_daily_time_comes_once_a_day(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(years); i++) {
		const char *const odd[] = { years[i].gap, years[i].fold };
		struct time_zone *z = zone(years[i].zone);

		for (size_t k = 0; k < ARRAY_SIZE(odd); k++) {
			struct calendar c = parsed(odd[k] + strlen("2028-03-12 "));
			int64_t t = at("2028-01-01 00:00:00") - time_zone_at(z, at("2028-01-01 00:00:00")).offset_s - 1;
			int64_t time_of_day = at(odd[k]) % DAY;

			for (int day = 0; day < 366; day++) {
				int64_t want = at("2028-01-01 00:00:00") + day * DAY + time_of_day, local;

				assert_true(calendar_next(&c, z, t, &t));
				local = local_of(z, t);
				if (want == at(years[i].gap)) {
					/* The clock goes from the gap's begin to its end. */
					assert_int_equal(local_of(z, t - 1) + 1, local - years[i].gap_s);
					assert_int_equal(local % (HOUR / 2), 0);
					assert_true(local > want && local - want < HOUR);
				} else {
					assert_int_equal(local, want);
				}
				if (want == at(years[i].fold)) /* the same local time comes again */
					assert_int_equal(local_of(z, t + years[i].gap_s), local);
			}
		}
		time_zone_free(z);
	}
}

/* "*:0/15" comes each quarter of an hour of true time, also through both changes. */
static void test_every_quarter_has_no_gap(void **state)
{
	struct calendar c = parsed("*:0/15");

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(years); i++) {
		struct time_zone *z = zone(years[i].zone);
		int64_t t = at("2028-01-01 00:00:00"), first = t, n = 0;

		for (; t < at("2029-01-01 00:00:00"); n++) {
			int64_t before = t;

			assert_true(calendar_next(&c, z, t, &t));
			assert_int_equal(t - before, 15 * 60);
		}
		assert_int_equal(n, (t - first) / 900);
		time_zone_free(z);
	}
}

/* ---- zones: comparison with the C library ---- */

static void use_zone(const char *name)
{
	setenv("TZ", name, 1);
	tzset();
}

static void test_offsets_equal_those_of_libc(void **state)
{
	static const char *const names[] = { "UTC", "America/New_York", "Europe/Berlin", "Australia/Lord_Howe", "Europe/Dublin", "Asia/Kathmandu",
		"America/Sao_Paulo", "Africa/Casablanca", "Pacific/Apia", "Asia/Tehran", "America/Nuuk", "Antarctica/Troll", "Africa/Cairo",
		"Asia/Gaza", "America/Santiago", "Pacific/Chatham" };

	(void)state;
	srandom(1);
	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		struct time_zone *z = zone(names[i]);

		use_zone(names[i]);
		for (unsigned k = 0; k < 20000; k++) {
			/* The C library's times of the years before 1970 and after 2199 are not of interest. */
			time_t t = (time_t)(((int64_t)random() << 12 ^ random()) % at("2199-01-01 00:00:00"));
			struct time_zone_span s = time_zone_at(z, t);
			struct tm tm;

			localtime_r(&t, &tm);
			assert_int_equal(s.offset_s, tm.tm_gmtoff);
			assert_true(s.begin_s <= t && t < s.end_s);
			/* The span is one of a single offset, and its ends are true. */
			if (s.begin_s > 0)
				assert_int_equal(time_zone_at(z, s.begin_s - 1).offset_s, s.before_s);
			if (s.end_s < INT64_MAX)
				assert_int_equal(time_zone_at(z, s.end_s - 1).offset_s, s.offset_s);
		}
		time_zone_free(z);
	}
	use_zone("UTC");
}

/* The daemon's schedules and the times that cairn prints are of one zone. */
static void test_zone_of_the_variable_is_that_of_libc(void **state)
{
	static const char *const values[] = { "Europe/Berlin", ":Europe/Berlin", "/usr/share/zoneinfo/Asia/Tokyo", ":/usr/share/zoneinfo/Asia/Tokyo",
		"CET-1CEST,M3.5.0,M10.5.0/3", ":CET-1CEST,M3.5.0,M10.5.0/3", "<+0330>-3:30", "NZST-12NZDT,M9.5.0,M4.1.0/3", "XYZ5", "", ":", "No/Where",
		"/no/where", "a b" };

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(values); i++) {
		struct time_zone *z;
		struct err e;

		use_zone(values[i]);
		assert_int_equal(time_zone_load("", &z, &e), 0);
		for (time_t t = at("2026-01-01 00:00:00"); t < at("2028-01-01 00:00:00"); t += 1800) {
			struct tm tm;

			localtime_r(&t, &tm);
			assert_int_equal(time_zone_at(z, t).offset_s, tm.tm_gmtoff);
		}
		time_zone_free(z);
	}
	use_zone("UTC");
}

static void test_names_of_zones_stay_in_their_folder(void **state)
{
	static const char *const bad[] = { "../../../etc/passwd", "/etc/localtime", "Europe/../UTC", "Europe//Berlin", "Europe/", "No/Where", ".", "Europe",
		"tzdata.zi", "zone1970.tab" };
	struct time_zone *z = NULL;
	struct err e;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		assert_true(time_zone_load(bad[i], &z, &e) < 0);
		assert_null(z);
	}
}

static void test_malformed_zone_is_refused(void **state)
{
	static uint8_t data[65536], bad[sizeof(data)];
	FILE *f = fopen("/usr/share/zoneinfo/Europe/Berlin", "re");
	struct time_zone *z;
	struct err e;
	size_t len;

	(void)state;
	if (!f) {
		print_message("skipped: this host has no /usr/share/zoneinfo/Europe/Berlin\n");
		skip();
	}
	len = fread(data, 1, sizeof(data), f);
	fclose(f);
	srandom(2);
	for (size_t cut = 0; cut < len; cut++) {
		z = NULL;
		assert_int_equal(time_zone_parse(data, cut, &z, &e), -22);
	}
	for (unsigned i = 0; i < 20000; i++) {
		memcpy(bad, data, len);
		for (unsigned k = 0; k < 3; k++)
			bad[(size_t)random() % len] = (uint8_t)random();
		if (time_zone_parse(bad, len, &z, &e) == 0) {
			time_zone_at(z, random());
			time_zone_free(z);
		}
	}
}

/* ---- comparison with systemd-analyze ---- */

#define RANDOM_EXPRESSIONS 1000
#define BATCH 50
#define ITERATIONS 6

static int dice(int below)
{
	return (int)(random() % below);
}

/* Write a random field: *, a value, a list, a range or a step. down: no list, which systemd refuses there.
 * steps: the largest step without an end. */
static void field_print(FILE *f, int min, int max, bool down, int steps)
{
	int a = min + dice(max - min + 1), n = 1 + dice(3), span = max - a;

	steps = MIN(steps, down ? a - min : span);
	switch (dice(5)) {
	case 0:
		fputc('*', f);
		return;
	case 1:
		fprintf(f, "%02d", a);
		return;
	case 2:
		for (int i = 0; i < (down ? 1 : n); i++)
			fprintf(f, "%s%d", i ? "," : "", min + dice(max - min + 1));
		return;
	case 3:
		if (span < 1)
			fprintf(f, "%d", a);
		else
			fprintf(f, "%d..%d", a, a + 1 + dice(span));
		return;
	default:
		if (steps > 0 && dice(2))
			fprintf(f, "%d/%d", a, 1 + dice(steps));
		else if (span > 1)
			fprintf(f, "%d..%d/%d", a, a + span, 1 + dice(span));
		else
			fprintf(f, "%d", a);
		return;
	}
}

static void expression_print(FILE *f)
{
	static const char *const weekdays[] = { "Mon", "tue", "Wednesday", "Thu", "Fri", "SAT", "Sun" };
	static const char *const words[] = { "minutely", "hourly", "daily", "weekly", "monthly", "quarterly", "semiannually", "yearly" };
	bool has_weekday = !dice(3), from_end;
	int a = dice(7), has_date = dice(4), has_time = dice(4);

	if (!dice(20)) {
		fputs(words[dice(ARRAY_SIZE(words))], f);
		return;
	}
	if (has_weekday)
		fprintf(f, "%s%s%s ", weekdays[a], a < 6 && dice(2) ? ".." : ",", weekdays[a < 6 ? a + 1 + dice(6 - a) : 0]);
	if (has_date) {
		if (dice(2))
			field_print(f, 2020, 2040, false, INT_MAX);
		else
			fputc('*', f);
		fputc('-', f);
		field_print(f, 1, 12, false, INT_MAX);
		/* systemd gives up some searches for a weekday at a month's end ("Infinite loop in calendar
		 * calculation"). */
		from_end = !has_weekday && !dice(3);
		fputc(from_end ? '~' : '-', f);
		/* A step of days that leads beyond the month lets systemd leave out days of the next month. */
		field_print(f, 1, 28, from_end, 1);
		fputc(' ', f);
	}
	if (has_time || !has_date) {
		field_print(f, 0, 23, false, INT_MAX);
		fputc(':', f);
		field_print(f, 0, 59, false, INT_MAX);
		if (dice(2)) {
			fputc(':', f);
			field_print(f, 0, 59, false, INT_MAX);
		}
	}
}

/* Return whether the zone's offset changes within a day of the time from a to b. */
static bool changes_near(const struct time_zone *z, int64_t a, int64_t b)
{
	return time_zone_at(z, a - DAY).end_s <= b + DAY;
}

/* Compare one expression with the lines that systemd-analyze has printed for it. */
static unsigned expression_compare(const char *text, const struct time_zone *z, bool is_utc, int64_t base, char **lines, size_t n)
{
	struct calendar c = parsed(text);
	int64_t t = base, theirs;
	unsigned compared = 0;
	char buf[32];

	for (size_t i = 0; i < n; i++) {
		const char *key = is_utc ? "Next elapse: " : "(in UTC): ", *found;
		bool is_there;

		if (strstr(lines[i], "Next elapse: never")) {
			assert_false(calendar_next(&c, z, t, &t));
			return 1;
		}
		found = strstr(lines[i], key);
		if (!found && is_utc && (found = strstr(lines[i], "Iter. #")))
			found = strstr(found, ": ") - strlen(key) + 2;
		if (!found)
			continue;
		theirs = at(found + strlen(key) + 4); /* behind the weekday */
		is_there = calendar_next(&c, z, t, &base);
		if ((!is_there || base != theirs) && !changes_near(z, t, theirs))
			fail_msg("\"%s\" after %lld: %s, systemd %lld", text, (long long)t, is_there ? text_of(base, buf) : "never",
				(long long)theirs);
		t = theirs;
		compared++;
	}
	return compared;
}

static unsigned batch_compare(const char *name, int64_t base)
{
	static char text[BATCH][CALENDAR_TEXT_MAX];
	static char lines[BATCH * (4 * ITERATIONS + 4)][160];
	char *pointers[ARRAY_SIZE(lines)], command[BATCH * CALENDAR_TEXT_MAX], when[32];
	struct time_zone *z = zone(name);
	size_t n = 0, begin = 0, at_text = 0;
	unsigned compared = 0;
	FILE *f = fmemopen(command, sizeof(command), "we");

	fprintf(f, "TZ=%s LC_ALL=C systemd-analyze calendar --iterations=%d --base-time='%s UTC'", name, ITERATIONS, text_of(base, when));
	for (size_t i = 0; i < BATCH; i++) {
		FILE *one = fmemopen(text[i], sizeof(text[i]), "we");

		expression_print(one);
		fclose(one);
		fprintf(f, " '%s'", text[i]);
	}
	fclose(f);
	f = popen(command, "re");
	assert_non_null(f);
	while (n < ARRAY_SIZE(lines) && fgets(lines[n], sizeof(lines[n]), f)) {
		pointers[n] = lines[n];
		n++;
	}
	assert_int_equal(pclose(f), 0);
	for (size_t i = 0; i <= n; i++) {
		if (i < n && !strstr(lines[i], "Normalized form:"))
			continue;
		if (begin)
			compared += expression_compare(text[at_text++], z, !strcmp(name, "UTC"), base, pointers + begin, i - begin);
		begin = i + 1;
	}
	assert_int_equal(at_text, BATCH);
	time_zone_free(z);
	return compared;
}

static void test_random_expressions_equal_systemd(void **state)
{
	static const char *const names[] = { "UTC", "America/New_York", "UTC", "Europe/Berlin", "UTC", "Australia/Lord_Howe" };
	unsigned compared = 0;

	(void)state;
	if (system("systemd-analyze --version >/dev/null 2>&1") != 0) {
		print_message("skipped: there is no systemd-analyze to compare with\n");
		skip();
	}
	srandom(3);
	for (unsigned i = 0; i < RANDOM_EXPRESSIONS / BATCH; i++)
		compared += batch_compare(names[i % ARRAY_SIZE(names)], at("2026-01-01 00:00:00") + (int64_t)dice(4 * 365) * DAY + dice(DAY));
	assert_true(compared > RANDOM_EXPRESSIONS);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_matches_of_fixed_expressions),
		cmocka_unit_test(test_error_names_the_wrong_part),
		cmocka_unit_test(test_zone_at_the_end),
		cmocka_unit_test(test_frequent_expressions_are_told),
		cmocka_unit_test(test_last_match),
		cmocka_unit_test(test_daily_time_comes_once_a_day),
		cmocka_unit_test(test_every_quarter_has_no_gap),
		cmocka_unit_test(test_offsets_equal_those_of_libc),
		cmocka_unit_test(test_zone_of_the_variable_is_that_of_libc),
		cmocka_unit_test(test_names_of_zones_stay_in_their_folder),
		cmocka_unit_test(test_malformed_zone_is_refused),
		cmocka_unit_test(test_random_expressions_equal_systemd),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
