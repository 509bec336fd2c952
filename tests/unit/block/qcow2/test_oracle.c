/* Random operations on images of many kinds, by Cairn and QEMU in turn, compared with a model in
 * memory.
 *
 * Environment: ORACLE_OPS operations on each kind (300), from ORACLE_SEED (1); ORACLE_SET names one
 * kind. A failure prints how to reproduce it. */
#include "fixture_oracle.h"

#include "base/util.h"

static const struct oracle_set sets[] = {
	{.name = "512",
		.options = "cluster_size=512,refcount_bits=64",
		.cluster_bytes = 512,
		.bytes = 2 * MIB,
		.max_bytes = 5 * MIB,
		.cache_bytes = 1},
	{.name = "4k",
		.options = "cluster_size=4k,refcount_bits=8",
		.cluster_bytes = 4096,
		.bytes = 4 * MIB,
		.max_bytes = 6 * MIB,
		.cache_bytes = 1,
		.direct = true},
	{.name = "64k",
		.options = "cluster_size=64k",
		.cluster_bytes = 64 * KIB,
		.bytes = 4 * MIB,
		.max_bytes = 8 * MIB,
		.direct = true},
	{.name = "2m",
		.options = "cluster_size=2M",
		.cluster_bytes = 2 * MIB,
		.bytes = 12 * MIB,
		.max_bytes = 20 * MIB},
	{.name = "refcount1",
		.options = "cluster_size=4k,refcount_bits=1",
		.cluster_bytes = 4096,
		.bytes = 4 * MIB,
		.max_bytes = 6 * MIB,
		.cache_bytes = 1,
		.no_snapshots = true},
	{.name = "extended",
		.options = "cluster_size=16k,extended_l2=on",
		.cluster_bytes = 16 * KIB,
		.bytes = 4 * MIB,
		.max_bytes = 8 * MIB,
		.cache_bytes = 1,
		.base_bytes = 3 * MIB,
		.base = "qemu-img convert -f raw -O qcow2 content base.img",
		.base_format = "qcow2"},
	{.name = "v2",
		.options = "compat=0.10,cluster_size=4k",
		.cluster_bytes = 4096,
		.v2 = true,
		.bytes = 4 * MIB,
		.max_bytes = 6 * MIB,
		.base_bytes = 2 * MIB + 512 * 3,
		.base = "cp content base.img",
		.base_format = "raw"},
	{.name = "lazy",
		.options = "cluster_size=1k,lazy_refcounts=on",
		.cluster_bytes = 1024,
		.bytes = 2 * MIB,
		.max_bytes = 4 * MIB},
	{.name = "backing-raw",
		.options = "cluster_size=64k",
		.cluster_bytes = 64 * KIB,
		.bytes = 3 * MIB + 512 * 7,
		.max_bytes = 8 * MIB,
		.base_bytes = 5 * MIB,
		.base = "cp content base.img",
		.base_format = "raw",
		.direct = true},
	{.name = "backing-qcow2",
		.options = "cluster_size=4k",
		.cluster_bytes = 4096,
		.bytes = 4 * MIB,
		.max_bytes = 6 * MIB,
		.cache_bytes = 1,
		.base_bytes = 4 * MIB,
		.base = "qemu-img convert -c -f raw -O qcow2 content base.img",
		.base_format = "qcow2"},
	{.name = "zstd",
		.options = "cluster_size=16k,compression_type=zstd",
		.cluster_bytes = 16 * KIB,
		.bytes = 4 * MIB,
		.max_bytes = 6 * MIB,
		.compressed = true},
	{.name = "preallocated",
		.options = "cluster_size=512,preallocation=metadata",
		.cluster_bytes = 512,
		.bytes = 2 * MIB,
		.max_bytes = 4 * MIB,
		.cache_bytes = 16 * KIB}, /* tables are evicted, loaded, and kept as runs */
	{.name = "small-parts-512",
		.options = "cluster_size=512",
		.cluster_bytes = 512,
		.bytes = 2 * MIB,
		.max_bytes = 5 * MIB,
		.cache_bytes = 1,
		.small_parts = true},
	{.name = "small-parts-64k",
		.options = "cluster_size=64k",
		.cluster_bytes = 64 * KIB,
		.bytes = 4 * MIB,
		.max_bytes = 8 * MIB,
		.base_bytes = 3 * MIB,
		.base = "qemu-img convert -c -f raw -O qcow2 content base.img",
		.base_format = "qcow2",
		.small_parts = true},
};

static int list(void)
{
	for (size_t i = 0; i < ARRAY_SIZE(sets); i++)
		puts(sets[i].name);
	return 0;
}

static void test_random_operations_match_model_and_qemu(void **state)
{
	const struct oracle_set *set = *state;
	unsigned ops = fixture_number("ORACLE_OPS", 300);
	unsigned seed = fixture_number("ORACLE_SEED", 1);

	/* Print this first, since a failure does not return here. */
	print_message("ORACLE_SEED=%u ORACLE_OPS=%u ORACLE_SET=%s\n", seed, ops, set->name);
	fixture_small_parts = set->small_parts;
	oracle_run(set, seed, ops);
}

int main(void)
{
	const char *only = getenv("ORACLE_SET");
	struct CMUnitTest tests[ARRAY_SIZE(sets)];
	size_t n = 0;

	if (only && !strcmp(only, "list"))
		return list();
	for (size_t i = 0; i < ARRAY_SIZE(sets); i++)
		if (!only || !strcmp(only, sets[i].name))
			tests[n++] = (struct CMUnitTest){.name = sets[i].name,
				.test_func = test_random_operations_match_model_and_qemu,
				.initial_state = (void *)&sets[i]};
	if (!n) {
		fprintf(stderr, "ORACLE_SET: no kind is called '%s'\n", only);
		return 2;
	}
	return _cmocka_run_group_tests("oracle", tests, n, NULL, NULL);
}
