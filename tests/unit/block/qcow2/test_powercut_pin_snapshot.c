/* Power cuts while snapshots are pinned and deleted: an overlay on a pin reads its content, or is refused because the
 * pin is gone. */
#include "fixture_powercut.h"

static void test_pins_of_snapshots(void **state)
{
	powercut_pins("qemu-img create -q -f qcow2 img 1M", 44, false, true);
	(void)state;
}

static void test_pins_of_snapshots_leave_no_permanent_leak(void **state)
{
	powercut_pins("qemu-img create -q -f qcow2 -o cluster_size=4k img 1M && "
		"qemu-io -c 'write -q -P 3 0 700k' img", 46, true, true);
	(void)state;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_pins_of_snapshots),
		cmocka_unit_test(test_pins_of_snapshots_leave_no_permanent_leak),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
