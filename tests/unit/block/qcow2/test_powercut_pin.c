/* Power cuts while pins are made and deleted: an overlay on a pin reads its content, or is refused
 * because the pin is gone. */
#include "fixture_powercut.h"

static void test_pins_64k(void **state)
{
	powercut_pins("qemu-img create -q -f qcow2 img 1M", 41, false, false);
	(void)state;
}

static void test_pins_512(void **state)
{
	powercut_pins("qemu-img create -q -f qcow2 -o cluster_size=512 img 1M", 42, false, false);
	(void)state;
}

static void test_pins_leave_no_permanent_leak(void **state)
{
	powercut_pins("qemu-img create -q -f qcow2 -o cluster_size=4k img 1M && "
		"qemu-io -c 'write -q -P 3 0 700k' img && qemu-img snapshot -c one img && "
		"qemu-io -c 'write -q -P 4 300k 200k' img", 43, true, false);
	(void)state;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_pins_64k),
		cmocka_unit_test(test_pins_512),
		cmocka_unit_test(test_pins_leave_no_permanent_leak),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
