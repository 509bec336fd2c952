/* pci: a host bridge and one bus of 32 single-function devices, reached by configuration
 * mechanism #1 (ports 0xCF8, 0xCFC) and ECAM. Byte port 0xCF9 is the reset control register.
 *
 * BARs have addresses from the start, out of the machine's window, with memory decoding
 * on, so that a guest without firmware finds them usable; they move when the guest rewrites
 * them. A BAR that would overlap another range stays unmapped until the guest moves one.
 *
 * INTA# of slot s is GSI PCI_INTX_GSI(s), level, active high for the IOAPIC entry as the
 * machine routes it; the DSDT's _PRT says so.
 *
 * Locks: the host's config lock, then a device's own, then msix; never the other way. */
#ifndef CAIRN_DEVICES_PCI_PCI_H
#define CAIRN_DEVICES_PCI_PCI_H

#include "devices/bus.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

struct dev_host;
struct device;
struct err;
struct pci_function;
struct pci_host;
struct state_reader;
struct state_writer;

#define PCI_SLOTS 32
#define PCI_BARS 6
#define PCI_CONFIG_BYTES 256
#define PCI_ECAM_BUS_BYTES (1u << 20)
#define PCI_INTX_GSI(slot) (16 + (slot) % 8)
#define PCI_CONFIG_ADDRESS_PORT 0xcf8
#define PCI_RESET_PORT 0xcf9
#define PCI_RESET_VALUE 0x06 /* what the FADT's reset register writes */
#define PCI_CONFIG_DATA_PORT 0xcfc

struct pci_host_config {
	uint64_t ecam_base; /* PCI_ECAM_BUS_BYTES for bus 0; 0: no ECAM */
	uint64_t mmio32_base, mmio32_bytes; /* for 32-bit BARs; below 4 GiB */
	uint64_t mmio64_base, mmio64_bytes; /* for 64-bit BARs; 0: they go below 4 GiB */
};

/* The host bridge sits in slot 0. *ret_dev (name "pci") frees all; devices on the bus are
 * freed before it. Returns 0 or -errno. */
int pci_host_new(struct dev_host *h, struct bus *pio, struct bus *mmio,
	const struct pci_host_config *c, struct pci_host **ret_host, struct device **ret_dev,
	struct err *e);

/* ---- functions: what a device embeds ---- */

struct pci_bar {
	uint64_t bytes; /* 0: absent; a power of two */
	bool is64;
	uint64_t initial;	   /* address given at the start and after reset */
	const struct bus_ops *ops; /* borrowed */
	void *opaque;
	bool mapped;
	uint64_t base; /* where, when mapped */
};

struct pci_function_ops {
	/* Registers of the function's own; true when it handled the access, else the bytes
	 * of config[] are used. NULL allowed. The config lock is held. */
	bool (*config_read)(struct pci_function *f, unsigned off, unsigned size, uint32_t *ret_v);
	bool (*config_write)(struct pci_function *f, unsigned off, unsigned size, uint32_t v);
	/* A BAR may have been mapped, unmapped or moved, or MSI-X switched. The config lock is
	 * held. */
	void (*changed)(struct pci_function *f);
};

struct msix_entry {
	uint64_t addr;
	uint32_t data, control;
};

#define MSIX_VECTORS_MAX 64
#define MSIX_TABLE_OFFSET 0
#define MSIX_PBA_OFFSET 0x800
#define MSIX_BAR_BYTES 4096
#define MSIX_NO_VECTOR 0xffff

struct msix {
	pthread_mutex_t lock;
	unsigned nvectors; /* 0: the function has none */
	bool enabled, masked;
	uint64_t pending;
	struct msix_entry table[MSIX_VECTORS_MAX];
};

struct pci_function {
	struct pci_host *host;
	unsigned slot;
	const struct pci_function_ops *ops;
	uint8_t config[PCI_CONFIG_BYTES];
	uint8_t initial[PCI_CONFIG_BYTES]; /* config after reset */
	uint8_t writable[PCI_CONFIG_BYTES]; /* bits the guest can change */
	struct pci_bar bars[PCI_BARS];
	unsigned cap_end;	/* first free byte for a capability */
	unsigned last_cap;
	unsigned msix_cap;	/* offset; 0: none */
	struct msix msix;
	bool intx_wanted;	/* level the device asks for; under the host's irq lock */
	bool intx_disabled;	/* by the command register */
	bool intx_raised;	/* level it has on the line */
};

struct pci_ids {
	uint16_t vendor, device, subsystem_vendor, subsystem;
	uint8_t revision;
	uint32_t class_code; /* 24 bits: class, subclass, interface */
};

/* Fill in a zeroed function. */
void pci_function_init(struct pci_function *f, const struct pci_ids *ids,
	const struct pci_function_ops *ops);
/* Describe BAR i (a 64-bit one also takes i + 1). bytes: a power of two ≥ 4096. */
void pci_function_bar(struct pci_function *f, unsigned i, uint64_t bytes, bool is64,
	const struct bus_ops *ops, void *opaque);
/* Append a capability of len bytes (content after its two header bytes is zero). Returns
 * its offset, 0 when there is no room. */
unsigned pci_function_capability(struct pci_function *f, uint8_t id, unsigned len);
/* Give it MSI-X with its table and PBA in BAR i (32-bit). */
int pci_function_msix(struct pci_function *f, unsigned bar, unsigned nvectors);
/* Put it on the bus: addresses for its BARs, the line for its INTx. slot: -1 for the first
 * free one. Returns 0; -EBUSY; -ENOSPC (bus or window full). f: borrowed until removed. */
int pci_host_add(struct pci_host *p, struct pci_function *f, int slot, struct err *e);
/* NULL host allowed (never added). */
void pci_host_remove(struct pci_function *f);
void pci_function_reset(struct pci_function *f);

/* INTx: set the level; lines are shared, the host keeps count. Any thread. */
void pci_function_intx(struct pci_function *f, bool level);
bool msix_enabled(struct msix *m);
/* Deliver a vector or mark it pending; out of range does nothing. Any thread. */
void msix_raise(struct pci_function *f, unsigned vector);

void pci_function_save(struct pci_function *f, struct state_writer *w);
/* Checks every field, then maps BARs as the state says. Returns 0 or -EINVAL. */
int pci_function_load(struct pci_function *f, struct state_reader *r, struct err *e);

#endif
