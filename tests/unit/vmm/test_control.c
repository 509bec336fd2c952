/* control: the table of requests has a handler for each type of message that a daemon may send. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "vmm/control.c" /* for the table, which is static */

static void test_each_request_has_a_handler(void **state)
{
	unsigned n = 0;

	(void)state;
	for (unsigned t = 0; t < VM_MSG_TYPE_COUNT; t++) {
		bool has_row = requests[t].handle != NULL;

		if (has_row != vm_msg_to_vm[t].known)
			fail_msg("message type %u: %s", t, has_row ? "has a handler, but vm_msg_to_vm does not let it in" :
				"vm_msg_to_vm lets it in, but it has no handler in requests[]");
		n += has_row;
	}
	assert_true(n > 0);
}

static void test_each_type_has_one_direction(void **state)
{
	(void)state;
	for (unsigned t = 1; t < VM_MSG_TYPE_COUNT; t++)
		if (vm_msg_to_vm[t].known + vm_msg_from_vm[t].known != 1)
			fail_msg("message type %u must be in exactly one of vm_msg_to_vm and vm_msg_from_vm", t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_each_request_has_a_handler),
		cmocka_unit_test(test_each_type_has_one_direction),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
