/* The head of a dump, read back as ELF. */
#include "vmm/snapshot/elf_core.h"
#include "base/bytes.h"
#include "base/util.h"

#include <elf.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define LOW 0xc0000000ULL
#define HIGH 0x40000000ULL

static struct elf_core_cpu cpu_of(unsigned i)
{
	struct elf_core_cpu c = { .kernel_gs_base = 0xffff888000000000ULL + i };

	c.regs = (struct kvm_regs){ .rax = 0x100 + i, .rsp = 0x200 + i, .r15 = 0x300 + i, .rip = 0x400 + i,
		.rflags = 0x202 };
	c.sregs.cs = (struct kvm_segment){ .selector = 0x10, .limit = 0xffffffff, .type = 11, .s = 1, .present = 1,
		.l = 1, .g = 1, .dpl = 3 };
	c.sregs.gs.base = 0x500 + i;
	c.sregs.idt = (struct kvm_dtable){ .base = 0x600 + i, .limit = 0xfff };
	c.sregs.cr0 = 0x80000011;
	c.sregs.cr3 = 0x700 + i;
	c.sregs.cr4 = 0x20;
	return c;
}

/* Return the n-th note of a name. */
static const uint8_t *note(const uint8_t *head, const Elf64_Phdr *p, const char *name, unsigned n, size_t bytes)
{
	size_t off = p->p_offset;

	while (off < p->p_offset + p->p_filesz) {
		Elf64_Nhdr h;

		memcpy(&h, head + off, sizeof(h));
		off += sizeof(h);
		assert_int_equal(h.n_namesz, 5);
		off += ROUND_UP(h.n_namesz, 4);
		if (!strcmp((const char *)head + off - 8, name) && !n--) {
			assert_int_equal(h.n_descsz, bytes);
			return head + off;
		}
		off += ROUND_UP(h.n_descsz, 4);
	}
	fail_msg("no note %s", name);
	return NULL;
}

static void segments(void **state)
{
	const struct elf_core_cpu cpu = cpu_of(0);
	const struct elf_core_ram ram[] = { { 0, LOW }, { 1ULL << 32, HIGH } };
	Elf64_Ehdr h;
	Elf64_Phdr p[3];
	uint8_t *head;
	size_t bytes;

	(void)state;
	assert_int_equal(elf_core_head(&cpu, 1, ram, 2, &head, &bytes, NULL), 0);
	assert_int_equal(bytes % 4096, 0);
	memcpy(&h, head, sizeof(h));
	assert_memory_equal(h.e_ident, ELFMAG, SELFMAG);
	assert_int_equal(h.e_type, ET_CORE);
	assert_int_equal(h.e_machine, EM_X86_64);
	assert_int_equal(h.e_phnum, 3);
	memcpy(p, head + h.e_phoff, sizeof(p));
	assert_int_equal(p[0].p_type, PT_NOTE);
	assert_true(p[0].p_offset + p[0].p_filesz <= bytes);
	assert_int_equal(p[1].p_type, PT_LOAD);
	assert_int_equal(p[1].p_offset, bytes);
	assert_int_equal(p[1].p_paddr, 0);
	assert_int_equal(p[1].p_filesz, LOW);
	assert_int_equal(p[2].p_offset, bytes + LOW);
	assert_int_equal(p[2].p_paddr, 1ULL << 32);
	assert_int_equal(p[2].p_memsz, HIGH);
	free(head);
}

static void notes(void **state)
{
	const struct elf_core_cpu cpus[] = { cpu_of(0), cpu_of(1), cpu_of(2) };
	const struct elf_core_ram ram = { 0, 1 << 20 };
	Elf64_Phdr p;
	uint8_t *head;
	size_t bytes;

	(void)state;
	assert_int_equal(elf_core_head(cpus, 3, &ram, 1, &head, &bytes, NULL), 0);
	memcpy(&p, head + sizeof(Elf64_Ehdr), sizeof(p));
	for (unsigned i = 0; i < 3; i++) {
		const uint8_t *s = note(head, &p, "CORE", i, 336), *q = note(head, &p, "QEMU", i, 440);

		assert_int_equal(load_le32(s + 32), i + 1);
		assert_int_equal(load_le64(s + 112), 0x300 + i); /* r15 */
		assert_int_equal(load_le64(s + 112 + 16 * 8), 0x400 + i); /* rip */
		assert_int_equal(load_le64(s + 112 + 19 * 8), 0x200 + i); /* rsp */
		assert_int_equal(load_le64(s + 112 + 22 * 8), 0x500 + i); /* gs base */
		assert_int_equal(load_le32(q), 1);
		assert_int_equal(load_le32(q + 4), 440);
		assert_int_equal(load_le64(q + 8), 0x100 + i); /* rax */
		assert_int_equal(load_le32(q + 152), 0x10); /* cs */
		assert_int_equal(load_le32(q + 160), 0x00a0fb00);
		assert_int_equal(load_le64(q + 152 + 9 * 24 + 16), 0x600 + i); /* idt */
		assert_int_equal(load_le64(q + 392 + 3 * 8), 0x700 + i); /* cr3 */
		assert_int_equal(load_le64(q + 432), 0xffff888000000000ULL + i);
	}
	free(head);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(segments),
		cmocka_unit_test(notes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
