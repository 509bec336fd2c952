/* boot: Multiboot kernels of both versions, as ELF files and with addresses in their headers. */
#include "fixture_boot.h"
#include "base/bytes.h"
#include "base/util.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define RAM (64 * MIB)
#define TEXT_GPA 0x200000u
#define MAGIC_1 0x1badb002u
#define MAGIC_2 0xe85250d6u
#define FILE_BYTES 0x3000u

/* Make a 32-bit ELF file: one segment of 0x1000 bytes at 0x1000, which is twice as large in memory. */
static void elf32_make(struct boot_fx *f)
{
	Elf32_Ehdr h = { .e_type = ET_EXEC, .e_machine = EM_386, .e_version = EV_CURRENT, .e_entry = 0xc0200010,
		.e_phoff = sizeof(h), .e_ehsize = sizeof(h), .e_phentsize = sizeof(Elf32_Phdr), .e_phnum = 1 };
	Elf32_Phdr p = { .p_type = PT_LOAD, .p_offset = 0x1000, .p_vaddr = 0xc0200000, .p_paddr = TEXT_GPA, .p_filesz = 0x1000,
		.p_memsz = 0x2000 };

	memcpy(h.e_ident, ELFMAG, SELFMAG);
	h.e_ident[EI_CLASS] = ELFCLASS32;
	h.e_ident[EI_DATA] = ELFDATA2LSB;
	memset(f->image, 0, sizeof(f->image));
	memcpy(f->image, &h, sizeof(h));
	memcpy(f->image + sizeof(h), &p, sizeof(p));
	memset(f->image + 0x1000, 1, 0x1000);
	f->image_bytes = 0x2000;
}

static void header_1_put(struct boot_fx *f, size_t at, uint32_t flags)
{
	store_le32(f->image + at, MAGIC_1);
	store_le32(f->image + at + 4, flags);
	store_le32(f->image + at + 8, -(MAGIC_1 + flags));
}

static void addresses_put(uint8_t *p, uint32_t header, uint32_t load, uint32_t load_end, uint32_t bss_end)
{
	store_le32(p, header);
	store_le32(p + 4, load);
	store_le32(p + 8, load_end);
	store_le32(p + 12, bss_end);
}

/* Make a file with header 1 at 0x40, where its first 0x20 bytes are not loaded. */
static void flat_make(struct boot_fx *f, uint32_t load_end, uint32_t bss_end)
{
	memset(f->image, 0xaa, FILE_BYTES);
	f->image_bytes = FILE_BYTES;
	header_1_put(f, 0x40, 3 | 1 << 16);
	addresses_put(f->image + 0x4c, TEXT_GPA + 0x20, TEXT_GPA, load_end, bss_end);
	store_le32(f->image + 0x5c, TEXT_GPA + 0x100);
}

/* Start a header 2 at 0x3000; tags follow by tag_put(), and header_2_end(). */
static size_t header_2_begin(struct boot_fx *f)
{
	memset(f->image + 0x3000, 0, 0x1000);
	f->image_bytes = 0x5000;
	return 0x3010;
}

static size_t tag_put(struct boot_fx *f, size_t at, uint16_t type, uint16_t flags, uint32_t bytes, const uint32_t *words)
{
	store_le16(f->image + at, type);
	store_le16(f->image + at + 2, flags);
	store_le32(f->image + at + 4, bytes);
	for (unsigned i = 0; i < (bytes - 8) / 4; i++)
		store_le32(f->image + at + 8 + 4 * i, words[i]);
	return at + ROUND_UP(bytes, 8);
}

static void header_2_end(struct boot_fx *f, size_t at)
{
	uint32_t bytes = (uint32_t)(tag_put(f, at, 0, 0, 8, NULL) - 0x3000);

	store_le32(f->image + 0x3000, MAGIC_2);
	store_le32(f->image + 0x3008, bytes);
	store_le32(f->image + 0x300c, -(MAGIC_2 + bytes));
}

/* Return the information, after checking how the kernel starts. */
static const uint8_t *started(const struct boot_fx *f, uint32_t magic, uint64_t entry)
{
	assert_int_equal(f->entry.mode, BOOT_PROTECTED_32);
	assert_int_equal(f->entry.cs, BOOT_CS32);
	assert_true(f->entry.rip == entry);
	assert_true(f->entry.rax == magic);
	boot_fx_check_gdt(f);
	return f->mem.host + f->entry.rbx;
}

static void test_multiboot_1_information(void **state)
{
	struct boot_fx f;
	const uint8_t *i, *p;
	size_t n = 0;

	(void)state;
	boot_fx_init(&f, 5 * GIB);
	elf32_make(&f);
	header_1_put(&f, 0x1004, 3);
	boot_fx_initrd(&f, 5000);
	assert_int_equal(boot_fx_load(&f), 0);
	i = started(&f, 0x2badb002, TEXT_GPA + 0x10); /* the entry point is a linear address */
	assert_int_equal(f.mem.host[TEXT_GPA + 0xfff], 1);
	assert_int_equal(f.mem.host[TEXT_GPA + 0x1000], 0);
	assert_int_equal(load_le32(i), 1 | 4 | 8 | 64 | 512);
	assert_int_equal(load_le32(i + 4), 0x9fc00 / 1024);
	assert_int_equal(load_le32(i + 8), 3 * 1024 * 1024 - 1024);
	assert_string_equal((const char *)f.mem.host + load_le32(i + 16), f.cmdline);
	assert_string_equal((const char *)f.mem.host + load_le32(i + 64), "Cairn");
	assert_int_equal(load_le32(i + 20), 1);
	p = f.mem.host + load_le32(i + 24);
	assert_int_equal(load_le32(p + 4) - load_le32(p), 5000);
	assert_int_equal(load_le32(p) % 4096, 0);
	assert_int_equal(f.mem.host[load_le32(p) + 4096], 2);
	assert_string_equal((const char *)f.mem.host + load_le32(p + 8), "initrd");
	p = f.mem.host + load_le32(i + 48);
	for (size_t at = 0; at < load_le32(i + 44); at += load_le32(p + at) + 4, n++)
		assert_int_equal(load_le32(p + at), 20);
	boot_fx_check_e820(&f, p + 4, n, 24);
	f.initrd_fd = -1;
	assert_int_equal(boot_fx_load(&f), 0);
	assert_int_equal(load_le32(f.mem.host + f.entry.rbx + 20), 0);
	boot_fx_done(&f);
}

static void test_multiboot_2_information(void **state)
{
	static const uint32_t wanted[] = { 1, 2, 3, 4, 6, 15 };
	const uint8_t *i, *seen[16] = { NULL };
	struct boot_fx f;
	size_t at;

	(void)state;
	boot_fx_init(&f, 5 * GIB);
	elf32_make(&f);
	at = header_2_begin(&f);
	at = tag_put(&f, at, 1, 0, 32, wanted);
	header_2_end(&f, at);
	boot_fx_initrd(&f, 5000);
	assert_int_equal(boot_fx_load(&f), 0);
	i = started(&f, 0x36d76289, TEXT_GPA + 0x10);
	for (at = 8; load_le32(i + at); at += ROUND_UP(load_le32(i + at + 4), 8)) {
		assert_true(load_le32(i + at) < ARRAY_SIZE(seen) && !seen[load_le32(i + at)]);
		seen[load_le32(i + at)] = i + at;
	}
	assert_int_equal(load_le32(i + at + 4), 8);
	assert_int_equal(load_le32(i), at + 8);
	for (size_t k = 0; k < ARRAY_SIZE(wanted); k++)
		assert_non_null(seen[wanted[k]]);
	assert_string_equal((const char *)seen[1] + 8, f.cmdline);
	assert_int_equal(load_le32(seen[1] + 4), 8 + strlen(f.cmdline) + 1);
	assert_string_equal((const char *)seen[2] + 8, "Cairn");
	assert_int_equal(load_le32(seen[3] + 12) - load_le32(seen[3] + 8), 5000);
	assert_string_equal((const char *)seen[3] + 16, "initrd");
	assert_int_equal(load_le32(seen[4] + 8), 0x9fc00 / 1024);
	assert_int_equal(load_le32(seen[6] + 8), 24);
	boot_fx_check_e820(&f, seen[6] + 16, (load_le32(seen[6] + 4) - 16) / 24, 24);
	assert_memory_equal(seen[15] + 8, f.mem.host + FX_RSDP, 36);
	boot_fx_done(&f);
}

static void test_longest_command_line_fits(void **state)
{
	char line[2048];
	struct boot_fx f;
	const uint8_t *i;

	(void)state;
	memset(line, 'x', sizeof(line) - 1);
	line[sizeof(line) - 1] = 0;
	boot_fx_init(&f, RAM);
	f.cmdline = line;
	elf32_make(&f);
	header_2_end(&f, header_2_begin(&f));
	assert_int_equal(boot_fx_load(&f), 0);
	i = started(&f, 0x36d76289, TEXT_GPA + 0x10);
	assert_string_equal((const char *)i + 16, line);
	boot_fx_done(&f);
}

static void test_file_that_is_not_elf(void **state)
{
	struct boot_fx f;

	(void)state;
	boot_fx_init(&f, RAM);
	flat_make(&f, 0, 0);
	assert_int_equal(boot_fx_load(&f), 0);
	started(&f, 0x2badb002, TEXT_GPA + 0x100);
	assert_int_equal(load_le32(f.mem.host + TEXT_GPA + 0x20), MAGIC_1);
	assert_int_equal(f.mem.host[TEXT_GPA + FILE_BYTES - 0x21], 0xaa);
	assert_int_equal(f.mem.host[TEXT_GPA + FILE_BYTES - 0x20], 0);
	flat_make(&f, TEXT_GPA + 0x1000, TEXT_GPA + 0x100000);
	assert_int_equal(boot_fx_load(&f), 0);
	assert_int_equal(f.mem.host[TEXT_GPA + 0xfff], 0xaa);
	assert_int_equal(f.mem.host[TEXT_GPA + 0x1000], 0);
	boot_fx_done(&f);
}

static void test_multiboot_2_with_addresses(void **state)
{
	static const uint32_t addresses[] = { TEXT_GPA + 0x3000, UINT32_MAX, TEXT_GPA + 0x4000, 0 }, entry[] = { TEXT_GPA + 8 };
	struct boot_fx f;
	size_t at;

	(void)state;
	boot_fx_init(&f, RAM);
	memset(f.image, 0xaa, sizeof(f.image));
	at = tag_put(&f, header_2_begin(&f), 2, 0, 24, addresses);
	header_2_end(&f, tag_put(&f, at, 3, 0, 12, entry));
	assert_int_equal(boot_fx_load(&f), 0);
	started(&f, 0x36d76289, TEXT_GPA + 8);
	assert_int_equal(f.mem.host[TEXT_GPA], 0xaa); /* from the file's beginning */
	assert_int_equal(f.mem.host[TEXT_GPA + 0x4000], 0);
	header_2_end(&f, at); /* without the entry */
	boot_fx_refused(&f, -EINVAL);
	boot_fx_done(&f);
}

/* A kernel may have the header's magic number in its first 8192 bytes by accident. */
static void test_wrong_header_is_none(void **state)
{
	const Elf64_Phdr text = { .p_type = PT_LOAD, .p_offset = 0x1000, .p_filesz = 0x1000, .p_memsz = 0x1000, .p_paddr = TEXT_GPA };
	struct boot_fx f;

	(void)state;
	boot_fx_init(&f, RAM);
	boot_fx_elf(&f, TEXT_GPA, &text, 1);
	header_1_put(&f, 0x1000, 3);
	assert_int_equal(boot_fx_load(&f), 0);
	assert_int_equal(f.entry.mode, BOOT_PROTECTED_32);
	f.image[0x1008]++;
	assert_int_equal(boot_fx_load(&f), 0);
	assert_int_equal(f.entry.mode, BOOT_LONG_64);
	elf32_make(&f);
	boot_fx_refused(&f, -EINVAL);
	assert_non_null(strstr(f.err.msg, "neither a PVH note nor a Multiboot header"));
	header_1_put(&f, 0x1002, 3); /* not a multiple of 4 */
	boot_fx_refused(&f, -EINVAL);
	boot_fx_done(&f);
}

static void test_demands_that_are_unknown_are_refused(void **state)
{
	static const uint32_t wanted[] = { 4, 5 };
	struct boot_fx f;

	(void)state;
	boot_fx_init(&f, RAM);
	elf32_make(&f);
	for (uint32_t flags = 1; flags < 1 << 16; flags <<= 1) {
		header_1_put(&f, 0x1000, flags);
		if (flags < 8)
			assert_int_equal(boot_fx_load(&f), 0);
		else
			boot_fx_refused(&f, -EINVAL);
	}
	for (uint16_t optional = 0; optional < 2; optional++) {
		elf32_make(&f);
		header_2_end(&f, tag_put(&f, header_2_begin(&f), 1, optional, 16, wanted));
		assert_int_equal(boot_fx_load(&f), optional ? 0 : -EINVAL);
		header_2_end(&f, tag_put(&f, header_2_begin(&f), 11, optional, 8, NULL));
		assert_int_equal(boot_fx_load(&f), optional ? 0 : -EINVAL);
		header_2_end(&f, tag_put(&f, header_2_begin(&f), 5, optional, 8, NULL)); /* a screen */
		assert_int_equal(boot_fx_load(&f), 0);
	}
	boot_fx_done(&f);
}

static void test_wrong_addresses_are_refused(void **state)
{
	static const struct {
		uint32_t load, load_end, bss_end, entry;
		int want;
	} rows[] = {
		{ TEXT_GPA, 0, 0, TEXT_GPA, 0 },
		{ TEXT_GPA + 0x21, 0, 0, TEXT_GPA, -EINVAL }, /* above the header */
		{ TEXT_GPA - 0x21, 0, 0, TEXT_GPA, -EINVAL }, /* before the file */
		{ TEXT_GPA, TEXT_GPA - 1, 0, TEXT_GPA, -EINVAL },
		{ TEXT_GPA, TEXT_GPA + FILE_BYTES, 0, TEXT_GPA, -EINVAL }, /* 0x20 bytes of it are before the text */
		{ TEXT_GPA, 0, TEXT_GPA - 1, TEXT_GPA, -E2BIG },
		{ TEXT_GPA, 0, RAM + 1, TEXT_GPA, -E2BIG },
		{ TEXT_GPA, 0, RAM, TEXT_GPA, 0 },
		{ TEXT_GPA, 0, 0, 0xe0000, -EINVAL },
		{ TEXT_GPA, 0, 0, RAM, -EINVAL },
	};
	struct boot_fx f;

	(void)state;
	boot_fx_init(&f, RAM);
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		flat_make(&f, rows[i].load_end, rows[i].bss_end);
		store_le32(f.image + 0x50, rows[i].load);
		store_le32(f.image + 0x5c, rows[i].entry);
		if (rows[i].want)
			boot_fx_refused(&f, rows[i].want);
		else
			assert_int_equal(boot_fx_load(&f), 0);
	}
	flat_make(&f, 0, 0);
	addresses_put(f.image + 0x4c, 0x20, 0x30, 0, 0);
	boot_fx_refused(&f, -EINVAL);
	addresses_put(f.image + 0x4c, 0x10, UINT32_MAX, 0, 0);
	boot_fx_refused(&f, -E2BIG);
	boot_fx_done(&f);
}

static void test_damaged_headers(void **state)
{
	unsigned seed = 31;
	struct boot_fx f;

	(void)state;
	boot_fx_init(&f, RAM);
	boot_fx_initrd(&f, 5000);
	for (int round = 0; round < 1500; round++) {
		if (round % 2) {
			flat_make(&f, 0, 0);
			for (int k = 0; k < 3; k++)
				f.image[0x4c + (size_t)rand_r(&seed) % 20] = (uint8_t)rand_r(&seed);
		} else {
			elf32_make(&f);
			header_1_put(&f, 0x1000, 3);
			for (int k = 0; k < 3; k++)
				f.image[5 + (size_t)rand_r(&seed) % (sizeof(Elf32_Ehdr) + sizeof(Elf32_Phdr) - 5)] = (uint8_t)rand_r(&seed);
		}
		if (boot_fx_load(&f))
			assert_true(strlen(f.err.msg) > 10);
	}
	boot_fx_done(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_multiboot_1_information),
		cmocka_unit_test(test_multiboot_2_information),
		cmocka_unit_test(test_longest_command_line_fits),
		cmocka_unit_test(test_file_that_is_not_elf),
		cmocka_unit_test(test_multiboot_2_with_addresses),
		cmocka_unit_test(test_wrong_header_is_none),
		cmocka_unit_test(test_demands_that_are_unknown_are_refused),
		cmocka_unit_test(test_wrong_addresses_are_refused),
		cmocka_unit_test(test_damaged_headers),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
