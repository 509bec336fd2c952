/* Observers are called in the order of the host's list, and the first that returns something ends a question. */
#include "api/vm/observer.h"
#include "api/vm/vm.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

static char calls[8];

static void note(char c)
{
	calls[strlen(calls)] = c;
}

static void a_started(struct vm *vm)
{
	(void)vm;
	note('a');
}

static void b_started(struct vm *vm)
{
	(void)vm;
	note('b');
}

static int b_check(const struct vm *vm, struct err *e)
{
	(void)vm;
	(void)e;
	note('b');
	return -EBUSY;
}

static int c_check(const struct vm *vm, struct err *e)
{
	(void)vm;
	(void)e;
	note('c');
	return -EINVAL;
}

static const struct vm_observer a = { .started = a_started }, b = { .started = b_started, .start_check = b_check },
			       c = { .start_check = c_check };
static const struct vm_observer *const observers[] = { &a, &b, &c, NULL };

static void test_hooks_are_called_in_list_order(void **state)
{
	struct vm_host host = { .observers = observers };
	struct vm vm = { .host = &host };

	(void)state;
	memset(calls, 0, sizeof(calls));
	vm_notify(&vm, started);
	assert_string_equal(calls, "ab");
}

static void test_question_ends_with_the_first_result(void **state)
{
	struct vm_host host = { .observers = observers };
	struct vm vm = { .host = &host };

	(void)state;
	memset(calls, 0, sizeof(calls));
	assert_int_equal(vm_ask(&vm, start_check, NULL), -EBUSY);
	assert_string_equal(calls, "b");
}

static void test_host_without_observers_calls_nobody(void **state)
{
	struct vm_host host = { 0 };
	struct vm vm = { .host = &host };

	(void)state;
	vm_notify(&vm, started);
	assert_int_equal(vm_ask(&vm, start_check, NULL), 0);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_hooks_are_called_in_list_order),
		cmocka_unit_test(test_question_ends_with_the_first_result),
		cmocka_unit_test(test_host_without_observers_calls_nobody),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
