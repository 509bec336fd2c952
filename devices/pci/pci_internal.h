/* pci_internal: declarations shared by pci.c (host and bus), pci_function.c (configuration space
 * and BARs) and msix.c. */
#ifndef CAIRN_DEVICES_PCI_PCI_INTERNAL_H
#define CAIRN_DEVICES_PCI_PCI_INTERNAL_H

#include "devices/device.h"
#include "devices/pci/pci.h"

#define PCI_INTX_PINS 8

struct pci_host {
	struct device dev;
	struct dev_host *host;
	struct bus *pio, *mmio;
	struct pci_host_config config;
	uint64_t next32, next64; /* first free byte of each window */
	bool hotplug;		 /* see pci_host_begin_hotplug() */
	uint32_t reserved;	 /* slots; see pci_host_reserve() */

	pthread_mutex_t lock; /* the config lock; protects address, reset_control and all configuration spaces */
	uint32_t address;     /* port 0xCF8 */
	uint8_t reset_control;
	struct pci_function *functions[PCI_SLOTS];
	struct pci_function bridge;
	uint64_t ecam_at; /* address of ECAM; 0: the guest cannot access ECAM */

	pthread_mutex_t irq_lock; /* innermost */
	int intx_holders[PCI_INTX_PINS];
};

/* Access configuration space: off below 4096, size 1, 2 or 4. An access that is not aligned to its size reads all ones
 * and writes nothing. The caller of these two and of all functions below holds the config lock. */
uint32_t pci_function_read(struct pci_function *f, unsigned off, unsigned size);
void pci_function_write(struct pci_function *f, unsigned off, unsigned size, uint32_t v);
void pci_function_power_on(struct pci_function *f);
void pci_function_unmap(struct pci_function *f);
/* Return the address in the register of a BAR, mapped or not; of the expansion ROM only while it is enabled. */
uint64_t pci_function_bar_address(const struct pci_function *f, unsigned i);

void pci_function_intx_disable(struct pci_function *f, bool disabled);
bool pci_function_intx_pending(struct pci_function *f);

/* Apply a write to MSI-X message control. */
void msix_control(struct pci_function *f, uint16_t control);
void msix_reset(struct pci_function *f);
void msix_save(struct pci_function *f, struct state_writer *w);
int msix_load(struct pci_function *f, struct state_reader *r, struct err *e);

#endif
