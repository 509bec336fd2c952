/* The scheduler with a VM that is busy, then off, and with a clock that is set at a bad moment: cases that
 * test_schedule.py could arrange only by waiting for the clock. */
#include "api/jobs/job.h"
#include "api/jobs/snapshot_job.h"
#include "api/jobs/snapshots.h"
#include "api/policy/scheduler.h"
#include "api/store/store.h"
#include "api/vm/observer.h"
#include "api/vm/vm.h"
#include "api/vm/vm_process.h"
#include "api/wire/json.h"
#include "base/boot_id.h"
#include "base/err.h"
#include "base/loop.h"
#include "tests/unit/api/policy/one_vm.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#define DEFINITION "{\"name\":\"vm1\",\"memory\":\"32M\",\"boot\":{\"kernel\":\"/kernel\"}," \
	"\"disks\":[{\"path\":\"/vda.qcow2\",\"format\":\"qcow2\"}]}"
#define DAY_S (24 * 3600LL)

static const struct vm_observer *const observers[] = { &scheduler_observer, NULL };

struct fixture {
	char dir[ONE_VM_DIR_BYTES];
	struct vm_host d;
	struct vm *vm;
	struct schedule_plan plan;
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	CLEANUP_JS struct json_object *kept = NULL;
	struct err e;

	f->vm = one_vm_open(&f->d, f->dir, DEFINITION, observers);
	kept = definition_to_json(f->vm->def);
	assert_int_equal(store_save_definition_soon(f->d.store, "vm1", kept, true, "marker", &e), 0);
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
	int r;

	scheduler_free(f->d.scheduler);
	r = one_vm_close(&f->d, f->dir);
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
	assert_int_equal(scheduler_store_plan(f->vm, NULL, &w, &e), 0);
	while (w.done)
		loop_run_once(f->d.loop, 1000000000);
	assert_int_equal(w.r, 0);
	scheduler_remove(f->vm);
	assert_int_equal(scheduler_store_plan(f->vm, NULL, &w, &e), -2);
	job_succeed(j, NULL);
	loop_run_once(f->d.loop, 1000000000);
	assert_null(f->vm->schedule);
	assert_false(store_has_file(f->d.store, "vm1", SCHEDULE_FILE));
	jobs_free(&f->d);
}

/* ---- a clock that is set while old snapshots are looked for ----
 * The VM's process reports a full disk, so a run takes no snapshot and only deletes. */

static int64_t clock_ahead_s; /* how far the wall clock is set ahead of the host's */
static int64_t boot_ahead_s; /* likewise CLOCK_BOOTTIME */
static int64_t set_at_fetch_s; /* the wall clock is set ahead by this when the snapshots have been read */
static struct vm_snapshot_info infos[2];
static size_t parents[] = { SNAPSHOT_NO_PARENT, SNAPSHOT_NO_PARENT };
static const struct snapshots list = { .list = infos, .n = 2, .parent = parents };

/* The request for the space of the disks, which waits for the test to answer it with space_done(). */
static bool space_waits;
static unsigned space_asked;
static void (*space_done)(void *opaque, int r, const struct vm_answer *a, const struct err *e);

/* Chooses the snapshots that the last run wants to delete; NULL: the run has not asked. */
static void (*chosen_by)(void *opaque, const struct snapshots *s, bool *victims);
static void *chosen_by_opaque;

int __real_clock_gettime(clockid_t id, struct timespec *ts);
int __wrap_clock_gettime(clockid_t id, struct timespec *ts);
void __wrap_vm_process_request(struct vm_process *p, enum vm_msg_type type, const void *body, size_t len, int fd,
	uint64_t timeout_ns, void (*done)(void *opaque, int r, const struct vm_answer *a, const struct err *e),
	void *opaque);
void __wrap_snapshots_fetch(struct vm *vm,
	void (*done)(void *opaque, int r, const struct snapshots *s, const struct err *e), void *opaque);
int __wrap_snapshot_delete_where(struct vm *vm,
	void (*choose)(void *opaque, const struct snapshots *s, bool *victims), void *opaque, struct job **ret_j,
	struct err *e);

int __wrap_clock_gettime(clockid_t id, struct timespec *ts)
{
	int r = __real_clock_gettime(id, ts);

	if (id == CLOCK_REALTIME)
		ts->tv_sec += clock_ahead_s;
	if (id == CLOCK_BOOTTIME)
		ts->tv_sec += boot_ahead_s;
	return r;
}

void __wrap_vm_process_request(struct vm_process *p, enum vm_msg_type type, const void *body, size_t len, int fd,
	uint64_t timeout_ns, void (*done)(void *opaque, int r, const struct vm_answer *a, const struct err *e),
	void *opaque)
{
	static const struct vm_spaces full = { .disks[0] = { .free_bytes = 0, .total_bytes = 1 } };
	const struct vm_answer a = { .spaces = &full };

	(void)p;
	(void)body;
	(void)len;
	(void)fd;
	(void)timeout_ns;
	assert_int_equal(type, VM_MSG_SPACE);
	space_asked++;
	space_done = done;
	if (!space_waits)
		done(opaque, 0, &a, NULL);
}

void __wrap_snapshots_fetch(struct vm *vm,
	void (*done)(void *opaque, int r, const struct snapshots *s, const struct err *e), void *opaque)
{
	(void)vm;
	clock_ahead_s += set_at_fetch_s;
	done(opaque, 0, &list, NULL);
}

int __wrap_snapshot_delete_where(struct vm *vm,
	void (*choose)(void *opaque, const struct snapshots *s, bool *victims), void *opaque, struct job **ret_j,
	struct err *e)
{
	chosen_by = choose;
	chosen_by_opaque = opaque;
	return job_new(vm, "snapshot-delete", NULL, ret_j, e);
}

/* Make two automatic snapshots: one of now, and one that is older_s older. */
static void snapshots_make(int64_t older_s)
{
	for (unsigned i = 0; i < 2; i++) {
		infos[i] = (struct vm_snapshot_info){ .tags = SCHEDULE_TAG,
			.realtime_ns = (uint64_t)(time(NULL) - (i ? 0 : older_s)) * 1000000000ULL };
		schedule_name(time(NULL), i + 1, infos[i].name);
	}
}

/* Do a run with a plan that keeps all snapshots of a day. */
static void run_with_full_disk(struct fixture *f, int64_t older_s, int64_t clock_set_s)
{
	struct err e;

	snapshots_make(older_s);
	clock_ahead_s = 0;
	set_at_fetch_s = clock_set_s;
	chosen_by = NULL;
	assert_int_equal(schedule_set_min_free(&f->plan, "1", &e), 0);
	scheduler_set(f->vm, &f->plan);
	f->vm->state = VM_RUNNING;
	ring(f);
	set_at_fetch_s = 0;
}

static void run_over(struct fixture *f)
{
	clock_ahead_s = 0;
	f->vm->state = VM_SHUT_OFF;
	jobs_free(&f->d);
	vm_operation_end(f->vm);
}

static void test_old_snapshot_is_deleted(void **state)
{
	struct fixture *f = *state;
	bool victims[2] = { false, false };

	run_with_full_disk(f, 2 * DAY_S, 0);
	assert_non_null(chosen_by);
	chosen_by(chosen_by_opaque, &list, victims);
	assert_true(victims[0]);
	assert_false(victims[1]);
	run_over(f);
}

static void test_nothing_is_deleted_when_clock_is_set_before_job(void **state)
{
	struct fixture *f = *state;

	run_with_full_disk(f, 3600, 10 * DAY_S);
	assert_null(chosen_by);
	assert_false(f->vm->schedule->working);
	run_over(f);
}

static void test_nothing_is_deleted_when_clock_is_set_in_job(void **state)
{
	struct fixture *f = *state;
	bool victims[2] = { false, false };

	run_with_full_disk(f, 2 * DAY_S, 0);
	assert_non_null(chosen_by);
	clock_ahead_s = 10 * DAY_S;
	chosen_by(chosen_by_opaque, &list, victims);
	assert_false(victims[0]);
	assert_false(victims[1]);
	run_over(f);
}

static void test_impossible_times_of_a_state_are_bounded(void **state)
{
	CLEANUP_JS struct json_object *kept = json_object_new_object(), *o = NULL;
	struct json_object *past = json_object_new_object();
	struct fixture *f = *state;

	js_put_int(past, "last_s", INT64_MAX / 1000000000 - 1);
	js_put_int(past, "run_s", INT64_MAX);
	js_put_str(past, "outcome", "taken");
	js_put(kept, "schedule", past);
	scheduler_observer.state_load(f->vm, kept);
	o = scheduler_to_json(f->vm);
	assert_true(js_get_int(o, "next-run", -1) > INT64_MAX / 8 * 7);
	assert_int_equal(js_get_int(o, "last-run", -1), 0);
	/* It lies ahead, so the schedule begins anew. */
	scheduler_observer.job_concluded(&f->d, "vm1");
	loop_run_once(f->d.loop, 1000000000);
	assert_int_equal(f->vm->schedule_past->last_s, schedule_slot(&f->plan, time(NULL)));
}

static void test_hold_of_a_damaged_file_lasts_an_hour(void **state)
{
	CLEANUP_JS struct json_object *o = json_object_new_object();
	char boot_id[BOOT_ID_TEXT];
	struct fixture *f = *state;
	struct err e;

	boot_id_read(boot_id);
	js_put_str(o, "boot_id", boot_id);
	js_put_int(o, "hold_until_s", 1LL << 40);
	assert_int_equal(store_put(f->d.store, NULL, "clock.json", o, STORE_NOW, NULL, &e), 0);
	scheduler_free(f->d.scheduler);
	assert_int_equal(scheduler_new(&f->d, &f->d.scheduler, &e), 0);
	boot_ahead_s = 3601;
	run_with_full_disk(f, 2 * DAY_S, 0);
	assert_non_null(chosen_by);
	boot_ahead_s = 0;
	run_over(f);
}

/* The old run's answer neither counts for the new schedule, nor ends its run. */
static void test_run_of_removed_schedule_ends_before_next_run(void **state)
{
	struct fixture *f = *state;
	void (*first)(void *opaque, int r, const struct vm_answer *a, const struct err *e);
	struct err e;

	space_waits = true;
	space_asked = 0;
	f->vm->state = VM_RUNNING;
	ring(f);
	assert_int_equal(space_asked, 1);
	first = space_done;
	scheduler_remove(f->vm);
	scheduler_set(f->vm, &f->plan);
	ring(f);
	assert_int_equal(space_asked, 1);
	err_set(&e, -ETIMEDOUT, ERR_TIMEOUT, "no answer");
	first(f->vm, -ETIMEDOUT, NULL, &e);
	assert_string_equal(f->vm->schedule_past->outcome, "");
	loop_run_once(f->d.loop, 1000000000);
	assert_int_equal(space_asked, 2);
	assert_true(f->vm->schedule->working);
	space_done(f->vm, -ETIMEDOUT, NULL, &e);
	assert_string_equal(f->vm->schedule_past->outcome, "failed");
	assert_false(f->vm->schedule->working);
	space_waits = false;
	run_over(f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_run_waits_for_end_of_job, setup, teardown),
		cmocka_unit_test_setup_teardown(test_run_waits_for_end_of_start, setup, teardown),
		cmocka_unit_test_setup_teardown(test_schedule_removed_while_run_waits, setup, teardown),
		cmocka_unit_test_setup_teardown(test_old_snapshot_is_deleted, setup, teardown),
		cmocka_unit_test_setup_teardown(test_nothing_is_deleted_when_clock_is_set_before_job, setup, teardown),
		cmocka_unit_test_setup_teardown(test_nothing_is_deleted_when_clock_is_set_in_job, setup, teardown),
		cmocka_unit_test_setup_teardown(test_impossible_times_of_a_state_are_bounded, setup, teardown),
		cmocka_unit_test_setup_teardown(test_hold_of_a_damaged_file_lasts_an_hour, setup, teardown),
		cmocka_unit_test_setup_teardown(test_run_of_removed_schedule_ends_before_next_run, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
