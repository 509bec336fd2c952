#include "vmm/boot/boot.h"
#include "base/bytes.h"
#include "base/err.h"
#include "base/file.h"
#include "base/util.h"
#include "vmm/boot/boot_internal.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* boot_params (the zero page), Documentation/x86/zero-page.rst */
#define ZP_ACPI_RSDP 0x70
#define ZP_E820_ENTRIES 0x1e8
#define ZP_BOOT_FLAG 0x1fe
#define ZP_HEADER_MAGIC 0x202
#define ZP_TYPE_OF_LOADER 0x210
#define ZP_RAMDISK_IMAGE 0x218
#define ZP_RAMDISK_SIZE 0x21c
#define ZP_CMD_LINE_PTR 0x228
#define ZP_E820_TABLE 0x2d0
#define ZP_E820_ENTRY_BYTES 20

#define PVH_MAGIC 0x336ec578u
#define MULTIBOOT_1_STARTED 0x2badb002u
#define MULTIBOOT_2_STARTED 0x36d76289u
#define PVH_MODLIST_OFFSET 64
#define PVH_MEMMAP_OFFSET 96

#define GDT_CODE_32 0x00cf9b000000ffffULL
#define GDT_CODE_64 0x00af9b000000ffffULL
#define PTE_PRESENT_WRITE 3ULL
#define PTE_LARGE (1ULL << 7)

bool boot_range_loadable(const struct memory *m, uint64_t gpa, uint64_t bytes)
{
	if (gpa < BOOT_KERNEL_MIN_GPA || !range_inside(gpa, bytes, m->low_bytes))
		return false;
	return gpa + bytes <= MEM_EBDA_BASE || gpa >= 0x100000;
}

int boot_read(struct boot_image *b, uint64_t file_off, uint64_t gpa, uint64_t bytes, struct err *e)
{
	int r;

	memory_populate(b->mem, gpa, bytes);
	r = pread_full(b->src->kernel_fd, b->mem->host + gpa, bytes, (off_t)file_off);
	if (r == -EIO)
		return err_set(e, r, ERR_INVALID, "kernel: the file is cut off");
	return r < 0 ? err_set_errno(e, r, "kernel") : 0;
}

static int head_read(struct boot_image *b, struct err *e)
{
	struct stat st;
	ssize_t n;

	if (fstat(b->src->kernel_fd, &st) < 0)
		return err_set_errno(e, -errno, "kernel");
	n = pread(b->src->kernel_fd, b->head, BOOT_HEADER_BYTES, 0);
	if (n < 0)
		return err_set_errno(e, -errno, "kernel");
	b->head_bytes = (size_t)n;
	b->file_bytes = (uint64_t)st.st_size;
	return 0;
}

/* Load the initrd at the top of low memory, clear of the range into which a kernel unpacks
 * itself. */
static int initrd_load(struct boot_image *b, struct err *e)
{
	uint64_t end = MIN(b->mem->low_bytes, b->initrd_max_gpa + 1), gpa;
	struct stat st;
	int r;

	if (b->src->initrd_fd < 0)
		return 0;
	if (fstat(b->src->initrd_fd, &st) < 0)
		return err_set_errno(e, -errno, "initrd");
	if (!S_ISREG(st.st_mode) || !st.st_size)
		return err_set(e, -EINVAL, ERR_INVALID, "initrd: empty, or not a regular file");
	end = ROUND_DOWN(end, 4096);
	if ((uint64_t)st.st_size > end)
		gpa = 0;
	else
		gpa = ROUND_DOWN(end - (uint64_t)st.st_size, 4096);
	if (gpa < ROUND_UP(b->kernel_end, 4096) || gpa < 0x100000)
		return err_set(e, -E2BIG, ERR_INVALID,
			"initrd: its %llu KiB do not fit behind the kernel, which ends at %llu KiB, below "
			"%llu KiB; give the VM more memory",
			(unsigned long long)st.st_size / 1024, (unsigned long long)b->kernel_end / 1024,
			(unsigned long long)end / 1024);
	memory_populate(b->mem, gpa, (uint64_t)st.st_size);
	r = pread_full(b->src->initrd_fd, b->mem->host + gpa, (size_t)st.st_size, 0);
	if (r < 0)
		return err_set_errno(e, r, "initrd");
	b->initrd_gpa = gpa;
	b->initrd_bytes = (uint64_t)st.st_size;
	return 0;
}

static void cmdline_write(struct boot_image *b)
{
	size_t n = strlen(b->src->cmdline);

	memcpy(b->mem->host + BOOT_CMDLINE_GPA, b->src->cmdline, n + 1);
}

static void boot_params_fill(struct boot_image *b)
{
	uint8_t *zp = b->mem->host + BOOT_PARAMS_GPA;
	struct memory_e820 map[MEMORY_E820_MAX];
	size_t n = memory_e820(b->mem, map);

	store_le64(zp + ZP_ACPI_RSDP, b->src->rsdp_gpa);
	store_le16(zp + ZP_BOOT_FLAG, 0xaa55);
	memcpy(zp + ZP_HEADER_MAGIC, "HdrS", 4);
	zp[ZP_TYPE_OF_LOADER] = 0xff; /* undefined loader */
	store_le32(zp + ZP_RAMDISK_IMAGE, (uint32_t)b->initrd_gpa);
	store_le32(zp + ZP_RAMDISK_SIZE, (uint32_t)b->initrd_bytes);
	store_le32(zp + ZP_CMD_LINE_PTR, BOOT_CMDLINE_GPA);
	zp[ZP_E820_ENTRIES] = (uint8_t)n;
	for (size_t i = 0; i < n; i++) {
		uint8_t *p = zp + ZP_E820_TABLE + i * ZP_E820_ENTRY_BYTES;

		store_le64(p, map[i].gpa);
		store_le64(p + 8, map[i].bytes);
		store_le32(p + 16, map[i].type);
	}
}

static void start_info_fill(struct boot_image *b)
{
	uint8_t *base = b->mem->host + BOOT_START_INFO_GPA;
	struct cursor c = cursor_over(base, 4096);
	struct memory_e820 map[MEMORY_E820_MAX];
	size_t n = memory_e820(b->mem, map);

	cursor_put_le32(&c, PVH_MAGIC);
	cursor_put_le32(&c, 1); /* version 1 has a memory map */
	cursor_put_le32(&c, 0);
	cursor_put_le32(&c, b->initrd_bytes ? 1 : 0);
	cursor_put_le64(&c, b->initrd_bytes ? BOOT_START_INFO_GPA + PVH_MODLIST_OFFSET : 0);
	cursor_put_le64(&c, BOOT_CMDLINE_GPA);
	cursor_put_le64(&c, b->src->rsdp_gpa);
	cursor_put_le64(&c, BOOT_START_INFO_GPA + PVH_MEMMAP_OFFSET);
	cursor_put_le32(&c, (uint32_t)n);
	c.pos = PVH_MODLIST_OFFSET;
	cursor_put_le64(&c, b->initrd_gpa);
	cursor_put_le64(&c, b->initrd_bytes);
	c.pos = PVH_MEMMAP_OFFSET;
	for (size_t i = 0; i < n; i++) {
		cursor_put_le64(&c, map[i].gpa);
		cursor_put_le64(&c, map[i].bytes);
		cursor_put_le32(&c, map[i].type);
		cursor_put_le32(&c, 0);
	}
}

/* Write a GDT with flat segments. No guest uses the TSS, but VMX requires one. */
static void gdt_write(struct memory *m, enum boot_protocol protocol, struct boot_entry *ret)
{
	uint8_t *p = m->host + BOOT_GDT_GPA;

	store_le64(p + BOOT_CS_LINUX, protocol == BOOT_LINUX_32 ? GDT_CODE_32 : GDT_CODE_64);
	store_le64(p + BOOT_DS, 0x00cf93000000ffffULL);
	store_le64(p + BOOT_CS32, GDT_CODE_32);
	store_le64(p + BOOT_TSS, 0x00008b0000000067ULL);
	ret->gdt_gpa = BOOT_GDT_GPA;
	ret->gdt_limit = BOOT_TSS + 16 - 1;
}

/* Map the first 4 GiB one to one in 2 MiB pages. */
static void page_tables_write(struct memory *m, struct boot_entry *ret)
{
	uint8_t *pml4 = m->host + BOOT_PML4_GPA, *pdpt = pml4 + 4096, *pd = pdpt + 4096;

	store_le64(pml4, (BOOT_PML4_GPA + 4096) | PTE_PRESENT_WRITE);
	for (uint64_t i = 0; i < 4; i++)
		store_le64(pdpt + 8 * i, (BOOT_PML4_GPA + (2 + i) * 4096) | PTE_PRESENT_WRITE);
	for (uint64_t i = 0; i < 4 * 512; i++)
		store_le64(pd + 8 * i, (i * 2 * MIB) | PTE_LARGE | PTE_PRESENT_WRITE);
	ret->cr3 = BOOT_PML4_GPA;
}

static void entry_fill(struct boot_image *b, struct boot_entry *ret)
{
	ret->mode = b->protocol == BOOT_LINUX_64 ? BOOT_LONG_64 : BOOT_PROTECTED_32;
	ret->rip = b->entry;
	switch (b->protocol) {
	case BOOT_LINUX_64:
	case BOOT_LINUX_32:
		boot_params_fill(b);
		ret->cs = BOOT_CS_LINUX;
		ret->rsi = BOOT_PARAMS_GPA;
		break;
	case BOOT_PVH:
		start_info_fill(b);
		ret->cs = BOOT_CS32;
		ret->rbx = BOOT_START_INFO_GPA;
		break;
	case BOOT_MULTIBOOT_1:
	case BOOT_MULTIBOOT_2:
		boot_multiboot_fill(b);
		ret->cs = BOOT_CS32;
		ret->rax = b->protocol == BOOT_MULTIBOOT_1 ? MULTIBOOT_1_STARTED : MULTIBOOT_2_STARTED;
		ret->rbx = BOOT_MULTIBOOT_GPA;
		break;
	}
}

static int boot_finish(struct boot_image *b, struct boot_entry *ret, struct err *e)
{
	int r = initrd_load(b, e);

	if (r < 0)
		return r;
	cmdline_write(b);
	gdt_write(b->mem, b->protocol, ret);
	if (b->protocol == BOOT_LINUX_64)
		page_tables_write(b->mem, ret);
	entry_fill(b, ret);
	return 0;
}

static int kernel_load(struct boot_image *b, struct err *e)
{
	struct boot_multiboot h;
	bool multiboot = boot_multiboot_find(b, &h);

	if (boot_elf_is(b))
		return boot_elf_load(b, multiboot ? &h : NULL, e);
	if (boot_bzimage_is(b))
		return boot_bzimage_load(b, e);
	if (multiboot && h.has_addresses)
		return boot_multiboot_load(b, &h, e);
	return err_set(e, -EINVAL, ERR_INVALID,
		"kernel: neither an ELF file (vmlinux) nor a bzImage, and it has no Multiboot header with addresses");
}

int boot_load(struct memory *m, const struct boot_source *s, struct boot_entry *ret, struct err *e)
{
	struct boot_image b = { .mem = m, .src = s, .initrd_max_gpa = MEM_LOW_MAX - 1 };
	int r;

	memset(ret, 0, sizeof(*ret));
	if (m->low_bytes < 2 * MIB)
		return err_set(e, -E2BIG, ERR_INVALID, "a kernel needs at least 2 MiB of memory");
	/* The stack and the heap would keep these pages as long as the process lives. */
	b.head = mmap(NULL, BOOT_HEADER_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	if (b.head == MAP_FAILED)
		return err_set_errno(e, -errno, "kernel");
	r = head_read(&b, e);
	if (!r)
		r = kernel_load(&b, e);
	munmap(b.head, BOOT_HEADER_BYTES);
	return r < 0 ? r : boot_finish(&b, ret, e);
}
