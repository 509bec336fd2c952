/* A thread's slice, and whose slice stays. */
#include "base/short_slice.h"

#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

/* policy: the thread's. usual, during, after: its slices. */
struct run {
	int policy;
	uint64_t usual, during, after;
};

static void *run_thread(void *opaque)
{
	static const struct sched_param none = { .sched_priority = 0 };
	struct run *r = opaque;

	sched_setscheduler(0, r->policy, &none);
	r->usual = short_slice_get();
	short_slice_set(true);
	r->during = short_slice_get();
	short_slice_set(false);
	r->after = short_slice_get();
	return NULL;
}

static struct run run(int policy)
{
	struct run r = { .policy = policy };
	pthread_t t;

	assert_int_equal(pthread_create(&t, NULL, run_thread, &r), 0);
	pthread_join(t, NULL);
	return r;
}

static void test_slice_is_short_until_it_is_reset(void **state)
{
	struct run r = run(SCHED_OTHER);

	(void)state;
	if (!r.usual) {
		print_message("skipped: this kernel does not tell the slice of a thread\n");
		skip();
	}
	assert_int_equal(r.during, SHORT_SLICE_NS);
	assert_int_equal(r.after, r.usual);
	assert_true(r.usual > SHORT_SLICE_NS);
}

static void test_thread_of_another_policy_keeps_it(void **state)
{
	struct run r = run(SCHED_IDLE);

	(void)state;
	assert_int_equal(r.during, 0);
	assert_int_equal(r.after, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_slice_is_short_until_it_is_reset),
		cmocka_unit_test(test_thread_of_another_policy_keeps_it),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
