/* Power cuts during random operations, including resize and trim; then again from images that a cut
 * has left.
 *
 * Environment: POWERCUT_CUTS cuts (600) from POWERCUT_SEED (1), over all kinds of image in turn. */
#include "fixture_powercut.h"

#include "base/util.h"

static const struct powercut_kind kinds[] = {
	{ .name = "64k", .create = "qemu-img create -q -f qcow2 img 1M" },
	{ .name = "4k", .create = "qemu-img create -q -f qcow2 -o cluster_size=4k,refcount_bits=8 img 1M" },
	{ .name = "512", .create = "qemu-img create -q -f qcow2 -o cluster_size=512,refcount_bits=64 img 1M" },
	{ .name = "extended", .create = "qemu-img create -q -f qcow2 -o cluster_size=16k,extended_l2=on img 1M" },
	{ .name = "v2", .create = "qemu-img create -q -f qcow2 -o cluster_size=4k,compat=0.10 img 1M", .fixed_size = true },
	{ .name = "backing", .create = "qemu-img create -q -f raw base.img 1500k && qemu-io -f raw -c 'write -P 5 0 1400k' base.img && "
		"qemu-img create -q -f qcow2 -o cluster_size=512 -b base.img -F raw img 1M" },
	{ .name = "packed", .create = "qemu-img create -q -f raw raw 1M && qemu-io -f raw -c 'write -P 5 0 1M' raw && "
		"qemu-img convert -c -f raw -O qcow2 -o cluster_size=4k raw img" },
	{ .name = "refcount1", .create = "qemu-img create -q -f qcow2 -o cluster_size=1k,refcount_bits=1 img 1M", .no_snapshots = true },
};

static void test_power_cuts_during_random_operations(void **state)
{
	powercut_random(kinds, ARRAY_SIZE(kinds), 600);
	(void)state;
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(test_power_cuts_during_random_operations) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}
