/* boot: bzImages by the 64-bit and 32-bit boot protocols (Linux, Documentation/arch/x86/boot.rst). */
#include "fixture_boot.h"
#include "base/bytes.h"
#include "base/util.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define PREF_GPA 0x1000000ULL
#define RAM (64 * MIB)
#define SETUP_SECTS 3
#define PAYLOAD_BYTES 0x3000u
#define INIT_BYTES 0x800000u

/* Make a kernel of protocol 2.15, relocatable, with preferred address 16 MiB and 8 MiB of
 * init_size. */
static void kernel_make(struct boot_fx *f, unsigned setup_sects)
{
	uint8_t *h = f->image;
	size_t setup = ((setup_sects ? setup_sects : 4) + 1) * 512;

	memset(h, 0, sizeof(f->image));
	h[0x1f1] = (uint8_t)setup_sects;
	store_le32(h + 0x1f4, PAYLOAD_BYTES / 16);
	store_le16(h + 0x1fe, 0xaa55);
	h[0x200] = 0xeb;
	h[0x201] = 0x6a; /* the header ends at 0x26c */
	memcpy(h + 0x202, "HdrS", 4);
	store_le16(h + 0x206, 0x020f);
	h[0x211] = 1; /* LOADED_HIGH */
	store_le32(h + 0x22c, 0x7fffffff);
	store_le32(h + 0x230, 0x200000);
	h[0x234] = 1;
	store_le16(h + 0x236, 1 | 2 | 4); /* 64-bit entry; may lie above 4 GiB; EFI */
	store_le32(h + 0x238, 2047);
	store_le64(h + 0x258, PREF_GPA);
	store_le32(h + 0x260, INIT_BYTES);
	memset(h + 0x268, 0x77, 4);    /* a field newer than this loader */
	memset(h + 0x26c, 0x66, 0x80); /* code after the header */
	memset(h + setup, 0xab, PAYLOAD_BYTES);
	f->image_bytes = setup + PAYLOAD_BYTES;
}

static void payload_check(const struct boot_fx *f, uint64_t gpa)
{
	assert_true(f->entry.rip == gpa + (f->entry.mode == BOOT_LONG_64 ? 0x200 : 0));
	assert_int_equal(f->entry.cs, BOOT_CS_LINUX);
	assert_int_equal(f->mem.host[gpa - 1], 0);
	for (size_t i = 0; i < PAYLOAD_BYTES; i++)
		assert_int_equal(f->mem.host[gpa + i], 0xab);
	assert_int_equal(f->mem.host[gpa + PAYLOAD_BYTES], 0);
}

static void test_zero_page(void **state)
{
	struct boot_fx f;
	const uint8_t *zp;

	(void)state;
	boot_fx_init(&f, 5 * GIB);
	kernel_make(&f, SETUP_SECTS);
	boot_fx_initrd(&f, 5000);
	assert_int_equal(boot_fx_load(&f), 0);
	assert_int_equal(f.entry.mode, BOOT_LONG_64);
	payload_check(&f, PREF_GPA);
	boot_fx_check_gdt(&f);
	assert_true(boot_fx_walk(&f, f.entry.cr3, f.entry.rip) == f.entry.rip);
	zp = f.mem.host + f.entry.rsi;
	/* The setup header equals the file's up to its own end, except for the fields that the
	 * loader sets. */
	assert_memory_equal(zp + 0x1f1, f.image + 0x1f1, 0x210 - 0x1f1);
	assert_memory_equal(zp + 0x211, f.image + 0x211, 0x218 - 0x211);
	assert_memory_equal(zp + 0x22c, f.image + 0x22c, 0x26c - 0x22c);
	for (size_t i = 0x26c; i < 0x2d0; i++)
		assert_int_equal(zp[i], 0);
	for (size_t i = 0; i < 0x1e8; i++) /* otherwise Linux assumes an old boot loader */
		assert_int_equal(
			zp[i], i >= 0x70 && i < 0x78 ? (FX_RSDP >> 8 * (i - 0x70)) & 0xff : 0);
	assert_int_equal(zp[0x1ef], 0);
	assert_true(load_le64(zp + 0x70) == FX_RSDP);
	assert_int_equal(zp[0x210], 0xff);
	assert_string_equal((const char *)f.mem.host + load_le32(zp + 0x228), f.cmdline);
	assert_int_equal(load_le32(zp + 0x21c), 5000);
	boot_fx_check_e820(&f, zp + 0x2d0, zp[0x1e8], 20);
	boot_fx_done(&f);
}

static void test_setup_sectors(void **state)
{
	static const unsigned sects[] = { 0, 1, 4, 31, 64 };
	struct boot_fx f;

	(void)state;
	boot_fx_init(&f, RAM);
	for (size_t i = 0; i < ARRAY_SIZE(sects); i++) {
		kernel_make(&f, sects[i]); /* 0 means 4 */
		assert_int_equal(boot_fx_load(&f), 0);
		payload_check(&f, PREF_GPA);
	}
	kernel_make(&f, SETUP_SECTS);
	f.image[0x1f1] = 255; /* more than the file has */
	boot_fx_refused(&f, -EINVAL);
	boot_fx_done(&f);
}

#define REFUSED(want, change)                                                                      \
	do {                                                                                       \
		kernel_make(&f, SETUP_SECTS);                                                      \
		change;                                                                            \
		boot_fx_refused(&f, want);                                                         \
	} while (0)

#define STARTS_AT_32_BITS(change)                                                                  \
	do {                                                                                       \
		kernel_make(&f, SETUP_SECTS);                                                      \
		change;                                                                            \
		assert_int_equal(boot_fx_load(&f), 0);                                             \
		assert_int_equal(f.entry.mode, BOOT_PROTECTED_32);                                 \
		payload_check(&f, PREF_GPA);                                                       \
		boot_fx_check_gdt(&f);                                                             \
		assert_memory_equal(f.mem.host + f.entry.rsi + 0x202, "HdrS", 4);                  \
	} while (0)

static void test_kernels_without_a_64_bit_entry(void **state)
{
	struct boot_fx f;

	(void)state;
	boot_fx_init(&f, RAM);
	STARTS_AT_32_BITS(store_le16(f.image + 0x206, 0x020b));
	STARTS_AT_32_BITS(store_le16(f.image + 0x206, 0x020a)); /* the first version with a preferred address */
	STARTS_AT_32_BITS(store_le16(f.image + 0x236, 0xfffe));
	REFUSED(-EINVAL, store_le16(f.image + 0x206, 0x0209));
	assert_non_null(strstr(f.err.msg, "starts in real mode (boot protocol 2.9; "));
	REFUSED(-EINVAL, store_le16(f.image + 0x206, 0x0200));
	REFUSED(-EINVAL, store_le16(f.image + 0x206, 0));
	REFUSED(-EINVAL, f.image[0x211] = 0); /* a zImage */
	REFUSED(-EINVAL, f.image[0x202] = 'X');
	REFUSED(-EINVAL, f.image[0x1fe] = 0);
	kernel_make(&f, SETUP_SECTS);
	store_le16(f.image + 0x206, 0x020c); /* the first version with a 64-bit entry */
	assert_int_equal(boot_fx_load(&f), 0);
	boot_fx_done(&f);
}

static void test_every_truncation_is_refused(void **state)
{
	struct boot_fx f;
	size_t whole;

	(void)state;
	boot_fx_init(&f, RAM);
	kernel_make(&f, SETUP_SECTS);
	whole = f.image_bytes;
	for (size_t n = 0; n < whole; n += 64) {
		f.image_bytes = n;
		boot_fx_refused(&f, -EINVAL);
	}
	f.image_bytes = whole - 16;
	boot_fx_refused(&f, -EINVAL);
	f.image_bytes = whole - 15; /* memtest86+ is so */
	assert_int_equal(boot_fx_load(&f), 0);
	/* A size in the header larger than the file. */
	REFUSED(-EINVAL, store_le32(f.image + 0x1f4, 0xffffffff));
	/* No payload at all. */
	REFUSED(-EINVAL, store_le32(f.image + 0x1f4, 0); f.image_bytes = (SETUP_SECTS + 1) * 512);
	boot_fx_done(&f);
}

/* boot.rst, init_size: a relocatable kernel loaded below pref_address moves itself there. So the
 * room has to be at pref_address, wherever the kernel is loaded. */
static void test_address_beyond_memory(void **state)
{
	static const uint64_t bad[] = { RAM, RAM - INIT_BYTES + 0x200000, 1ULL << 40, UINT64_MAX,
		UINT64_MAX - 0xfff, 3 * GIB };
	struct boot_fx f;

	(void)state;
	boot_fx_init(&f, RAM);
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		for (uint8_t relocatable = 0; relocatable < 2; relocatable++)
			REFUSED(-E2BIG, store_le64(f.image + 0x258, bad[i]);
				f.image[0x234] = relocatable);
	kernel_make(&f, SETUP_SECTS);
	store_le64(f.image + 0x258, RAM - INIT_BYTES); /* up to the last byte */
	assert_int_equal(boot_fx_load(&f), 0);
	payload_check(&f, RAM - INIT_BYTES);
	boot_fx_done(&f);
}

static void test_address_below_1_mib(void **state)
{
	static const uint64_t low[] = { 0, 0x1000, 0x20000, 0xa0000, 0xfffff };
	struct boot_fx f;

	(void)state;
	boot_fx_init(&f, RAM);
	for (size_t i = 0; i < ARRAY_SIZE(low); i++) {
		kernel_make(&f, SETUP_SECTS);
		store_le64(f.image + 0x258, low[i]);
		assert_int_equal(
			boot_fx_load(&f), 0); /* a relocatable kernel goes to the first multiple of 2 MiB */
		payload_check(&f, 0x200000);
		f.image[0x234] = 0;
		boot_fx_refused(&f, -E2BIG);
	}
	boot_fx_done(&f);
}

static void test_alignment(void **state)
{
	static const uint32_t bad[] = { 0, 3, 0x200001, 0xffffffff };
	struct boot_fx f;

	(void)state;
	boot_fx_init(&f, RAM);
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		REFUSED(-EINVAL, store_le32(f.image + 0x230, bad[i]));
	kernel_make(&f, SETUP_SECTS);
	store_le32(f.image + 0x230, 0x1000);
	store_le64(f.image + 0x258, 0x100800);
	assert_int_equal(boot_fx_load(&f), 0);
	payload_check(&f, 0x101000);
	REFUSED(-E2BIG, store_le32(f.image + 0x230, 0x80000000));
	boot_fx_done(&f);
}

static void test_room_to_unpack(void **state)
{
	struct boot_fx f;

	(void)state;
	boot_fx_init(&f, RAM);
	REFUSED(-E2BIG, store_le32(f.image + 0x260, RAM));
	REFUSED(-E2BIG, store_le32(f.image + 0x260, 0xffffffff));
	REFUSED(-E2BIG, store_le32(f.image + 0x260, RAM - PREF_GPA + 1));
	kernel_make(&f, SETUP_SECTS);
	store_le32(f.image + 0x260, RAM - PREF_GPA);
	assert_int_equal(boot_fx_load(&f), 0);
	store_le32(f.image + 0x260, 0); /* init_size 0: the loader uses the payload's size */
	assert_int_equal(boot_fx_load(&f), 0);
	boot_fx_done(&f);
	/* A distribution's kernel in a VM that is too small: a message, not a crash later. */
	boot_fx_init(&f, 20 * MIB);
	REFUSED(-E2BIG, (void)0);
	assert_non_null(strstr(f.err.msg, "20 MiB"));
	boot_fx_done(&f);
}

static void test_wrong_header_end_leaves_boot_params_clean(void **state)
{
	struct boot_fx f;

	(void)state;
	boot_fx_init(&f, RAM);
	for (unsigned jump = 0; jump < 256; jump++) {
		const uint8_t *zp;

		kernel_make(&f, SETUP_SECTS);
		f.image[0x201] = (uint8_t)jump;
		assert_int_equal(boot_fx_load(&f), 0);
		zp = f.mem.host + f.entry.rsi;
		boot_fx_check_e820(&f, zp + 0x2d0, zp[0x1e8], 20);
		for (size_t i = 0x290; i < 0x2d0; i++)
			assert_int_equal(zp[i], 0);
	}
	boot_fx_done(&f);
}

static void test_too_long_command_line_is_refused(void **state)
{
	char line[2048];
	struct boot_fx f;

	(void)state;
	memset(line, 'x', sizeof(line));
	boot_fx_init(&f, RAM);
	f.cmdline = line;
	line[256] = 0;
	REFUSED(-EINVAL, store_le32(f.image + 0x238, 255));
	store_le32(f.image + 0x238, 256);
	assert_int_equal(boot_fx_load(&f), 0);
	line[256] = 'x';
	line[2047] = 0;
	kernel_make(&f, SETUP_SECTS);
	assert_int_equal(boot_fx_load(&f), 0);
	assert_string_equal(
		(const char *)f.mem.host + load_le32(f.mem.host + f.entry.rsi + 0x228), line);
	boot_fx_done(&f);
}

/* ---- initrd ---- */

/* Return the initrd's address, after checking that it lies in RAM, above the kernel and below
 * `max`. */
static uint64_t initrd_check(struct boot_fx *f, uint64_t bytes, uint64_t max)
{
	const uint8_t *zp;
	uint64_t gpa;

	assert_int_equal(boot_fx_load(f), 0);
	zp = f->mem.host + f->entry.rsi;
	gpa = load_le32(zp + 0x218);
	assert_int_equal(load_le32(zp + 0x21c), bytes);
	assert_int_equal(gpa % 4096, 0);
	assert_true(gpa >= PREF_GPA + INIT_BYTES);
	assert_true(gpa + bytes <= MIN(f->mem.low_bytes, max + 1));
	for (uint64_t at = 0; at < MIN(bytes, 1 * MIB); at += 4096)
		assert_int_equal(f->mem.host[gpa + at], (at / 4096 + 1) & 0xff);
	payload_check(f, PREF_GPA); /* the kernel is unchanged */
	return gpa;
}

static void test_initrd_at_the_top(void **state)
{
	static const uint64_t rams[] = { RAM, 3 * GIB, 3 * GIB + 4096, 8 * GIB };
	static const uint64_t sizes[] = { 1, 4095, 4096, 4097, 512 * 1024 };
	struct boot_fx f;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(rams); i++) {
		boot_fx_init(&f, rams[i]);
		kernel_make(&f, SETUP_SECTS);
		for (size_t k = 0; k < ARRAY_SIZE(sizes); k++) {
			boot_fx_initrd(&f, sizes[k]);
			initrd_check(&f, sizes[k], 0x7fffffff);
		}
		boot_fx_done(&f);
	}
}

static void test_initrd_addr_max(void **state)
{
	static const uint32_t max[] = { 0x37ffffff, 0x1ffffff, 0x1fff123, 0xffffffff };
	struct boot_fx f;

	(void)state;
	boot_fx_init(&f, 4 * GIB);
	boot_fx_initrd(&f, 100000);
	for (size_t i = 0; i < ARRAY_SIZE(max); i++) {
		kernel_make(&f, SETUP_SECTS);
		store_le32(f.image + 0x22c, max[i]);
		initrd_check(&f, 100000, max[i]);
	}
	REFUSED(-E2BIG, store_le32(f.image + 0x22c, 0));
	REFUSED(-E2BIG, store_le32(f.image + 0x22c, PREF_GPA)); /* no room above the kernel */
	boot_fx_done(&f);
}

static void test_initrd_that_does_not_fit_is_refused(void **state)
{
	uint64_t room = RAM - PREF_GPA - INIT_BYTES;
	struct boot_fx f;

	(void)state;
	boot_fx_init(&f, RAM);
	kernel_make(&f, SETUP_SECTS);
	boot_fx_initrd(&f, room);
	assert_true(initrd_check(&f, room, UINT32_MAX) == PREF_GPA + INIT_BYTES);
	boot_fx_initrd(&f, room + 1);
	boot_fx_refused(&f, -E2BIG);
	boot_fx_initrd(&f, RAM + 4096);
	boot_fx_refused(&f, -E2BIG);
	boot_fx_initrd(&f, 1ULL << 40);
	boot_fx_refused(&f, -E2BIG);
	boot_fx_initrd(&f, 0);
	boot_fx_refused(&f, -EINVAL);
	close(f.initrd_fd);
	f.initrd_fd = open("/", O_RDONLY | O_CLOEXEC);
	boot_fx_refused(&f, -EINVAL);
	boot_fx_done(&f);
}

static void test_damaged_headers(void **state)
{
	unsigned seed = 29;
	struct boot_fx f;

	(void)state;
	boot_fx_init(&f, RAM);
	boot_fx_initrd(&f, 5000);
	for (int round = 0; round < 1500; round++) {
		kernel_make(&f, SETUP_SECTS);
		for (int k = 0; k < 3; k++)
			f.image[0x1f1 + (size_t)rand_r(&seed) % 0x80] = (uint8_t)rand_r(&seed);
		if (boot_fx_load(&f))
			assert_true(strlen(f.err.msg) > 10);
	}
	boot_fx_done(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_zero_page),
		cmocka_unit_test(test_setup_sectors),
		cmocka_unit_test(test_kernels_without_a_64_bit_entry),
		cmocka_unit_test(test_every_truncation_is_refused),
		cmocka_unit_test(test_address_beyond_memory),
		cmocka_unit_test(test_address_below_1_mib),
		cmocka_unit_test(test_alignment),
		cmocka_unit_test(test_room_to_unpack),
		cmocka_unit_test(test_wrong_header_end_leaves_boot_params_clean),
		cmocka_unit_test(test_too_long_command_line_is_refused),
		cmocka_unit_test(test_initrd_at_the_top),
		cmocka_unit_test(test_initrd_addr_max),
		cmocka_unit_test(test_initrd_that_does_not_fit_is_refused),
		cmocka_unit_test(test_damaged_headers),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
