/* pci: a host bridge and one bus of 32 single-function devices, reached by configuration mechanism
 * #1 (ports 0xCF8, 0xCFC) and ECAM. Byte port 0xCF9 is the reset control register.
 *
 * BARs get addresses in the machine's window at reset, with memory decoding on, so that a guest
 * without firmware can use them. They move when the guest rewrites them. A BAR that would overlap
 * another range stays unmapped until the guest moves one of them.
 *
 * INTA# of slot s is GSI PCI_INTX_GSI(s), level-triggered and active high, as the DSDT's _PRT says.
 *
 * Threading: configuration accesses run on vCPU threads; pci_function_intx(), msix_enabled() and msix_raise() on any
 * thread; all other functions on the main thread.
 *
 * Lock order: the host's config lock, then a device's own lock, then msix.lock. */
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
#define PCI_ROM PCI_BARS /* the index of the expansion ROM in pci_function.bars */
#define PCI_CONFIG_BYTES 256
#define PCI_ROM_REGISTER 0x30 /* PCI 3.0, section 6.2.5.2 */
#define PCI_ECAM_BUS_BYTES (1u << 20)
#define PCI_INTX_GSI(slot) (16 + (slot) % 8)
#define PCI_CONFIG_ADDRESS_PORT 0xcf8
#define PCI_RESET_PORT 0xcf9
#define PCI_RESET_VALUE 0x06 /* value that the FADT's reset register writes */
#define PCI_CONFIG_DATA_PORT 0xcfc

struct pci_host_config {
	uint64_t ecam_base; /* PCI_ECAM_BUS_BYTES for bus 0; 0: no ECAM, or with q35 where the guest puts it */
	uint64_t mmio32_base, mmio32_bytes; /* window for 32-bit BARs; below 4 GiB */
	uint64_t mmio64_base, mmio64_bytes; /* window for 64-bit BARs; 0: place them below 4 GiB */
	/* A firmware configures the bus: after a reset BARs are 0 and decoding is off. The bridge is an i440FX,
	 * which SeaBIOS knows. */
	bool firmware;
	bool q35; /* with firmware: the bridge of QEMU's q35, which UEFI knows; its register PCIEXBAR places ECAM */
};

/* Create the host bridge in slot 0.
 * *ret_dev: device "pci"; its free() frees everything, and all devices on the bus have to be freed
 * before.
 * Returns 0 or -errno. */
int pci_host_new(struct dev_host *h, struct bus *pio, struct bus *mmio,
	const struct pci_host_config *c, struct pci_host **ret_host, struct device **ret_dev,
	struct err *e);

/* ---- functions: embedded in devices ---- */

struct pci_bar {
	uint64_t bytes; /* 0: absent; a power of two */
	bool is64;
	uint64_t initial;	   /* address after reset */
	const struct bus_ops *ops; /* borrowed */
	void *opaque;
	bool mapped;
	uint64_t base; /* current address while mapped */
};

struct pci_function_ops {
	/* Access a register that the device implements itself. Return false to use the bytes of
	 * config[]. NULL allowed. The config lock is held. */
	bool (*config_read)(struct pci_function *f, unsigned off, unsigned size, uint32_t *ret_v);
	bool (*config_write)(struct pci_function *f, unsigned off, unsigned size, uint32_t v);
	/* Called after a change of the configuration that may have mapped, unmapped or moved a BAR, or
	 * switched MSI-X on or off. The config lock is held. */
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

/* An eventfd whose signals are a vector's interrupts. */
struct msix_wire {
	struct msix_wire *next;
	int fd;		 /* borrowed; -1: unused */
	unsigned vector; /* out of range: none */
	int link;	 /* from dev_host_ops.msi_link(): KVM sends the message below; -1: not linked, the owner of fd reads it */
	uint64_t addr;
	uint32_t data;
};

struct msix {
	pthread_mutex_t lock;
	unsigned nvectors; /* 0: the function has no MSI-X */
	bool enabled, masked;
	uint64_t pending;
	struct msix_entry table[MSIX_VECTORS_MAX];
	struct msix_wire *wires;
	uint64_t links_since_ns; /* begin of the second in which nlinks wires were linked */
	unsigned nlinks;
};

struct pci_function {
	struct pci_host *host;
	unsigned slot;
	const struct pci_function_ops *ops;
	uint8_t config[PCI_CONFIG_BYTES];
	uint8_t initial[PCI_CONFIG_BYTES]; /* config after reset */
	uint8_t writable[PCI_CONFIG_BYTES]; /* bits that the guest can change */
	struct pci_bar bars[PCI_BARS + 1]; /* and the expansion ROM */
	unsigned cap_end;	/* first free byte for a capability */
	unsigned last_cap;
	unsigned msix_cap;	/* offset; 0: none */
	struct msix msix;
	bool intx_wanted;	/* level that the device requests; under the host's irq lock */
	bool intx_disabled;	/* disabled by the command register */
	bool intx_raised;	/* level that the function drives on the line */
};

struct pci_ids {
	uint16_t vendor, device, subsystem_vendor, subsystem;
	uint8_t revision;
	uint32_t class_code; /* 24 bits: class, subclass, interface */
};

/* Initialize a zeroed function. */
void pci_function_init(struct pci_function *f, const struct pci_ids *ids,
	const struct pci_function_ops *ops);
/* Describe BAR i; a 64-bit BAR also takes i + 1. bytes: a power of two ≥ 4096. */
void pci_function_bar(struct pci_function *f, unsigned i, uint64_t bytes, bool is64,
	const struct bus_ops *ops, void *opaque);
/* Describe the expansion ROM, which only a firmware maps. bytes: a power of two ≥ 4096. */
void pci_function_rom(struct pci_function *f, uint32_t bytes, const struct bus_ops *ops, void *opaque);
/* Append a capability of len bytes; the content after its two header bytes is zero. Returns its
 * offset; 0 when there is no room. */
unsigned pci_function_capability(struct pci_function *f, uint8_t id, unsigned len);
/* Add MSI-X with its table and pending bits in a 32-bit BAR of its own. bar: its number. Returns 0 or -EINVAL. */
int pci_function_msix(struct pci_function *f, unsigned bar, unsigned nvectors);
/* Add the function to the bus and assign addresses to its BARs and a line to its INTx.
 * f: borrowed until pci_host_remove(). slot: -1: first free.
 * Returns 0; -EBUSY; -ENOSPC (bus or window full). */
int pci_host_add(struct pci_host *p, struct pci_function *f, int slot, struct err *e);
/* Keep a slot for a function that is added with this slot, until pci_host_begin_hotplug(). 0: none. */
void pci_host_reserve(struct pci_host *p, unsigned slot);
/* From now on, functions are added while the guest runs: their BARs get addresses at the end of the window, which the
 * BARs of removed functions leave free again. */
void pci_host_begin_hotplug(struct pci_host *p);
/* Return the slots that have a function, as a mask. */
uint32_t pci_host_slots(struct pci_host *p);
/* A function as the guest has configured it. */
struct pci_view {
	uint8_t config[PCI_CONFIG_BYTES];
	struct pci_bar bars[PCI_BARS + 1];
};
/* Look at the function in a slot. Returns false if there is none. */
bool pci_host_view(struct pci_host *p, unsigned slot, struct pci_view *ret);
/* Move functions to other slots, before the state of a machine is loaded that had them there. to[s]: the new slot of
 * the function in slot s; 0: it stays.
 * Returns 0; -EINVAL: two functions would have one slot, or a slot is out of range. */
int pci_host_move(struct pci_host *p, const uint8_t to[PCI_SLOTS], struct err *e);
/* Remove the function; does nothing for a function that was never added. */
void pci_host_remove(struct pci_function *f);
void pci_function_reset(struct pci_function *f);

/* Set the function's INTx level. Lines are shared; the host counts their holders. Any thread. */
void pci_function_intx(struct pci_function *f, bool level);
bool msix_enabled(struct msix *m);
/* Deliver a vector or mark it as pending. Ignored while MSI-X is off, or for a vector out of range. Any thread. */
void msix_raise(struct pci_function *f, unsigned vector);
/* Deliver a vector whenever fd, an eventfd, is signalled. KVM does that without a thread of this process, and resets
 * the eventfd. Exceptions: MSI-X is off, the vector is masked, KVM refuses, or the guest changes vectors all the
 * time. So the caller continues to read fd, and to call msix_raise().
 * w: unused; borrowed until msix_unwire(). Any thread. */
void msix_wire(struct pci_function *f, struct msix_wire *w, unsigned vector, int fd);
/* Undo msix_wire(); do nothing for an unused w. On return, the interrupts of all signals that KVM has taken are
 * delivered. Any thread. */
void msix_unwire(struct pci_function *f, struct msix_wire *w);

void pci_function_save(struct pci_function *f, struct state_writer *w);
/* Load the function's state, with every field checked, and map BARs accordingly. Returns 0 or
 * -EINVAL. */
int pci_function_load(struct pci_function *f, struct state_reader *r, struct err *e);

#endif
