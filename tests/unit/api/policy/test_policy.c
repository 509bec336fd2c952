/* Staged starts, shutdown warnings, idleness. The clock is an argument. */
#include "api/policy/policy.h"
#include "base/util.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define S 1000000000ULL

/* ---- staged starts ---- */

/* Begin all entries that may begin now. Returns their number. */
static unsigned begin(struct policy_entry *e, size_t n, unsigned parallel, uint64_t now,
	uint64_t *at)
{
	unsigned begun = 0;
	size_t i;

	while ((i = policy_next(e, n, parallel, now, at)) < n) {
		e[i].progress = POLICY_UNDER_WAY;
		begun++;
	}
	return begun;
}

static void over(struct policy_entry *e, uint64_t now)
{
	e->progress = POLICY_OVER;
	e->over_ns = now;
}

static void test_equal_order_starts_in_parallel(void **state)
{
	struct policy_entry e[5] = { { 0 } };
	uint64_t at;

	(void)state;
	assert_int_equal(begin(e, 5, 2, 1, &at), 2);
	assert_true(at == UINT64_MAX);
	over(&e[1], 1);
	assert_int_equal(begin(e, 5, 2, 1, &at), 1);
	over(&e[0], 2);
	over(&e[2], 2);
	assert_int_equal(begin(e, 5, 2, 2, &at), 2);
	assert_false(policy_all_over(e, 5));
	over(&e[3], 3);
	over(&e[4], 3);
	assert_true(policy_all_over(e, 5));
	assert_int_equal(begin(e, 5, 2, 3, &at), 0);
	assert_int_equal(policy_next(e, 0, 2, 3, &at), 0);
	assert_true(policy_all_over(e, 0));
}

static void test_higher_order_waits_for_all_lower(void **state)
{
	struct policy_entry e[] = { { .order = 1 }, { .order = 1 }, { .order = 2 } };
	uint64_t at;

	(void)state;
	assert_int_equal(begin(e, 3, 8, 1, &at), 2);
	over(&e[1], 1);
	assert_int_equal(begin(e, 3, 8, 1, &at), 0);
	over(&e[0], 2);
	assert_int_equal(begin(e, 3, 8, 2, &at), 1);
}

static void test_start_delay_holds_only_vms_of_its_definer(void **state)
{
	enum { A, B };
	struct policy_entry e[] = { { .delay_s = 86400, .definer = A }, { .definer = A }, { .definer = B },
		{ .order = 1, .definer = A }, { .order = 2, .definer = B }, { .order = 3, .delay_s = 5, .definer = B },
		{ .order = 4, .definer = B } };
	uint64_t at;

	(void)state;
	/* The first start of A is still under way, and its delay holds nobody else of the same order. */
	assert_int_equal(begin(e, 7, 8, 100 * S, &at), 2);
	assert_int_equal(e[2].progress, POLICY_UNDER_WAY);
	over(&e[2], 100 * S);
	/* Another order waits for a start under way, whosever it is, but not for a delay. */
	assert_int_equal(begin(e, 7, 8, 100 * S, &at), 0);
	over(&e[0], 101 * S);
	assert_int_equal(begin(e, 7, 8, 101 * S, &at), 1);
	assert_int_equal(e[4].progress, POLICY_UNDER_WAY);
	assert_true(at == UINT64_MAX || at == 86501 * S);
	over(&e[4], 102 * S);
	assert_int_equal(begin(e, 7, 8, 102 * S, &at), 1);
	over(&e[5], 103 * S);
	/* The delays of both run: the shorter one ends first. */
	assert_int_equal(begin(e, 7, 8, 103 * S, &at), 0);
	assert_true(at == 108 * S);
	assert_int_equal(begin(e, 7, 8, 108 * S, &at), 1);
	assert_int_equal(e[6].progress, POLICY_UNDER_WAY);
	over(&e[6], 109 * S);
	assert_int_equal(begin(e, 7, 8, 109 * S, &at), 0);
	assert_true(at == 86501 * S);
	assert_int_equal(begin(e, 7, 8, at, &at), 1);
	over(&e[1], 86502 * S);
	assert_int_equal(begin(e, 7, 8, 86502 * S, &at), 1);
	over(&e[3], 86503 * S);
	assert_true(policy_all_over(e, 7));
}

static void test_start_delay_holds_next_entry(void **state)
{
	struct policy_entry e[] = { { .delay_s = 10 }, { .delay_s = 0 }, { .order = 5 } };
	uint64_t at;

	(void)state;
	assert_int_equal(begin(e, 3, 8, 100 * S, &at), 1); /* nor in parallel with it */
	assert_true(at == UINT64_MAX);
	over(&e[0], 103 * S);
	assert_int_equal(begin(e, 3, 8, 103 * S, &at), 0);
	assert_int_equal(at, 113 * S);
	assert_int_equal(begin(e, 3, 8, 113 * S - 1, &at), 0);
	assert_int_equal(begin(e, 3, 8, 113 * S, &at), 1);
	over(&e[1], 113 * S);
	assert_int_equal(begin(e, 3, 8, 113 * S, &at), 1);
}

/* ---- warnings ---- */

static void test_warnings_are_due_before_deadline(void **state)
{
	static const int64_t times[][2] = { { 0, 6400 }, { 6399, 6400 }, { 6400, 9400 },
		{ 9400, 9700 }, { 9700, 9940 }, { 9940, 0 }, { 20000, 0 } };

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(times); i++)
		assert_int_equal(policy_next_warning(10000, times[i][0]), times[i][1]);
}

/* ---- idleness ---- */

static const struct policy_idle_rule rule = { .after_s = 60, .cpu_percent = 2 };

/* Sample every 6 s from *s on, `times` times, raising the counters each time. Returns the number of
 * samples that found the VM idle. */
static unsigned look(struct policy_idle *i, struct policy_sample *s, unsigned times, uint64_t cpu_ns,
	uint64_t requests)
{
	unsigned idle = 0;

	for (unsigned n = 0; n < times; n++) {
		s->now_ns += 6 * S;
		s->cpu_ns += cpu_ns;
		s->requests += requests;
		idle += policy_idle_sample(&rule, i, s);
	}
	return idle;
}

static void test_idle_after_quiet_period(void **state)
{
	struct policy_sample s = { .now_ns = 1000 * S };
	struct policy_idle i = { 0 };

	(void)state;
	assert_int_equal(policy_idle_period_ns(&rule), 6 * S);
	assert_int_equal(look(&i, &s, 10, 0, 0), 0); /* 54 s since the first sample */
	assert_int_equal(look(&i, &s, 1, 0, 0), 1);
	assert_int_equal(look(&i, &s, 3, 6 * S / 50, 0), 3); /* 2 % */
	assert_int_equal(look(&i, &s, 1, 6 * S / 50 + 1, 0), 0);
	assert_int_equal(look(&i, &s, 9, 0, 0), 0);
	assert_int_equal(look(&i, &s, 1, 0, 0), 1);
}

static void test_busy_vm_is_not_idle(void **state)
{
	struct policy_sample s = { .now_ns = 1000 * S };
	struct policy_idle i = { 0 };

	(void)state;
	assert_int_equal(look(&i, &s, 30, 0, 1), 0);
	s.watched = true;
	assert_int_equal(look(&i, &s, 30, 0, 0), 0);
	s.watched = false;
	for (unsigned n = 0; n < 30; n++) {
		s.bytes++;
		assert_int_equal(look(&i, &s, 1, 0, 0), 0);
	}
	/* Another run of the VM: its counters start at 0. */
	assert_int_equal(look(&i, &s, 10, 1000, 0), 1);
	s.cpu_ns = 0;
	assert_int_equal(look(&i, &s, 1, 0, 0), 0);
	/* No samples for a while. */
	assert_int_equal(look(&i, &s, 11, 0, 0), 2);
	s.now_ns += 3600 * S;
	assert_int_equal(look(&i, &s, 1, 0, 0), 0);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_equal_order_starts_in_parallel),
		cmocka_unit_test(test_higher_order_waits_for_all_lower),
		cmocka_unit_test(test_start_delay_holds_next_entry),
		cmocka_unit_test(test_start_delay_holds_only_vms_of_its_definer),
		cmocka_unit_test(test_warnings_are_due_before_deadline),
		cmocka_unit_test(test_idle_after_quiet_period),
		cmocka_unit_test(test_busy_vm_is_not_idle),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
