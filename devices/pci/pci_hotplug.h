/* pci_hotplug: the registers that show the DSDT (vmm/boot/dsdt.asl) which PCI slots got a device and which devices
 * the guest should release. General-purpose event PCI_HOTPLUG_GPE tells the guest to read them.
 *
 *   0  u32, read: slots that got a device since the last read, which clears the bits
 *   4  u32, read: slots whose device the guest is asked to release
 *   8  u32, write: slots whose device the guest has released
 *  12  u32, write: bits 24 to 28 a slot, bits 0 to 7 a status of _OST (ACPI 6.4, table 6.65) other than 0: the guest
 *      does not release that device
 *
 * The first three are those of QEMU (docs/specs/acpi_pci_hotplug.txt). A slot that the guest was not asked to release
 * is ignored in a write, so a guest cannot make more than one call of a function below for each request.
 *
 * Threading: register handlers on vCPU threads; all other functions on the main thread. */
#ifndef CAIRN_DEVICES_PCI_PCI_HOTPLUG_H
#define CAIRN_DEVICES_PCI_PCI_HOTPLUG_H

#include <stdbool.h>
#include <stdint.h>

struct bus;
struct dev_host;
struct device;
struct err;

#define PCI_HOTPLUG_PORT 0xae00
#define PCI_HOTPLUG_BYTES 16
#define PCI_HOTPLUG_GPE 1
/* The slots that the DSDT has as devices: 24 to 31. The machine's own devices begin with slot 1. */
#define PCI_HOTPLUG_FIRST_SLOT 24
#define PCI_HOTPLUG_SLOTS (~0u << PCI_HOTPLUG_FIRST_SLOT)

struct pci_hotplug_listener {
	/* The guest has released the devices in these slots; or has refused to. From the main loop. */
	void (*released)(void *opaque, uint32_t slots);
	void (*refused)(void *opaque, uint32_t slots);
	void *opaque;
};

/* Create the device "pci-hotplug". pm: the device whose event it raises; borrowed. Free it through its ops. Returns 0
 * or -errno. */
int pci_hotplug_new(struct dev_host *h, struct bus *pio, struct device *pm, struct device **ret_dev, struct err *e);
/* Set the listener. l: copied. */
void pci_hotplug_listen(struct device *d, const struct pci_hotplug_listener *l);
/* Whether the guest can see the registers. Without them, the machine is that of an older version. On after
 * pci_hotplug_new(). */
void pci_hotplug_enable(struct device *d, bool on);
bool pci_hotplug_is_on(const struct device *d);
/* Tell the guest that a slot has got a device. */
void pci_hotplug_plugged(struct device *d, unsigned slot);
/* Ask the guest to release the device in a slot; again, if it was asked before. */
void pci_hotplug_ask_release(struct device *d, unsigned slot);
/* Reset an empty slot's state: events for the guest and the guest's requests. */
void pci_hotplug_reset_slot(struct device *d, unsigned slot);

#endif
