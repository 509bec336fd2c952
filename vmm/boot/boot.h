/* boot: loads a kernel into guest memory and computes the initial state of vCPU 0.
 *
 * Kernel formats, recognized by their headers:
 *  - ELF with the note XEN_ELFNOTE_PHYS32_ENTRY: PVH (Xen's pvh.html;
 *    include/public/arch-x86/hvm/start_info.h). 32-bit protected mode, EBX → hvm_start_info.
 *  - other ELF64: the entry point in long mode, RSI → boot_params (Linux's startup_64).
 *  - bzImage, protocol ≥ 2.12 with XLF_KERNEL_64 (Documentation/x86/boot.rst). */
#ifndef CAIRN_VMM_BOOT_BOOT_H
#define CAIRN_VMM_BOOT_BOOT_H

#include <stdbool.h>
#include <stdint.h>

struct err;
struct memory;

enum boot_mode { BOOT_PROTECTED_32, BOOT_LONG_64 };

/* Initial state of vCPU 0. */
struct boot_entry {
	enum boot_mode mode;
	uint64_t rip;
	uint64_t rbx, rsi; /* gpa of start_info; gpa of boot_params */
	uint64_t cr3;	   /* long mode only */
	uint64_t gdt_gpa;
	uint16_t gdt_limit;
};

struct boot_source {
	int kernel_fd; /* borrowed; read with pread, so that a reset can load the kernel again */
	int initrd_fd; /* -1: none */
	const char *cmdline;
	uint64_t rsdp_gpa;
};

/* Selectors of the GDT that boot_load() writes. The 64-bit boot protocol prescribes these values
 * for __BOOT_CS and __BOOT_DS. */
#define BOOT_CS32 0x08
#define BOOT_CS64 0x10
#define BOOT_DS 0x18
#define BOOT_TSS 0x20

/* Load kernel and initrd, and fill *ret. Guest memory must be all zeros, because the loader does
 * not clear bss.
 * Returns 0; -EINVAL for a file that is no kernel for this machine (truncated, another
 * architecture); -E2BIG when kernel or initrd do not fit into memory; -EIO. The error says which
 * kernel or how much memory would do. */
int boot_load(struct memory *m, const struct boot_source *s, struct boot_entry *ret, struct err *e);

#endif
