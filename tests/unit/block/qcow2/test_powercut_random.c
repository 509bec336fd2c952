/* Power cuts during random operations, including resize and trim; then again from images that a cut
 * has left.
 *
 * Environment: POWERCUT_CUTS cuts (600) from POWERCUT_SEED (1), over all kinds of image in turn. */
#include "fixture_powercut.h"

#include "base/util.h"

#define CUTS_A_RUN 150

static const struct powercut_kind kinds[] = {
	{ "64k", "qemu-img create -q -f qcow2 img 1M", false, false },
	{ "4k", "qemu-img create -q -f qcow2 -o cluster_size=4k,refcount_bits=8 img 1M", false, false },
	{ "512", "qemu-img create -q -f qcow2 -o cluster_size=512,refcount_bits=64 img 1M", false, false },
	{ "extended", "qemu-img create -q -f qcow2 -o cluster_size=16k,extended_l2=on img 1M", false, false },
	{ "v2", "qemu-img create -q -f qcow2 -o cluster_size=4k,compat=0.10 img 1M", true, false },
	{ "backing", "qemu-img create -q -f raw base.img 1500k && qemu-io -f raw -c 'write -P 5 0 1400k' base.img && "
		"qemu-img create -q -f qcow2 -o cluster_size=512 -b base.img -F raw img 1M", false, false },
	{ "packed", "qemu-img create -q -f raw raw 1M && qemu-io -f raw -c 'write -P 5 0 1M' raw && "
		"qemu-img convert -c -f raw -O qcow2 -o cluster_size=4k raw img", false, false },
	{ "refcount1", "qemu-img create -q -f qcow2 -o cluster_size=1k,refcount_bits=1 img 1M", false, true },
};

static unsigned from_environment(const char *name, unsigned otherwise)
{
	const char *v = getenv(name);

	return v ? (unsigned)strtoul(v, NULL, 10) : otherwise;
}

static void test_power_cuts_during_random_operations(void **state)
{
	unsigned cuts = from_environment("POWERCUT_CUTS", 600), seed = from_environment("POWERCUT_SEED", 1);
	unsigned n = 0;

	(void)state;
	while (n < cuts) {
		const struct powercut_kind *kind = &kinds[seed % ARRAY_SIZE(kinds)];

		print_message("POWERCUT_SEED=%u (%s)\n", seed, kind->name);
		n += powercut_random(kind, seed++, CUTS_A_RUN);
	}
	print_message("%u cuts in all\n", n);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(test_power_cuts_during_random_operations) };

	alarm(from_environment("POWERCUT_SECONDS", 120 * TEST_SLOW));
	return cmocka_run_group_tests(tests, NULL, NULL);
}
