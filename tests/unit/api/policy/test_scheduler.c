/* The scheduler with a VM that is busy, then off: cases that test_schedule.py could arrange only by
 * waiting for the clock. */
#include "api/jobs/job.h"
#include "api/policy/scheduler.h"
#include "api/store/store.h"
#include "api/vm/observer.h"
#include "api/vm/vm.h"
#include "api/wire/json.h"
#include "base/err.h"
#include "base/log.h"
#include "base/loop.h"
#include "tests/unit/tmp.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#define DEFINITION "{\"name\":\"vm1\",\"memory\":\"32M\",\"boot\":{\"kernel\":\"/kernel\"}}"

static const struct vm_observer *const observers[] = { &scheduler_observer, NULL };

struct fixture {
	char dir[96];
	struct vm_host d;
	struct vm *vm;
	struct schedule_plan plan;
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	CLEANUP_JS struct json_object *o = NULL, *kept = NULL;
	struct definition *def;
	struct err e;

	log_set_fd(open("/dev/null", O_WRONLY));
	snprintf(f->dir, sizeof(f->dir), "%s/cairn-test-XXXXXX", tmp_folder());
	assert_non_null(mkdtemp(f->dir));
	assert_int_equal(loop_new(16, &f->d.loop, &e), 0);
	assert_int_equal(store_open(f->dir, &f->d.store, &e), 0);
	assert_int_equal(js_parse(DEFINITION, strlen(DEFINITION), "vm", &o, &e), 0);
	assert_int_equal(definition_parse(o, NULL, &def, &e), 0);
	kept = definition_to_json(def);
	assert_int_equal(store_save_definition_soon(f->d.store, "vm1", kept, "marker", &e), 0);
	f->d.observers = observers;
	assert_int_equal(vm_add(&f->d, def, &f->vm), 0);
	assert_int_equal(scheduler_new(&f->d, &f->d.scheduler, &e), 0);
	assert_int_equal(schedule_set_every(&f->plan, "1h", &e), 0);
	assert_int_equal(schedule_set_keep(&f->plan, "1d:all", &e), 0);
	scheduler_set(f->vm, &f->plan);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;
	char command[64];
	int r;

	scheduler_free(f->d.scheduler);
	vm_free_all(&f->d);
	store_close(f->d.store);
	loop_free(f->d.loop);
	snprintf(command, sizeof(command), "rm -r %s", f->dir);
	r = system(command);
	free(f);
	return r;
}

/* Set the last run an hour back and fire the timer. */
static int64_t ring(struct fixture *f)
{
	int64_t last = schedule_slot(&f->plan, time(NULL)) - 3600;

	f->vm->schedule_past->last_s = last;
	scheduler_observer.job_concluded(&f->d, "vm1");
	loop_run_once(f->d.loop, 1000000000);
	return last;
}

static void test_run_waits_for_end_of_job(void **state)
{
	struct fixture *f = *state;
	struct job *j;
	struct err e;
	int64_t last;

	assert_int_equal(job_new(f->vm, "save", NULL, &j, &e), 0);
	last = ring(f);
	assert_true(f->vm->schedule->waits);
	assert_int_equal(f->vm->schedule_past->last_s, last);
	assert_string_equal(f->vm->schedule_past->outcome, "");

	/* The schedule waits for the end of the job. */
	job_succeed(j, NULL);
	loop_run_once(f->d.loop, 1000000000);
	assert_false(f->vm->schedule->waits);
	assert_true(f->vm->schedule_past->last_s > last);
	assert_string_equal(f->vm->schedule_past->outcome, "skipped");
	assert_string_equal(f->vm->schedule_past->detail, "the VM is shut off");
	jobs_free(&f->d);
}

static void test_run_waits_for_end_of_start(void **state)
{
	struct fixture *f = *state;
	int64_t last;

	f->vm->start.kind = VM_OP_START;
	last = ring(f);
	assert_true(f->vm->schedule->waits);
	assert_int_equal(f->vm->schedule_past->last_s, last);
	f->vm->start.kind = VM_OP_NONE;
	ring(f);
	assert_string_equal(f->vm->schedule_past->outcome, "skipped");
}

static void kept(struct store_work *w)
{
	w->done = NULL; /* once only */
}

static void test_schedule_removed_while_run_waits(void **state)
{
	struct fixture *f = *state;
	struct store_work w = { .done = kept, .loop = f->d.loop };
	struct job *j;
	struct err e;

	assert_int_equal(job_new(f->vm, "save", NULL, &j, &e), 0);
	ring(f);
	assert_int_equal(scheduler_keep(f->vm, NULL, &w, &e), 0);
	while (w.done)
		loop_run_once(f->d.loop, 1000000000);
	assert_int_equal(w.r, 0);
	scheduler_remove(f->vm);
	assert_int_equal(scheduler_keep(f->vm, NULL, &w, &e), -2);
	job_succeed(j, NULL);
	loop_run_once(f->d.loop, 1000000000);
	assert_null(f->vm->schedule);
	assert_false(store_has_file(f->d.store, "vm1", SCHEDULE_FILE));
	jobs_free(&f->d);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_run_waits_for_end_of_job, setup, teardown),
		cmocka_unit_test_setup_teardown(test_run_waits_for_end_of_start, setup, teardown),
		cmocka_unit_test_setup_teardown(test_schedule_removed_while_run_waits, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
