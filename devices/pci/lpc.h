/* lpc: the ICH9's bridge in slot 31, by which UEFI firmware for QEMU's q35 finds the serial port and the registers of
 * power management. Its registers have fixed values, or only store writes.
 *
 * Source: Intel ICH9 data sheet (316972), section 13.1. */
#ifndef CAIRN_DEVICES_PCI_LPC_H
#define CAIRN_DEVICES_PCI_LPC_H

struct device;
struct err;
struct pci_host;

#define LPC_SLOT 31

/* Create the device "lpc". Free it through its ops. Returns 0 or -errno. */
int lpc_new(struct pci_host *p, struct device **ret_dev, struct err *e);

#endif
