/* Trends: rows, their file, and points, with a clock of the test's own. */
#include "api/store/trend_file.h"
#include "api/store/trend_view.h"
#include "base/err.h"
#include "base/log.h"
#include "base/util.h"
#include "tests/unit/tmp.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#define BEGIN_S 1800000000U /* a full hour */
#define DAY_S 86400U

struct fixture {
	char dir[96], path[128];
	struct trend_recorder recorder;
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	log_set_fd(open("/dev/null", O_WRONLY));
	snprintf(f->dir, sizeof(f->dir), "%s/cairn-test-XXXXXX", tmp_folder());
	assert_non_null(mkdtemp(f->dir));
	snprintf(f->path, sizeof(f->path), "%s/" STORE_TRENDS, f->dir);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;
	char path[160];

	trend_recorder_done(&f->recorder);
	unlink(f->path);
	snprintf(path, sizeof(path), "%s.damaged", f->path);
	unlink(path);
	assert_int_equal(rmdir(f->dir), 0);
	free(f);
	return 0;
}

/* Record a sample with this cpu, and 100 times as much of everything else. */
static void sample(struct fixture *f, uint32_t time, uint32_t span, float cpu)
{
	float values[TREND_SERIES];

	for (unsigned i = 0; i < TREND_SERIES; i++)
		values[i] = i == TREND_CPU ? cpu : cpu * 100;
	values[TREND_USED] = NAN;
	trend_record(&f->recorder, time, span, values);
}

/* Append what the recorder has closed. */
static void write_closed(struct fixture *f)
{
	struct err e;
	int fd = trend_file_open(f->path, true, &e);

	assert_true(fd >= 0);
	assert_int_equal(trend_file_append(fd, f->recorder.closed, &e), 0);
	close(fd);
	for (unsigned i = 0; i < TREND_RANGES; i++)
		trend_rows_done(&f->recorder.closed[i]);
}

static struct trend_rows read_range(struct fixture *f, enum trend_range range, uint32_t from, uint32_t to)
{
	struct trend_rows rows;
	struct err e;
	int fd = trend_file_open(f->path, false, &e);

	assert_true(fd >= 0);
	assert_int_equal(trend_file_read(fd, range, from, to, &rows, &e), 0);
	close(fd);
	return rows;
}

static struct trend_view view(struct fixture *f, uint32_t from, uint32_t step_s, size_t npoints)
{
	struct trend_rows rows[TREND_RANGES];
	struct trend_view v;

	for (enum trend_range i = TREND_SECONDS; i < TREND_RANGES; i++)
		rows[i] = read_range(f, i, from, (uint32_t)MIN(UINT32_MAX, (uint64_t)from + (uint64_t)step_s * npoints));
	trend_view_make(&v, from, step_s, npoints, rows);
	for (enum trend_range i = TREND_SECONDS; i < TREND_RANGES; i++)
		trend_rows_done(&rows[i]);
	return v;
}

static void assert_near(double a, double b)
{
	assert_true(fabs(a - b) < 0.001 * (1 + fabs(b)));
}

static void test_samples_become_rows_of_all_ranges(void **state)
{
	struct fixture *f = *state;
	struct trend_rows rows;

	for (uint32_t i = 1; i <= 7200; i++) {
		sample(f, BEGIN_S + i, 1, (float)(i % 60));
		if (i % 1000 == 0)
			write_closed(f);
	}
	trend_record_end(&f->recorder);
	write_closed(f);
	rows = read_range(f, TREND_SECONDS, BEGIN_S, BEGIN_S + 7200);
	assert_int_equal(rows.n, 3600);
	assert_int_equal(rows.list[0].time, BEGIN_S + 3601);
	trend_rows_done(&rows);
	rows = read_range(f, TREND_MINUTES, BEGIN_S, BEGIN_S + 7200);
	assert_int_equal(rows.n, 1); /* all minutes are equal, so one row stands for them */
	assert_int_equal(rows.list[0].span, 7200);
	assert_near(rows.list[0].average[TREND_CPU], 29.5);
	assert_near(rows.list[0].maximum[TREND_CPU], 59);
	assert_near(rows.list[0].average[TREND_WR_REQS], 2950);
	assert_true(isnan(rows.list[0].average[TREND_USED]));
	trend_rows_done(&rows);
	rows = read_range(f, TREND_HOURS, BEGIN_S, BEGIN_S + 3600);
	assert_int_equal(rows.n, 1);
	assert_near(rows.list[0].average[TREND_CPU], 29.5);
	trend_rows_done(&rows);
}

static void test_idle_vm_has_no_new_row(void **state)
{
	struct fixture *f = *state;

	sample(f, BEGIN_S, 1, 5);
	for (uint32_t i = 1; i <= 3 * DAY_S; i += 1)
		sample(f, BEGIN_S + i, 1, 0);
	for (unsigned i = 0; i < TREND_RANGES; i++)
		assert_true(f->recorder.closed[i].n <= 2);
	trend_record_end(&f->recorder);
	write_closed(f);
	struct trend_view v = view(f, BEGIN_S - DAY_S, DAY_S, 4);

	assert_near(trend_view_average(&v, TREND_CPU, 0), 5); /* the last second of that day */
	for (unsigned i = 1; i < 4; i++)
		assert_near(trend_view_average(&v, TREND_CPU, i), 0);
	trend_view_done(&v);
}

/* Two years, a sample each 10 s. The VM is off on each seventh day, and uses (day modulo 50) percent on the others,
 * with a peak of 99 for 10 s at noon. The daemon restarts each 30 days in the middle of an hour. */
static void test_two_years(void **state)
{
	struct fixture *f = *state;
	uint32_t end = 732 * DAY_S;
	struct stat st;

	for (uint32_t i = 10; i <= end; i += 10) {
		uint32_t day = (i - 1) / DAY_S;

		if (day % 7)
			sample(f, BEGIN_S + i, 10, i % DAY_S == DAY_S / 2 ? 99 : (float)(day % 50));
		if (i % (30 * DAY_S) == 1800)
			trend_record_end(&f->recorder);
		if (f->recorder.closed[TREND_SECONDS].n >= 60 || f->recorder.closed[TREND_MINUTES].n > 1000 || i == end)
			write_closed(f);
	}
	trend_record_end(&f->recorder);
	write_closed(f);
	assert_int_equal(stat(f->path, &st), 0);
	assert_true(st.st_size <= TREND_FILE_BYTES);
	assert_true(st.st_blocks * 512 <= 4 * 1024 * 1024);
	struct trend_view v = view(f, BEGIN_S, DAY_S, 732);

	for (unsigned day = 0; day < 732; day++) {
		double expected = day % 50 + (99.0 - day % 50) * 10 / DAY_S;

		if (day % 7 == 0) {
			assert_true(isnan(trend_view_average(&v, TREND_CPU, day)));
			continue;
		}
		assert_near(trend_view_average(&v, TREND_CPU, day), expected);
		assert_near(trend_view_maximum(&v, TREND_CPU, day), 99);
		assert_true(isnan(trend_view_average(&v, TREND_USED, day)));
	}
	trend_view_done(&v);
	/* The last hour in seconds, and the last week in minutes. */
	v = view(f, BEGIN_S + end - 3600, 1, 3600);
	for (unsigned i = 0; i < 3600; i++)
		assert_near(trend_view_average(&v, TREND_CPU, i), 731 % 50);
	trend_view_done(&v);
	v = view(f, BEGIN_S + end - 6 * DAY_S, 60, 6 * 1440);
	for (unsigned i = 0; i < 6 * 1440; i++)
		if ((726 + i / 1440) % 7)
			assert_false(isnan(trend_view_average(&v, TREND_CPU, i)));
		else
			assert_true(isnan(trend_view_average(&v, TREND_CPU, i)));
	trend_view_done(&v);
}

static void test_newer_rows_replace_those_behind_a_clock_set_back(void **state)
{
	struct fixture *f = *state;

	for (uint32_t i = 1; i <= 1000; i++)
		sample(f, BEGIN_S + 100000 + i, 1, 70); /* the clock was wrong */
	for (uint32_t i = 1; i <= 1000; i++)
		sample(f, BEGIN_S + i, 1, (float)(10 + i % 2));
	/* Half a minute is seen twice. */
	for (uint32_t i = 971; i <= 1030; i++)
		sample(f, BEGIN_S + i, 1, 30);
	trend_record_end(&f->recorder);
	write_closed(f);
	struct trend_view v = view(f, BEGIN_S, 1, 1030);

	for (unsigned i = 0; i < 1030; i++)
		assert_near(trend_view_average(&v, TREND_CPU, i), i < 970 ? 10 + (i + 1) % 2 : 30);
	trend_view_done(&v);
	v = view(f, BEGIN_S + 100000, 60, 20);
	for (unsigned i = 0; i < 20; i++)
		assert_true(isnan(trend_view_average(&v, TREND_CPU, i)));
	trend_view_done(&v);
}

/* Whether the rows from `from` on are those that are left of all rows. */
static void assert_rows_from(struct fixture *f, const struct trend_rows *all, uint32_t from)
{
	struct trend_rows some = read_range(f, TREND_SECONDS, from, UINT32_MAX);
	size_t n = 0;

	for (size_t i = 0; i < all->n; i++) {
		if (all->list[i].time <= from)
			continue;
		assert_true(n < some.n);
		assert_int_equal(some.list[n].time, all->list[i].time);
		assert_int_equal(some.list[n].span, all->list[i].span);
		assert_near(some.list[n].average[TREND_CPU], all->list[i].average[TREND_CPU]);
		n++;
	}
	assert_int_equal(n, some.n);
	assert_true(!some.begin == !all->begin && (some.begin == all->begin || some.begin <= from));
	trend_rows_done(&some);
}

/* The file has lost rows, and the clock was set at random. */
static void test_rows_from_a_time_on_are_read_without_all_before(void **state)
{
	struct fixture *f = *state;
	uint32_t time = BEGIN_S + 200000, random = 1;
	struct trend_rows all;

	for (unsigned i = 0; i < 9000; i++) {
		uint32_t span = 1 + (random >> 16) % 5;

		random = random * 1664525U + 1013904223U;
		time += span;
		if ((random >> 8) % 700 == 0)
			time -= (random >> 20) % 3000;
		else if ((random >> 8) % 700 == 1)
			time += (random >> 20) % 3000;
		sample(f, time, span, (float)(i % 97));
		if (i % 50 == 0)
			write_closed(f);
		if (i % 3000 == 2000) {
			all = read_range(f, TREND_SECONDS, 0, UINT32_MAX);
			for (unsigned k = 0; k < 200; k++) {
				random = random * 1664525U + 1013904223U;
				assert_rows_from(f, &all, all.list[(random >> 8) % all.n].time - (random >> 4) % 4);
			}
			assert_rows_from(f, &all, 0);
			assert_rows_from(f, &all, UINT32_MAX);
			trend_rows_done(&all);
		}
	}
}

static void test_daemon_that_restarts_within_an_hour_adds_to_the_hour(void **state)
{
	struct fixture *f = *state;
	struct trend_rows rows;

	for (uint32_t i = 1; i <= 900; i++)
		sample(f, BEGIN_S + i, 1, 40);
	trend_record_end(&f->recorder);
	write_closed(f);
	for (uint32_t i = 901; i <= 3600; i++)
		sample(f, BEGIN_S + i, 1, 80);
	trend_record_end(&f->recorder);
	write_closed(f);
	rows = read_range(f, TREND_HOURS, BEGIN_S, BEGIN_S + 3600);
	assert_int_equal(rows.n, 1);
	assert_int_equal(rows.list[0].covered, 3600);
	assert_near(rows.list[0].average[TREND_CPU], 70);
	assert_near(rows.list[0].maximum[TREND_CPU], 80);
	trend_rows_done(&rows);
}

/* Change bytes of the file. */
static void damage(const struct fixture *f, off_t at, size_t n)
{
	int fd = open(f->path, O_RDWR);
	char junk[512];

	memset(junk, 0x5a, sizeof(junk));
	assert_true(fd >= 0);
	assert_int_equal(pwrite(fd, junk, n, at), n);
	close(fd);
}

static void test_torn_write_loses_one_row(void **state)
{
	struct fixture *f = *state;
	struct trend_rows rows;

	for (uint32_t i = 1; i <= 100; i++)
		sample(f, BEGIN_S + i, 1, (float)i);
	trend_record_pause(&f->recorder);
	write_closed(f);
	damage(f, 4096 + 40 * 80 + 30, 12);
	rows = read_range(f, TREND_SECONDS, BEGIN_S, BEGIN_S + 100);
	assert_int_equal(rows.n, 99);
	for (size_t i = 0; i < rows.n; i++)
		assert_near(rows.list[i].average[TREND_CPU], i < 40 ? (double)i + 1 : (double)i + 2);
	trend_rows_done(&rows);
}

/* Returns the number of rows after 50 and, with damaged heads, 50 more. */
static size_t rows_after_damage(struct fixture *f, off_t at, size_t bytes)
{
	struct trend_rows rows;
	size_t n;

	for (uint32_t i = 1; i <= 100; i++) {
		sample(f, BEGIN_S + i, 1, (float)i);
		if (i % 25 == 0) {
			trend_record_pause(&f->recorder);
			write_closed(f);
		}
		if (i == 50)
			damage(f, at, bytes);
	}
	rows = read_range(f, TREND_SECONDS, BEGIN_S, BEGIN_S + 100);
	n = rows.n;
	trend_rows_done(&rows);
	return n;
}

static void test_one_damaged_head_loses_nothing(void **state)
{
	assert_int_equal(rows_after_damage(*state, 2048, 24), 100);
}

static void test_other_damaged_head_loses_nothing(void **state)
{
	assert_int_equal(rows_after_damage(*state, 3072, 24), 100);
}

static void test_two_damaged_heads_lose_nothing(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(rows_after_damage(f, 2048, 24), 100);
	damage(f, 2048, 24);
	damage(f, 3072, 24);
	struct trend_rows rows = read_range(f, TREND_SECONDS, BEGIN_S, BEGIN_S + 100);

	assert_int_equal(rows.n, 100);
	trend_rows_done(&rows);
}

static void test_damaged_header_is_set_aside(void **state)
{
	struct fixture *f = *state;
	char aside[160];
	struct err e;
	int fd;

	sample(f, BEGIN_S, 1, 1);
	trend_record_pause(&f->recorder);
	write_closed(f);
	damage(f, 4, 4);
	assert_int_equal(trend_file_open(f->path, false, &e), -EINVAL);
	fd = trend_file_open(f->path, true, &e);
	assert_true(fd >= 0);
	close(fd);
	snprintf(aside, sizeof(aside), "%s.damaged", f->path);
	assert_int_equal(access(aside, F_OK), 0);
}

static void test_empty_file_is_begun(void **state)
{
	struct fixture *f = *state;
	struct err e;
	int fd = open(f->path, O_CREAT | O_RDWR, 0600);

	close(fd);
	fd = trend_file_open(f->path, true, &e);
	assert_true(fd >= 0);
	close(fd);
	assert_int_equal(trend_file_open(f->path, false, &e) < 0, 0);
}

static void test_gap_is_unknown_and_finer_rows_fill_in(void **state)
{
	struct fixture *f = *state;

	for (uint32_t i = 1; i <= 600; i++)
		sample(f, BEGIN_S + i, 1, 20);
	trend_record_pause(&f->recorder);
	for (uint32_t i = 1201; i <= 1800; i++)
		sample(f, BEGIN_S + i, 1, 60);
	trend_record_pause(&f->recorder);
	write_closed(f); /* the hour is not over, so only minutes and seconds are there */
	struct trend_view v = view(f, BEGIN_S, 600, 3);

	assert_near(trend_view_average(&v, TREND_CPU, 0), 20);
	assert_true(isnan(trend_view_average(&v, TREND_CPU, 1)));
	assert_near(trend_view_average(&v, TREND_CPU, 2), 60);
	trend_view_done(&v);
	v = view(f, BEGIN_S, 3600, 1);
	assert_near(trend_view_average(&v, TREND_CPU, 0), 40);
	trend_view_done(&v);
}

static void test_coarse_rows_fill_in_only_before_the_oldest_fine_row(void **state)
{
	struct fixture *f = *state;

	for (uint32_t i = 1; i <= 7200; i++) {
		if (i < 7000 || i > 7010)
			sample(f, BEGIN_S + i, 1, (float)(10 + i % 2));
		if (i % 1000 == 0)
			write_closed(f);
	}
	trend_record_end(&f->recorder);
	write_closed(f);
	struct trend_view v = view(f, BEGIN_S, 1, 7200);

	assert_near(trend_view_average(&v, TREND_CPU, 0), 10.5); /* of the minute */
	assert_near(trend_view_average(&v, TREND_CPU, 6000), 11);
	for (unsigned i = 6999; i < 7010; i++)
		assert_true(isnan(trend_view_average(&v, TREND_CPU, i)));
	trend_view_done(&v);
}

static void test_step_beyond_the_largest_time(void **state)
{
	static const uint32_t steps[] = { UINT32_MAX - BEGIN_S, UINT32_MAX - BEGIN_S + 1, UINT32_MAX - 1, UINT32_MAX };
	struct fixture *f = *state;

	for (uint32_t i = 1; i <= 60; i++)
		sample(f, BEGIN_S + i, 1, 20);
	trend_record_end(&f->recorder);
	write_closed(f);
	for (size_t i = 0; i < ARRAY_SIZE(steps); i++) {
		struct trend_view v = view(f, BEGIN_S, steps[i], 1);

		assert_near(trend_view_average(&v, TREND_CPU, 0), 20);
		trend_view_done(&v);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_samples_become_rows_of_all_ranges, setup, teardown),
		cmocka_unit_test_setup_teardown(test_idle_vm_has_no_new_row, setup, teardown),
		cmocka_unit_test_setup_teardown(test_two_years, setup, teardown),
		cmocka_unit_test_setup_teardown(test_newer_rows_replace_those_behind_a_clock_set_back, setup, teardown),
		cmocka_unit_test_setup_teardown(test_rows_from_a_time_on_are_read_without_all_before, setup, teardown),
		cmocka_unit_test_setup_teardown(test_daemon_that_restarts_within_an_hour_adds_to_the_hour, setup, teardown),
		cmocka_unit_test_setup_teardown(test_torn_write_loses_one_row, setup, teardown),
		cmocka_unit_test_setup_teardown(test_one_damaged_head_loses_nothing, setup, teardown),
		cmocka_unit_test_setup_teardown(test_other_damaged_head_loses_nothing, setup, teardown),
		cmocka_unit_test_setup_teardown(test_two_damaged_heads_lose_nothing, setup, teardown),
		cmocka_unit_test_setup_teardown(test_damaged_header_is_set_aside, setup, teardown),
		cmocka_unit_test_setup_teardown(test_empty_file_is_begun, setup, teardown),
		cmocka_unit_test_setup_teardown(test_coarse_rows_fill_in_only_before_the_oldest_fine_row, setup, teardown),
		cmocka_unit_test_setup_teardown(test_gap_is_unknown_and_finer_rows_fill_in, setup, teardown),
		cmocka_unit_test_setup_teardown(test_step_beyond_the_largest_time, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
