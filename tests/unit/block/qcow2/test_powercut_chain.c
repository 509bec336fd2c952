/* Power cuts over a chain of forks to depth 4: each image is an overlay on a pin in the one before, and the guests of
 * all of them write, take, revert to and delete snapshots, and are forked at once. A cut hits all images at the same
 * point. Then each opens and has its own flushed content, and each pin has its frozen content.
 *
 * Environment: POWERCUT_CUTS cuts (50) from POWERCUT_SEED (1), over all kinds of first image in turn. */
#include "fixture_powercut.h"

#include "base/util.h"

static const struct powercut_kind kinds[] = {
	{ .name = "64k", .create = "qemu-img create -q -f qcow2 img 1M", .chain = true },
	{ .name = "4k", .create = "qemu-img create -q -f qcow2 -o cluster_size=4k,refcount_bits=8 img 1M", .chain = true },
	{ .name = "extended", .create = "qemu-img create -q -f qcow2 -o cluster_size=16k,extended_l2=on img 1M", .chain = true },
	{ .name = "512", .create = "qemu-img create -q -f qcow2 -o cluster_size=512,refcount_bits=64 img 1M", .chain = true },
};

static void test_power_cuts_of_a_chain_of_forks(void **state)
{
	powercut_random(kinds, ARRAY_SIZE(kinds), 50);
	(void)state;
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(test_power_cuts_of_a_chain_of_forks) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}
