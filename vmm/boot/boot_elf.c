/* Loader of ELF kernels: vmlinux, Multiboot kernels and Cairn's own test guests (System V ABI, chapters 4 and 5). */
#include "base/bytes.h"
#include "base/err.h"
#include "base/file.h"
#include "base/util.h"
#include "vmm/boot/boot_internal.h"

#include <elf.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define NOTE_XEN_PHYS32_ENTRY 18
#define NOTES_MAX_BYTES (64 * 1024)

bool boot_elf_is(const struct boot_image *b)
{
	return b->head_bytes >= SELFMAG && !memcmp(b->head, ELFMAG, SELFMAG);
}

static bool is_32(const struct boot_image *b)
{
	return b->head[EI_CLASS] == ELFCLASS32;
}

/* Read the header of either class. */
static Elf64_Ehdr header_read(const struct boot_image *b)
{
	Elf32_Ehdr h;
	Elf64_Ehdr ret;

	memcpy(&ret, b->head, sizeof(ret));
	if (!is_32(b))
		return ret;
	memcpy(&h, b->head, sizeof(h));
	ret.e_entry = h.e_entry;
	ret.e_phoff = h.e_phoff;
	ret.e_phentsize = h.e_phentsize;
	ret.e_phnum = h.e_phnum;
	return ret;
}

static Elf64_Phdr segment_read(const struct boot_image *b, const Elf64_Ehdr *h, unsigned i)
{
	const uint8_t *at = b->head + h->e_phoff + i * h->e_phentsize;
	Elf64_Phdr ret;
	Elf32_Phdr p;

	if (!is_32(b)) {
		memcpy(&ret, at, sizeof(ret));
		return ret;
	}
	memcpy(&p, at, sizeof(p));
	return (Elf64_Phdr){ .p_type = p.p_type, .p_offset = p.p_offset, .p_vaddr = p.p_vaddr, .p_paddr = p.p_paddr,
		.p_filesz = p.p_filesz, .p_memsz = p.p_memsz };
}

static int header_check(const struct boot_image *b, const Elf64_Ehdr *h, struct err *e)
{
	unsigned bytes = is_32(b) ? sizeof(Elf32_Phdr) : sizeof(Elf64_Phdr);

	if (b->head_bytes < sizeof(*h))
		return err_set(e, -EINVAL, ERR_INVALID, "kernel: the ELF header is cut off");
	if (h->e_ident[EI_CLASS] != (is_32(b) ? ELFCLASS32 : ELFCLASS64) || h->e_ident[EI_DATA] != ELFDATA2LSB ||
		h->e_machine != (is_32(b) ? EM_386 : EM_X86_64))
		return err_set(e, -EINVAL, ERR_INVALID,
			"kernel: an ELF file for another architecture (class %u, machine %u); an x86-64 or i386 one "
			"is needed", h->e_ident[EI_CLASS], h->e_machine);
	if (h->e_type != ET_EXEC && h->e_type != ET_DYN)
		return err_set(e, -EINVAL, ERR_INVALID, "kernel: an ELF file, but not an executable");
	if (h->e_phentsize != bytes || !h->e_phnum ||
		!range_inside(h->e_phoff, (uint64_t)h->e_phnum * bytes, b->head_bytes))
		return err_set(e, -EINVAL, ERR_INVALID, "kernel: malformed ELF file: its program "
			"headers are missing");
	return 0;
}

static int segment_load(struct boot_image *b, const Elf64_Phdr *p, struct err *e)
{
	if (!p->p_memsz && !p->p_filesz)
		return 0;
	if (p->p_filesz > p->p_memsz || !range_inside(p->p_offset, p->p_filesz, b->file_bytes))
		return err_set(e, -EINVAL, ERR_INVALID,
			"kernel: the file is cut off (a segment ends beyond its %llu bytes)",
			(unsigned long long)b->file_bytes);
	if (!boot_range_loadable(b->mem, p->p_paddr, p->p_memsz))
		return err_set(e, -E2BIG, ERR_INVALID,
			"kernel: a segment of %llu KiB at 0x%llx does not fit into the VM's memory of %llu "
			"MiB", (unsigned long long)p->p_memsz / 1024, (unsigned long long)p->p_paddr,
			(unsigned long long)(b->mem->bytes / MIB));
	b->kernel_end = MAX(b->kernel_end, p->p_paddr + p->p_memsz);
	return boot_read(b, p->p_offset, p->p_paddr, p->p_filesz, e);
}

/* Return the PVH entry point from the notes; 0 when no note has one. */
static uint64_t notes_find_pvh(const uint8_t *notes, size_t len)
{
	struct cursor c = cursor_over((void *)notes, len);

	while (cursor_left(&c) >= 12) {
		uint32_t name_len = cursor_le32(&c), desc_len = cursor_le32(&c), type = cursor_le32(&c);
		const uint8_t *name, *desc;

		if (name_len > len || desc_len > len)
			return 0;
		name = cursor_take(&c, ROUND_UP((size_t)name_len, 4));
		desc = cursor_take(&c, desc_len);
		if (!cursor_ok(&c))
			return 0;
		if (type == NOTE_XEN_PHYS32_ENTRY && name_len == 4 && !memcmp(name, "Xen", 4) &&
			(desc_len == 4 || desc_len == 8))
			return load_le(desc, desc_len);
		cursor_skip(&c, MIN(ROUND_UP((size_t)desc_len, 4) - desc_len, cursor_left(&c)));
	}
	return 0;
}

static int notes_read(struct boot_image *b, const Elf64_Phdr *p, uint64_t *pvh, struct err *e)
{
	size_t len = MIN(p->p_filesz, NOTES_MAX_BYTES);
	uint8_t *notes;
	int r;

	if (!len || !range_inside(p->p_offset, len, b->file_bytes))
		return 0;
	notes = malloc(len);
	if (!notes)
		return err_set_errno(e, -ENOMEM, "kernel");
	r = pread_full(b->src->kernel_fd, notes, len, (off_t)p->p_offset);
	if (!r && !*pvh)
		*pvh = notes_find_pvh(notes, len);
	free(notes);
	return r < 0 ? err_set_errno(e, r, "kernel") : 0;
}

/* Return the address where a Multiboot kernel's entry point is loaded. Some kernels have a linear address in their
 * header, for their own paging; boot loaders then search its segment (GRUB: grub-core/loader/multiboot_elfxx.c). */
static uint64_t entry_gpa(const struct boot_image *b, const Elf64_Ehdr *h)
{
	for (unsigned i = 0; i < h->e_phnum; i++) {
		Elf64_Phdr p = segment_read(b, h, i);

		if (p.p_type == PT_LOAD && h->e_entry - p.p_vaddr < p.p_memsz && h->e_entry >= p.p_vaddr)
			return h->e_entry - p.p_vaddr + p.p_paddr;
	}
	return h->e_entry;
}

static int entry_set(struct boot_image *b, const Elf64_Ehdr *h, const struct boot_multiboot *multiboot, uint64_t pvh,
	struct err *e)
{
	if (pvh) {
		b->protocol = BOOT_PVH;
		b->entry = pvh;
	} else if (multiboot) {
		b->protocol = multiboot->protocol;
		b->entry = multiboot->has_entry ? multiboot->entry_gpa : entry_gpa(b, h);
		return boot_multiboot_check(multiboot, e);
	} else if (is_32(b)) {
		return err_set(e, -EINVAL, ERR_INVALID, "kernel: a 32-bit ELF file with neither a PVH note nor a Multiboot header, so "
			"nothing says how it starts; give the bzImage of a 32-bit Linux");
	} else {
		b->protocol = BOOT_LINUX_64;
		b->entry = h->e_entry;
	}
	return 0;
}

int boot_elf_load(struct boot_image *b, const struct boot_multiboot *multiboot, struct err *e)
{
	Elf64_Ehdr h = header_read(b);
	uint64_t pvh = 0;
	int r = header_check(b, &h, e);

	for (unsigned i = 0; i < h.e_phnum && !r; i++) {
		Elf64_Phdr p = segment_read(b, &h, i);

		if (p.p_type == PT_LOAD)
			r = segment_load(b, &p, e);
		else if (p.p_type == PT_NOTE)
			r = notes_read(b, &p, &pvh, e);
	}
	if (!r)
		r = entry_set(b, &h, multiboot, pvh, e);
	if (r < 0)
		return r;
	if (!b->kernel_end || !boot_range_loadable(b->mem, b->entry, 1))
		return err_set(e, -EINVAL, ERR_INVALID, "kernel: its entry point is not in memory");
	return 0;
}
