/* assist_xsave: XSAVE and XRSTOR on areas in memory, and the page walk. */
#include "base/bytes.h"
#include "base/util.h"
#include "devices/dev_host.h"
#include "vmm/kvm/assist.h"

#include <errno.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <string.h>

#include <cmocka.h>

#define X87 1u
#define SSE 2u
#define AVX 4u
#define HIGH (1u << 7) /* a component in the middle of others that are missing */
#define ALL (X87 | SSE | AVX | HIGH)
#define AREA_BYTES 1024u
#define BV_AT 512u
#define XCOMP_BV_AT 520u

static const struct assist_xlayout layout = { .part = { [2] = { 576, 256 }, [7] = { 896, 64 } } };

/* Where an area has what. MXCSR is at 24; the bytes from 416 to 511 belong to nobody. */
static const struct {
	unsigned part, at, bytes;
} places[] = { { X87, 0, 24 }, { X87, 32, 128 }, { SSE, 160, 256 }, { AVX, 576, 256 }, { HIGH, 896, 64 } };

static void area_fill(uint8_t *area, uint8_t with, uint64_t bv)
{
	memset(area, with, AREA_BYTES);
	memset(area + BV_AT, 0, 64);
	store_le64(area + BV_AT, bv);
}

static void test_size_is_that_of_the_last_component(void **state)
{
	(void)state;
	assert_int_equal(assist_xbytes(&layout, 0), 576);
	assert_int_equal(assist_xbytes(&layout, X87 | SSE), 576);
	assert_int_equal(assist_xbytes(&layout, AVX), 832);
	assert_int_equal(assist_xbytes(&layout, ALL), 960);
}

static void test_save_writes_its_components_only(void **state)
{
	(void)state;
	for (uint64_t rfbm = 0; rfbm <= ALL; rfbm++) {
		uint8_t regs[AREA_BYTES], area[AREA_BYTES], want[AREA_BYTES];

		if (rfbm & ~(uint64_t)ALL)
			continue;
		area_fill(regs, 0xaa, X87 | AVX); /* the others are in their initial state */
		area_fill(area, 0x11, SSE | AVX | HIGH);
		memcpy(want, area, sizeof(want));
		for (size_t i = 0; i < ARRAY_SIZE(places); i++)
			if (places[i].part & rfbm)
				memset(want + places[i].at, 0xaa, places[i].bytes);
		if (rfbm & (SSE | AVX))
			memset(want + 24, 0xaa, 8);
		store_le64(want + BV_AT, ((SSE | AVX | HIGH) & ~rfbm) | ((X87 | AVX) & rfbm));
		assist_xsave(&layout, regs, area, rfbm);
		assert_memory_equal(area, want, sizeof(want));
	}
}

static void test_load_changes_its_components_only(void **state)
{
	(void)state;
	for (uint64_t rfbm = 0; rfbm <= ALL; rfbm++) {
		uint8_t regs[AREA_BYTES], area[AREA_BYTES], want[AREA_BYTES];

		if (rfbm & ~(uint64_t)ALL)
			continue;
		area_fill(regs, 0xaa, ALL);
		area_fill(area, 0x11, SSE | HIGH); /* x87 and AVX get their initial state */
		memcpy(want, regs, sizeof(want));
		for (size_t i = 0; i < ARRAY_SIZE(places); i++)
			if (places[i].part & rfbm)
				memset(want + places[i].at, places[i].part & (SSE | HIGH) ? 0x11 : 0, places[i].bytes);
		if (rfbm & X87)
			store_le16(want, 0x37f);
		if (rfbm & (SSE | AVX))
			memset(want + 24, 0x11, 4);
		store_le64(want + BV_AT, (ALL & ~rfbm) | ((SSE | HIGH) & rfbm) | X87 | SSE);
		assert_int_equal(assist_xrstor(&layout, regs, area, rfbm, ALL), 0);
		assert_memory_equal(regs, want, sizeof(want));
	}
}

static void test_wrong_headers_are_refused(void **state)
{
	uint8_t regs[AREA_BYTES], area[AREA_BYTES], before[AREA_BYTES];

	(void)state;
	area_fill(regs, 0xaa, ALL);
	memcpy(before, regs, sizeof(before));
	area_fill(area, 0x11, ALL);
	assert_int_equal(assist_xrstor(&layout, regs, area, ALL, X87 | SSE | AVX), -EINVAL); /* XCR0 lacks one */
	for (unsigned at = XCOMP_BV_AT; at < XCOMP_BV_AT + 16; at++) {
		area_fill(area, 0x11, ALL);
		area[at] = 0x80; /* XCOMP_BV: another format; then: reserved */
		assert_int_equal(assist_xrstor(&layout, regs, area, ALL, ALL), -EINVAL);
	}
	assert_memory_equal(regs, before, sizeof(before));
}

/* ---- page walk ---- */

#define RAM_BYTES (64u << 10)
#define TABLE(n) (0x1000ULL * (n))
#define LINEAR 0xffff888012345678ULL
#define INDEX(level) (LINEAR >> (12 + 9 * (level)) & 511)

struct fx {
	struct dev_host host;
	_Alignas(8) uint8_t ram[RAM_BYTES];
	struct kvm_sregs s;
	unsigned dirty;
};

static struct fx fx;

static void ram_dirty(struct dev_host *h, uint64_t gpa, uint64_t len)
{
	(void)h;
	(void)gpa;
	assert_int_equal(len, 8);
	fx.dirty++;
}

static uint64_t *entry_of(unsigned level)
{
	return (uint64_t *)(fx.ram + TABLE(4 - level) + 8 * INDEX(level));
}

static void fx_begin(void)
{
	static const struct dev_host_ops ops = { .ram_dirty = ram_dirty };

	memset(&fx, 0, sizeof(fx));
	fx.host.ops = &ops;
	fx.host.ram[0] = (struct dev_ram_range){ 0, RAM_BYTES, fx.ram };
	fx.s.cr3 = TABLE(1) | 0x18;
	fx.s.cr0 = 1ULL << 31 | 1ULL << 16;
	for (unsigned level = 3; level; level--)
		*entry_of(level) = TABLE(5 - level) | 3;
	*entry_of(0) = 0x8000000abcdef003ULL; /* with NX */
}

static void test_walk_finds_pages_of_each_size(void **state)
{
	uint64_t gpa;

	(void)state;
	fx_begin();
	assert_int_equal(assist_walk(&fx.host, &fx.s, LINEAR, false, &gpa), ASSIST_WALKED);
	assert_true(gpa == 0xabcdef678ULL);
	*entry_of(1) = 0x40000083;
	assert_int_equal(assist_walk(&fx.host, &fx.s, LINEAR, false, &gpa), ASSIST_WALKED);
	assert_true(gpa == (0x40000000 | (LINEAR & 0x1fffff)));
	*entry_of(2) = 0x80000083;
	assert_int_equal(assist_walk(&fx.host, &fx.s, LINEAR, false, &gpa), ASSIST_WALKED);
	assert_true(gpa == (0x80000000 | (LINEAR & 0x3fffffff)));
}

static void test_walk_marks_entries(void **state)
{
	uint64_t gpa;

	(void)state;
	fx_begin();
	assist_walk(&fx.host, &fx.s, LINEAR, false, &gpa);
	assert_int_equal(*entry_of(3) & 0x60, 0x20);
	assert_int_equal(*entry_of(0) & 0x60, 0x20);
	assert_int_equal(fx.dirty, 4);
	assist_walk(&fx.host, &fx.s, LINEAR, true, &gpa);
	assert_int_equal(*entry_of(1) & 0x60, 0x20);
	assert_int_equal(*entry_of(0) & 0x60, 0x60);
	assert_int_equal(fx.dirty, 5);
	assist_walk(&fx.host, &fx.s, LINEAR, true, &gpa);
	assert_int_equal(fx.dirty, 5);
}

static void test_walk_returns_the_error_code(void **state)
{
	uint64_t gpa = 7;

	(void)state;
	for (unsigned level = 0; level < 4; level++) {
		fx_begin();
		*entry_of(level) &= ~2ULL;
		assert_int_equal(assist_walk(&fx.host, &fx.s, LINEAR, true, &gpa), 3);
		*entry_of(level) &= ~1ULL;
		assert_int_equal(assist_walk(&fx.host, &fx.s, LINEAR, true, &gpa), 2);
		assert_int_equal(assist_walk(&fx.host, &fx.s, LINEAR, false, &gpa), 0);
		*entry_of(level) = 0x10000003; /* a table that is no RAM, or the page */
		assert_int_equal(assist_walk(&fx.host, &fx.s, LINEAR, false, &gpa), level ? 0 : ASSIST_WALKED);
	}
	fx_begin();
	*entry_of(0) &= ~2ULL;
	assert_int_equal(assist_walk(&fx.host, &fx.s, LINEAR, false, &gpa), ASSIST_WALKED);
	fx.s.cr0 &= ~(1ULL << 16); /* WP: a kernel may write to each page without it */
	assert_int_equal(assist_walk(&fx.host, &fx.s, LINEAR, true, &gpa), ASSIST_WALKED);
	fx.s.cr4 = 1ULL << 12;
	assert_int_equal(assist_walk(&fx.host, &fx.s, LINEAR, true, &gpa), -ENOTSUP);
	fx.s.cr4 = fx.s.cr0 = 0;
	assert_int_equal(assist_walk(&fx.host, &fx.s, LINEAR, true, &gpa), -ENOTSUP);
}

static void test_walk_takes_canonical_addresses_only(void **state)
{
	uint64_t gpa;

	(void)state;
	fx_begin();
	/* The tables would have a page for each of these. */
	for (unsigned bit = 48; bit < 64; bit++)
		assert_int_equal(assist_walk(&fx.host, &fx.s, LINEAR ^ 1ULL << bit, false, &gpa), ASSIST_NOT_CANONICAL);
	assert_int_equal(assist_walk(&fx.host, &fx.s, LINEAR & 0xffffffffffff, false, &gpa), ASSIST_NOT_CANONICAL);
	assert_int_equal(assist_walk(&fx.host, &fx.s, 1ULL << 47, false, &gpa), ASSIST_NOT_CANONICAL);
	assert_int_equal(assist_walk(&fx.host, &fx.s, (1ULL << 47) - 1, false, &gpa), 0);
	assert_int_equal(assist_walk(&fx.host, &fx.s, ~0ULL << 47, false, &gpa), 0);
}

#define SWAPPED 0xabc00ULL /* not present: the kernel's notes where the page went */
#define FLIPS 1000000u

static void *flip(void *opaque)
{
	_Atomic uint64_t *entry = opaque;
	uintptr_t wrong = 0;

	for (unsigned i = 0; i < FLIPS; i++) {
		atomic_store(entry, 0xabcdef003ULL);
		for (unsigned k = 0; k < i % 32; k++)
			wrong += !(atomic_load(entry) & 1);
		atomic_store(entry, SWAPPED);
		for (unsigned k = 0; k < 20; k++)
			wrong += atomic_load(entry) != SWAPPED;
	}
	return (void *)wrong;
}

/* Another vCPU may take a page away during the walk. */
static void test_walk_marks_present_entries_only(void **state)
{
	pthread_t other;
	uint64_t gpa;
	void *wrong = NULL;

	(void)state;
	fx_begin();
	assert_int_equal(pthread_create(&other, NULL, flip, entry_of(0)), 0);
	while (pthread_tryjoin_np(other, &wrong))
		for (unsigned i = 0; i < 1000; i++)
			assist_walk(&fx.host, &fx.s, LINEAR, true, &gpa);
	assert_int_equal((uintptr_t)wrong, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_size_is_that_of_the_last_component),
		cmocka_unit_test(test_save_writes_its_components_only),
		cmocka_unit_test(test_load_changes_its_components_only),
		cmocka_unit_test(test_wrong_headers_are_refused),
		cmocka_unit_test(test_walk_finds_pages_of_each_size),
		cmocka_unit_test(test_walk_marks_entries),
		cmocka_unit_test(test_walk_returns_the_error_code),
		cmocka_unit_test(test_walk_takes_canonical_addresses_only),
		cmocka_unit_test(test_walk_marks_present_entries_only),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
