/* core: the head of a dump of a guest's memory: an ELF64 core file, as QEMU's dump-guest-memory writes it and gdb
 * and crash read it.
 *
 *   ELF header, program headers
 *   notes        for each vCPU "CORE" NT_PRSTATUS (gdb's registers), then for each "QEMU" (with segments, control
 *                registers and the kernel's GS, for crash): struct QEMUCPUState of QEMU's target/i386/arch_dump.c
 *   RAM          from a multiple of 4 KiB on, as it lies in the memfd: the low part, then the high one
 *
 * Addresses are the guest's physical ones, as p_paddr and as p_vaddr, so that gdb's x reads them. */
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

/* ram: n of them, without those of no bytes. *ret_head: owned (free()); *ret_bytes: its length and so the
 * offset of RAM, a multiple of 4096. Returns 0 or -ENOMEM. */
int elf_core_head(const struct elf_core_cpu *cpus, unsigned ncpus, const struct elf_core_ram *ram, unsigned n,
	uint8_t **ret_head, size_t *ret_bytes, struct err *e);

#endif
