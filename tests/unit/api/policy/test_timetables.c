/* Pauses of schedules that the store cannot keep, which test_timetable.py has no means to arrange. */
#include "api/policy/timetables.h"
#include "api/store/store.h"
#include "api/vm/observer.h"
#include "api/vm/vm.h"
#include "base/err.h"
#include "tests/unit/api/policy/one_vm.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#define DEFINITION "{\"name\":\"vm1\",\"memory\":\"32M\",\"boot\":{\"kernel\":\"/kernel\"}}"
#define WORKS 4

static const struct vm_observer *const observers[] = { &timetables_observer, NULL };

struct fixture {
	char dir[ONE_VM_DIR_BYTES];
	struct vm_host d;
	struct vm *vm;
	struct timetable_entry *t;
	int64_t next_s;
	/* The store: it refuses a write, or keeps it until write_end(). */
	bool refuses;
	struct store_work *works[WORKS];
	unsigned nworks, nanswers;
	int answer;
};

static struct fixture *f;

int __wrap_store_put(struct store *s, const char *vm, const char *file, struct json_object *o, enum store_durability d,
	struct store_work *w, struct err *e);
int __wrap_store_put(struct store *s, const char *vm, const char *file, struct json_object *o, enum store_durability d,
	struct store_work *w, struct err *e)
{
	(void)s, (void)vm, (void)file, (void)o;
	if (d != STORE_WITH_WORK)
		return 0;
	if (f->refuses)
		return err_set_errno(e, -ENAMETOOLONG, "timetable");
	assert_true(f->nworks < WORKS);
	f->works[f->nworks++] = w;
	return 0;
}

/* End the first write. */
static void write_end(int r)
{
	struct store_work *w = f->works[0];

	assert_true(f->nworks > 0);
	memmove(f->works, f->works + 1, --f->nworks * sizeof(f->works[0]));
	w->r = r;
	if (r < 0)
		err_set_errno(&w->e, r, "timetable");
	w->done(w);
}

static void answered(void *opaque, int r, const struct err *e)
{
	(void)opaque, (void)e;
	f->nanswers++;
	f->answer = r;
}

static void no_run(void *context, const struct peer *who, const char *by, const char *command, struct json_object *args,
	struct client_file *file, void (*done)(void *opaque, struct json_object *answer), void *opaque)
{
	(void)context, (void)who, (void)by, (void)command, (void)args, (void)file, (void)done, (void)opaque;
	fail_msg("%s runs", command);
}

static int setup(void **state)
{
	struct err e;

	(void)state;
	f = calloc(1, sizeof(*f));
	f->vm = one_vm_open(&f->d, f->dir, DEFINITION, observers);
	assert_int_equal(timetables_new(&f->d, no_run, NULL, &f->d.timetables, &e), 0);
	f->t = calloc(1, sizeof(*f->t));
	strcpy(f->t->name, "a");
	strcpy(f->t->on, "yearly");
	assert_int_equal(calendar_parse(f->t->on, &f->t->calendar, &e), 0);
	assert_int_equal(timetables_add(f->vm, f->t, answered, NULL, &e), 0);
	write_end(0);
	f->next_s = f->t->next_s;
	assert_true(f->next_s > time(NULL));
	f->nanswers = 0;
	return 0;
}

static int teardown(void **state)
{
	int r;

	(void)state;
	assert_int_equal(f->nworks, 0);
	timetables_free(f->d.timetables);
	r = one_vm_close(&f->d, f->dir);
	free(f);
	return r;
}

static void pause_ask(bool paused)
{
	struct err e;

	assert_int_equal(timetables_pause(f->vm, "a", paused, answered, NULL, &e), 0);
}

static void expect(bool paused)
{
	assert_int_equal(f->t->paused, paused);
	assert_int_equal(f->t->next_s, paused ? 0 : f->next_s);
}

static void refuse(bool paused)
{
	unsigned before = f->nanswers;
	struct err e;

	f->refuses = true;
	assert_int_equal(timetables_pause(f->vm, "a", paused, answered, NULL, &e), -ENAMETOOLONG);
	f->refuses = false;
	assert_int_equal(f->nanswers, before);
}

static void test_pause_that_cannot_be_queued_is_undone(void **state)
{
	(void)state;
	refuse(true);
	expect(false);
	pause_ask(true);
	write_end(0);
	refuse(false);
	expect(true);
	refuse(true);
	expect(true);
}

static void test_pause_that_cannot_be_written_is_undone(void **state)
{
	(void)state;
	pause_ask(true);
	expect(true);
	write_end(-EIO);
	assert_int_equal(f->answer, -EIO);
	expect(false);
	pause_ask(true);
	write_end(0);
	pause_ask(false);
	expect(false);
	write_end(-EIO);
	expect(true);
}

static void test_failed_second_pause_leaves_it_paused(void **state)
{
	(void)state;
	pause_ask(true);
	write_end(0);
	pause_ask(true);
	write_end(-EIO);
	expect(true);
	pause_ask(false);
	write_end(0);
	pause_ask(false);
	write_end(-EIO);
	expect(false);
}

static void test_failed_writes_of_two_changes_undo_both(void **state)
{
	(void)state;
	pause_ask(true);
	pause_ask(false);
	write_end(-EIO);
	write_end(-EIO);
	expect(false);
	pause_ask(true);
	pause_ask(true);
	write_end(-EIO);
	write_end(-EIO);
	expect(false);
	pause_ask(true);
	pause_ask(true);
	write_end(-EIO);
	expect(true);
	write_end(0);
	expect(true);
	assert_int_equal(f->nanswers, 6);
}

static void test_second_change_decides(void **state)
{
	(void)state;
	pause_ask(true);
	pause_ask(false);
	write_end(0);
	expect(false);
	refuse(true);
	expect(false);
	write_end(-EIO);
	expect(true);
	pause_ask(false);
	pause_ask(true);
	write_end(-EIO);
	expect(true);
	write_end(0);
	expect(true);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_pause_that_cannot_be_queued_is_undone, setup, teardown),
		cmocka_unit_test_setup_teardown(test_pause_that_cannot_be_written_is_undone, setup, teardown),
		cmocka_unit_test_setup_teardown(test_failed_second_pause_leaves_it_paused, setup, teardown),
		cmocka_unit_test_setup_teardown(test_failed_writes_of_two_changes_undo_both, setup, teardown),
		cmocka_unit_test_setup_teardown(test_second_change_decides, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
