/* What boot.c and the loaders of each kernel format share. */
#ifndef CAIRN_VMM_BOOT_BOOT_INTERNAL_H
#define CAIRN_VMM_BOOT_BOOT_INTERNAL_H

#include "vmm/boot/boot.h"
#include "vmm/kvm/memory.h"

#include <stddef.h>

/* Low memory that the loader itself fills. */
#define BOOT_GDT_GPA 0x500ULL
#define BOOT_START_INFO_GPA 0x6000ULL
#define BOOT_PARAMS_GPA 0x7000ULL
#define BOOT_PML4_GPA 0x9000ULL /* PML4, PDPT, four PDs */
#define BOOT_CMDLINE_GPA 0x20000ULL
#define BOOT_KERNEL_MIN_GPA 0x30000ULL

#define BOOT_HEADER_BYTES 4096u

/* A kernel that lies in memory, and where its initrd went. */
struct boot_image {
	struct memory *mem;
	const struct boot_source *src;
	uint8_t head[BOOT_HEADER_BYTES]; /* the file's first bytes, zero-filled */
	size_t head_bytes;
	uint64_t file_bytes;
	uint64_t kernel_end;	 /* first byte after it, bss included */
	uint64_t initrd_max_gpa; /* last byte an initrd may use */
	uint64_t initrd_gpa, initrd_bytes;
};

/* True when [gpa, gpa+bytes) is RAM that a kernel may be put into. */
bool boot_range_loadable(const struct memory *m, uint64_t gpa, uint64_t bytes);
/* Read file bytes into guest memory; the caller checked both ranges. */
int boot_read(struct boot_image *b, uint64_t file_off, uint64_t gpa, uint64_t bytes, struct err *e);

bool boot_elf_is(const struct boot_image *b);
/* Loads the segments; *ret_pvh_entry is 0 when there is no PVH note. */
int boot_elf_load(struct boot_image *b, uint64_t *ret_entry, uint64_t *ret_pvh_entry, struct err *e);

bool boot_bzimage_is(const struct boot_image *b);
/* Loads the protected-mode part and copies the setup header into boot_params. */
int boot_bzimage_load(struct boot_image *b, uint64_t *ret_entry, struct err *e);

#endif
