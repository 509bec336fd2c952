/* Power cuts while bitmaps are changed and stored: the image has the bitmaps of before or after, and a bitmap that is
 * not in use has recorded every change of the disk. */
#include "fixture_powercut.h"

static void test_cut_leaves_bitmaps_of_before_or_after(void **state)
{
	(void)state;
	powercut_bitmaps("qemu-img create -q -f qcow2 img 1M", 1);
}

/* The names of features give way to the extension. */
static void test_cut_with_a_full_first_cluster(void **state)
{
	(void)state;
	powercut_bitmaps("qemu-img create -q -f qcow2 -o cluster_size=512 img 1M", 2);
}

/* The backing file's name moves. */
static void test_cut_above_a_backing_file(void **state)
{
	(void)state;
	powercut_bitmaps("qemu-img create -q -f qcow2 base.img 1M && qemu-img create -q -f qcow2 -o cluster_size=4k -b "
		"base.img -F qcow2 img 1M", 3);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_cut_leaves_bitmaps_of_before_or_after),
		cmocka_unit_test(test_cut_with_a_full_first_cluster),
		cmocka_unit_test(test_cut_above_a_backing_file),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
