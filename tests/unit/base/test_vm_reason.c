#include "base/vm_reason.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

static void find_again(enum vm_reason first, enum vm_reason end)
{
	for (unsigned r = first; r < end; r++) {
		assert_non_null(vm_reason_name(r));
		assert_int_equal(vm_reason_from_name(vm_reason_name(r)), r); /* so no two reasons have one word */
	}
}

static void test_every_reason_has_a_word_of_its_own(void **state)
{
	(void)state;
	find_again(VM_REASON_NONE, VM_REASON_COUNT);
	find_again(VM_REASON_OF_DAEMON, VM_REASON_KEEP);
}

/* A process or a daemon of another release has reported it. */
static void test_unknown_reason_is_unknown(void **state)
{
	(void)state;
	assert_string_equal(vm_reason_name(VM_REASON_COUNT), "unknown");
	assert_string_equal(vm_reason_name(UINT8_MAX), "unknown");
	assert_string_equal(vm_reason_name(VM_REASON_KEEP), "unknown");
	assert_int_equal(vm_reason_from_name("a word of another release"), VM_REASON_NONE);
	assert_int_equal(vm_reason_from_name(""), VM_REASON_NONE);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_every_reason_has_a_word_of_its_own),
		cmocka_unit_test(test_unknown_reason_is_unknown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
