/* boot: loads a kernel into guest memory and computes the initial state of vCPU 0.
 *
 * Kernel formats, recognized by their headers:
 *  - ELF with the note XEN_ELFNOTE_PHYS32_ENTRY: PVH (Xen's pvh.html;
 *    include/public/arch-x86/hvm/start_info.h). 32-bit protected mode, EBX → hvm_start_info.
 *  - Multiboot 2 and 1, as ELF or with the header's own load addresses (GNU's "Multiboot2 Specification" and "Multiboot
 *    Specification"). 32-bit protected mode, EBX → the information; the initrd is the only module.
 *  - other ELF64: the entry point in long mode, RSI → boot_params (Linux's startup_64).
 *  - bzImage, protocol ≥ 2.12 with XLF_KERNEL_64 (Documentation/x86/boot.rst): its 64-bit entry.
 *  - other bzImages, protocol ≥ 2.10: the 32-bit entry, RSI → boot_params. */
#ifndef CAIRN_VMM_BOOT_BOOT_H
#define CAIRN_VMM_BOOT_BOOT_H

#include "vmm/kvm/vcpu.h"

#include <stdint.h>

struct err;
struct memory;

struct boot_source {
	int kernel_fd; /* borrowed; read with pread, so that a reset can load the kernel again */
	int initrd_fd; /* -1: none */
	const char *cmdline;
	uint64_t rsdp_gpa;
};

/* Load kernel and initrd, and fill *ret. Guest memory must be all zeros, because the loader does
 * not clear bss.
 * Returns 0; -EINVAL for a file that is no kernel for this machine (truncated, another
 * architecture); -E2BIG when kernel or initrd do not fit into memory; -errno of a read. With -EINVAL and -E2BIG,
 * the error has the fault of the file, or the amount of memory that is needed. */
int boot_load(struct memory *m, const struct boot_source *s, struct boot_entry *ret, struct err *e);

#endif
