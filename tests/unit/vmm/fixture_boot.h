/* fixture_boot: kernel files made by hand, in a memory file, and where they were loaded. */
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
#define FX_PHDRS_MAX 8

struct boot_fx {
	struct memory mem;
	uint8_t image[64 * 1024]; /* the kernel file */
	size_t image_bytes;
	const char *cmdline;
	int initrd_fd; /* -1: none; owned */
	struct boot_entry entry;
	struct err err;
};

/* Fresh guest memory; the image is all zeros. */
void boot_fx_init(struct boot_fx *f, uint64_t ram_bytes);
void boot_fx_done(struct boot_fx *f);
/* boot_load() of the image into memory of zeros. */
int boot_fx_load(struct boot_fx *f);
/* It has to fail with r and say something. */
void boot_fx_refused(struct boot_fx *f, int r);
/* An initrd of this size, page n full of byte n + 1; sparse above 1 MiB. */
void boot_fx_initrd(struct boot_fx *f, uint64_t bytes);

/* The ELF header with n program headers behind it; the image ends behind the last segment.
 * Each segment's file content is filled with its number + 1. */
void boot_fx_elf(struct boot_fx *f, uint64_t entry, const Elf64_Phdr *phdrs, unsigned n);

/* Linear address → physical, by the page tables at cr3; UINT64_MAX: not mapped. */
uint64_t boot_fx_walk(const struct boot_fx *f, uint64_t cr3, uint64_t linear);
/* The boot protocol's view of e820 and boot_load's own GDT: both are checked here. */
void boot_fx_check_e820(const struct boot_fx *f, const uint8_t *table, size_t n, size_t stride);
void boot_fx_check_gdt(const struct boot_fx *f);

#endif
