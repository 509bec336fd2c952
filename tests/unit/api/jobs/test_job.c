/* job: which completed jobs are kept, and for how long. */
#include "api/jobs/job.h"
#include "api/vm/vm_host.h"
#include "base/loop.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

/* Add a job that ended this long ago, or is still running. */
static void add(struct vm_host *d, unsigned number, enum job_status status, uint64_t age_ns)
{
	struct job *j = calloc(1, sizeof(*j)), **at = &d->jobs;

	assert_non_null(j);
	j->host = d;
	j->type = "save";
	j->status = status;
	j->ended_ns = loop_now_ns() - age_ns;
	snprintf(j->id, sizeof(j->id), "job%u", number);
	strcpy(j->vm_name, "vm1");
	while (*at)
		at = &(*at)->next;
	*at = j;
}

static struct job *job_find_number(struct vm_host *d, unsigned number)
{
	char id[16];

	snprintf(id, sizeof(id), "job%u", number);
	return job_find(d, id);
}

static bool is_there(struct vm_host *d, unsigned number)
{
	return job_find_number(d, number) != NULL;
}

static void test_results_are_kept_for_a_day(void **state)
{
	struct vm_host d = { 0 };

	(void)state;
	add(&d, 1, JOB_CONCLUDED, JOBS_KEPT_NS + 1);
	add(&d, 2, JOB_RUNNING, JOBS_KEPT_NS + 1);
	add(&d, 3, JOB_CONCLUDED, JOBS_KEPT_NS - 60 * 1000000000ULL);
	add(&d, 4, JOB_CONCLUDED, 0);
	jobs_trim(&d);
	assert_false(is_there(&d, 1));
	assert_true(is_there(&d, 2) && is_there(&d, 3) && is_there(&d, 4));
	jobs_free(&d);
}

/* A job stays while its end is told, although it is the oldest of too many. */
static void test_job_whose_end_is_told_stays(void **state)
{
	struct vm_host d = { 0 };

	(void)state;
	for (unsigned i = 0; i < JOBS_KEPT_MAX + 1; i++)
		add(&d, i, JOB_CONCLUDED, 0);
	d.jobs->concluding = true;
	jobs_trim(&d);
	assert_true(is_there(&d, 0));
	assert_false(is_there(&d, 1));
	d.jobs->concluding = false;
	jobs_free(&d);
}

/* One user's jobs push out his own results, not those of another user, which are older. */
static void test_no_user_pushes_out_results_of_others(void **state)
{
	struct vm_host d = { 0 };

	(void)state;
	for (unsigned i = 0; i < JOBS_KEPT_MAX + 10; i++) {
		add(&d, i, JOB_CONCLUDED, 0);
		if (i >= 4)
			job_find_number(&d, i)->uid = 1000;
	}
	jobs_trim(&d);
	for (unsigned i = 0; i < JOBS_KEPT_MAX + 10; i++)
		assert_int_equal(is_there(&d, i), i < 4 || i >= 14);
	jobs_free(&d);
}

/* The oldest completed jobs are dropped; running jobs do not count. */
static void test_number_of_results_is_limited(void **state)
{
	struct vm_host d = { 0 };

	(void)state;
	add(&d, 0, JOB_RUNNING, 0);
	for (unsigned i = 1; i <= JOBS_KEPT_MAX + 3; i++)
		add(&d, i, JOB_CONCLUDED, 0);
	jobs_trim(&d);
	for (unsigned i = 0; i <= JOBS_KEPT_MAX + 3; i++)
		assert_int_equal(is_there(&d, i), i == 0 || i > 3);
	jobs_free(&d);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_results_are_kept_for_a_day),
		cmocka_unit_test(test_job_whose_end_is_told_stays),
		cmocka_unit_test(test_number_of_results_is_limited),
		cmocka_unit_test(test_no_user_pushes_out_results_of_others),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
