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
#define BOOT_MULTIBOOT_GPA 0x10000ULL
#define BOOT_MULTIBOOT_BYTES 0x2000u
#define BOOT_CMDLINE_GPA 0x20000ULL
#define BOOT_KERNEL_MIN_GPA 0x30000ULL

#define BOOT_HEADER_BYTES 32768u /* where a Multiboot 2 header may lie */

enum boot_protocol { BOOT_LINUX_64, BOOT_LINUX_32, BOOT_PVH, BOOT_MULTIBOOT_1, BOOT_MULTIBOOT_2 };

/* A kernel in guest memory, and the place of its initrd. */
struct boot_image {
	struct memory *mem;
	const struct boot_source *src;
	uint8_t *head; /* the file's first BOOT_HEADER_BYTES, zero-filled */
	size_t head_bytes;
	uint64_t file_bytes;
	uint64_t kernel_end;	 /* first byte after the kernel, bss included */
	uint64_t initrd_max_gpa; /* last byte that the initrd may use */
	uint64_t initrd_gpa, initrd_bytes;
	enum boot_protocol protocol;
	uint64_t entry;
};

/* Return whether [gpa, gpa + bytes) is RAM that a kernel may be loaded into. */
bool boot_range_loadable(const struct memory *m, uint64_t gpa, uint64_t bytes);
/* Read file bytes into guest memory. The caller has checked both ranges. */
int boot_read(struct boot_image *b, uint64_t file_off, uint64_t gpa, uint64_t bytes, struct err *e);

bool boot_elf_is(const struct boot_image *b);
struct boot_multiboot;
/* Load the segments, and set protocol and entry: of a PVH note; else of `multiboot`; if that is NULL, of the file.
 * multiboot: the file's Multiboot header; NULL: it has none. */
int boot_elf_load(struct boot_image *b, const struct boot_multiboot *multiboot, struct err *e);

bool boot_bzimage_is(const struct boot_image *b);
/* Load the protected-mode part and copy the setup header into boot_params. */
int boot_bzimage_load(struct boot_image *b, struct err *e);

/* A kernel's Multiboot header. */
struct boot_multiboot {
	enum boot_protocol protocol;
	uint32_t offset; /* of the header in the file */
	uint32_t unknown; /* flags (Multiboot 1) or a tag (2) that the kernel demands and Cairn does not know; 0: none */
	bool has_addresses; /* to load a file that is not ELF */
	bool has_entry; /* instead of that of an ELF file */
	uint32_t header_gpa, load_gpa, load_end_gpa, bss_end_gpa, entry_gpa; /* the two ends: 0 if the header has none */
};
/* Find a header. Returns whether there is one. */
bool boot_multiboot_find(const struct boot_image *b, struct boot_multiboot *ret);
/* Refuse a kernel that demands a feature that Cairn does not support. Returns 0 or -EINVAL. */
int boot_multiboot_check(const struct boot_multiboot *h, struct err *e);
/* Load a kernel whose header has addresses. */
int boot_multiboot_load(struct boot_image *b, const struct boot_multiboot *h, struct err *e);
/* Write the information for the kernel, which is loaded, and whose command line is in memory. */
void boot_multiboot_fill(struct boot_image *b);

#endif
