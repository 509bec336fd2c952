/* cpu_model: the text of a processor is checked; its leaves have the model's features and no others. */
#include "base/cpu_model.h"
#include "base/cpuid.h"
#include "base/err.h"
#include "base/util.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

/* A host with all of x86-64-v3, AVX-512, performance counters and nested virtualisation. */
static struct cpuid *host_new(void)
{
	static const struct cpuid_leaf leaves[] = {
		{ 0, 0, 0, { 0x1f, 0x68747541, 0x444d4163, 0x69746e65 } },
		{ 1, 0, 0, { 0xa10f11, 0x800, 0xfffa3203, 0x178bfbff } },
		{ 6, 0, 0, { 4, 0, 0, 0 } },
		{ 7, 0, CPUID_FLAG_INDEX, { 1, 0xf1bf07ab, 0x00405fc6, 0x10 } },
		{ 0xa, 0, 0, { 0x07300402, 0, 0, 0x603 } },
		{ 0xd, 0, CPUID_FLAG_INDEX, { 0xe7, 0x980, 0x980, 0 } },
		{ 0xd, 1, CPUID_FLAG_INDEX, { 0xf, 0x9a8, 0x1800, 0 } },
		{ 0xd, 2, CPUID_FLAG_INDEX, { 0x100, 0x240, 0, 0 } },
		{ 0xd, 5, CPUID_FLAG_INDEX, { 0x40, 0x340, 0, 0 } },
		{ 0x40000001, 0, 0, { 0x1007efb, 0, 0, 0 } },
		{ 0x80000001, 0, 0, { 0xa10f11, 0, 0x4003f7, 0x2fd3fbff } },
	};
	struct cpuid *c = cpuid_new(ARRAY_SIZE(leaves));

	assert_non_null(c);
	memcpy(c->leaf, leaves, sizeof(leaves));
	return c;
}

static uint32_t word(const struct cpuid *c, uint32_t function, uint32_t index, enum cpuid_reg reg)
{
	const struct cpuid_leaf *l = cpuid_find(c, function, index);

	assert_non_null(l);
	return l->reg[reg];
}

static struct cpuid *made(const char *text, const struct cpuid *host)
{
	struct cpuid *c = NULL;
	struct err e = { 0 };

	if (cpu_model_make(text, host, &c, &e) < 0)
		fail_msg("%s", e.msg);
	return c;
}

/* Whether the list of features has the name. */
static bool has(const struct cpuid *c, const char *name)
{
	struct cpuid_feature f;

	assert_true(cpuid_find_feature(name, strlen(name), &f));
	return word(c, f.function, f.index, f.reg) >> f.bit & 1;
}

static void test_text_is_checked(void **state)
{
	static const char *const good[] = { "host", "baseline", "x86-64-v2", "x86-64-v3", "host,-avx2",
		"baseline,+aes,-rdrand,+SSE4.1,+sha-ni" };
	static const struct {
		const char *text, *says;
	} bad[] = { { "", "is not a processor model; use host, baseline, x86-64-v2 or x86-64-v3" },
		{ "Skylake-Client", "\"Skylake-Client\" is not a processor model" }, { "hos", "is not a processor model" },
		{ "host,avx", "is not a feature to add or remove; write +NAME or -NAME" }, { "host,", "is not a feature" },
		{ "host,+", "\"\" is not a processor feature" }, { "host,+avx2000", "\"avx2000\" is not a processor feature" },
		{ "host,-kvm_clocksource", "is not a processor feature" }, { "host,+xcr0_avx", "is not a processor feature" } };
	char lengthy[CPU_MODEL_TEXT_MAX + 10];

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(good); i++)
		assert_int_equal(cpu_model_check(good[i], NULL), 0);
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		struct err e = { 0 };

		assert_int_equal(cpu_model_check(bad[i].text, &e), -EINVAL);
		if (!strstr(e.msg, bad[i].says))
			fail_msg("%s: %s", bad[i].text, e.msg);
	}
	memset(lengthy, 'a', sizeof(lengthy) - 1);
	lengthy[sizeof(lengthy) - 1] = 0;
	assert_int_equal(cpu_model_check(lengthy, NULL), -EINVAL);
}

static void test_host_is_all_that_kvm_offers(void **state)
{
	struct cpuid *host = host_new(), *c = made("host", host);

	(void)state;
	assert_null(c);
	c = made("host,-avx2", host);
	assert_false(has(c, "avx2"));
	assert_true(has(c, "sha_ni") && has(c, "svm") && has(c, "avx512f"));
	assert_int_equal(word(c, 0xd, 0, CPUID_EAX), 0xe7);
	assert_int_equal(word(c, 0xa, 0, CPUID_EAX), 0x07300402);
	free(c);
	c = made("host,-avx512f,-avx", host);
	assert_int_equal(word(c, 0xd, 0, CPUID_EAX), 3);
	assert_int_equal(word(c, 0xd, 5, CPUID_EBX), 0);
	free(c);
	free(host);
}

static void test_model_has_its_features_and_no_others(void **state)
{
	struct cpuid *host = host_new(), *c = made("baseline", host);

	(void)state;
	assert_true(has(c, "sse2") && has(c, "cx16") && has(c, "rdrand") && has(c, "lm") && has(c, "lahf_lm") && has(c, "x2apic"));
	assert_false(has(c, "avx") || has(c, "popcnt") || has(c, "xsave") || has(c, "svm") || has(c, "sha_ni"));
	assert_int_equal(word(c, 7, 0, CPUID_EBX), 0);
	assert_int_equal(word(c, 0xd, 0, CPUID_EAX), 0);
	assert_int_equal(word(c, 0xa, 0, CPUID_EAX), 0);
	assert_int_equal(word(c, 1, 0, CPUID_EAX), 0xa10f11);
	assert_int_equal(word(c, 0x40000001, 0, CPUID_EAX), 0x1007efb);
	free(c);
	c = made("x86-64-v2,+aes,-sse4.1", host);
	assert_true(has(c, "popcnt") && has(c, "aes"));
	assert_false(has(c, "sse4_1") || has(c, "rdrand") || has(c, "avx"));
	free(c);
	c = made("x86-64-v3", host);
	assert_true(has(c, "avx2") && has(c, "xsave") && has(c, "movbe"));
	assert_false(has(c, "avx512f") || has(c, "pku") || has(c, "xsavec"));
	assert_int_equal(word(c, 0xd, 0, CPUID_EAX), 7);
	assert_int_equal(word(c, 0xd, 2, CPUID_EBX), 0x240);
	assert_int_equal(word(c, 0xd, 5, CPUID_EBX), 0);
	free(c);
	free(host);
}

static void test_missing_features_are_named(void **state)
{
	struct cpuid *host = host_new(), *c = NULL;
	struct err e = { 0 };

	(void)state;
	host->leaf[3].reg[CPUID_EBX] &= ~(1u << 5);
	assert_int_equal(cpu_model_make("x86-64-v3,+hle,+amx_tile", host, &c, &e), -ENOTSUP);
	assert_int_equal(e.cls, ERR_UNSUPPORTED);
	assert_null(c);
	assert_non_null(strstr(e.msg, "features that this host lacks: hle, avx2, amx_tile; remove them"));
	assert_int_equal(cpu_model_make("host,+sha512", host, &c, &e), -ENOTSUP); /* the host has no leaf 7.1 */
	assert_non_null(strstr(e.msg, "lacks: sha512;"));
	assert_int_equal(cpu_model_make("none", host, &c, &e), -EINVAL);
	free(host);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_text_is_checked),
		cmocka_unit_test(test_host_is_all_that_kvm_offers),
		cmocka_unit_test(test_model_has_its_features_and_no_others),
		cmocka_unit_test(test_missing_features_are_named),
	};

	alarm(30 * TEST_SLOW);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
