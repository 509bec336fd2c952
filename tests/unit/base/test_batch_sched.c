/* When a thread's data is bulk data, and which policy the thread has. The times are arguments. */
#include "base/batch_sched.h"

#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#define MS 1000000ULL
#define BEGIN_BYTES_MS (BATCH_SCHED_BEGIN_BYTES_S / 1000)
#define END_BYTES_MS (BATCH_SCHED_END_BYTES_S / 1000)

static void test_fast_data_is_bulk_until_it_is_slow(void **state)
{
	struct batch_sched b = { 0 };
	uint64_t now_ns = 1000 * MS, bytes = 12345;

	(void)state;
	assert_false(batch_sched_record(&b, now_ns, bytes));
	assert_false(batch_sched_record(&b, now_ns += 20 * MS, bytes += 19 * BEGIN_BYTES_MS));
	assert_true(batch_sched_record(&b, now_ns += 20 * MS, bytes += 21 * BEGIN_BYTES_MS));
	assert_true(batch_sched_record(&b, now_ns += 20 * MS, bytes += 21 * END_BYTES_MS));
	assert_false(batch_sched_record(&b, now_ns += 20 * MS, bytes += 19 * END_BYTES_MS));
	assert_false(batch_sched_record(&b, now_ns += 20 * MS, bytes += 21 * END_BYTES_MS));
}

static void test_short_period_decides_nothing(void **state)
{
	struct batch_sched b = { 0 };

	(void)state;
	batch_sched_record(&b, 1000 * MS, 0);
	assert_false(batch_sched_record(&b, 1001 * MS, 1 << 30));
	assert_true(batch_sched_record(&b, 1010 * MS, 1 << 30));
	assert_true(batch_sched_record(&b, 1011 * MS, 1 << 30));
	assert_false(batch_sched_record(&b, 1020 * MS, 1 << 30));
}

/* Move bulk data, and then none. before: the thread's policy. during, after: the policies found. */
struct run {
	int before, during, after;
};

static void *run_thread(void *opaque)
{
	static const struct sched_param none = { .sched_priority = 0 };
	struct batch_sched b = { 0 };
	struct run *r = opaque;

	sched_setscheduler(0, r->before, &none);
	batch_sched_update(&b, 1000 * MS, 0);
	batch_sched_update(&b, 1010 * MS, 1 << 30);
	r->during = sched_getscheduler(0);
	batch_sched_update(&b, 1020 * MS, 1 << 30);
	r->after = sched_getscheduler(0);
	return NULL;
}

static struct run run(int before)
{
	struct run r = { .before = before };
	pthread_t t;

	assert_int_equal(pthread_create(&t, NULL, run_thread, &r), 0);
	pthread_join(t, NULL);
	return r;
}

static void test_policy_is_batch_while_data_is_bulk(void **state)
{
	struct run r = run(SCHED_OTHER);

	(void)state;
	assert_int_equal(r.during, SCHED_BATCH);
	assert_int_equal(r.after, SCHED_OTHER);
}

static void test_policy_of_an_administrator_stays(void **state)
{
	struct run r = run(SCHED_IDLE);

	(void)state;
	assert_int_equal(r.during, SCHED_IDLE);
	assert_int_equal(r.after, SCHED_IDLE);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_fast_data_is_bulk_until_it_is_slow),
		cmocka_unit_test(test_short_period_decides_nothing),
		cmocka_unit_test(test_policy_is_batch_while_data_is_bulk),
		cmocka_unit_test(test_policy_of_an_administrator_stays),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
