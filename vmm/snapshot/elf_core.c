#include "vmm/snapshot/elf_core.h"
#include "base/bytes.h"
#include "base/err.h"
#include "base/util.h"

#include <elf.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Layout of struct elf_prstatus: signal and times, pid, times, registers, "floating point
 * valid". */
#define PRSTATUS_BYTES 336
#define PRSTATUS_PID 32
#define PRSTATUS_REGS 112
#define QEMU_STATE_BYTES 440
#define QEMU_STATE_VERSION 1
#define NOTE_NAME_BYTES 8 /* "CORE" or "QEMU" with its NUL, padded */
#define NOTE_BYTES(content) (sizeof(Elf64_Nhdr) + NOTE_NAME_BYTES + (content))
#define RAM_ALIGN 4096

static void put_note(struct cursor *c, const char *name, uint32_t type, uint32_t content_bytes)
{
	uint8_t padded[NOTE_NAME_BYTES] = { 0 };

	memcpy(padded, name, strlen(name));
	cursor_put_le32(c, (uint32_t)strlen(name) + 1);
	cursor_put_le32(c, content_bytes);
	cursor_put_le32(c, type);
	cursor_put_bytes(c, padded, sizeof(padded));
}

static void put_values(struct cursor *c, const uint64_t *v, size_t n)
{
	for (size_t i = 0; i < n; i++)
		cursor_put_le64(c, v[i]);
}

/* gdb tells threads apart by their pid, which must not be 0. */
static void put_prstatus(struct cursor *c, const struct elf_core_cpu *cpu, unsigned index)
{
	const struct kvm_regs *r = &cpu->regs;
	const struct kvm_sregs *s = &cpu->sregs;
	const uint64_t regs[] = { r->r15, r->r14, r->r13, r->r12, r->rbp, r->rbx, r->r11, r->r10, r->r9,
		r->r8, r->rax, r->rcx, r->rdx, r->rsi, r->rdi, r->rax, r->rip, s->cs.selector, r->rflags,
		r->rsp, s->ss.selector, s->fs.base, s->gs.base, s->ds.selector, s->es.selector,
		s->fs.selector, s->gs.selector };
	uint8_t *at;

	put_note(c, "CORE", NT_PRSTATUS, PRSTATUS_BYTES);
	at = cursor_take(c, PRSTATUS_BYTES);
	if (!at)
		return;
	store_le32(at + PRSTATUS_PID, index + 1);
	for (size_t i = 0; i < ARRAY_SIZE(regs); i++)
		store_le64(at + PRSTATUS_REGS + 8 * i, regs[i]);
}

/* Write a segment register. The flags have the layout of a descriptor's second word. */
static void put_segment(struct cursor *c, const struct kvm_segment *s)
{
	cursor_put_le32(c, s->selector);
	cursor_put_le32(c, s->limit);
	cursor_put_le32(c, (uint32_t)s->type << 8 | (uint32_t)s->s << 12 | (uint32_t)s->dpl << 13 |
		(uint32_t)s->present << 15 | (uint32_t)s->avl << 20 | (uint32_t)s->l << 21 |
		(uint32_t)s->db << 22 | (uint32_t)s->g << 23);
	cursor_put_le32(c, 0);
	cursor_put_le64(c, s->base);
}

static void put_table(struct cursor *c, const struct kvm_dtable *t)
{
	put_segment(c, &(struct kvm_segment){ .base = t->base, .limit = t->limit });
}

static void put_qemu_state(struct cursor *c, const struct elf_core_cpu *cpu)
{
	const struct kvm_regs *r = &cpu->regs;
	const struct kvm_sregs *s = &cpu->sregs;
	const uint64_t regs[] = { r->rax, r->rbx, r->rcx, r->rdx, r->rsi, r->rdi, r->rsp, r->rbp, r->r8,
		r->r9, r->r10, r->r11, r->r12, r->r13, r->r14, r->r15, r->rip, r->rflags };
	const uint64_t control[] = { s->cr0, 0, s->cr2, s->cr3, s->cr4, cpu->kernel_gs_base };

	put_note(c, "QEMU", 0, QEMU_STATE_BYTES);
	cursor_put_le32(c, QEMU_STATE_VERSION);
	cursor_put_le32(c, QEMU_STATE_BYTES);
	put_values(c, regs, ARRAY_SIZE(regs));
	put_segment(c, &s->cs);
	put_segment(c, &s->ds);
	put_segment(c, &s->es);
	put_segment(c, &s->fs);
	put_segment(c, &s->gs);
	put_segment(c, &s->ss);
	put_segment(c, &s->ldt);
	put_segment(c, &s->tr);
	put_table(c, &s->gdt);
	put_table(c, &s->idt);
	put_values(c, control, ARRAY_SIZE(control));
}

static void put_elf_header(struct cursor *c, unsigned nsegments)
{
	Elf64_Ehdr h = { .e_ident = { ELFMAG0, ELFMAG1, ELFMAG2, ELFMAG3, ELFCLASS64, ELFDATA2LSB, EV_CURRENT },
		.e_type = ET_CORE, .e_machine = EM_X86_64, .e_version = EV_CURRENT,
		.e_phoff = sizeof(Elf64_Ehdr), .e_ehsize = sizeof(Elf64_Ehdr),
		.e_phentsize = sizeof(Elf64_Phdr), .e_phnum = (Elf64_Half)nsegments };

	cursor_put_bytes(c, &h, sizeof(h));
}

static void put_segments(struct cursor *c, uint64_t notes_bytes, const struct elf_core_ram *ram, unsigned n,
	uint64_t ram_offset)
{
	Elf64_Phdr h = { .p_type = PT_NOTE, .p_offset = sizeof(Elf64_Ehdr) + (n + 1) * sizeof(h),
		.p_filesz = notes_bytes, .p_memsz = notes_bytes };

	cursor_put_bytes(c, &h, sizeof(h));
	for (unsigned i = 0; i < n; i++) {
		h = (Elf64_Phdr){ .p_type = PT_LOAD, .p_flags = PF_R | PF_W | PF_X, .p_offset = ram_offset,
			.p_vaddr = ram[i].gpa, .p_paddr = ram[i].gpa, .p_filesz = ram[i].bytes,
			.p_memsz = ram[i].bytes, .p_align = RAM_ALIGN };
		cursor_put_bytes(c, &h, sizeof(h));
		ram_offset += ram[i].bytes;
	}
}

static size_t notes_bytes(unsigned ncpus)
{
	return ncpus * (NOTE_BYTES(PRSTATUS_BYTES) + NOTE_BYTES(QEMU_STATE_BYTES));
}

size_t elf_core_head_bytes(unsigned ncpus, unsigned nram)
{
	return ROUND_UP(sizeof(Elf64_Ehdr) + (nram + 1) * sizeof(Elf64_Phdr) + notes_bytes(ncpus), RAM_ALIGN);
}

int elf_core_head(const struct elf_core_cpu *cpus, unsigned ncpus, const struct elf_core_ram *ram, unsigned n,
	uint8_t **ret_head, size_t *ret_bytes, struct err *e)
{
	size_t all = elf_core_head_bytes(ncpus, n);
	uint8_t *head = calloc(1, all);
	struct cursor c = cursor_over(head, all);

	if (!head)
		return err_set_errno(e, -ENOMEM, "dump");
	put_elf_header(&c, n + 1);
	put_segments(&c, notes_bytes(ncpus), ram, n, all);
	for (unsigned i = 0; i < ncpus; i++)
		put_prstatus(&c, &cpus[i], i);
	for (unsigned i = 0; i < ncpus; i++)
		put_qemu_state(&c, &cpus[i]);
	*ret_head = head;
	*ret_bytes = all;
	return 0;
}
