/* cpu_model: the text of a processor is checked; its leaves have the model's features and no others. */
#include "base/cpu_model.h"
#include "base/cpu_model_table.h"
#include "base/cpuid.h"
#include "base/err.h"
#include "base/util.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

/* A host by AMD with all of x86-64-v3, AVX-512, performance counters and nested virtualisation. */
static struct cpuid *host_new(void)
{
	static const struct cpuid_leaf leaves[] = {
		{ 0, 0, 0, { 0x1f, 0x68747541, 0x444d4163, 0x69746e65 } },
		{ 1, 0, 0, { 0xa10f11, 0x800, 0xfffa3203, 0x178bfbff } },
		{ 6, 0, 0, { 4, 0, 0, 0 } },
		{ 7, 0, CPUID_FLAG_INDEX, { 1, 0xf1bf07ab, 0x00405fc6, 0x10 } },
		{ 7, 1, CPUID_FLAG_INDEX, { 0x20, 0, 0, 0 } },
		{ 0xa, 0, 0, { 0x07300402, 0, 0, 0x603 } },
		{ 0xb, 0, CPUID_FLAG_INDEX, { 1, 2, 0x100, 0 } },
		{ 0xd, 0, CPUID_FLAG_INDEX, { 0xe7, 0x980, 0x980, 0 } },
		{ 0xd, 1, CPUID_FLAG_INDEX, { 0xf, 0x9a8, 0x1800, 0 } },
		{ 0xd, 2, CPUID_FLAG_INDEX, { 0x100, 0x240, 0, 0 } },
		{ 0xd, 5, CPUID_FLAG_INDEX, { 0x40, 0x340, 0, 0 } },
		{ 0xd, 11, CPUID_FLAG_INDEX, { 0x10, 0, 1, 0 } },
		{ 0x14, 0, CPUID_FLAG_INDEX, { 0, 0xf, 7, 0 } },
		{ 0x1d, 1, CPUID_FLAG_INDEX, { 0x2000, 0x80040, 0x10, 0 } },
		{ 0x40000001, 0, 0, { 0x1007efb, 0, 0, 0 } },
		{ 0x80000000, 0, 0, { 0x80000022, 0x68747541, 0x444d4163, 0x69746e65 } },
		{ 0x80000001, 0, 0, { 0xa10f11, 0, 0x4003f7, 0x2fd3fbff } },
		{ 0x80000002, 0, 0, { 0x20444d41, 0x43595045, 0, 0 } },
		{ 0x80000003, 0, 0, { 0, 0, 0, 0 } },
		{ 0x80000004, 0, 0, { 0, 0, 0, 0 } },
		{ 0x80000008, 0, 0, { 0x3030, 0x1000, 0, 0 } },
		{ 0x8000000a, 0, 0, { 1, 0x8000, 0, 0x1 } },
		{ 0x8000001d, 0, CPUID_FLAG_INDEX, { 0x4000121, 0x1c0003f, 0x3f, 0 } },
		{ 0x80000022, 0, 0, { 7, 6, 0, 0 } },
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

/* Return whether the list of features has the name. */
static bool has(const struct cpuid *c, const char *name)
{
	struct cpuid_feature f;

	assert_true(cpuid_find_feature(name, strlen(name), &f));
	return cpuid_find(c, f.function, f.index) && word(c, f.function, f.index, f.reg) >> f.bit & 1;
}

static void test_text_is_checked(void **state)
{
	static const char *const good[] = { "host", "baseline", "x86-64-v2", "x86-64-v3", "host,-avx2", "Skylake-Client", "EPYC-Rome,-xsaves",
		"kvm64,+pni,+PCLMULDQ", "baseline,+aes,-rdrand,+SSE4.1,+sha-ni", "EPYC-v2", "Skylake-Server-v4,-pku" };
	static const struct {
		const char *text, *says;
	} bad[] = { { "", "\"\" is not a processor model; `cairn cpu-models` lists the models" },
		{ "Skylake", "\"Skylake\" is not a processor model" }, { "hos", "is not a processor model" },
		{ "host,avx", "is not a feature to add or remove; write +NAME or -NAME" }, { "host,", "is not a feature" },
		{ "host,+", "\"\" is not a processor feature" }, { "host,+avx2000", "\"avx2000\" is not a processor feature" },
		{ "EPYC-v3", "\"EPYC-v3\" is a version that Cairn lacks; it has EPYC-v1 (EPYC), EPYC-v2 (EPYC-IBPB)" },
		{ "Nehalem-v10,+avx", "\"Nehalem-v10\" is a version that Cairn lacks; it has Nehalem-v1 (Nehalem), Nehalem-v2 (Nehalem-IBRS)" },
		{ "Skylake-Server-v5", "Skylake-Server-v4 (Skylake-Server-noTSX-IBRS)" },
		{ "EPYC-v", "is not a processor model" }, { "EPYC-v02", "is a version that Cairn lacks" },
		{ "-v1", "is not a processor model" }, { "v1", "is not a processor model" }, { "1", "is not a processor model" },
		{ "Nehalem-IBRS-v1", "is not a processor model" }, { "baseline-v1", "is not a processor model" },
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

static void test_name_with_a_version_is_its_model(void **state)
{
	struct cpuid *host = host_new();
	char model[4096], version[4096];

	(void)state;
	for (size_t i = 0; i < cpu_model_versions_n; i++) {
		const struct cpu_model_version *v = &cpu_model_versions[i];
		const struct cpu_model *m = cpu_model_find(v->name, strlen(v->name));

		assert_non_null(m);
		assert_string_equal(m->name, v->model);
		assert_true(cpu_model_features(v->model, host, model, sizeof(model)) > 0);
		assert_true(cpu_model_features(v->name, host, version, sizeof(version)) > 0);
		assert_string_equal(version, model);
	}
	free(host);
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
	assert_int_equal(word(c, 1, 0, CPUID_EAX), 0xa10f11);
	assert_int_equal(word(c, 0x80000002, 0, CPUID_EAX), 0x20444d41);
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
	assert_null(cpuid_find(c, 0xd, 1)); /* no xsavec: no compacted area */
	assert_null(cpuid_find(c, 0xd, 5));
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
	assert_non_null(strstr(e.msg, "features that this host lacks: hle, avx2, amx_tile; the nearest model that this host has is "
		"x86-64-v2: change the VM's \"cpu\", or use another host"));
	assert_int_equal(cpu_model_make("host,+sha512", host, &c, &e), -ENOTSUP); /* the host has no leaf 7.1 */
	assert_non_null(strstr(e.msg, "lacks: sha512;"));
	assert_int_equal(cpu_model_missing("host,+sha512", host, NULL, 0), 1);
	assert_int_equal(cpu_model_make("Conroe,-vme", host, &c, &e), -ENOTSUP);
	assert_non_null(strstr(e.msg, "lacks: a processor by GenuineIntel; remove them from the VM's \"cpu\", or use another"));
	assert_int_equal(cpu_model_make("Broadwell", host, &c, &e), -ENOTSUP);
	assert_non_null(strstr(e.msg, "lacks: a processor by GenuineIntel, "));
	assert_int_equal(cpu_model_make("none", host, &c, &e), -EINVAL);
	free(host);
}

/* ---- leaves that belong together ---- */

static void test_leaves_of_a_model_are_consistent(void **state)
{
	struct cpuid *host = host_new(), *c = made("baseline", host);

	(void)state;
	assert_int_equal(word(c, 0, 0, CPUID_EAX), 0xb); /* without XSAVE, 0xd has no content */
	assert_int_equal(word(c, 0, 0, CPUID_EBX), 0x68747541);
	assert_int_equal(word(c, 7, 0, CPUID_EAX), 0);
	assert_int_equal(word(c, 0x80000000, 0, CPUID_EAX), 0x80000008);
	assert_int_equal(word(c, 0xb, 0, CPUID_EBX), 2);
	assert_null(cpuid_find(c, 7, 1));
	assert_null(cpuid_find(c, 0xa, 0));
	assert_null(cpuid_find(c, 0xd, 0));
	assert_null(cpuid_find(c, 0x14, 0));
	assert_null(cpuid_find(c, 0x1d, 1));
	assert_null(cpuid_find(c, 0x8000000a, 0));
	assert_null(cpuid_find(c, 0x8000001d, 0));
	assert_null(cpuid_find(c, 0x80000022, 0));
	free(c);
	c = made("x86-64-v3,+svm,+avx512_bf16,+xsavec", host);
	assert_int_equal(word(c, 0, 0, CPUID_EAX), 0xd);
	assert_int_equal(word(c, 7, 0, CPUID_EAX), 1);
	assert_int_equal(word(c, 7, 1, CPUID_EAX), 0x20);
	assert_int_equal(word(c, 0x80000000, 0, CPUID_EAX), 0x8000000a);
	assert_int_equal(word(c, 0x8000000a, 0, CPUID_EBX), 0x8000);
	assert_int_equal(word(c, 0xd, 0, CPUID_EBX), 576);
	assert_int_equal(word(c, 0xd, 0, CPUID_ECX), 0x340); /* AVX: 0x100 bytes at 0x240 */
	assert_int_equal(word(c, 0xd, 1, CPUID_EAX), 2);
	assert_int_equal(word(c, 0xd, 1, CPUID_ECX), 0); /* no supervisor states */
	assert_null(cpuid_find(c, 0xd, 11));
	free(c);
	/* "host" without a feature keeps the other leaves. */
	c = made("host,-avx512f", host);
	assert_int_equal(word(c, 0, 0, CPUID_EAX), 0x1f);
	assert_int_equal(word(c, 0xd, 0, CPUID_ECX), 0x340);
	assert_int_equal(word(c, 0xd, 1, CPUID_ECX), 0x1800);
	assert_int_equal(word(c, 0xd, 11, CPUID_EAX), 0x10);
	assert_int_equal(word(c, 0x14, 0, CPUID_EBX), 0xf);
	free(c);
	free(host);
}

static void test_model_has_its_identity(void **state)
{
	struct cpuid *host = host_new(), *c = made("qemu64", host);
	char brand[48];

	(void)state;
	assert_int_equal(word(c, 1, 0, CPUID_EAX), 0x60fb1); /* family 15, model 107, stepping 1 */
	assert_int_equal(word(c, 0x80000001, 0, CPUID_EAX), 0x60fb1);
	assert_int_equal(word(c, 0, 0, CPUID_EBX), 0x68747541);
	for (uint32_t i = 0; i < 3; i++)
		memcpy(brand + 16 * i, cpuid_find(c, 0x80000002 + i, 0)->reg, 16);
	assert_string_equal(brand, "QEMU Virtual CPU version 2.5+");
	free(c);
	assert_int_equal(cpu_model_find("EPYC-Milan", 10)->signature, 0xa00f11); /* as its datasheet has it */
	assert_int_equal(cpu_model_find("Skylake-Client", 14)->signature, 0x506e3);
	free(host);
}

/* ---- the table ---- */

/* A host by the vendor with all features that models have, and more. */
static struct cpuid *full_host(const char *vendor)
{
	struct cpuid *c = cpuid_new(40);
	uint32_t n = 1;

	assert_non_null(c);
	memcpy(&c->leaf[0].reg[CPUID_EBX], vendor, 4);
	memcpy(&c->leaf[0].reg[CPUID_EDX], vendor + 4, 4);
	memcpy(&c->leaf[0].reg[CPUID_ECX], vendor + 8, 4);
	for (uint32_t function = 1; function < 0xe; function++)
		for (uint32_t index = 0; index < (function == 7 || function == 0xd ? 2 : 1); index++)
			c->leaf[n++] = (struct cpuid_leaf){ function, index, function == 7 || function == 0xd ? CPUID_FLAG_INDEX : 0,
				{ ~0u, ~0u, ~0u, ~0u } };
	for (uint32_t function = 0x80000001; function < 0x80000009; function++)
		c->leaf[n++] = (struct cpuid_leaf){ function, 0, 0, { ~0u, ~0u, ~0u, ~0u } };
	c->leaf[n++] = (struct cpuid_leaf){ 0x80000021, 0, 0, { ~0u, 0, 0, 0 } };
	c->n = n;
	return c;
}

static void test_each_row_is_sound(void **state)
{
	(void)state;
	for (size_t i = 0; i < cpu_models_n; i++) {
		const struct cpu_model *m = &cpu_models[i], *parent = m->parent ? cpu_model_find(m->parent, strlen(m->parent)) : NULL;
		struct cpuid_feature f;

		if (cpu_model_find(m->name, strlen(m->name)) != m || cpu_model_check(m->name, NULL) || strpbrk(m->name, ", +") ||
			strlen(m->name) >= 32)
			fail_msg("%s: two rows, or no name", m->name);
		if (m->parent && (!parent || parent >= m || !parent->features))
			fail_msg("%s: its parent %s is not above it", m->name, m->parent);
		if (!m->signature != !m->brand || (m->vendor && (strlen(m->vendor) != 12 || !m->signature)) ||
			(m->brand && strlen(m->brand) > CPU_BRAND_BYTES) || (parent && parent->vendor != m->vendor))
			fail_msg("%s: vendor, signature or brand", m->name);
		for (const char *at = m->features; at && *at; at += strcspn(at, ",") + (at[strcspn(at, ",")] == ','))
			if (!cpuid_find_feature(at, strcspn(at, ","), &f))
				fail_msg("%s: %s is no feature", m->name, at);
	}
}

/* A host with every feature can give each model of its vendor, and the model has the features of its parents. */
static void test_each_model_is_made(void **state)
{
	(void)state;
	for (size_t i = 1; i < cpu_models_n; i++) {
		const struct cpu_model *m = &cpu_models[i];
		struct cpuid *host = full_host(m->vendor ? m->vendor : "GenuineIntel"), *c = made(m->name, host);

		for (const struct cpu_model *row = m; row; row = row->parent ? cpu_model_find(row->parent, strlen(row->parent)) : NULL)
			for (const char *at = row->features; *at; at += strcspn(at, ",") + (at[strcspn(at, ",")] == ',')) {
				char name[32];

				snprintf(name, sizeof(name), "%.*s", (int)strcspn(at, ","), at);
				if (!has(c, name))
					fail_msg("%s lacks %s", m->name, name);
			}
		assert_false(has(c, "svm") || has(c, "vmx") || has(c, "arch_capabilities"));
		assert_int_equal(cpu_model_missing(m->name, host, NULL, 0), 0);
		assert_string_equal(cpu_model_nearest(m->name, host), m->name);
		free(c);
		free(host);
	}
}

/* Returns whether a guest of model `has` can run what needs model `needs`. */
static bool includes(const char *has_name, const char *needs)
{
	const struct cpu_model *m = cpu_model_find(has_name, strlen(has_name));
	struct cpuid *host = full_host(m->vendor ? m->vendor : "GenuineIntel"), *c = made(has_name, host);
	bool r = !cpu_model_missing(needs, c, NULL, 0);

	free(c);
	free(host);
	return r;
}

static void test_models_include_the_levels_below(void **state)
{
	static const char *const pairs[][2] = { { "x86-64-v3", "x86-64-v2" }, { "x86-64-v4", "x86-64-v3" }, { "x86-64-v2", "qemu64" },
		{ "baseline", "qemu64" }, { "Nehalem", "x86-64-v2" }, { "IvyBridge", "baseline" }, { "Haswell-noTSX", "x86-64-v3" },
		{ "Skylake-Server", "x86-64-v4" }, { "Icelake-Server", "Cascadelake-Server" }, { "EPYC", "x86-64-v3" },
		{ "EPYC-Genoa", "x86-64-v4" }, { "EPYC-Genoa", "EPYC" } };
	static const char *const wrong[][2] = { { "x86-64-v2", "x86-64-v3" }, { "Nehalem", "x86-64-v3" }, { "qemu64", "x86-64-v2" },
		{ "Haswell-noTSX", "Haswell" }, { "EPYC", "Nehalem" }, { "Skylake-Client", "x86-64-v4" } };

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(pairs); i++)
		if (!includes(pairs[i][0], pairs[i][1]))
			fail_msg("%s lacks features of %s", pairs[i][0], pairs[i][1]);
	for (size_t i = 0; i < ARRAY_SIZE(wrong); i++)
		if (includes(wrong[i][0], wrong[i][1]))
			fail_msg("%s has all features of %s", wrong[i][0], wrong[i][1]);
}

static void test_nearest_model_is_the_largest_that_fits(void **state)
{
	struct cpuid *host = full_host("GenuineIntel");
	struct cpuid_feature f;
	struct cpuid_leaf *l;

	(void)state;
	assert_string_equal(cpu_model_nearest("host", host), "Icelake-Server");
	assert_string_equal(cpu_model_nearest("Haswell,+avx512f", host), "Haswell");
	assert_true(cpuid_find_feature("rtm", 3, &f));
	l = (struct cpuid_leaf *)(uintptr_t)cpuid_find(host, f.function, f.index);
	l->reg[f.reg] &= ~(1u << f.bit);
	assert_string_equal(cpu_model_nearest("Haswell", host), "Haswell-noTSX");
	assert_string_equal(cpu_model_nearest("Skylake-Client", host), "Broadwell-noTSX");
	assert_string_equal(cpu_model_nearest("EPYC-Milan", host), "Broadwell-noTSX");
	assert_null(cpu_model_nearest("kvm64,-lm", host));
	free(host);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_text_is_checked),
		cmocka_unit_test(test_name_with_a_version_is_its_model),
		cmocka_unit_test(test_host_is_all_that_kvm_offers),
		cmocka_unit_test(test_model_has_its_features_and_no_others),
		cmocka_unit_test(test_missing_features_are_named),
		cmocka_unit_test(test_leaves_of_a_model_are_consistent),
		cmocka_unit_test(test_model_has_its_identity),
		cmocka_unit_test(test_each_row_is_sound),
		cmocka_unit_test(test_each_model_is_made),
		cmocka_unit_test(test_models_include_the_levels_below),
		cmocka_unit_test(test_nearest_model_is_the_largest_that_fits),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
