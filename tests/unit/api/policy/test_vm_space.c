/* When a VM's process is asked for the space of its images, when the daemon looks at file systems itself, and what is
 * told then, over hours of a fake clock. */
#include "api/policy/vm_space.h"
#include "api/access/fork_as.h"
#include "api/policy/fs_space.h"
#include "api/store/store.h"
#include "api/vm/observer.h"
#include "api/vm/vm.h"
#include "api/vm/vm_figures.h"
#include "api/vm/vm_process.h"
#include "api/wire/json.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/file.h"
#include "base/util.h"
#include "tests/unit/api/policy/one_vm.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <time.h>

#include <cmocka.h>

#define DEFINITION "{\"name\":\"vm1\",\"memory\":\"32M\",\"boot\":{\"kernel\":\"/kernel\"}," \
	"\"disks\":[{\"path\":\"/vda.qcow2\",\"format\":\"qcow2\"}]}"
#define BEGIN_S 1000000
#define DEV 42 /* of the file system of vda */

static const struct vm_observer *const observers[] = { &vm_space_observer, NULL };

struct fixture {
	char dir[ONE_VM_DIR_BYTES];
	struct vm_host d;
	struct vm *vm;
	struct vm_sums sums; /* of the guest */
	unsigned requests, lows, enoughs, kept;
	struct vm_spaces spaces; /* what the VM's process answers */
	bool is_silent;
	/* The daemon's own looks. */
	unsigned looks;
	uint64_t looked_dev, fs_free_bytes;
	bool fs_hangs;
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
int __wrap_fork_as_begin(struct helpers *h, const struct fork_as_spec *s, struct fork_as **ret, struct err *e);
void __wrap_fork_as_free(struct fork_as *x);

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
	(void)s, (void)vm, (void)o, (void)d, (void)w, (void)e;
	f->kept += !strcmp(file, "space.json");
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

/* A look at a file system of 100 GiB. */
int __wrap_fork_as_begin(struct helpers *h, const struct fork_as_spec *s, struct fork_as **ret, struct err *e)
{
	const struct fork_as_result res = { .sizes = { 100 * GIB, f->fs_free_bytes } };

	(void)h, (void)e;
	f->looks++;
	f->looked_dev = *(const uint64_t *)s->arg;
	*ret = f->fs_hangs ? (struct fork_as *)f : NULL;
	if (!f->fs_hangs)
		s->done(s->opaque, 0, &res, NULL);
	return 0;
}

void __wrap_fork_as_free(struct fork_as *x)
{
	assert_true(!x || x == (struct fork_as *)f);
}

static void told(void *opaque, enum event_id id, const char *vm, const uint8_t *uuid, struct json_object *data)
{
	(void)opaque, (void)vm, (void)uuid;
	if (id == EVENT_DISK_SPACE) {
		assert_string_equal(js_get_str(data, "device"), "vda");
		f->lows += !strcmp(js_get_str(data, "state"), "low");
		f->enoughs += !strcmp(js_get_str(data, "state"), "enough");
	}
	json_object_put(data);
}

/* Say what the image takes, and what is free of a file system of 100 GiB. */
static void space_is(uint64_t allocation_bytes, uint64_t free_bytes)
{
	f->spaces.images[0] = (struct vm_space_image){ .id = "vda", .capacity_bytes = 50 * GIB, .allocation_bytes = allocation_bytes,
		.physical_bytes = allocation_bytes };
	f->spaces.disks[0].free_bytes = free_bytes;
	f->spaces.disks[0].total_bytes = 100 * GIB;
}

static int setup(void **state)
{
	(void)state;
	f = calloc(1, sizeof(*f));
	f->d.sink.emit = told;
	f->vm = one_vm_open(&f->d, f->dir, DEFINITION, observers);
	space_is(GIB, 50 * GIB);
	f->fs_free_bytes = 50 * GIB;
	fake_s = BEGIN_S;
	return 0;
}

static int teardown(void **state)
{
	int r;

	(void)state;
	fake_s = 0;
	f->vm->proc = NULL;
	f->vm->state = VM_SHUT_OFF;
	vm_spaces_finish(&f->d);
	r = one_vm_close(&f->d, f->dir);
	free(f);
	return r;
}

/* Let seconds pass, in each of which the guest writes so much. Returns how often the process was asked. */
static unsigned seconds(unsigned n, uint64_t bytes)
{
	unsigned before = f->requests;

	for (unsigned i = 0; i < n; i++) {
		f->sums.wr_reqs += bytes > 0;
		f->sums.wr_bytes += bytes;
		vm_space_update(f->vm, &f->sums, clock_monotonic_ns());
		vm_spaces_update(&f->d, clock_monotonic_ns());
		fake_s++;
	}
	return f->requests - before;
}

static void test_vm_that_writes_nothing_is_not_asked(void **state)
{
	(void)state;
	assert_int_equal(seconds(3600, 0), 0);
	assert_null(vm_space_of(f->vm, "vda"));
	assert_int_equal(seconds(1, 4096), 1);
	assert_int_equal(vm_space_of(f->vm, "vda")->allocation_bytes, GIB);
	/* Once more for the image's tables, and then not again. */
	assert_int_equal(seconds(3600, 0), 1);
	/* The next run, too. */
	vm_space_observer.process_gone(f->vm);
	f->sums = (struct vm_sums){ 0 };
	assert_int_equal(seconds(3600, 0), 0);
	assert_null(vm_space_of(f->vm, "vda"));
}

static void test_vm_that_writes_is_asked_each_five_seconds(void **state)
{
	(void)state;
	assert_int_equal(seconds(600, 4096), 120);
	f->is_silent = true;
	assert_int_equal(seconds(600, 4096), 1);
}

static void test_job_and_definition_make_the_figures_stale(void **state)
{
	(void)state;
	vm_space_observer.job_concluded(&f->d, "vm1");
	assert_int_equal(seconds(600, 0), 0);
	seconds(60, 4096);
	seconds(60, 0);
	vm_space_observer.job_concluded(&f->d, "vm1");
	assert_int_equal(seconds(600, 0), 1);
	f->vm->live_changes++;
	assert_int_equal(seconds(600, 0), 1);
}

static void test_large_writes_near_the_limit_are_asked_for_at_once(void **state)
{
	(void)state;
	space_is(GIB, 5 * GIB); /* low below 4 GiB */
	assert_int_equal(seconds(5, 300 * MIB), 5);
	assert_int_equal(f->lows, 0);
	space_is(2 * GIB, 3 * GIB);
	seconds(2, 300 * MIB);
	assert_int_equal(f->lows, 1);
}

static void test_low_space_is_told_once_and_its_end_without_writes(void **state)
{
	(void)state;
	space_is(GIB, 4 * GIB - 1);
	seconds(600, 4096);
	assert_int_equal(f->lows, 1);
	space_is(GIB, 50 * GIB);
	f->requests = 0;
	seconds(60, 0);
	assert_int_equal(f->enoughs, 1);
	assert_true(f->requests >= 1 && f->requests <= 3);
	assert_int_equal(seconds(600, 0), 0);
}

static void test_ten_events_an_hour_pass(void **state)
{
	(void)state;
	for (unsigned i = 0; i < 100; i++) {
		space_is(GIB, i % 2 ? 50 * GIB : GIB);
		seconds(5, 4096);
	}
	assert_int_equal(f->lows + f->enoughs, 10);
}

static void test_growth_is_that_of_the_images(void **state)
{
	struct vm_space_growth g;

	(void)state;
	for (unsigned hour = 0; hour < 48; hour++) {
		space_is(GIB + hour * (GIB / 24), 50 * GIB);
		seconds(10, 4096);
		fake_s += 3590;
		if (hour == 2)
			assert_false(vm_space_growth(f->vm, &g));
	}
	assert_true(vm_space_growth(f->vm, &g));
	assert_true(g.bytes_a_day > 0.9 * (double)GIB && g.bytes_a_day < 1.1 * (double)GIB);
	assert_true(g.days_left > 40 && g.days_left < 55);
	assert_true(f->kept >= 40 && f->kept <= 49);
	/* The history outlives the run. In two more days, nothing has grown. */
	vm_space_observer.process_gone(f->vm);
	fake_s += 2 * 24 * 3600;
	assert_true(vm_space_growth(f->vm, &g));
	assert_true(g.bytes_a_day < 0.95 * (double)GIB);
	fake_s += 14 * 24 * 3600;
	assert_false(vm_space_growth(f->vm, &g));
}

/* Start the VM, whose disk the daemon has opened. */
static void vm_starts(void)
{
	f->vm->proc = (struct vm_process *)f;
	f->vm->state = VM_RUNNING;
	f->vm->disk_ids[0].dev = DEV;
	f->vm->ndisk_ids = 1;
	vm_space_observer.started(f->vm);
}

static void test_space_that_others_take_is_told_and_the_vm_is_not_asked(void **state)
{
	(void)state;
	vm_starts();
	assert_int_equal(seconds(3600, 0), 0);
	assert_int_equal(f->looks, 60);
	assert_int_equal(f->looked_dev, DEV);
	f->fs_free_bytes = 4 * GIB - 1;
	assert_int_equal(seconds(600, 0), 0);
	assert_int_equal(f->lows, 1);
	f->fs_free_bytes = 50 * GIB;
	assert_int_equal(seconds(1200, 0), 0);
	assert_int_equal(f->enoughs, 1);
	assert_int_equal(f->lows, 1);
}

static void test_low_space_is_told_to_a_vm_that_starts(void **state)
{
	(void)state;
	f->fs_free_bytes = GIB;
	assert_int_equal(seconds(30, 0), 0);
	assert_int_equal(f->looks, 0); /* there is no VM */
	vm_starts();
	assert_int_equal(seconds(1, 0), 0);
	assert_int_equal(f->lows, 1);
	assert_int_equal(f->looks, 1);
	/* The next one gets what is known: more looks would make the rate one of moments. */
	vm_space_observer.process_gone(f->vm);
	vm_starts();
	assert_int_equal(seconds(1, 0), 0);
	assert_int_equal(f->lows, 2);
	assert_int_equal(f->looks, 1);
}

/* A process that sees less than the daemon, because of a quota, say, or that lies. */
static void test_space_is_low_until_process_and_daemon_see_enough(void **state)
{
	(void)state;
	vm_starts();
	f->spaces.devs[0] = DEV;
	space_is(GIB, GIB);
	seconds(600, 4096);
	assert_int_equal(f->lows, 1);
	f->fs_free_bytes = GIB;
	seconds(120, 0);
	space_is(GIB, 50 * GIB);
	seconds(600, 0);
	assert_int_equal(f->enoughs, 0);
	f->fs_free_bytes = 50 * GIB;
	seconds(1200, 0);
	assert_int_equal(f->enoughs, 1);
	assert_int_equal(f->lows, 1);
}

static void test_low_space_that_a_process_reports_brings_the_daemons_look_forward(void **state)
{
	(void)state;
	vm_starts();
	f->spaces.devs[0] = DEV;
	seconds(10, 4096);
	assert_int_equal(f->looks, 1);
	space_is(GIB, GIB);
	seconds(10, 4096);
	assert_int_equal(f->looks, 2);
}

static void test_adopted_vm_and_changed_disks_are_asked_once_for_their_file_systems(void **state)
{
	(void)state;
	f->vm->proc = (struct vm_process *)f;
	f->vm->state = VM_RUNNING;
	vm_space_observer.adopted(f->vm, NULL);
	f->spaces.devs[0] = DEV + 1;
	assert_int_equal(seconds(600, 0), 1);
	assert_int_equal(f->looked_dev, DEV + 1);
	f->vm->live_changes++;
	f->spaces.devs[0] = DEV + 2;
	assert_int_equal(seconds(600, 0), 1);
	assert_int_equal(f->looked_dev, DEV + 2);
	/* The disk is no file. */
	vm_space_observer.job_concluded(&f->d, "vm1");
	f->spaces.devs[0] = 0;
	assert_int_equal(seconds(60, 0), 1);
	f->looks = 0;
	assert_int_equal(seconds(600, 0), 0);
	assert_int_equal(f->looks, 0);
}

static void test_file_system_that_hangs_is_looked_at_once(void **state)
{
	(void)state;
	f->fs_hangs = true;
	vm_starts();
	seconds(600, 0);
	assert_int_equal(f->looks, 1);
	/* Also by the next VM. */
	vm_space_observer.process_gone(f->vm);
	f->vm->proc = NULL;
	seconds(600, 0);
	vm_starts();
	seconds(600, 0);
	assert_int_equal(f->looks, 1);
	assert_int_equal(f->lows, 0);
}

static void test_look_finds_the_mount_point(void **state)
{
	struct fork_as_result out = { 0 };
	struct statvfs want;
	struct err e;
	struct stat st;
	uint64_t dev;

	(void)state;
	fake_s = 0;
	assert_int_equal(stat("/proc", &st), 0);
	dev = st.st_dev;
	assert_int_equal(fs_space_run(&dev, &out, &e), 0);
	assert_int_equal(out.sizes[0], 0);
	assert_int_equal(stat("/", &st), 0);
	assert_int_equal(statvfs("/", &want), 0);
	dev = st.st_dev;
	assert_int_equal(fs_space_run(&dev, &out, &e), 0);
	assert_int_equal(out.sizes[0], (uint64_t)want.f_blocks * want.f_frsize);
	assert_in_range(out.sizes[1], 0, out.sizes[0]);
	dev = UINT32_MAX;
	assert_int_equal(fs_space_run(&dev, &out, &e), -ENOENT);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_vm_that_writes_nothing_is_not_asked, setup, teardown),
		cmocka_unit_test_setup_teardown(test_vm_that_writes_is_asked_each_five_seconds, setup, teardown),
		cmocka_unit_test_setup_teardown(test_job_and_definition_make_the_figures_stale, setup, teardown),
		cmocka_unit_test_setup_teardown(test_large_writes_near_the_limit_are_asked_for_at_once, setup, teardown),
		cmocka_unit_test_setup_teardown(test_low_space_is_told_once_and_its_end_without_writes, setup, teardown),
		cmocka_unit_test_setup_teardown(test_ten_events_an_hour_pass, setup, teardown),
		cmocka_unit_test_setup_teardown(test_growth_is_that_of_the_images, setup, teardown),
		cmocka_unit_test_setup_teardown(test_space_that_others_take_is_told_and_the_vm_is_not_asked, setup, teardown),
		cmocka_unit_test_setup_teardown(test_low_space_is_told_to_a_vm_that_starts, setup, teardown),
		cmocka_unit_test_setup_teardown(test_space_is_low_until_process_and_daemon_see_enough, setup, teardown),
		cmocka_unit_test_setup_teardown(test_low_space_that_a_process_reports_brings_the_daemons_look_forward, setup, teardown),
		cmocka_unit_test_setup_teardown(test_adopted_vm_and_changed_disks_are_asked_once_for_their_file_systems, setup, teardown),
		cmocka_unit_test_setup_teardown(test_file_system_that_hangs_is_looked_at_once, setup, teardown),
		cmocka_unit_test_setup_teardown(test_look_finds_the_mount_point, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
