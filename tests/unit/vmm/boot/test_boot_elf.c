/* boot: ELF kernels, with the 64-bit entry and with PVH, and files that are no kernels. */
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

#define TEXT_GPA 0x1000000ULL
#define RAM (64 * MIB)

static const Elf64_Phdr text_phdr = { .p_type = PT_LOAD,
	.p_offset = 0x1000,
	.p_filesz = 0x2000,
	.p_memsz = 0x5000,
	.p_paddr = TEXT_GPA,
	.p_vaddr = 0xffffffff81000000ULL };
static const Elf64_Phdr data_phdr = { .p_type = PT_LOAD,
	.p_offset = 0x3000,
	.p_filesz = 0x123,
	.p_memsz = 0x123,
	.p_paddr = TEXT_GPA + 0x10000 };
static const Elf64_Phdr stack_phdr = { .p_type = PT_GNU_STACK };

static void kernel_make(struct boot_fx *f)
{
	const Elf64_Phdr p[] = { text_phdr, data_phdr, stack_phdr };

	boot_fx_elf(f, TEXT_GPA, p, ARRAY_SIZE(p));
}

static Elf64_Ehdr *header_of(struct boot_fx *f)
{
	return (Elf64_Ehdr *)f->image;
}

static Elf64_Phdr *phdr_of(struct boot_fx *f, unsigned i)
{
	return (Elf64_Phdr *)(f->image + sizeof(Elf64_Ehdr)) + i;
}

static void segments_check(const struct boot_fx *f)
{
	const uint8_t *t = f->mem.host + TEXT_GPA;

	for (size_t i = 0; i < 0x5000; i++)
		assert_int_equal(t[i], i < 0x2000 ? 1 : 0);
	assert_int_equal(t[0x10000], 2);
	assert_int_equal(t[0x10122], 2);
	assert_int_equal(t[0x10123], 0);
}

static void test_long_mode_entry(void **state)
{
	struct boot_fx f;
	const uint8_t *zp;

	(void)state;
	boot_fx_init(&f, RAM);
	kernel_make(&f);
	boot_fx_initrd(&f, 5000);
	assert_int_equal(boot_fx_load(&f), 0);
	assert_int_equal(f.entry.mode, BOOT_LONG_64);
	assert_true(f.entry.rip == TEXT_GPA);
	segments_check(&f);
	boot_fx_check_gdt(&f);
	/* Documentation/arch/x86/zero-page.rst */
	zp = f.mem.host + f.entry.rsi;
	assert_true(load_le64(zp + 0x70) == FX_RSDP);
	assert_int_equal(load_le16(zp + 0x1fe), 0xaa55);
	assert_memory_equal(zp + 0x202, "HdrS", 4);
	assert_int_equal(zp[0x210], 0xff);
	assert_string_equal((const char *)f.mem.host + load_le32(zp + 0x228), f.cmdline);
	assert_int_equal(load_le32(zp + 0x21c), 5000);
	assert_int_equal(f.mem.host[load_le32(zp + 0x218)], 1);
	boot_fx_check_e820(&f, zp + 0x2d0, zp[0x1e8], 20);
	boot_fx_done(&f);
}

/* All addresses below 4 GiB that a kernel may use are mapped one to one. */
static void test_page_tables(void **state)
{
	static const uint64_t at[] = { 0, 0x1000, 0x7fff, 0x9fc00, 0x100000, TEXT_GPA, 2 * MIB - 1,
		2 * MIB, GIB - 1, GIB, 3 * GIB, 4 * GIB - 1, 0xfee00000 };
	struct boot_fx f;

	(void)state;
	boot_fx_init(&f, RAM);
	kernel_make(&f);
	assert_int_equal(boot_fx_load(&f), 0);
	for (size_t i = 0; i < ARRAY_SIZE(at); i++)
		assert_true(boot_fx_walk(&f, f.entry.cr3, at[i]) == at[i]);
	assert_true(boot_fx_walk(&f, f.entry.cr3, 4 * GIB) == UINT64_MAX);
	assert_true(boot_fx_walk(&f, f.entry.cr3, 0xffffffff81000000ULL) == UINT64_MAX);
	boot_fx_done(&f);
}

/* ---- PVH ---- */

static size_t note_put(uint8_t *p, const char *name, uint32_t name_len, uint32_t type,
	uint64_t desc, uint32_t desc_len)
{
	size_t at = 12 + ROUND_UP(name_len, 4);

	store_le32(p, name_len);
	store_le32(p + 4, desc_len);
	store_le32(p + 8, type);
	memcpy(p + 12, name, name_len);
	store_le64(p + at, desc);
	return at + ROUND_UP(desc_len, 4);
}

/* Make a kernel with a note segment as third header; its content is at file offset 0x4000. */
static uint8_t *kernel_with_notes(struct boot_fx *f, size_t bytes)
{
	kernel_make(f);
	*phdr_of(f, 2) = (Elf64_Phdr){
		.p_type = PT_NOTE, .p_offset = 0x4000, .p_filesz = bytes, .p_memsz = bytes
	};
	f->image_bytes = 0x4000 + bytes;
	memset(f->image + 0x4000, 0, bytes + 16);
	return f->image + 0x4000;
}

static void test_pvh_start_info(void **state)
{
	struct boot_fx f;
	const uint8_t *si, *mod;

	(void)state;
	boot_fx_init(&f, 5 * GIB);
	note_put(kernel_with_notes(&f, 20), "Xen", 4, 18, TEXT_GPA + 0x40, 4);
	boot_fx_initrd(&f, 10000);
	assert_int_equal(boot_fx_load(&f), 0);
	assert_int_equal(f.entry.mode, BOOT_PROTECTED_32);
	assert_true(f.entry.rip == TEXT_GPA + 0x40);
	segments_check(&f);
	boot_fx_check_gdt(&f);
	/* Xen: include/public/arch-x86/hvm/start_info.h */
	si = f.mem.host + f.entry.rbx;
	assert_int_equal(load_le32(si), 0x336ec578);
	assert_int_equal(load_le32(si + 4), 1);
	assert_int_equal(load_le32(si + 8), 0);
	assert_int_equal(load_le32(si + 12), 1);
	assert_string_equal((const char *)f.mem.host + load_le64(si + 24), f.cmdline);
	assert_true(load_le64(si + 32) == FX_RSDP);
	boot_fx_check_e820(&f, f.mem.host + load_le64(si + 40), load_le32(si + 48), 24);
	mod = f.mem.host + load_le64(si + 16);
	assert_int_equal(load_le64(mod) % 4096, 0);
	assert_true(load_le64(mod + 8) == 10000);
	assert_true(load_le64(mod) + 10000 <= 3 * GIB);
	assert_int_equal(f.mem.host[load_le64(mod) + 8192], 3);
	assert_true(load_le64(mod + 16) == 0);
	boot_fx_done(&f);
}

static void test_pvh_without_initrd(void **state)
{
	struct boot_fx f;
	const uint8_t *si;

	(void)state;
	boot_fx_init(&f, RAM);
	note_put(kernel_with_notes(&f, 24), "Xen", 4, 18, TEXT_GPA, 8); /* 8 bytes are allowed */
	assert_int_equal(boot_fx_load(&f), 0);
	assert_int_equal(f.entry.mode, BOOT_PROTECTED_32);
	si = f.mem.host + f.entry.rbx;
	assert_int_equal(load_le32(si + 12), 0);
	assert_true(load_le64(si + 16) == 0);
	boot_fx_done(&f);
}

static void test_pvh_note_among_others(void **state)
{
	struct boot_fx f;
	uint8_t *p, *end;

	(void)state;
	boot_fx_init(&f, RAM);
	p = end = kernel_with_notes(&f, 256);
	end += note_put(end, "GNU\0Linux-is-long", 17, 3, 0x1122334455667788ULL, 7);
	end += note_put(end, "Xen", 4, 6, 0, 0);
	end += note_put(end, "Xeno", 5, 18, 1, 4);
	end += note_put(end, "Xen", 4, 18, TEXT_GPA + 0x80, 4);
	end += note_put(end, "Xen", 4, 18, 2, 4); /* the first note counts */
	assert_true(end - p <= 256);
	assert_int_equal(boot_fx_load(&f), 0);
	assert_int_equal(f.entry.mode, BOOT_PROTECTED_32);
	assert_true(f.entry.rip == TEXT_GPA + 0x80);
	boot_fx_done(&f);
}

static void test_notes_that_are_not_pvh(void **state)
{
	struct boot_fx f;

	(void)state;
	boot_fx_init(&f, RAM);
#define NOT_PVH(...)                                                                               \
	do {                                                                                       \
		note_put(kernel_with_notes(&f, 32), __VA_ARGS__);                                  \
		assert_int_equal(boot_fx_load(&f), 0);                                             \
		assert_int_equal(f.entry.mode, BOOT_LONG_64);                                      \
	} while (0)
	NOT_PVH("Xen", 4, 17, TEXT_GPA, 4);
	NOT_PVH("Xem", 4, 18, TEXT_GPA, 4);
	NOT_PVH("Xen", 3, 18, TEXT_GPA, 4);
	NOT_PVH("Xen", 4, 18, TEXT_GPA, 2);
	NOT_PVH("Xen", 4, 18, TEXT_GPA, 5);
	NOT_PVH("Xen", 4, 18, 0, 4);
	boot_fx_done(&f);
}

static void test_notes_with_wrong_lengths_are_ignored(void **state)
{
	static const uint32_t lies[] = { 21, 0xff, 0x10000, 0x7fffffff, 0xfffffffd, 0xffffffff };
	struct boot_fx f;
	uint8_t *p;

	(void)state;
	boot_fx_init(&f, RAM);
	for (size_t i = 0; i < 2 * ARRAY_SIZE(lies); i++) {
		p = kernel_with_notes(&f, 20);
		note_put(p, "Xen", 4, 18, TEXT_GPA, 4);
		store_le32(p + (i % 2 ? 0 : 4), lies[i / 2]);
		assert_int_equal(boot_fx_load(&f), 0);
		assert_int_equal(f.entry.mode, BOOT_LONG_64);
	}
	for (size_t n = 0; n < 20; n++) { /* truncated */
		note_put(kernel_with_notes(&f, n), "Xen", 4, 18, TEXT_GPA, 4);
		assert_int_equal(boot_fx_load(&f), 0);
		assert_int_equal(f.entry.mode, BOOT_LONG_64);
	}
	note_put(kernel_with_notes(&f, 20), "Xen", 4, 18, TEXT_GPA, 4);
	phdr_of(&f, 2)->p_offset = UINT64_MAX - 10;
	assert_int_equal(boot_fx_load(&f), 0);
	assert_int_equal(f.entry.mode, BOOT_LONG_64);
	boot_fx_done(&f);
}

static void test_pvh_entry_outside_memory(void **state)
{
	static const uint64_t bad[] = { 0x500, 0xa0000, 0xe0000, RAM, 0xfffffff0, 1ULL << 40 };
	struct boot_fx f;

	(void)state;
	boot_fx_init(&f, RAM);
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		note_put(kernel_with_notes(&f, 24), "Xen", 4, 18, bad[i], 8);
		boot_fx_refused(&f, -EINVAL);
		kernel_make(&f);
		header_of(&f)->e_entry = bad[i];
		boot_fx_refused(&f, -EINVAL);
	}
	boot_fx_done(&f);
}

/* ---- refused ---- */

static void test_other_architectures_are_refused(void **state)
{
	struct boot_fx f;

	(void)state;
	boot_fx_init(&f, RAM);
#define BAD(change)                                                                                \
	do {                                                                                       \
		kernel_make(&f);                                                                   \
		change;                                                                            \
		boot_fx_refused(&f, -EINVAL);                                                      \
	} while (0)
	BAD(header_of(&f)->e_ident[EI_CLASS] = ELFCLASS32);
	BAD(header_of(&f)->e_ident[EI_CLASS] = ELFCLASSNONE);
	BAD(header_of(&f)->e_ident[EI_DATA] = ELFDATA2MSB);
	BAD(header_of(&f)->e_machine = EM_386);
	BAD(header_of(&f)->e_machine = EM_AARCH64);
	BAD(header_of(&f)->e_type = ET_REL);
	BAD(header_of(&f)->e_type = ET_CORE);
	BAD(header_of(&f)->e_phnum = 0);
	BAD(header_of(&f)->e_phnum = 0xffff);
	BAD(header_of(&f)->e_phnum = 1000);
	BAD(header_of(&f)->e_phentsize = 0);
	BAD(header_of(&f)->e_phentsize = 32);
	BAD(header_of(&f)->e_phentsize = 0xffff);
	BAD(header_of(&f)->e_phoff = 4096);
	BAD(header_of(&f)->e_phoff = UINT64_MAX);
	BAD(header_of(&f)->e_phoff = UINT64_MAX - 3 * sizeof(Elf64_Phdr) + 1);
	BAD(f.image[0] = 0);
	BAD(f.image_bytes = 0);
	BAD(memset(f.image, 0, 64));
	BAD(phdr_of(&f, 0)->p_type = phdr_of(&f, 1)->p_type = PT_NULL); /* nothing to load */
	boot_fx_done(&f);
}

static void test_every_truncation_is_refused(void **state)
{
	struct boot_fx f;
	size_t whole;

	(void)state;
	boot_fx_init(&f, RAM);
	kernel_make(&f);
	whole = f.image_bytes;
	assert_int_equal(boot_fx_load(&f), 0);
	for (size_t n = 0; n < whole; n += n < 512 ? 1 : 64) {
		f.image_bytes = n;
		boot_fx_refused(&f, -EINVAL);
	}
	f.image_bytes = whole - 1;
	boot_fx_refused(&f, -EINVAL);
	boot_fx_done(&f);
}

static void test_segments_outside_free_ram_are_refused(void **state)
{
	static const struct {
		uint64_t gpa, bytes;
		int want;
	} rows[] = {
		{ 0, 0x1000, -E2BIG },       /* the loader's own tables */
		{ 0x20000, 0x1000, -E2BIG }, /* the command line */
		{ 0x30000, 0x1000, 0 },      /* the first free address */
		{ 0x9e000, 0x1c00, 0 },      /* up to the EBDA */
		{ 0x9e000, 0x1c01, -E2BIG },
		{ 0x90000, 0x80000, -E2BIG }, /* over the legacy hole */
		{ 0xa0000, 0x1000, -E2BIG },
		{ 0xe0000, 0x1000, -E2BIG }, /* ACPI's tables */
		{ 0xff000, 0x1001, -E2BIG },
		{ 0x100000, 0x1000, 0 },
		{ RAM - 0x1000, 0x1000, 0 },
		{ RAM - 0x1000, 0x1001, -E2BIG },
		{ RAM, 0x1000, -E2BIG },
		{ 0xc0000000, 0x1000, -E2BIG },
		{ 1ULL << 40, 0x1000, -E2BIG },
		{ UINT64_MAX - 0xfff, 0x1000, -E2BIG },
		{ 0x100000, UINT64_MAX - 0x1000, -E2BIG },
		{ UINT64_MAX - 0xfff, 0x200000, -E2BIG }, /* wraps around to RAM */
		{ 0x100000, RAM - 0x100000, 0 },
		{ 0x100000, RAM - 0x100000 + 1, -E2BIG },
	};
	struct boot_fx f;

	(void)state;
	boot_fx_init(&f, RAM);
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		kernel_make(&f);
		phdr_of(&f, 1)->p_paddr = rows[i].gpa;
		phdr_of(&f, 1)->p_memsz = rows[i].bytes;
		if (!rows[i].want) {
			assert_int_equal(boot_fx_load(&f), 0);
			assert_int_equal(f.mem.host[rows[i].gpa], 2);
		} else {
			boot_fx_refused(&f, rows[i].want);
		}
	}
	boot_fx_done(&f);
}

/* A kernel is never loaded above 4 GiB: its segments have to fit below the hole. */
static void test_segment_at_the_hole_below_4_gib(void **state)
{
	struct boot_fx f;

	(void)state;
	boot_fx_init(&f, 8 * GIB);
	kernel_make(&f);
	phdr_of(&f, 1)->p_paddr = 3 * GIB - 0x123;
	assert_int_equal(boot_fx_load(&f), 0);
	phdr_of(&f, 1)->p_paddr = 3 * GIB - 0x122;
	boot_fx_refused(&f, -E2BIG);
	phdr_of(&f, 1)->p_paddr = 4 * GIB;
	boot_fx_refused(&f, -E2BIG);
	boot_fx_done(&f);
}

static void test_malformed_segments_are_refused(void **state)
{
	struct boot_fx f;

	(void)state;
	boot_fx_init(&f, RAM);
	BAD(phdr_of(&f, 0)->p_filesz = 0x5001); /* more bytes in the file than in memory */
	BAD(phdr_of(&f, 0)->p_filesz = UINT64_MAX);
	BAD(phdr_of(&f, 0)->p_offset = UINT64_MAX);
	BAD(phdr_of(&f, 0)->p_offset = UINT64_MAX - 0x1000);
	BAD(phdr_of(&f, 0)->p_offset = f.image_bytes - 0x1fff);
	BAD(phdr_of(&f, 1)->p_memsz = 0); /* but 0x123 bytes in the file */
	boot_fx_done(&f);
}

static void test_too_little_memory(void **state)
{
	struct boot_fx f;

	(void)state;
	boot_fx_init(&f, 1 * MIB);
	kernel_make(&f);
	boot_fx_refused(&f, -E2BIG);
	boot_fx_done(&f);
	boot_fx_init(&f, 2 * MIB);
	kernel_make(&f);
	boot_fx_refused(&f, -E2BIG); /* wants 16 MiB */
	phdr_of(&f, 0)->p_paddr = phdr_of(&f, 1)->p_paddr = header_of(&f)->e_entry = 0x100000;
	assert_int_equal(boot_fx_load(&f), 0);
	boot_fx_done(&f);
}

static void test_closed_and_special_fds_are_refused(void **state)
{
	struct boot_source src = { .initrd_fd = -1, .cmdline = "", .rsdp_gpa = FX_RSDP };
	int fds[2];
	struct boot_fx f;

	(void)state;
	boot_fx_init(&f, RAM);
	assert_int_equal(pipe2(fds, O_CLOEXEC | O_NONBLOCK), 0);
	src.kernel_fd = fds[0];
	assert_true(boot_load(&f.mem, &src, &f.entry, &f.err) < 0);
	close(fds[0]);
	close(fds[1]);
	src.kernel_fd = open("/", O_RDONLY | O_CLOEXEC);
	assert_true(boot_load(&f.mem, &src, &f.entry, &f.err) < 0);
	close(src.kernel_fd);
	src.kernel_fd = open("/dev/zero", O_RDONLY | O_CLOEXEC);
	assert_int_equal(boot_load(&f.mem, &src, &f.entry, &f.err), -EINVAL);
	close(src.kernel_fd);
	assert_true(boot_load(&f.mem, &src, &f.entry, &f.err) < 0); /* the fd is closed */
	boot_fx_done(&f);
}

/* Flip bytes of the headers: every load returns, and no access leaves memory (ASan). */
static void test_damaged_headers(void **state)
{
	unsigned seed = 23;
	struct boot_fx f;

	(void)state;
	boot_fx_init(&f, RAM);
	for (int round = 0; round < 1500; round++) {
		note_put(kernel_with_notes(&f, 20), "Xen", 4, 18, TEXT_GPA, 4);
		for (int k = 0; k < 3; k++)
			f.image[4 + (size_t)rand_r(&seed) % (3 * 56 + 60)] = (uint8_t)rand_r(&seed);
		f.image[0x4000 + (size_t)rand_r(&seed) % 20] = (uint8_t)rand_r(&seed);
		if (boot_fx_load(&f))
			assert_true(strlen(f.err.msg) > 10);
	}
	boot_fx_done(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_long_mode_entry),
		cmocka_unit_test(test_page_tables),
		cmocka_unit_test(test_pvh_start_info),
		cmocka_unit_test(test_pvh_without_initrd),
		cmocka_unit_test(test_pvh_note_among_others),
		cmocka_unit_test(test_notes_that_are_not_pvh),
		cmocka_unit_test(test_notes_with_wrong_lengths_are_ignored),
		cmocka_unit_test(test_pvh_entry_outside_memory),
		cmocka_unit_test(test_other_architectures_are_refused),
		cmocka_unit_test(test_every_truncation_is_refused),
		cmocka_unit_test(test_segments_outside_free_ram_are_refused),
		cmocka_unit_test(test_segment_at_the_hole_below_4_gib),
		cmocka_unit_test(test_malformed_segments_are_refused),
		cmocka_unit_test(test_too_little_memory),
		cmocka_unit_test(test_closed_and_special_fds_are_refused),
		cmocka_unit_test(test_damaged_headers),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
