/* Power cuts while a guest writes. */
#include "fixture_powercut.h"

static void test_64k(void **state)
{
	powercut("qemu-img create -q -f qcow2 img 1M", 1, false, false);
	(void)state;
}

static void test_4k(void **state)
{
	powercut("qemu-img create -q -f qcow2 -o cluster_size=4k img 1M", 2, false, false);
	(void)state;
}

/* A new refcount block every 32 KiB. */
static void test_512(void **state)
{
	powercut("qemu-img create -q -f qcow2 -o cluster_size=512,refcount_bits=64 img 1M", 3, false, false);
	(void)state;
}

/* Almost all that the refcount table can describe is in use, so the table has to move. */
static void test_power_cut_while_refcount_table_moves(void **state)
{
	powercut("qemu-img create -q -f qcow2 -o cluster_size=512,refcount_bits=64 img 1M && "
		"qemu-io -c 'write -P 3 0 1M' img && qemu-img snapshot -c one img && "
		"qemu-io -c 'write -P 4 0 850k' img && qemu-img snapshot -c two img", 6, true, false);
	(void)state;
}

static void test_power_cut_after_snapshot(void **state)
{
	powercut("qemu-img create -q -f qcow2 -o cluster_size=4k img 1M && "
		"qemu-io -c 'write -P 3 0 1M' img && qemu-img snapshot -c one img", 4, false, false);
	(void)state;
}

static void test_power_cut_with_extended_l2(void **state)
{
	powercut("qemu-img create -q -f qcow2 -o cluster_size=16k,extended_l2=on img 1M", 5, false, false);
	(void)state;
}

/* Requests that wait for each other's parts, with bounce buffers that hold a part of a cluster. */
static void test_power_cut_while_requests_are_split(void **state)
{
	fixture_small_parts = true;
	powercut("qemu-img create -q -f qcow2 -o cluster_size=512 img 1M", 8, false, false);
	powercut("qemu-img create -q -f qcow2 -o cluster_size=16k img 1M && "
		"qemu-io -c 'write -P 3 0 1M' img && qemu-img snapshot -c one img", 9, false, true);
	fixture_small_parts = false;
	(void)state;
}

/* An L2 table that the L1 references is always inside the file. */
static void test_power_cut_while_l2_tables_are_allocated(void **state)
{
	powercut_tables("qemu-img create -q -f raw base.img 2M && qemu-io -f raw -c 'write -P 5 0 2M' base.img && "
		"qemu-img create -q -f qcow2 -o cluster_size=512 -b base.img -F raw img 2M", 7, 32 * 1024);
	(void)state;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_64k),
		cmocka_unit_test(test_4k),
		cmocka_unit_test(test_512),
		cmocka_unit_test(test_power_cut_while_refcount_table_moves),
		cmocka_unit_test(test_power_cut_after_snapshot),
		cmocka_unit_test(test_power_cut_with_extended_l2),
		cmocka_unit_test(test_power_cut_while_requests_are_split),
		cmocka_unit_test(test_power_cut_while_l2_tables_are_allocated),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
