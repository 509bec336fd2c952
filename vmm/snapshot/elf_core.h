/* elf_core: the head of a dump of guest memory: an ELF64 core file in the layout of QEMU's
 * dump-guest-memory, for gdb and crash.
 *
 *   ELF header, program headers
 *   notes        for each vCPU "CORE" NT_PRSTATUS (gdb's registers), then for each "QEMU"
 *                (segments, control registers and the kernel's GS base, for crash): struct
 *                QEMUCPUState of QEMU's target/i386/arch_dump.c
 *   RAM          starts at a multiple of 4 KiB, in the memfd's layout: low part, then high part
 *
 * p_paddr and p_vaddr are both guest-physical addresses, so that gdb's x command reads them. */
#ifndef CAIRN_VMM_SNAPSHOT_ELF_CORE_H
#define CAIRN_VMM_SNAPSHOT_ELF_CORE_H

#include <linux/kvm.h>
#include <stddef.h>
#include <stdint.h>

struct err;

struct elf_core_cpu {
	struct kvm_regs regs;
	struct kvm_sregs sregs;
	uint64_t kernel_gs_base;
};

struct elf_core_ram {
	uint64_t gpa, bytes;
};

/* Return the length of the head, a multiple of 4096.
 * nram: number of ranges. */
size_t elf_core_head_bytes(unsigned ncpus, unsigned nram);
/* Build the head.
 * ram: n ranges, none of them empty.
 * *ret_head: owned by the caller (free()); *ret_bytes: its length and thereby the offset of RAM.
 * Returns 0 or -ENOMEM. */
int elf_core_head(const struct elf_core_cpu *cpus, unsigned ncpus, const struct elf_core_ram *ram, unsigned n,
	uint8_t **ret_head, size_t *ret_bytes, struct err *e);

#endif
