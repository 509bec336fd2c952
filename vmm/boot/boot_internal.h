/* Declarations that boot.c and the loaders of the kernel formats share. */
#ifndef CAIRN_VMM_BOOT_BOOT_INTERNAL_H
#define CAIRN_VMM_BOOT_BOOT_INTERNAL_H

#include "vmm/boot/boot.h"
#include "vmm/kvm/memory.h"

#include <stddef.h>

/* Addresses in low memory that the loader itself fills. */
#define BOOT_GDT_GPA 0x500ULL
#define BOOT_START_INFO_GPA 0x6000ULL
#define BOOT_PARAMS_GPA 0x7000ULL
#define BOOT_PML4_GPA 0x9000ULL /* PML4, PDPT and four PDs */
#define BOOT_CMDLINE_GPA 0x20000ULL
#define BOOT_KERNEL_MIN_GPA 0x30000ULL

#define BOOT_HEADER_BYTES 4096u

/* A kernel in guest memory, and the place of its initrd. */
struct boot_image {
	struct memory *mem;
	const struct boot_source *src;
	uint8_t head[BOOT_HEADER_BYTES]; /* the file's first bytes, zero-filled */
	size_t head_bytes;
	uint64_t file_bytes;
	uint64_t kernel_end;	 /* first byte after the kernel, bss included */
	uint64_t initrd_max_gpa; /* last byte that the initrd may use */
	uint64_t initrd_gpa, initrd_bytes;
};

/* Return whether [gpa, gpa + bytes) is RAM that a kernel may be loaded into. */
bool boot_range_loadable(const struct memory *m, uint64_t gpa, uint64_t bytes);
/* Read file bytes into guest memory. The caller has checked both ranges. */
int boot_read(struct boot_image *b, uint64_t file_off, uint64_t gpa, uint64_t bytes, struct err *e);

bool boot_elf_is(const struct boot_image *b);
/* Load the segments. *ret_pvh_entry is 0 when the file has no PVH note. */
int boot_elf_load(struct boot_image *b, uint64_t *ret_entry, uint64_t *ret_pvh_entry, struct err *e);

bool boot_bzimage_is(const struct boot_image *b);
/* Load the protected-mode part and copy the setup header into boot_params. */
int boot_bzimage_load(struct boot_image *b, uint64_t *ret_entry, struct err *e);

#endif
