#include "base/kvm_host.h"
#include "base/cpuid.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void test_huge_pages_are_safe_from_linux_6_6_on(void **state)
{
	static const struct {
		const char *release;
		bool safe;
	} rows[] = { { "6.6.0", true }, { "6.12.95+deb12-amd64", true }, { "7.0-rc1", true }, { "10.1", true }, { "6.5.9", false },
		{ "6.1.0-56-amd64", false }, { "5.15.0", false }, { "5.6", false }, { "", false }, { "x", false } };

	(void)state;
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
		assert_int_equal(kvm_host_huge_pages_safe(rows[i].release), rows[i].safe);
}

static void test_shadow_stacks_are_hidden(void **state)
{
	static const uint32_t at[][2] = { { 1, 0 }, { 7, 0 }, { 7, 1 } };
	struct cpuid *c = cpuid_new(3 + 2);

	(void)state;
	assert_non_null(c);
	c->n = 3;
	for (uint32_t i = 0; i < 3; i++) {
		c->leaf[i] = (struct cpuid_leaf){ .function = at[i][0], .index = at[i][1] };
		memset(c->leaf[i].reg, 0xff, sizeof(c->leaf[i].reg));
	}
	kvm_cpuid_adjust(c);
	assert_int_equal(c->n, 3);
	for (uint32_t i = 0; i < 3; i++)
		for (unsigned r = 0; r < 4; r++)
			assert_int_equal(c->leaf[i].reg[r], i == 1 && r == CPUID_ECX ? ~(1u << 7) : ~0u);
	free(c);
}

static void test_topology_has_cores_in_each_leaf(void **state)
{
	static const uint32_t leaves[] = { 0xb, 0x1f };

	(void)state;
	for (uint32_t n = 1; n <= 2; n++) { /* processors without leaf 0x1F and with it */
		struct cpuid *c = cpuid_new(n + 2);

		assert_non_null(c);
		c->n = n;
		for (uint32_t i = 0; i < n; i++)
			c->leaf[i] = (struct cpuid_leaf){ .function = leaves[i], .flags = CPUID_FLAG_INDEX };
		kvm_cpuid_adjust(c);
		assert_int_equal(c->n, 2 * n);
		for (uint32_t i = 0; i < n; i++)
			assert_non_null(cpuid_find(c, leaves[i], 1));
		kvm_cpuid_adjust(c); /* as a KVM that has them */
		assert_int_equal(c->n, 2 * n);
		free(c);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_huge_pages_are_safe_from_linux_6_6_on),
		cmocka_unit_test(test_shadow_stacks_are_hidden),
		cmocka_unit_test(test_topology_has_cores_in_each_leaf),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
