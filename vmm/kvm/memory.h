/* memory: the guest-physical layout and guest RAM.
 *
 *   0          .. 0xa0000      RAM (EBDA at 0x9fc00)
 *   0xa0000    .. 0x100000     legacy hole; ACPI tables from 0xe0000, SMBIOS tables from 0xf0000; backed by RAM, but no
 *                              RAM in e820
 *   0x100000   .. low end      RAM, up to 3 GiB; with UEFI, up to 2 GiB
 *   0xc0000000 .. 0xe0000000   PCI BARs
 *   0xe0000000 .. 0xe0100000   ECAM, bus 0; with UEFI, the firmware places ECAM and BARs above 2 GiB
 *   0xfec00000                 IOAPIC
 *   0xfee00000                 LAPIC
 *              .. 4 GiB        the firmware's ROM, if the VM has one; with UEFI, its variables lie below it
 *   4 GiB      ..              the rest of RAM
 *
 * With a BIOS, the legacy hole ends with a copy of the ROM, which the guest can write to.
 *
 * One memfd, or a file of a tmpfs that has huge pages (host_files.h), holds all RAM, low part first. A clone starts
 * with an empty memfd: its RAM is a private (copy-on-write) mapping of its source's RAM at the fork, which all clones
 * of that fork share, until memory_clear(). Only during a handover the memfd of a clone has pages
 * (vmm/machine/ram_carry.h).
 *
 * Threading: the main thread calls these functions while no vCPU runs, unless a comment says
 * otherwise. */
#ifndef CAIRN_VMM_KVM_MEMORY_H
#define CAIRN_VMM_KVM_MEMORY_H

#include "snapshot/ram_view.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct dev_host;
struct err;
struct kvm;

/* Slots of RAM below and above 4 GiB. */
#define MEMORY_SLOT_LOW 0
#define MEMORY_SLOT_HIGH 1
#define MEMORY_SLOT_ROM 2
#define MEMORY_SLOT_FLASH 3
#define MEMORY_SLOT_SCREEN 4

#define MEM_LOW_MAX 0xc0000000ULL
#define MEM_LOW_MAX_UEFI 0x80000000ULL
#define MEM_HIGH_BASE 0x100000000ULL
#define MEM_PCI_BASE 0xc0000000ULL
#define MEM_PCI_BYTES 0x20000000ULL
#define MEM_ECAM_BASE 0xe0000000ULL
#define MEM_ECAM_BYTES 0x100000ULL
#define MEM_IOAPIC_BASE 0xfec00000ULL
#define MEM_LAPIC_BASE 0xfee00000ULL
#define MEM_ROM_END 0x100000000ULL
#define MEM_SHADOW_END 0x100000ULL
/* Least memory with a firmware: SeaBIOS keeps tables at the end of RAM. */
#define MEM_FIRMWARE_MIN_BYTES (16ULL << 20)
#define MEM_EBDA_BASE 0x9fc00ULL
#define MEM_ACPI_BASE 0xe0000ULL
#define MEM_ACPI_BYTES 0x10000ULL
/* Where guests search the SMBIOS entry point; the page after the tables belongs to devices/vmgenid.h. */
#define MEM_SMBIOS_BASE 0xf0000ULL
#define MEM_SMBIOS_BYTES 0xf000ULL

struct memory {
	int fd; /* memfd, or a file of a tmpfs */
	uint8_t *host;
	uint64_t bytes, low_bytes, high_bytes;
	uint64_t mapped_bytes; /* bytes, rounded up to a whole huge page */
	bool huge_pages;
	int advice; /* MADV_HUGEPAGE, MADV_NOHUGEPAGE; 0: memory is in the pool's huge pages */
	uint8_t *rom;	    /* the firmware's ROM, not a part of RAM; NULL: none */
	uint64_t rom_bytes;
	uint8_t *flash;	    /* the flash memory below the ROM, as the guest sees it; NULL: none */
	uint64_t flash_bytes;
	int flash_fd; /* memfd of twice flash_bytes, whose beginning `flash` maps; only valid with flash */
	/* base_fd >= 0: RAM is a private mapping of this file, and fd is not mapped; -1: RAM is a mapping of fd. */
	struct ram_view view;
};

/* Allocate guest RAM.
 * huge_pages: allocate from the host's pool of 2 MiB pages.
 * Returns 0; -errno, also when the pool has too few huge pages. */
int memory_init(struct memory *m, uint64_t bytes, bool huge_pages, struct err *e);
/* Let an empty file of a tmpfs be guest RAM. fd: taken, also on failure. Returns 0 or -errno. */
int memory_init_file(struct memory *m, uint64_t bytes, int fd, struct err *e);
/* Ask the kernel for transparent huge pages, or for none, now and whenever RAM is mapped anew. It gives them where the
 * file's tmpfs has them: all of a page of 2 MiB is allocated when the guest touches it first. A clone's RAM gets them
 * from its next reset on. advice: as in struct memory. */
void memory_advise(struct memory *m, int advice);
/* Put the RAM above MEM_LOW_MAX_UEFI to 4 GiB and up. Call before memory_attach(). */
void memory_lay_out_for_uefi(struct memory *m);
/* Take the guest RAM of a VM that another process hands over, with its content.
 * bytes, huge_pages: as that process gave them to memory_init(). fd: its memory.fd; taken, also on failure, unless its
 * size is wrong.
 * Returns 0 or -errno. */
int memory_take(struct memory *m, uint64_t bytes, bool huge_pages, int fd, struct err *e);
/* Take the guest RAM of a clone that another process hands over: map it as memory_map_cow() does.
 * fd: that process's memory.fd. base_fd: its memory.view.base_fd. Both taken on success, and *pagemap_fd.
 * Returns 0 or -errno. */
int memory_take_view(struct memory *m, uint64_t bytes, int fd, int base_fd, uint64_t offset, int *pagemap_fd,
	struct err *e);
/* Initialise *m with the RAM of *from, which is empty afterwards, so that memory_done() does nothing to it. */
void memory_adopt(struct memory *m, struct memory *from);
/* RAM is a private view: read the pages that m->fd has into it. Returns 0 or -errno. */
int memory_read_copy(struct memory *m, struct err *e);
/* RAM is a private view, and `written` bytes of it, in pages of 4 KiB, were written to m->fd. If tmpfs has larger pages
 * (shmem_enabled), m->fd has zeros beside them: replace these by RAM. Returns 0 or -errno. */
int memory_complete_copy(struct memory *m, uint64_t written);
/* Free all pages of m->fd, if RAM is a private view. */
void memory_drop_copy(struct memory *m);
/* Read a firmware's ROM, which memory_attach() maps below 4 GiB.
 * fd: borrowed. Returns 0; -EINVAL: not a ROM of 128 or 256 KiB; -errno. */
int memory_read_rom(struct memory *m, int fd, struct err *e);
/* Map a UEFI's code, which memory_attach() maps below 4 GiB, and below that a flash memory.
 * fd: the code's file, of which the pages are shared; borrowed. flash_bytes: a multiple of 4096.
 * Returns 0; -EINVAL: not a UEFI of the right size; -errno. */
int memory_map_uefi(struct memory *m, int fd, uint64_t flash_bytes, struct err *e);
/* Return the address of the flash memory. */
uint64_t memory_flash_gpa(const struct memory *m);
/* Copy the ROM to the end of the first MiB of RAM, as the chip set does at power-on. */
void memory_shadow_rom(struct memory *m);
/* Create the KVM memory slots. Call before kvm_create_irqchip(). */
int memory_attach(struct memory *m, struct kvm *k, struct err *e);
/* Show memory that is no RAM at gpa, in the slot of the screen; bytes 0: no more. vCPUs may run. Takes a grace period.
 * Returns 0 or -errno. */
int memory_show(struct kvm *k, uint64_t gpa, uint64_t bytes, void *memory);
/* Turn KVM's dirty log for RAM on or off. vCPUs may run. Takes a grace period for each slot. Returns 0 or -errno. */
int memory_log_dirty(struct memory *m, struct kvm *k, bool on, struct err *e);
/* Make KVM drop its shadow page tables, if it has any. Call after RAM content was replaced while
 * vCPUs were stopped: KVM tracks only the guest's own writes to page tables. */
int memory_zap_shadow_pages(struct memory *m, struct kvm *k, struct err *e);
/* Fill in the RAM fields of h for devices. */
void memory_describe(const struct memory *m, struct dev_host *h);
void memory_done(struct memory *m);
/* Map RAM, untouched so far, as a private (copy-on-write) view of [offset, offset + bytes) of
 * base_fd, at the same host addresses. Not with huge pages.
 * base_fd: taken on success; nobody may write to the file afterwards.
 * pagemap_fd: /proc/self/pagemap, or why it could not be opened as -errno; taken on success.
 * Returns 0 or -errno. */
int memory_map_cow(struct memory *m, int base_fd, uint64_t offset, int *pagemap_fd, struct err *e);
/* Return how to read RAM that is a private view of a base file; NULL if RAM is a mapping of m->fd. Valid until
 * memory_clear() or memory_done(). Also on the worker's thread, and while vCPUs run. */
const struct ram_view *memory_view(const struct memory *m);
/* Allocate the pages of a large range at once, before data is read into them, to save a fault for
 * each page. A hint: failure costs only time. */
void memory_populate(struct memory *m, uint64_t gpa, uint64_t bytes);
/* Free the pages of [off, off + len), which is whole pages of RAM that is in small pages and that no fault tracker
 * watches. Afterwards it reads as zeros; in a private view, as the base file. While vCPUs run. Returns 0 or -errno. */
int memory_give_back(struct memory *m, uint64_t off, uint64_t len);
/* Zero all RAM. A private view becomes a mapping of m->fd. Called for a reset, and before a revert loads all of RAM. */
void memory_clear(struct memory *m);

#define MEMORY_E820_MAX 8
enum memory_e820_type { E820_RAM = 1, E820_RESERVED = 2 };
struct memory_e820 {
	uint64_t gpa, bytes;
	uint32_t type;
};
/* Fill at most MEMORY_E820_MAX entries, sorted by address. Returns their number. */
size_t memory_e820(const struct memory *m, struct memory_e820 *ret);

#endif
