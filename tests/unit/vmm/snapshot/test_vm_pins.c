/* The list of idle pins in a VM's process. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "vmm/machine/machine.h"
#include "vmm/snapshot/vm_pins.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

static void test_shared_pin_is_idle_no_more(void **state)
{
	struct machine *m = calloc(1, sizeof(*m));
	struct vm_pins *pins = calloc(1, sizeof(*pins));
	uint8_t first[VM_PIN_ID_BYTES] = { 1 }, second[VM_PIN_ID_BYTES] = { 2 }, third[VM_PIN_ID_BYTES] = { 3 };

	(void)state;
	assert_non_null(m);
	assert_non_null(pins);
	vm_pins_unset_idle(m, first); /* there is no list */
	assert_null(atomic_load(&m->idle_pins));
	pins->n = 2;
	memcpy(pins->ids[0], first, sizeof(first));
	memcpy(pins->ids[1], second, sizeof(second));
	atomic_store(&m->idle_pins, pins);
	vm_pins_unset_idle(m, third);
	assert_int_equal(atomic_load(&m->idle_pins)->n, 2);
	vm_pins_unset_idle(m, first);
	assert_int_equal(atomic_load(&m->idle_pins)->n, 1);
	assert_memory_equal(atomic_load(&m->idle_pins)->ids[0], second, sizeof(second));
	vm_pins_unset_idle(m, second);
	assert_int_equal(atomic_load(&m->idle_pins)->n, 0);
	free(atomic_load(&m->idle_pins));
	free(m);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(test_shared_pin_is_idle_no_more) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}
