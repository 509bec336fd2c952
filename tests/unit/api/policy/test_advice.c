/* Rules of advice on made-up trends: idle VMs, weekly patterns, sudden rises, gaps, disks that grow with noise. */
#include "api/policy/advice.h"
#include "base/util.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define NOW_S 1800000000LL
#define DAY_S 86400LL
#define RAM (8 * GIB)

struct fixture {
	struct trend_view v;
	struct advice_vm vm;
	struct advice_list l;
	uint32_t random;
};

/* Returns a number from -1 to 1; the same ones in each run. */
static double noise(struct fixture *f)
{
	f->random = f->random * 1664525U + 1013904223U;
	return (double)(f->random >> 8) / (1 << 23) - 1;
}

static void point_set(struct fixture *f, enum trend_series s, size_t i, double average, double maximum)
{
	f->v.points[s * ADVICE_HOURS + i] = (struct trend_point){ average * 3600, 3600, (float)maximum };
}

/* Fill in an hour of a VM that does nothing. */
static void hour_idle(struct fixture *f, size_t i)
{
	for (enum trend_series s = TREND_CPU; s < TREND_SERIES; s++)
		if (s != TREND_USED && s != TREND_BALLOON && s != TREND_RD_LATENCY && s != TREND_WR_LATENCY)
			point_set(f, s, i, 0, 0);
	point_set(f, TREND_CPU, i, 0.5, 4);
	point_set(f, TREND_WR_REQS, i, 0.1, 5);
	point_set(f, TREND_MEMORY, i, 6 * (double)GIB, 6 * (double)GIB);
}

static void hour_busy(struct fixture *f, size_t i)
{
	hour_idle(f, i);
	point_set(f, TREND_CPU, i, 150, 380);
	point_set(f, TREND_WR_REQS, i, 50, 300);
	point_set(f, TREND_TX_PACKETS, i, 90, 900);
}

static void hour_forget(struct fixture *f, size_t i)
{
	for (enum trend_series s = TREND_CPU; s < TREND_SERIES; s++)
		f->v.points[s * ADVICE_HOURS + i] = (struct trend_point){ 0 };
}

/* A VM that was busy for five weeks. */
static int setup(void **state)
{
	struct fixture *f = must_alloc(calloc(1, sizeof(*f)));

	f->v = (struct trend_view){ (uint32_t)(NOW_S - ADVICE_HOURS * 3600), ADVICE_STEP_S, ADVICE_HOURS,
		must_alloc(calloc((size_t)ADVICE_HOURS * TREND_SERIES, sizeof(struct trend_point))) };
	f->vm = (struct advice_vm){ .name = "web1", .runs = true, .vcpus = 4, .ram_bytes = RAM, .now_s = NOW_S, .since_s = NOW_S - 50 * DAY_S,
		.pressure = NAN, .hours = &f->v };
	f->l.tell_lacks = true;
	for (size_t i = 0; i < ADVICE_HOURS; i++)
		hour_busy(f, i);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	advice_list_done(&f->l);
	free(f->v.points);
	free(f);
	return 0;
}

static const struct advice *find(const struct fixture *f, const char *rule)
{
	for (size_t i = 0; i < f->l.n; i++)
		if (!strcmp(f->l.list[i].rule, rule))
			return &f->l.list[i];
	return NULL;
}

static double figure(const struct advice *a, const char *name)
{
	for (unsigned i = 0; a && i < a->nfigures; i++)
		if (!strcmp(a->figures[i].name, name))
			return a->figures[i].value;
	return NAN;
}

/* Apply the rules again. Returns the advice of a rule; NULL: none. */
static const struct advice *judge(struct fixture *f, const char *rule)
{
	advice_list_done(&f->l);
	f->l.tell_lacks = true;
	advice_of_vm(&f->vm, &f->l);
	return find(f, rule);
}

static bool lacks(const struct fixture *f, const char *rule)
{
	for (size_t i = 0; i < f->l.nlacks; i++)
		if (!strcmp(f->l.lacks[i].rule, rule))
			return true;
	return false;
}

static void test_busy_vm_gets_no_advice(void **state)
{
	struct fixture *f = *state;

	judge(f, "");
	assert_int_equal(f->l.n, 0);
}

static void test_idle_days_are_counted_back_to_the_last_busy_one(void **state)
{
	struct fixture *f = *state;
	const struct advice *a;

	for (size_t i = ADVICE_HOURS - 5 * 24; i < ADVICE_HOURS; i++)
		hour_idle(f, i);
	hour_busy(f, ADVICE_HOURS - 30); /* one hour of a day does not count */
	a = judge(f, "idle");
	assert_non_null(a);
	assert_true(figure(a, "days") == 5);
	assert_string_equal(a->command, "cairn managedsave web1");
	assert_null(a->apply);
	assert_null(find(f, "reclaim"));
	hour_busy(f, ADVICE_HOURS - 31);
	assert_null(judge(f, "idle"));
}

static void test_two_idle_days_are_too_few(void **state)
{
	struct fixture *f = *state;

	for (size_t i = ADVICE_HOURS - 71; i < ADVICE_HOURS; i++)
		hour_idle(f, i);
	hour_busy(f, ADVICE_HOURS - 72);
	hour_busy(f, ADVICE_HOURS - 71);
	assert_null(judge(f, "idle"));
}

static void test_vm_that_rests_at_weekends_is_not_idle(void **state)
{
	struct fixture *f = *state;

	for (size_t i = 0; i < ADVICE_HOURS; i++)
		if (i / 24 % 7 >= 5)
			hour_idle(f, i);
	assert_null(judge(f, "idle")); /* the last two days are idle */
	assert_null(find(f, "vcpus"));
}

static void test_idle_rule_lacks_data_of_a_day_with_gaps(void **state)
{
	struct fixture *f = *state;

	for (size_t i = 0; i < ADVICE_HOURS; i++)
		hour_idle(f, i);
	assert_true(figure(judge(f, "idle"), "days") == ADVICE_HOURS / 24);
	for (size_t i = ADVICE_HOURS - 44; i < ADVICE_HOURS - 40; i++)
		hour_forget(f, i);
	assert_true(figure(judge(f, "idle"), "days") == ADVICE_HOURS / 24);
	hour_forget(f, ADVICE_HOURS - 39);
	assert_null(judge(f, "idle"));
	assert_true(lacks(f, "idle"));
}

static void test_vm_without_trends_gets_no_advice(void **state)
{
	struct fixture *f = *state;

	for (size_t i = 0; i < ADVICE_HOURS; i++)
		hour_forget(f, i);
	judge(f, "");
	assert_int_equal(f->l.n, 0);
	assert_true(lacks(f, "idle") && lacks(f, "memory") && lacks(f, "vcpus") && lacks(f, "memory-growth"));
	f->vm.hours = NULL;
	judge(f, "");
	assert_int_equal(f->l.n, 0);
}

static void test_reclaim_is_harmless_and_needs_a_snapshot(void **state)
{
	struct fixture *f = *state;
	const struct advice *a;

	for (size_t i = 0; i < ADVICE_HOURS; i++)
		hour_idle(f, i);
	f->vm.may_reclaim = true;
	a = judge(f, "reclaim");
	assert_non_null(a);
	assert_string_equal(a->apply, "vm-reclaim");
	assert_true(figure(a, "memory") == 6 * (double)GIB);
	for (size_t i = ADVICE_HOURS - 24; i < ADVICE_HOURS; i++)
		point_set(f, TREND_MEMORY, i, 100 * (double)MIB, 100 * (double)MIB);
	assert_null(judge(f, "reclaim")); /* most of it was freed already */
}

static void test_memory_that_is_never_touched(void **state)
{
	struct fixture *f = *state;
	const struct advice *a;

	for (size_t i = ADVICE_HOURS - 168; i < ADVICE_HOURS; i++)
		point_set(f, TREND_MEMORY, i, (double)GIB, 1.5 * (double)GIB);
	a = judge(f, "memory");
	assert_non_null(a);
	assert_true(figure(a, "peak") == 1.5 * (double)GIB && figure(a, "memory") == (double)RAM);
	assert_true(figure(a, "enough") == 1920 * (double)MIB);
	assert_string_equal(a->command, "cairn setmaxmem web1 1920M");
	point_set(f, TREND_MEMORY, ADVICE_HOURS - 100, (double)GIB, 5 * (double)GIB);
	assert_null(judge(f, "memory"));
}

static void test_guest_statistics_count_more_than_resident_memory(void **state)
{
	struct fixture *f = *state;

	for (size_t i = ADVICE_HOURS - 168; i < ADVICE_HOURS; i++)
		point_set(f, TREND_USED, i, 2 * (double)GIB, 2 * (double)GIB);
	assert_true(figure(judge(f, "memory"), "peak") == 2 * (double)GIB); /* 6 GiB are resident */
}

static void test_vcpus_that_are_never_busy(void **state)
{
	struct fixture *f = *state;
	const struct advice *a;

	f->vm.vcpus = 16;
	a = judge(f, "vcpus");
	assert_true(figure(a, "enough") == 5 && figure(a, "vcpus") == 16);
	assert_string_equal(a->command, "cairn setvcpus web1 5 --config");
	point_set(f, TREND_CPU, ADVICE_HOURS - 20, 100, 1200); /* one second of one hour */
	assert_null(judge(f, "vcpus"));
	point_set(f, TREND_CPU, ADVICE_HOURS - 20, 100, 1e30);
	assert_null(judge(f, "vcpus"));
}

static void memory_line(struct fixture *f, double begin, double per_hour, double wobble)
{
	for (size_t i = ADVICE_HOURS - 168; i < ADVICE_HOURS; i++) {
		double used = begin + per_hour * (double)(i - (ADVICE_HOURS - 168)) + wobble * noise(f);

		point_set(f, TREND_USED, i, used, used);
	}
}

static void test_memory_that_grows_runs_out(void **state)
{
	struct fixture *f = *state;
	const struct advice *a;
	double days;

	memory_line(f, 3 * (double)GIB, (double)GIB / 72, (double)GIB / 4);
	a = judge(f, "memory-growth");
	assert_non_null(a);
	days = figure(a, "days"); /* 8 - 3 - 168/72 GiB, at 1/3 GiB a day */
	assert_true(days > 7.5 && days < 8.5);
	assert_true(figure(a, "days-early") < days && figure(a, "days-late") > days);
	/* With gaps. */
	for (size_t i = ADVICE_HOURS - 150; i < ADVICE_HOURS - 80; i++)
		hour_forget(f, i);
	assert_non_null(judge(f, "memory-growth"));
}

static void test_memory_without_a_trend_does_not_run_out(void **state)
{
	struct fixture *f = *state;

	/* Noise. */
	memory_line(f, 5 * (double)GIB, 0, (double)GIB);
	assert_null(judge(f, "memory-growth"));
	/* A day's rhythm. */
	for (size_t i = ADVICE_HOURS - 168; i < ADVICE_HOURS; i++)
		point_set(f, TREND_USED, i, (4 + 0.1 * (double)(i % 24)) * (double)GIB, 7 * (double)GIB);
	assert_null(judge(f, "memory-growth"));
	/* A step: a program started, and stays. */
	for (size_t i = ADVICE_HOURS - 168; i < ADVICE_HOURS; i++)
		point_set(f, TREND_USED, i, (i < ADVICE_HOURS - 120 ? 4 : 6) * (double)GIB, 7 * (double)GIB);
	assert_null(judge(f, "memory-growth"));
	/* Falling. */
	memory_line(f, 7 * (double)GIB, -(double)GIB / 72, (double)GIB / 4);
	assert_null(judge(f, "memory-growth"));
}

static void test_vm_that_is_off_for_long(void **state)
{
	struct fixture *f = *state;
	const struct advice *a;

	f->vm = (struct advice_vm){ .name = "old", .now_s = NOW_S, .since_s = NOW_S - 100 * DAY_S, .made_bytes = GIB };
	a = judge(f, "off");
	assert_true(figure(a, "days") == 100 && figure(a, "bytes") == (double)GIB);
	f->vm.kept = true;
	assert_null(judge(f, "off"));
	f->vm.saved = true;
	a = judge(f, "saved");
	assert_string_equal(a->command, "cairn managedsave-remove old");
	f->vm.since_s = NOW_S - 10 * DAY_S;
	assert_null(judge(f, "saved"));
	f->vm.since_s = 0;
	assert_null(judge(f, "saved"));
}

static void test_overlays_count_after_a_month(void **state)
{
	struct fixture *f = *state;

	f->vm.overlay_disk = "vda";
	f->vm.overlays = 2;
	assert_null(judge(f, "overlays"));
	f->vm.defined_s = NOW_S - 40 * DAY_S;
	assert_string_equal(judge(f, "overlays")->command, "cairn blockcommit web1 vda --pivot");
	f->vm.runs = false;
	assert_string_equal(judge(f, "overlays")->command, "cairn blockcommit web1 vda");
}

/* ---- short and unusual ---- */

static void test_vcpus_that_wait_for_a_processor(void **state)
{
	struct fixture *f = *state;

	assert_null(judge(f, "cpu-wait"));
	assert_true(lacks(f, "cpu-wait"));
	f->vm.wait = (struct advice_wait){ 400, 300, 100 };
	assert_true(figure(judge(f, "cpu-wait"), "percent") == 25);
	assert_true(figure(find(f, "cpu-wait"), "waited") == 0.25);
	f->vm.wait = (struct advice_wait){ 400, 300, 60 };
	assert_null(judge(f, "cpu-wait"));
	f->vm.wait = (struct advice_wait){ 400, 3, 3 }; /* it hardly runs */
	assert_null(judge(f, "cpu-wait"));
	f->vm.wait = (struct advice_wait){ 400, 0, 0 };
	assert_null(judge(f, "cpu-wait"));
}

static void test_vcpus_that_are_all_busy(void **state)
{
	struct fixture *f = *state;
	const struct advice *a;

	for (size_t i = ADVICE_HOURS - 6; i < ADVICE_HOURS; i++)
		point_set(f, TREND_CPU, i, 385, 410);
	hour_forget(f, ADVICE_HOURS - 3);
	f->vm.host_cpus = 4;
	assert_null(judge(f, "cpu"));
	f->vm.host_cpus = 64;
	a = judge(f, "cpu");
	assert_string_equal(a->command, "cairn setvcpus web1 6 --config");
	assert_true(figure(a, "cpu") == 385 && figure(a, "limit") == 400);
	f->vm.max_vcpus = 5;
	assert_string_equal(judge(f, "cpu")->command, "cairn setvcpus web1 5");
	f->vm.max_vcpus = 4;
	assert_string_equal(judge(f, "cpu")->command, "cairn setvcpus web1 6 --maximum --config");
	f->vm.cpu_quota = 390;
	assert_string_equal(judge(f, "cpu")->command, "cairn edit web1");
	f->vm.cpu_quota = 1000;
	hour_forget(f, ADVICE_HOURS - 2);
	assert_null(judge(f, "cpu"));
}

static void test_process_that_waits_for_memory(void **state)
{
	struct fixture *f = *state;
	const struct advice *a;

	assert_null(judge(f, "memory-pressure"));
	f->vm.pressure = 9.9;
	assert_null(judge(f, "memory-pressure"));
	f->vm.pressure = 25;
	a = judge(f, "memory-pressure");
	assert_string_equal(a->text, "threads of its process waited for memory in 25 % of the last five minutes");
	assert_string_equal(a->command, "cairn dominfo web1 --sandbox");
	assert_null(a->apply);
	f->vm.may_reclaim = true;
	a = judge(f, "memory-pressure");
	assert_string_equal(a->command, "cairn reclaim web1");
	assert_string_equal(a->apply, "vm-reclaim");
}

static void test_guest_without_free_memory(void **state)
{
	struct fixture *f = *state;

	for (size_t i = ADVICE_HOURS - 6; i < ADVICE_HOURS; i++)
		point_set(f, TREND_USED, i, 7.8 * (double)GIB, 8 * (double)GIB);
	assert_string_equal(judge(f, "guest-memory")->command, "cairn setmaxmem web1 12288M");
	for (size_t i = ADVICE_HOURS - 6; i < ADVICE_HOURS; i++) {
		point_set(f, TREND_USED, i, 3.9 * (double)GIB, 4 * (double)GIB);
		point_set(f, TREND_BALLOON, i, 4 * (double)GIB, 4 * (double)GIB);
	}
	assert_string_equal(judge(f, "guest-memory")->command, "cairn setmem web1 8192M");
	for (size_t i = ADVICE_HOURS - 6; i < ADVICE_HOURS; i++)
		point_set(f, TREND_USED, i, 3 * (double)GIB, 4 * (double)GIB);
	assert_null(judge(f, "guest-memory"));
}

static void test_latency_against_the_vms_own_usual(void **state)
{
	struct fixture *f = *state;
	const struct advice *a;

	for (size_t i = 0; i < ADVICE_HOURS; i++)
		point_set(f, TREND_WR_LATENCY, i, 4e6 + 1e6 * noise(f), 9e6);
	assert_null(judge(f, "latency"));
	point_set(f, TREND_WR_LATENCY, ADVICE_HOURS - 1, 40e6, 90e6);
	a = judge(f, "latency"); /* the mean of the last two hours: 22 ms */
	assert_non_null(a);
	assert_true(figure(a, "now") > 0.020 && figure(a, "usual") < 0.005 && figure(a, "most") < 0.005);
	/* A VM whose disk is slow now and then, always as slow as before. */
	for (size_t i = 0; i < ADVICE_HOURS; i += 10)
		point_set(f, TREND_WR_LATENCY, i, 45e6, 90e6);
	assert_null(judge(f, "latency"));
	/* Too few hours. */
	for (size_t i = 70; i < ADVICE_HOURS - 2; i++)
		hour_forget(f, i);
	assert_null(judge(f, "latency"));
	assert_true(lacks(f, "latency"));
}

static void test_fast_disk_that_is_a_little_slower_is_not_worth_a_word(void **state)
{
	struct fixture *f = *state;

	for (size_t i = 0; i < ADVICE_HOURS; i++)
		point_set(f, TREND_RD_LATENCY, i, i < ADVICE_HOURS - 2 ? 1e5 : 1e6, 2e6);
	for (size_t i = 0; i < ADVICE_HOURS; i++)
		point_set(f, TREND_RD_REQS, i, 100, 100);
	assert_null(judge(f, "latency"));
}

/* A VM that works on weekdays from nine to five, if hour 0 is a Monday's first. */
static void office_hours(struct fixture *f)
{
	for (size_t i = 0; i < ADVICE_HOURS; i++) {
		bool works = i / 24 % 7 < 5 && i % 24 >= 9 && i % 24 < 17;

		point_set(f, TREND_CPU, i, works ? 200 + 20 * noise(f) : 5 + noise(f), 380);
	}
}

/* Move the series so that the last point is this hour of the fifth week. */
static void week_end(struct fixture *f, size_t day, size_t hour)
{
	size_t by = 7 * 24 - (day * 24 + hour) - 1;

	memmove(f->v.points + by, f->v.points, (ADVICE_HOURS - by) * sizeof(*f->v.points)); /* of cpu, the first series */
}

static void test_weekly_pattern_is_usual(void **state)
{
	struct fixture *f = *state;

	for (size_t day = 0; day < 7; day++) {
		for (size_t hour = 0; hour < 24; hour++) {
			office_hours(f);
			week_end(f, day, hour);
			assert_null(judge(f, "unusual-cpu"));
		}
	}
	assert_false(lacks(f, "unusual"));
}

static void test_rise_at_an_hour_that_is_usually_quiet(void **state)
{
	struct fixture *f = *state;
	const struct advice *a;

	office_hours(f);
	week_end(f, 6, 12); /* Sunday, noon */
	point_set(f, TREND_CPU, ADVICE_HOURS - 1, 200, 380); /* usual on weekdays */
	a = judge(f, "unusual-cpu");
	assert_non_null(a);
	assert_int_equal(a->kind, ADVICE_UNUSUAL);
	assert_true(figure(a, "now") == 200 && figure(a, "high") < 7);
	assert_string_equal(a->command, "cairn trend web1 cpu --last 1d");
	/* One of the past weeks had it, too. */
	point_set(f, TREND_CPU, ADVICE_HOURS - 1 - 14 * 24, 190, 380);
	assert_null(judge(f, "unusual-cpu"));
}

static void test_vm_that_stopped_working_is_unusual(void **state)
{
	struct fixture *f = *state;

	office_hours(f);
	week_end(f, 2, 12);
	point_set(f, TREND_CPU, ADVICE_HOURS - 1, 3, 5);
	assert_true(figure(judge(f, "unusual-cpu"), "low") > 170);
	/* The present hour has just begun: the hour before counts. */
	f->v.points[ADVICE_HOURS - 1] = (struct trend_point){ 3 * 60, 60, 5 };
	assert_null(judge(f, "unusual-cpu"));
}

static void test_unusual_needs_three_weeks(void **state)
{
	struct fixture *f = *state;

	for (size_t i = 0; i < ADVICE_HOURS - 3 * 168; i++)
		hour_forget(f, i);
	point_set(f, TREND_CPU, ADVICE_HOURS - 1, 3000, 3000);
	assert_null(judge(f, "unusual-cpu"));
	assert_true(lacks(f, "unusual"));
}

static void test_pressure_of_the_host_names_who_holds_most(void **state)
{
	struct fixture *f = *state;

	advice_of_host(9, "web1", (double)GIB, &f->l);
	assert_int_equal(f->l.n, 0);
	advice_of_host(NAN, "web1", (double)GIB, &f->l);
	assert_int_equal(f->l.n, 0);
	advice_of_host(40, "web1", 3 * (double)GIB, &f->l);
	assert_string_equal(f->l.list[0].text, "threads waited for memory in 40 % of the last five minutes; VM 'web1' holds most of it, 3.0 GiB");
	advice_of_host(40, NULL, 0, &f->l);
	assert_int_equal(f->l.list[1].nfigures, 1);
}

static void test_old_snapshots(void **state)
{
	const struct advice_snapshot some[] = { { "new", "1", NOW_S - 3 * DAY_S, GIB }, { "b", "2", NOW_S - 40 * DAY_S, GIB },
		{ "of a; user", "3", NOW_S - 50 * DAY_S, 2 * GIB }, { "no time", "4", 0, GIB }, { "to come", "5", NOW_S + DAY_S, GIB } };
	struct fixture *f = *state;

	advice_of_snapshots("web1", some, 1, NOW_S, &f->l);
	assert_int_equal(f->l.n, 0);
	advice_of_snapshots("web1", some, 2, NOW_S, &f->l);
	assert_string_equal(f->l.list[0].command, "cairn snapshot-delete web1 b");
	assert_string_equal(f->l.list[0].text, "1 snapshot is older than 30 days, with 1.0 GiB of memory; the oldest is 'b', of 40 days ago");
	advice_of_snapshots("web1", some, ARRAY_SIZE(some), NOW_S, &f->l);
	assert_string_equal(f->l.list[1].command, "cairn snapshot-delete web1 'of a; user'");
	assert_true(figure(&f->l.list[1], "snapshots") == 2 && figure(&f->l.list[1], "bytes") == 3 * (double)GIB);
}

/* ---- before a start ---- */

static void test_start_names_what_is_short_and_who_holds_it(void **state)
{
	const struct pool_point point = { 0, 99 * GIB, 100 * GIB };
	struct advice_start s = { .name = "web1", .ram_bytes = RAM, .available_bytes = 9 * GIB, .vcpus = 4, .host_cpus = 4 };
	struct fixture *f = *state;

	advice_of_start(&s, &f->l);
	assert_int_equal(f->l.n, 0);
	s.available_bytes = 0; /* not known */
	advice_of_start(&s, &f->l);
	assert_int_equal(f->l.n, 0);
	s = (struct advice_start){ .name = "web1", .ram_bytes = RAM, .available_bytes = 3 * GIB, .holder = "db1", .held_bytes = 12 * GIB,
		.disk = "vda", .pool = "images", .space = &point, .vcpus = 8, .host_cpus = 4 };
	advice_of_start(&s, &f->l);
	assert_int_equal(f->l.n, 3);
	assert_string_equal(f->l.list[0].text, "the VM has 8.0 GiB of memory, and the host has 3.0 GiB available; VM 'db1' holds most, 12.0 GiB");
	assert_string_equal(f->l.list[0].command, "cairn managedsave db1");
	assert_string_equal(f->l.list[1].text, "disk vda is in pool 'images', whose file system has 1.0 GiB left");
	assert_string_equal(f->l.list[2].text, "the VM has 8 vCPUs, and the host has 4 processors");
	advice_list_done(&f->l);
	s.holder = NULL;
	s.disk_holder = "db1";
	s.disk_held = 80 * GIB;
	s.vcpus = 2;
	s.busy_cpus = 3.6;
	s.busy_name = "db1";
	s.busy_most = 2;
	advice_of_start(&s, &f->l);
	assert_int_equal(f->l.n, 3);
	assert_string_equal(f->l.list[0].command, "cairn setmaxmem web1 3072M");
	assert_string_equal(f->l.list[1].text, "disk vda is in pool 'images', whose file system has 1.0 GiB left; images of VM 'db1' hold most, 80.0 GiB");
	assert_string_equal(f->l.list[2].text, "running VMs keep 3.6 of 4 processors busy; VM 'db1' most, 2.0");
	s.busy_cpus = 3.5;
	advice_list_done(&f->l);
	advice_of_start(&s, &f->l);
	assert_int_equal(f->l.n, 2);
}

static void test_start_names_disk_outside_of_pools(void **state)
{
	const struct pool_point point = { 0, 99 * GIB, 100 * GIB };
	struct advice_start s = { .name = "web1", .disk = "vdb", .folder = "/srv/vms", .space = &point, .host_cpus = 4 };
	struct fixture *f = *state;

	advice_of_start(&s, &f->l);
	assert_int_equal(f->l.n, 1);
	assert_string_equal(f->l.list[0].text, "disk vdb is in folder '/srv/vms', whose file system has 1.0 GiB left");
	assert_string_equal(f->l.list[0].command, "df -h /srv/vms");
	advice_list_done(&f->l);
	s.folder = "/srv/my vms; reboot";
	s.disk_holder = "db1";
	s.disk_held = 80 * GIB;
	advice_of_start(&s, &f->l);
	assert_string_equal(f->l.list[0].text,
		"disk vdb is in folder '/srv/my vms; reboot', whose file system has 1.0 GiB left; images of VM 'db1' hold most, 80.0 GiB");
	assert_string_equal(f->l.list[0].command, "df -h '/srv/my vms; reboot'");
	assert_true(figure(&f->l.list[0], "left") == (double)GIB && figure(&f->l.list[0], "total") == 100 * (double)GIB);
}

/* ---- pools ---- */

static void pool_fill(struct fixture *f, struct pool_history *h, double begin, double per_hour, double wobble)
{
	h->n = 0;
	for (unsigned i = 0; i < 168; i++)
		pool_history_add(h, &(struct pool_point){ NOW_S + i * 3600, (uint64_t)((begin + per_hour * i + wobble * noise(f)) * (double)GIB), 1000 * GIB });
}

static const struct advice *pool_judge(struct fixture *f, const struct pool_history *h, bool low)
{
	advice_list_done(&f->l);
	f->l.tell_lacks = true;
	advice_of_pool("images", h, low, &f->l);
	return find(f, "pool-space");
}

static void test_pool_that_grows_with_noise_runs_out(void **state)
{
	struct fixture *f = *state;
	struct pool_history *h = must_alloc(calloc(1, sizeof(*h)));
	const struct advice *a;

	pool_fill(f, h, 400, 1, 20);
	a = pool_judge(f, h, false);
	assert_non_null(a);
	/* 1000 - 568 GiB, at 24 a day. */
	assert_true(figure(a, "days") > 16 && figure(a, "days") < 20);
	assert_true(figure(a, "days-early") < 18 && figure(a, "days-late") > 18);
	assert_true(figure(a, "days-late") - figure(a, "days-early") < 8);
	pool_fill(f, h, 400, 0, 50);
	assert_null(pool_judge(f, h, false));
	pool_fill(f, h, 400, 0.05, 0); /* 500 days */
	assert_null(pool_judge(f, h, false));
	free(h);
}

static void test_pool_that_is_nearly_full(void **state)
{
	struct fixture *f = *state;
	struct pool_history *h = must_alloc(calloc(1, sizeof(*h)));

	assert_null(pool_judge(f, h, true)); /* nothing is known */
	assert_true(lacks(f, "pool-space"));
	pool_fill(f, h, 950, 0, 1);
	assert_string_equal(pool_judge(f, h, true)->text, "the file system is 95 % full");
	assert_null(pool_judge(f, h, false));
	free(h);
}

/* ---- lines ---- */

static void test_error_of_a_line_covers_its_slope(void **state)
{
	struct fixture *f = *state;
	unsigned covered = 0;

	for (unsigned run = 0; run < 200; run++) {
		double x[100], y[100];
		struct line_fit l;

		for (unsigned i = 0; i < 100; i++) {
			x[i] = i;
			y[i] = 1e15 + 3.0 * i + 500 * noise(f);
		}
		y[run % 100] = NAN;
		assert_true(line_fit(x, y, 100, &l));
		assert_int_equal(l.n, 99);
		covered += l.slope > 3 - 2 * l.error && l.slope < 3 + 2 * l.error;
	}
	assert_true(covered >= 180 && covered < 200); /* of two errors, 95 % */
}

static void test_line_needs_three_points(void **state)
{
	double x[] = { 1, 1, 1, 2 }, y[] = { 1, 2, 3, NAN };
	struct line_fit l;

	(void)state;
	assert_false(line_fit(x, y, 2, &l));
	assert_false(line_fit(x, y, 4, &l));
	y[3] = 7;
	assert_true(line_fit(x, y, 4, &l));
	assert_true(line_fit_at(&l, 2) > 6.999 && line_fit_at(&l, 2) < 7.001);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(test_busy_vm_gets_no_advice),
		TEST(test_idle_days_are_counted_back_to_the_last_busy_one),
		TEST(test_two_idle_days_are_too_few),
		TEST(test_vm_that_rests_at_weekends_is_not_idle),
		TEST(test_idle_rule_lacks_data_of_a_day_with_gaps),
		TEST(test_vm_without_trends_gets_no_advice),
		TEST(test_reclaim_is_harmless_and_needs_a_snapshot),
		TEST(test_memory_that_is_never_touched),
		TEST(test_guest_statistics_count_more_than_resident_memory),
		TEST(test_vcpus_that_are_never_busy),
		TEST(test_memory_that_grows_runs_out),
		TEST(test_memory_without_a_trend_does_not_run_out),
		TEST(test_vm_that_is_off_for_long),
		TEST(test_overlays_count_after_a_month),
		TEST(test_vcpus_that_wait_for_a_processor),
		TEST(test_vcpus_that_are_all_busy),
		TEST(test_guest_without_free_memory),
		TEST(test_process_that_waits_for_memory),
		TEST(test_latency_against_the_vms_own_usual),
		TEST(test_fast_disk_that_is_a_little_slower_is_not_worth_a_word),
		TEST(test_weekly_pattern_is_usual),
		TEST(test_rise_at_an_hour_that_is_usually_quiet),
		TEST(test_vm_that_stopped_working_is_unusual),
		TEST(test_unusual_needs_three_weeks),
		TEST(test_pressure_of_the_host_names_who_holds_most),
		TEST(test_old_snapshots),
		TEST(test_start_names_what_is_short_and_who_holds_it),
		TEST(test_start_names_disk_outside_of_pools),
		TEST(test_pool_that_grows_with_noise_runs_out),
		TEST(test_pool_that_is_nearly_full),
		TEST(test_error_of_a_line_covers_its_slope),
		TEST(test_line_needs_three_points),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
