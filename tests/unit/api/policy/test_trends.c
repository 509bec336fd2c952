/* Questions for trends, and what else the store's thread has to do. */
#include "api/policy/trends.h"
#include "api/store/store.h"
#include "api/vm/observer.h"
#include "api/vm/vm.h"
#include "base/clock.h"
#include "tests/unit/api/policy/one_vm.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define DEFINITION "{\"name\":\"vm1\",\"memory\":\"32M\",\"boot\":{\"kernel\":\"/kernel\"}}"
#define QUESTIONS 5

static const struct vm_observer *const observers[] = { &trends_observer, NULL };

struct fixture {
	char dir[ONE_VM_DIR_BYTES];
	struct vm_host d;
	struct vm *vm;
	unsigned answers, errors;
	char sentence[64]; /* the last error */
	unsigned answers_before; /* of a change that was queued after the questions */
	bool is_changed;
};

static struct fixture *f;

static int setup(void **state)
{
	(void)state;
	f = calloc(1, sizeof(*f));
	f->vm = one_vm_open(&f->d, f->dir, DEFINITION, observers);
	return 0;
}

static int teardown(void **state)
{
	int status;

	(void)state;
	trends_free(&f->d);
	status = one_vm_close(&f->d, f->dir);
	free(f);
	return status;
}

static void answered(void *opaque, const struct trend_view *v, const struct err *e)
{
	(void)opaque;
	if (v)
		f->answers++;
	else
		f->errors++;
	if (e)
		snprintf(f->sentence, sizeof(f->sentence), "%.63s", e->msg);
}

static void ask(unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		trends_query(f->vm, 1000000, 60, 100, answered, NULL);
}

static void run(void)
{
	while (store_owes(f->d.store))
		loop_run_once(f->d.loop, CLOCK_NS_PER_S);
}

static void changed(struct store_work *w)
{
	assert_int_equal(w->r, 0);
	f->answers_before = f->answers;
	f->is_changed = true;
}

static void test_change_waits_for_one_question_at_most(void **state)
{
	struct store_work w = { .loop = f->d.loop, .done = changed };

	(void)state;
	ask(QUESTIONS);
	store_sync_file(f->d.store, &w, "vm1", "trends");
	run();
	assert_true(f->is_changed);
	assert_in_range(f->answers_before, 0, 1);
	assert_int_equal(f->answers, QUESTIONS);
	assert_int_equal(f->errors, 0);
}

static void test_questions_about_a_vm_that_is_removed_are_answered(void **state)
{
	(void)state;
	ask(QUESTIONS);
	vm_remove(f->vm);
	run();
	assert_int_equal(f->answers, 1);
	assert_int_equal(f->errors, QUESTIONS - 1);
	assert_string_equal(f->sentence, "the VM was removed meanwhile");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_change_waits_for_one_question_at_most, setup, teardown),
		cmocka_unit_test_setup_teardown(test_questions_about_a_vm_that_is_removed_are_answered, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
