#include "fixture_boot.h"
#include "base/bytes.h"
#include "base/file.h"
#include "base/util.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

void boot_fx_init(struct boot_fx *f, uint64_t ram_bytes)
{
	memset(f, 0, sizeof(*f));
	f->initrd_fd = -1;
	f->cmdline = "console=ttyS0 quiet";
	assert_int_equal(memory_init(&f->mem, ram_bytes, false, &f->err), 0);
}

void boot_fx_done(struct boot_fx *f)
{
	memory_done(&f->mem);
	if (f->initrd_fd >= 0)
		close(f->initrd_fd);
	f->initrd_fd = -1;
}

static int file_of(const void *p, size_t n)
{
	int fd = memfd_create("cairn-kernel", MFD_CLOEXEC);

	assert_true(fd >= 0);
	assert_int_equal(pwrite_full(fd, p, n, 0), 0);
	return fd;
}

int boot_fx_load(struct boot_fx *f)
{
	struct boot_source src = {
		.initrd_fd = f->initrd_fd, .cmdline = f->cmdline, .rsdp_gpa = FX_RSDP
	};
	int r;

	memory_clear(&f->mem);
	memset(&f->err, 0, sizeof(f->err));
	src.kernel_fd = file_of(f->image, f->image_bytes);
	r = boot_load(&f->mem, &src, &f->entry, &f->err);
	close(src.kernel_fd);
	return r;
}

void boot_fx_refused(struct boot_fx *f, int want)
{
	int r = boot_fx_load(f);

	if (r != want)
		fail_msg("%d instead of %d (%s)", r, want, f->err.msg);
	assert_true(strlen(f->err.msg) > 10);
	assert_int_equal(f->err.cls, ERR_INVALID);
}

void boot_fx_initrd(struct boot_fx *f, uint64_t bytes)
{
	uint8_t page[4096];

	if (f->initrd_fd >= 0)
		close(f->initrd_fd);
	f->initrd_fd = memfd_create("cairn-initrd", MFD_CLOEXEC);
	assert_true(f->initrd_fd >= 0);
	for (uint64_t at = 0; at < MIN(bytes, 1 * MIB); at += sizeof(page)) {
		memset(page, (int)(at / sizeof(page) + 1), sizeof(page));
		assert_int_equal(pwrite_full(f->initrd_fd, page, sizeof(page), (off_t)at), 0);
	}
	assert_int_equal(ftruncate(f->initrd_fd, (off_t)bytes), 0);
}

void boot_fx_elf(struct boot_fx *f, uint64_t entry, const Elf64_Phdr *phdrs, unsigned n)
{
	Elf64_Ehdr h = { .e_type = ET_EXEC,
		.e_machine = EM_X86_64,
		.e_version = EV_CURRENT,
		.e_entry = entry,
		.e_phoff = sizeof(h),
		.e_ehsize = sizeof(h),
		.e_phentsize = sizeof(Elf64_Phdr),
		.e_phnum = (Elf64_Half)n };

	memcpy(h.e_ident, ELFMAG, SELFMAG);
	h.e_ident[EI_CLASS] = ELFCLASS64;
	h.e_ident[EI_DATA] = ELFDATA2LSB;
	h.e_ident[EI_VERSION] = EV_CURRENT;
	memset(f->image, 0, sizeof(f->image));
	memcpy(f->image, &h, sizeof(h));
	memcpy(f->image + sizeof(h), phdrs, n * sizeof(*phdrs));
	f->image_bytes = sizeof(h) + n * sizeof(*phdrs);
	for (unsigned i = 0; i < n; i++) {
		if (!range_inside(phdrs[i].p_offset, phdrs[i].p_filesz, sizeof(f->image)))
			continue;
		memset(f->image + phdrs[i].p_offset, (int)i + 1, phdrs[i].p_filesz);
		f->image_bytes = MAX(f->image_bytes, phdrs[i].p_offset + phdrs[i].p_filesz);
	}
}

/* Intel SDM vol. 3A, 4.5: four levels, with 1 GiB and 2 MiB pages. */
uint64_t boot_fx_walk(const struct boot_fx *f, uint64_t cr3, uint64_t linear)
{
	uint64_t table = cr3;

	for (int level = 3; level >= 0; level--) {
		unsigned shift = 12 + 9 * (unsigned)level;
		uint64_t gpa = table + 8 * (linear >> shift & 511), entry;

		assert_true(gpa + 8 <= f->mem.low_bytes);
		entry = load_le64(f->mem.host + gpa);
		if (!(entry & 1))
			return UINT64_MAX;
		assert_true(entry & 2); /* writable, because the kernel runs there */
		table = entry & 0x000ffffffffff000ULL;
		if (!level || (entry & 0x80))
			return (table & ~((1ULL << shift) - 1)) | (linear & ((1ULL << shift) - 1));
	}
	return UINT64_MAX;
}

void boot_fx_check_e820(const struct boot_fx *f, const uint8_t *table, size_t n, size_t stride)
{
	struct memory_e820 want[MEMORY_E820_MAX];

	assert_int_equal(n, memory_e820(&f->mem, want));
	for (size_t i = 0; i < n; i++, table += stride) {
		assert_true(load_le64(table) == want[i].gpa);
		assert_true(load_le64(table + 8) == want[i].bytes);
		assert_int_equal(load_le32(table + 16), want[i].type);
	}
}

static void descriptor_check(const struct boot_fx *f, unsigned selector, bool code, bool lm)
{
	uint64_t d;

	assert_true(selector + 7u <= f->entry.gdt_limit);
	d = load_le64(f->mem.host + f->entry.gdt_gpa + selector);
	assert_int_equal(d & 0xffff, 0xffff); /* limit 4 GiB, base 0 */
	assert_int_equal(d >> 48 & 0xf, 0xf);
	assert_int_equal(d >> 16 & 0xffffff, 0);
	assert_int_equal(d >> 56, 0);
	assert_int_equal(d >> 55 & 1, 1);
	assert_int_equal(d >> 40 & 0xf0, 0x90); /* present, DPL 0, no system segment */
	assert_int_equal(d >> 43 & 1, code);
	assert_int_equal(d >> 41 & 1, 1); /* readable; writable */
	assert_int_equal(d >> 53 & 1, lm);
	assert_int_equal(d >> 54 & 1, !lm);
}

void boot_fx_check_gdt(const struct boot_fx *f)
{
	assert_true(load_le64(f->mem.host + f->entry.gdt_gpa) == 0);
	descriptor_check(f, f->entry.cs, true, f->entry.mode == BOOT_LONG_64);
	descriptor_check(f, BOOT_DS, false, false);
	/* Linux' boot protocols prescribe the selectors __BOOT_CS and __BOOT_DS. */
	assert_int_equal(BOOT_CS_LINUX, 0x10);
	assert_int_equal(BOOT_DS, 0x18);
}
