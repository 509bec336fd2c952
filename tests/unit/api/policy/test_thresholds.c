/* Thresholds over hours of a fake clock: the rate limits of their events and actions, and how often a VM's process is
 * asked for the space of its file systems. */
#include "api/policy/thresholds.h"
#include "api/policy/vm_space.h"
#include "api/store/store.h"
#include "api/vm/observer.h"
#include "api/vm/vm.h"
#include "api/vm/vm_figures.h"
#include "api/vm/vm_process.h"
#include "api/wire/json.h"
#include "base/clock.h"
#include "base/err.h"
#include "tests/unit/api/policy/one_vm.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#define DEFINITION "{\"name\":\"vm1\",\"memory\":\"32M\",\"boot\":{\"kernel\":\"/kernel\"}," \
	"\"disks\":[{\"path\":\"/vda.qcow2\",\"format\":\"qcow2\"}]}"
#define BEGIN_S 1000000

static const struct vm_observer *const observers[] = { &vm_space_observer, &thresholds_observer, NULL };

struct fixture {
	char dir[ONE_VM_DIR_BYTES];
	struct vm_host d;
	struct vm *vm;
	struct store_work *work; /* of the threshold that is being set */
	unsigned raised, cleared, actions, requests;
	int64_t left_out; /* what the last event says */
	char command[32]; /* the last action */
	struct vm_sums sums; /* of the guest */
	/* The answer of the VM's process. */
	struct vm_spaces spaces;
	bool is_silent;
};

static struct fixture *f;
static _Thread_local time_t fake_s; /* 0: the host's clock */

int __real_clock_gettime(clockid_t id, struct timespec *ts);
int __wrap_clock_gettime(clockid_t id, struct timespec *ts);
int __wrap_store_put(struct store *s, const char *vm, const char *file, struct json_object *o, enum store_durability d,
	struct store_work *w, struct err *e);
void __wrap_vm_process_request(struct vm_process *p, enum vm_msg_type type, const void *body, size_t len, int fd,
	uint64_t timeout_ns, void (*done)(void *opaque, int r, const struct vm_answer *a, const struct err *e),
	void *opaque);

int __wrap_clock_gettime(clockid_t id, struct timespec *ts)
{
	if (!fake_s || (id != CLOCK_MONOTONIC && id != CLOCK_REALTIME))
		return __real_clock_gettime(id, ts);
	*ts = (struct timespec){ .tv_sec = fake_s };
	return 0;
}

int __wrap_store_put(struct store *s, const char *vm, const char *file, struct json_object *o, enum store_durability d,
	struct store_work *w, struct err *e)
{
	(void)s, (void)vm, (void)file, (void)o, (void)e;
	if (d == STORE_WITH_WORK)
		f->work = w;
	return 0;
}

void __wrap_vm_process_request(struct vm_process *p, enum vm_msg_type type, const void *body, size_t len, int fd,
	uint64_t timeout_ns, void (*done)(void *opaque, int r, const struct vm_answer *a, const struct err *e),
	void *opaque)
{
	const struct vm_answer a = { .spaces = &f->spaces };

	(void)p, (void)body, (void)len, (void)fd, (void)timeout_ns;
	assert_int_equal(type, VM_MSG_SPACE);
	f->requests++;
	if (!f->is_silent)
		done(opaque, 0, &a, NULL);
}

static void told(void *opaque, enum event_id id, const char *vm, const uint8_t *uuid, struct json_object *data)
{
	(void)opaque, (void)vm, (void)uuid;
	if (id == EVENT_THRESHOLD) {
		if (!strcmp(js_get_str(data, "state"), "raised"))
			f->raised++;
		else
			f->cleared++;
		f->left_out = js_get_int(data, "left-out", 0);
	}
	json_object_put(data);
}

static void run_as(void *context, const struct peer *who, const char *by, const char *command, struct json_object *args,
	struct client_file *file, void (*done)(void *opaque, struct json_object *answer), void *opaque)
{
	CLEANUP_JS struct json_object *answer = json_object_new_object();

	(void)context, (void)who, (void)by, (void)file;
	f->actions++;
	snprintf(f->command, sizeof(f->command), "%s", command);
	json_object_put(args);
	done(opaque, answer);
}

static void is_set(void *opaque, int r, const struct err *e)
{
	(void)opaque, (void)e;
	assert_int_equal(r, 0);
}

static void threshold_add(enum threshold_measure m, enum threshold_action then)
{
	struct threshold *t = calloc(1, sizeof(*t));
	struct err e;

	*t = (struct threshold){ .measure = m, .above = 50, .below = 50, .then = then, .value = NAN };
	snprintf(t->name, sizeof(t->name), "t%d", (int)m);
	assert_int_equal(thresholds_set(f->vm, t, is_set, NULL, &e), 0);
	f->work->done(f->work);
}

static int setup(void **state)
{
	(void)state;
	f = calloc(1, sizeof(*f));
	f->d.sink.emit = told;
	f->vm = one_vm_open(&f->d, f->dir, DEFINITION, observers);
	f->d.threshold_watch = thresholds_new(&f->d, run_as, NULL);
	fake_s = BEGIN_S;
	return 0;
}

static int teardown(void **state)
{
	int r;

	(void)state;
	fake_s = 0;
	thresholds_free(f->d.threshold_watch);
	f->d.threshold_watch = NULL;
	r = one_vm_close(&f->d, f->dir);
	free(f);
	return r;
}

/* Let a second pass, and give the thresholds its figure. */
static void second(enum threshold_measure m, double value)
{
	struct threshold_figures figures = { .seconds = 1 };

	for (unsigned i = 0; i < THRESHOLD_MEASURES; i++)
		figures.values[i] = NAN;
	figures.values[m] = value;
	vm_space_update(f->vm, &f->sums, clock_monotonic_ns());
	thresholds_update(f->vm, &figures);
	fake_s++;
}

/* Raise and clear the threshold by turns, once a second. */
static void seconds(unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		second(THRESHOLD_CPU, (fake_s - BEGIN_S) % 2 ? 10 : 90);
}

static void test_action_runs_once_in_ten_minutes(void **state)
{
	(void)state;
	threshold_add(THRESHOLD_CPU, THRESHOLD_SUSPEND);
	seconds(1);
	assert_int_equal(f->actions, 1);
	assert_string_equal(f->command, "vm-suspend");
	seconds(599);
	assert_int_equal(f->actions, 1);
	seconds(1);
	assert_int_equal(f->actions, 2);
	seconds(2999);
	assert_int_equal(f->actions, 6);
}

static void test_second_action_within_ten_minutes_is_left_out(void **state)
{
	(void)state;
	threshold_add(THRESHOLD_CPU, THRESHOLD_SUSPEND);
	second(THRESHOLD_CPU, 90);
	while (fake_s < BEGIN_S + 599)
		second(THRESHOLD_CPU, 10);
	second(THRESHOLD_CPU, 90);
	assert_int_equal(f->actions, 1);
	second(THRESHOLD_CPU, 10);
	second(THRESHOLD_CPU, 90);
	assert_int_equal(f->actions, 2);
}

static void test_limit_is_of_each_threshold(void **state)
{
	(void)state;
	threshold_add(THRESHOLD_CPU, THRESHOLD_SUSPEND);
	threshold_add(THRESHOLD_NET, THRESHOLD_SHUTDOWN);
	second(THRESHOLD_CPU, 90);
	second(THRESHOLD_NET, 90);
	assert_int_equal(f->actions, 2);
	assert_string_equal(f->command, "vm-shutdown");
}

static void test_ten_events_an_hour_pass_and_the_next_one_counts_the_others(void **state)
{
	(void)state;
	threshold_add(THRESHOLD_CPU, THRESHOLD_NOTHING);
	seconds(9);
	assert_int_equal(f->raised, 5);
	assert_int_equal(f->cleared, 4);
	seconds(3591);
	assert_int_equal(f->raised, 5);
	assert_int_equal(f->cleared, 5);
	assert_int_equal(f->left_out, 0);
	seconds(1);
	assert_int_equal(f->raised, 6);
	assert_int_equal(f->left_out, 3590);
	seconds(1);
	assert_int_equal(f->cleared, 6);
	assert_int_equal(f->left_out, 0);
	assert_int_equal(f->actions, 0);
}

/* Say how much of the disk's file system is taken. */
static void taken(unsigned percent)
{
	f->spaces.disks[0].total_bytes = 1000;
	f->spaces.disks[0].free_bytes = 1000 - 10 * percent;
}

static void test_disk_that_fills_suspends_its_vm_within_a_minute(void **state)
{
	(void)state;
	threshold_add(THRESHOLD_DISK_SPACE, THRESHOLD_SUSPEND);
	taken(40);
	seconds(1);
	assert_int_equal(f->requests, 1);
	taken(60);
	seconds(59);
	assert_int_equal(f->requests, 1);
	assert_int_equal(f->actions, 0);
	seconds(1);
	assert_int_equal(f->requests, 2);
	assert_int_equal(f->raised, 1);
	assert_int_equal(f->actions, 1);
	assert_string_equal(f->command, "vm-suspend");
}

static void test_process_that_does_not_answer_is_asked_once(void **state)
{
	(void)state;
	threshold_add(THRESHOLD_DISK_SPACE, THRESHOLD_SUSPEND);
	f->is_silent = true;
	seconds(3600);
	assert_int_equal(f->requests, 1);
	assert_int_equal(f->raised, 0);
	/* The next process is asked at once. */
	f->is_silent = false;
	taken(60);
	vm_space_observer.process_gone(f->vm);
	thresholds_observer.process_gone(f->vm);
	seconds(1);
	assert_int_equal(f->requests, 2);
	assert_int_equal(f->actions, 1);
}

static void writes(unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		f->sums.wr_reqs++;
		f->sums.wr_bytes += 4096;
		seconds(1);
	}
}

static void test_one_look_serves_threshold_and_writes(void **state)
{
	(void)state;
	taken(40);
	writes(600);
	assert_int_equal(f->requests, 120);
	threshold_add(THRESHOLD_DISK_SPACE, THRESHOLD_SUSPEND);
	f->requests = 0;
	writes(600);
	assert_int_equal(f->requests, 120);
}

static void test_new_threshold_is_looked_at_at_once_and_a_removed_one_asks_nothing(void **state)
{
	struct err e;

	(void)state;
	taken(60);
	writes(1);
	seconds(10); /* the image's tables are settled */
	f->requests = 0;
	threshold_add(THRESHOLD_DISK_SPACE, THRESHOLD_NOTHING);
	seconds(1);
	assert_int_equal(f->requests, 1);
	assert_int_equal(f->raised, 1);
	seconds(600);
	assert_int_equal(f->requests, 11);
	assert_int_equal(thresholds_remove(f->vm, "t2", is_set, NULL, &e), 0);
	f->work->done(f->work);
	seconds(3600);
	assert_int_equal(f->requests, 11);
}

static void test_thresholds_of_other_figures_ask_nothing(void **state)
{
	(void)state;
	threshold_add(THRESHOLD_CPU, THRESHOLD_NOTHING);
	seconds(3600);
	assert_int_equal(f->requests, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_action_runs_once_in_ten_minutes, setup, teardown),
		cmocka_unit_test_setup_teardown(test_second_action_within_ten_minutes_is_left_out, setup, teardown),
		cmocka_unit_test_setup_teardown(test_limit_is_of_each_threshold, setup, teardown),
		cmocka_unit_test_setup_teardown(test_ten_events_an_hour_pass_and_the_next_one_counts_the_others, setup, teardown),
		cmocka_unit_test_setup_teardown(test_disk_that_fills_suspends_its_vm_within_a_minute, setup, teardown),
		cmocka_unit_test_setup_teardown(test_process_that_does_not_answer_is_asked_once, setup, teardown),
		cmocka_unit_test_setup_teardown(test_one_look_serves_threshold_and_writes, setup, teardown),
		cmocka_unit_test_setup_teardown(test_new_threshold_is_looked_at_at_once_and_a_removed_one_asks_nothing, setup, teardown),
		cmocka_unit_test_setup_teardown(test_thresholds_of_other_figures_ask_nothing, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
