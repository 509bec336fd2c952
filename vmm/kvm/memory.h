/* memory: the guest-physical layout and the RAM behind it.
 *
 *   0          .. 0xa0000      RAM (EBDA at 0x9fc00)
 *   0xa0000    .. 0x100000     legacy hole; ACPI tables from 0xe0000. RAM behind it, not in e820
 *   0x100000   .. low end      RAM, up to 3 GiB
 *   0xc0000000 .. 0xe0000000   PCI BARs
 *   0xe0000000 .. 0xe0100000   ECAM, bus 0
 *   0xfec00000                 IOAPIC
 *   0xfee00000                 LAPIC
 *   4 GiB      ..              the rest of RAM
 *
 * One memfd holds all RAM, low part first. A clone's is empty at first: its RAM is a private view of
 * what its source had at the fork, which all clones of that fork share. */
#ifndef CAIRN_VMM_KVM_MEMORY_H
#define CAIRN_VMM_KVM_MEMORY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct dev_host;
struct err;
struct kvm;

#define MEM_LOW_MAX 0xc0000000ULL
#define MEM_HIGH_BASE 0x100000000ULL
#define MEM_PCI_BASE 0xc0000000ULL
#define MEM_PCI_BYTES 0x20000000ULL
#define MEM_ECAM_BASE 0xe0000000ULL
#define MEM_ECAM_BYTES 0x100000ULL
#define MEM_IOAPIC_BASE 0xfec00000ULL
#define MEM_LAPIC_BASE 0xfee00000ULL
#define MEM_EBDA_BASE 0x9fc00ULL
#define MEM_ACPI_BASE 0xe0000ULL
#define MEM_ACPI_BYTES 0x1f000ULL /* tables; the page behind them is devices/vmgenid.h's */

struct memory {
	int fd; /* memfd */
	uint8_t *host;
	uint64_t bytes, low_bytes, high_bytes;
	uint64_t mapped_bytes; /* bytes, up to a whole huge page */
	/* -1, or RAM is a private view of this file from base_offset on, and fd is empty. */
	int base_fd;
	uint64_t base_offset;
	int pagemap_fd; /* tells which pages of a view were written */
};

/* huge_pages: from the host's pool of 2 MiB pages; an error with a sentence when there are not
 * enough. Returns 0 or -errno. */
int memory_init(struct memory *m, uint64_t bytes, bool huge_pages, struct err *e);
/* Make the slots. Before kvm_create_irqchip(). */
int memory_attach(struct memory *m, struct kvm *k, struct err *e);
/* After RAM was given another content behind the guest's back, while vCPUs stand still: KVM forgets what it derived from the
 * guest's page tables, where it does. It hears of the guest's own writes to them only. */
int memory_forget_shadows(struct memory *m, struct kvm *k, struct err *e);
/* Tell devices where RAM is. */
void memory_describe(const struct memory *m, struct dev_host *h);
void memory_done(struct memory *m);
/* RAM, untouched so far, becomes a private view of [offset, offset + bytes) of that file, at the same
 * addresses. base_fd: taken on success; nobody writes to it any more. Not with huge pages; before the
 * sandbox is sealed. */
int memory_view(struct memory *m, int base_fd, uint64_t offset, struct err *e);
/* Is it one? Then m->fd does not have what RAM holds. */
bool memory_is_view(const struct memory *m);
/* RAM with its content in m->fd, as any VM's. Nothing writes to it meanwhile. 0 when it is there. */
int memory_own(struct memory *m, struct err *e);
/* Have the pages of a large range made at once, before something is read into them, not one by one by
 * faults. A hint; failure costs only time. */
void memory_populate(struct memory *m, uint64_t gpa, uint64_t bytes);
/* Back to zeros (a hard reset keeps RAM; a fresh boot does not). */
void memory_clear(struct memory *m);

#define MEMORY_E820_MAX 8
enum memory_e820_type { E820_RAM = 1, E820_RESERVED = 2 };
struct memory_e820 {
	uint64_t gpa, bytes;
	uint32_t type;
};
/* Fill at most MEMORY_E820_MAX entries, sorted; returns how many. */
size_t memory_e820(const struct memory *m, struct memory_e820 *ret);

#endif
