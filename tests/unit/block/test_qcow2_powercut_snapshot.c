/* Power cuts while snapshots with VM state are made, deleted and applied, and the guest writes. */
#include "fixture_powercut.h"

static void test_snapshots_64k(void **state)
{
	powercut("qemu-img create -q -f qcow2 img 1M", 11, false, true);
	(void)state;
}

static void test_snapshots_4k(void **state)
{
	powercut("qemu-img create -q -f qcow2 -o cluster_size=4k img 1M", 12, false, true);
	(void)state;
}

static void test_snapshots_512(void **state)
{
	powercut("qemu-img create -q -f qcow2 -o cluster_size=512 img 1M", 13, false, true);
	(void)state;
}

static void test_snapshots_extended(void **state)
{
	powercut("qemu-img create -q -f qcow2 -o cluster_size=16k,extended_l2=on img 1M", 14, false, true);
	(void)state;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_snapshots_64k),
		cmocka_unit_test(test_snapshots_4k),
		cmocka_unit_test(test_snapshots_512),
		cmocka_unit_test(test_snapshots_extended),
	};

	alarm(120 * TEST_SLOW);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
