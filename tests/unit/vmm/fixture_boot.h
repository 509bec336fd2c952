/* fixture_boot: hand-made kernel files in a memfd, and checks of the loaded result. */
#ifndef CAIRN_TESTS_UNIT_VMM_FIXTURE_BOOT_H
#define CAIRN_TESTS_UNIT_VMM_FIXTURE_BOOT_H

#include "base/err.h"
#include "vmm/boot/boot.h"
#include "vmm/kvm/memory.h"

#include <elf.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define FX_RSDP 0xe0000ULL

struct boot_fx {
	struct memory mem;
	uint8_t image[64 * 1024]; /* the kernel file */
	size_t image_bytes;
	const char *cmdline;
	int initrd_fd; /* -1: none; owned */
	struct boot_entry entry;
	struct err err;
};

/* Create fresh guest memory and an image of zeros. */
void boot_fx_init(struct boot_fx *f, uint64_t ram_bytes);
void boot_fx_done(struct boot_fx *f);
/* Call boot_load() with the image and zeroed memory. */
int boot_fx_load(struct boot_fx *f);
/* Fail unless loading fails with r and a message. */
void boot_fx_refused(struct boot_fx *f, int r);
/* Add an initrd of this size; page n is filled with byte n + 1; sparse above 1 MiB. */
void boot_fx_initrd(struct boot_fx *f, uint64_t bytes);

/* Write the ELF header and n program headers; the image ends with the last segment. Each segment's
 * content is its number + 1. */
void boot_fx_elf(struct boot_fx *f, uint64_t entry, const Elf64_Phdr *phdrs, unsigned n);

/* Translate a linear address by the page tables at cr3; UINT64_MAX: not mapped. */
uint64_t boot_fx_walk(const struct boot_fx *f, uint64_t cr3, uint64_t linear);
/* Check the boot protocol's e820 map, and boot_load()'s GDT. */
void boot_fx_check_e820(const struct boot_fx *f, const uint8_t *table, size_t n, size_t stride);
void boot_fx_check_gdt(const struct boot_fx *f);

#endif
