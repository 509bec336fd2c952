/* Registers beyond SSE, which a kernel saves and loads with XSAVE and XRSTOR when it switches programs. */
#include "bare.h"

#define CR4_OSXSAVE (1u << 18)
#define CPUID_XSAVE_AVX (1u << 26 | 1u << 28)
#define PARTS 7u /* x87, SSE, AVX */
#define BV 64	 /* XSTATE_BV, as a word of the area */
#define AREA_WORDS 104
#define NOWHERE (1ULL << 40)	    /* not mapped */
#define NOT_CANONICAL (1ULL << 48) /* no address with this bit alone is canonical */

static uint64_t area[AREA_WORDS] __attribute__((aligned(64)));

static uint64_t kernel_enable(uint64_t unused)
{
	uint64_t cr4;

	__asm__ volatile("mov %%cr4, %0" : "=r"(cr4));
	__asm__ volatile("mov %0, %%cr4" : : "r"(cr4 | CR4_OSXSAVE));
	__asm__ volatile("xsetbv" : : "c"(0), "a"(PARTS), "d"(0));
	return unused;
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

static const char *cmd_xstate(const struct args *a)
{
	uint32_t eax = 1, ebx, ecx = 0, edx;

	__asm__ volatile("cpuid" : "+a"(eax), "=b"(ebx), "+c"(ecx), "=d"(edx));
	if ((ecx & CPUID_XSAVE_AVX) != CPUID_XSAVE_AVX)
		return "the processor has no AVX";
	memset(area, 0, sizeof(area));
	kcall(kernel_enable, 0);
	return str_equal(a->s[0], "switch") ? xstate_switch() : xstate_wrong(a->s[0]);
}

const struct command xstate_commands[] = {
	{"xstate", 1, 1, "switch|save-nowhere|load-nowhere|save-not-canonical|load-not-canonical|unaligned|header|part", cmd_xstate},
	{0},
};
