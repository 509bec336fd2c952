/* cpuid: differences between two processors are listed by the usual names; this processor's own leaves are read. */
#include "base/cpuid.h"
#include "base/util.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

/* A processor by AMD with AVX, and XSAVE for its registers. */
static struct cpuid *processor_new(void)
{
	static const struct cpuid_leaf leaves[] = {
		{ 0, 0, 0, { 0xd, 0x68747541, 0x444d4163, 0x69746e65 } },
		{ 1, 0, 0, { 0xa10f11, 0x800, 1u << 28 | 1u << 26, 0x78bfbff } },
		{ 7, 0, CPUID_FLAG_INDEX, { 1, 0, 0, 0 } },
		{ 7, 1, CPUID_FLAG_INDEX, { 0, 0, 0, 0 } },
		{ 0xd, 0, CPUID_FLAG_INDEX, { 7, 0x340, 0x340, 0 } },
		{ 0xd, 2, CPUID_FLAG_INDEX, { 0x100, 0x240, 0, 0 } },
		{ 0x80000001, 0, 0, { 0xa10f11, 0, 0x400393, 0x23d3fbff } },
	};
	struct cpuid *c = cpuid_new(sizeof(leaves) / sizeof(leaves[0]));

	assert_non_null(c);
	memcpy(c->leaf, leaves, sizeof(leaves));
	return c;
}

static struct cpuid_leaf *leaf(struct cpuid *c, uint32_t function, uint32_t index)
{
	return (struct cpuid_leaf *)(uintptr_t)cpuid_find(c, function, index);
}

static void assert_more(const struct cpuid *has, const struct cpuid *lacks, unsigned n, const char *names)
{
	char text[256];

	assert_int_equal(cpuid_list_more(has, lacks, text, sizeof(text)), n);
	assert_string_equal(text, names);
}

static void test_missing_features_are_named(void **state)
{
	struct cpuid *has = processor_new(), *lacks = processor_new();

	(void)state;
	assert_true(cpuid_equal(has, lacks));
	assert_more(has, lacks, 0, "");
	leaf(has, 7, 0)->reg[CPUID_EBX] = 1u << 5 | 1u << 29 | 1u << 31;
	assert_false(cpuid_equal(has, lacks));
	assert_more(has, lacks, 3, "avx2, sha_ni, avx512vl");
	assert_more(lacks, has, 0, "");
	leaf(lacks, 7, 0)->reg[CPUID_EBX] = 1u << 5;
	assert_more(has, lacks, 2, "sha_ni, avx512vl");
	leaf(has, 7, 1)->reg[CPUID_EBX] = 1u << 9;
	assert_more(has, lacks, 3, "sha_ni, avx512vl, CPUID 7.1 EBX bit 9");
	free(has);
	free(lacks);
}

/* The guest switches OSXSAVE and OSPKE itself; HTT, the hypervisor bit and the APIC id are no features. */
static void test_bits_that_are_no_features_do_not_count(void **state)
{
	struct cpuid *has = processor_new(), *lacks = processor_new();

	(void)state;
	leaf(has, 1, 0)->reg[CPUID_ECX] |= 1u << 27 | 1u << 31 | 1u << 24;
	leaf(has, 1, 0)->reg[CPUID_EDX] |= 1u << 28;
	leaf(has, 1, 0)->reg[CPUID_EBX] |= 7u << 24;
	leaf(has, 7, 0)->reg[CPUID_ECX] |= 1u << 4;
	assert_more(has, lacks, 0, "");
	cpuid_leaf_strip_id(leaf(has, 1, 0));
	assert_int_equal(leaf(has, 1, 0)->reg[CPUID_EBX], 0x800);
	free(has);
	free(lacks);
}

static void test_feature_in_two_leaves_is_listed_once(void **state)
{
	struct cpuid *has = processor_new(), *lacks = processor_new();

	(void)state;
	leaf(lacks, 1, 0)->reg[CPUID_EDX] &= ~(1u << 23);
	leaf(lacks, 0x80000001, 0)->reg[CPUID_EDX] &= ~(1u << 23 | 1u << 29);
	assert_more(has, lacks, 2, "mmx, lm");
	free(has);
	free(lacks);
}

static void test_other_vendor_and_xsave_layout_are_named(void **state)
{
	struct cpuid *has = processor_new(), *lacks = processor_new();

	(void)state;
	memcpy(leaf(has, 0, 0)->reg, (uint32_t[]){ 0xd, 0x756e6547, 0x6c65746e, 0x49656e69 }, 16);
	leaf(has, 0xd, 2)->reg[CPUID_EBX] = 0x280;
	assert_more(has, lacks, 2, "a processor by GenuineIntel, the XSAVE layout of component 2");
	leaf(lacks, 0xd, 0)->reg[CPUID_EAX] = 3;
	assert_more(has, lacks, 2, "a processor by GenuineIntel, xcr0_avx");
	free(has);
	free(lacks);
}

static void test_long_list_says_how_many_more(void **state)
{
	struct cpuid *has = processor_new(), *lacks = processor_new();
	char text[60], small[8], bytes[24];

	(void)state;
	leaf(has, 7, 0)->reg[CPUID_EBX] = ~0u;
	assert_int_equal(cpuid_list_more(has, lacks, text, sizeof(text)), 32);
	assert_string_equal(text, "fsgsbase, tsc_adjust, sgx, bmi1, and 28 more");
	assert_int_equal(cpuid_list_more(has, lacks, NULL, 0), 32);
	assert_int_equal(cpuid_list_more(has, lacks, small, sizeof(small)), 32);
	assert_string_equal(small, "");
	assert_int_equal(cpuid_list_more(has, lacks, bytes, sizeof(bytes)), 32);
	assert_string_equal(bytes, "32 features");
	free(has);
	free(lacks);
}

static void test_leaf_without_sub_leaves_ignores_index(void **state)
{
	struct cpuid *c = processor_new();

	(void)state;
	assert_ptr_equal(cpuid_find(c, 1, 5), &c->leaf[1]);
	assert_null(cpuid_find(c, 7, 2));
	assert_null(cpuid_find(NULL, 7, 0));
	free(c);
}

static void test_this_processor_has_what_it_says(void **state)
{
	struct cpuid *a = cpuid_read_processor(), *b = cpuid_read_processor();
	char text[4096];

	(void)state;
	assert_non_null(a);
	assert_true(cpuid_equal(a, b));
	assert_true(a->n <= CPUID_LEAVES_MAX);
	assert_true(cpuid_list_more(a, NULL, text, sizeof(text)) > 20);
	assert_non_null(strstr(text, ", sse2,"));
	assert_non_null(strstr(text, ", lm"));
	if (strstr(text, "xcr0_sse"))
		assert_int_equal(cpuid_read_xcr0() & 3, 3);
	free(a);
	free(b);
}

static void test_names_of_libvirt_are_known(void **state)
{
	static const char *const pairs[][2] = { { "pni", "sse3" }, { "pclmuldq", "pclmulqdq" }, { "sse4.1", "sse4_1" },
		{ "avx512vnni", "avx512_vnni" }, { "invtsc", "constant_tsc" }, { "amd-stibp", "stibp" },
		{ "spec-ctrl", "spec_ctrl" }, { "auto-ibrs", "autoibrs" } };
	struct cpuid_feature f;
	char name[CPUID_NAME_BYTES];

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(pairs); i++) {
		assert_true(cpuid_find_feature(pairs[i][0], strlen(pairs[i][0]), &f));
		assert_string_equal(cpuid_feature_name(&f, name), pairs[i][1]);
		assert_string_equal(cpuid_libvirt_name(name, strlen(name)), pairs[i][0]);
	}
	assert_string_equal(cpuid_libvirt_name("intel_stibp", 11), "stibp");
	assert_null(cpuid_libvirt_name("avx2", 4));
	assert_true(cpuid_find_feature("stibp", 5, &f));
	assert_int_equal(f.function, 0x80000008);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_missing_features_are_named),
		cmocka_unit_test(test_bits_that_are_no_features_do_not_count),
		cmocka_unit_test(test_feature_in_two_leaves_is_listed_once),
		cmocka_unit_test(test_other_vendor_and_xsave_layout_are_named),
		cmocka_unit_test(test_long_list_says_how_many_more),
		cmocka_unit_test(test_leaf_without_sub_leaves_ignores_index),
		cmocka_unit_test(test_this_processor_has_what_it_says),
		cmocka_unit_test(test_names_of_libvirt_are_known),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
