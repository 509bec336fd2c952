/* Registers beyond SSE, which a kernel saves and loads with XSAVE and XRSTOR when it switches programs. */
#include "bare.h"

#define CR4_OSXSAVE (1u << 18)
#define CPUID_XSAVE_AVX (1u << 26 | 1u << 28)
#define PARTS 7u /* x87, SSE, AVX */
#define PARTS_512 0xe0u
#define BV 64	 /* XSTATE_BV, as a word of the area */
#define AREA_WORDS 104
#define NOWHERE (1ULL << 40)	    /* not mapped */
#define NOT_CANONICAL (1ULL << 48) /* no address with this bit alone is canonical */

static uint64_t area[AREA_WORDS] __attribute__((aligned(64)));

static uint64_t kernel_osxsave(uint64_t unused)
{
	uint64_t cr4;

	__asm__ volatile("mov %%cr4, %0" : "=r"(cr4));
	__asm__ volatile("mov %0, %%cr4" : : "r"(cr4 | CR4_OSXSAVE));
	return unused;
}

static uint64_t kernel_enable(uint64_t parts)
{
	kernel_osxsave(0);
	__asm__ volatile("xsetbv" : : "c"(0), "a"((uint32_t)parts), "d"(0));
	return 0;
}

static uint64_t kernel_save(uint64_t at)
{
	__asm__ volatile("xsave64 (%0)" : : "r"(at), "a"(PARTS), "d"(0) : "memory");
	return 0;
}

static uint64_t kernel_load(uint64_t at)
{
	__asm__ volatile("xrstor64 (%0)" : : "r"(at), "a"(PARTS), "d"(0) : "memory");
	return 0;
}

static void vector_set(uint64_t word)
{
	uint64_t v[4] = {word, word + 1, word + 2, word + 3};

	__asm__ volatile("vmovdqu %0, %%ymm9" : : "m"(v));
}

static bool vector_is(uint64_t word)
{
	uint64_t v[4];

	__asm__ volatile("vmovdqu %%ymm9, %0" : "=m"(v));
	return v[0] == word && v[1] == word + 1 && v[2] == word + 2 && v[3] == word + 3;
}

static bool vector_is_zero(void)
{
	uint64_t v[4];

	__asm__ volatile("vmovdqu %%ymm9, %0" : "=m"(v));
	return !(v[0] | v[1] | v[2] | v[3]);
}

/* Give the registers to another program and back, and then clear them. */
static const char *xstate_switch(void)
{
	vector_set(1000);
	kcall(kernel_save, (uint64_t)area);
	vector_set(2000);
	if (!vector_is(2000) || (area[BV] & PARTS & ~1u) != (PARTS & ~1u))
		return "xsave64 has saved another state";
	kcall(kernel_load, (uint64_t)area);
	if (!vector_is(1000))
		return "xrstor64 has loaded another state";
	area[BV] = 0;
	kcall(kernel_load, (uint64_t)area);
	return vector_is_zero() ? NULL : "xrstor64 has not cleared the registers";
}

/* Raise the exceptions that the processor has for these. */
static const char *xstate_wrong(const char *how)
{
	uint64_t at = (uint64_t)area;

	if (str_equal(how, "save-nowhere"))
		kcall(kernel_save, NOWHERE);
	else if (str_equal(how, "load-nowhere"))
		kcall(kernel_load, NOWHERE);
	else if (str_equal(how, "unaligned"))
		kcall(kernel_save, at + 8);
	else if (str_equal(how, "save-not-canonical"))
		kcall(kernel_save, at | NOT_CANONICAL);
	else if (str_equal(how, "load-not-canonical"))
		kcall(kernel_load, at | NOT_CANONICAL);
	else if (str_equal(how, "header"))
		area[BV + 2] = 1;
	else
		area[BV] = 1u << 31;
	kcall(kernel_load, at);
	return "still here";
}

static void cpuid(uint32_t leaf, uint32_t *eax, uint32_t *ecx)
{
	uint32_t ebx, edx;

	*eax = leaf;
	*ecx = 0;
	__asm__ volatile("cpuid" : "+a"(*eax), "=b"(ebx), "+c"(*ecx), "=d"(edx));
}

/* Show the parts that were enabled, and registers of those that can be. A seed: first set these registers. */
static const char *xstate_show(const struct args *a)
{
	uint64_t ymm[4], zmm[8] = {0}, k = 0, sum = 0;
	uint32_t before, parts, ecx, edx;

	cpuid(0xd, &parts, &ecx);
	parts &= (parts & PARTS_512) == PARTS_512 ? PARTS | PARTS_512 : PARTS;
	kcall(kernel_osxsave, 0);
	__asm__ volatile("xgetbv" : "=a"(before), "=d"(edx) : "c"(0));
	kcall(kernel_enable, parts);
	if (a->n > 1)
		vector_set(a->v[1]);
	__asm__ volatile("vmovdqu %%ymm9, %0" : "=m"(ymm));
	if (parts & PARTS_512) {
		if (a->n > 1)
			__asm__ volatile("vpbroadcastq %0, %%zmm20; kmovw %k0, %%k1" : : "r"(a->v[1]));
		__asm__ volatile("vmovdqu64 %%zmm20, %0; kmovw %%k1, %k1" : "=m"(zmm), "=r"(k));
	}
	for (unsigned i = 0; i < ARRAY_SIZE(zmm); i++)
		sum += zmm[i];
	print("before=%x parts=%x ymm=%x,%x,%x,%x zmm=%x k=%x\n", (uint64_t)before, (uint64_t)parts, ymm[0], ymm[1], ymm[2], ymm[3], sum, k & 0xffff);
	return NULL;
}

static const char *cmd_xstate(const struct args *a)
{
	uint32_t eax, ecx;

	cpuid(1, &eax, &ecx);
	if ((ecx & CPUID_XSAVE_AVX) != CPUID_XSAVE_AVX)
		return "the processor has no AVX";
	if (str_equal(a->s[0], "show"))
		return xstate_show(a);
	memset(area, 0, sizeof(area));
	kcall(kernel_enable, PARTS);
	return str_equal(a->s[0], "switch") ? xstate_switch() : xstate_wrong(a->s[0]);
}

const struct command xstate_commands[] = {
	{"xstate", 1, 1, "show [SEED]|switch|save-nowhere|load-nowhere|save-not-canonical|load-not-canonical|unaligned|header|part", cmd_xstate},
	{0},
};
