/* vm_pci_msg: the body of VM_MSG_PCI_LIST, for vm_msg.h: the functions of a VM's PCI bus. */
#ifndef CAIRN_VMM_VM_PCI_MSG_H
#define CAIRN_VMM_VM_PCI_MSG_H

#include <stdint.h>

#define VM_PCI_DEVICES_MAX 32
#define VM_PCI_REGIONS_MAX 7 /* the BARs and the expansion ROM */
#define VM_PCI_UNMAPPED UINT64_MAX

struct vm_pci_region {
	uint64_t address; /* VM_PCI_UNMAPPED: the guest has not mapped it */
	uint64_t bytes;
	uint8_t bar; /* 6: the expansion ROM */
	uint8_t is64;
	uint8_t reserved[6];
};

struct vm_pci_device {
	char id[32]; /* of the disk or the interface, or the device's name; "": part of the board */
	uint16_t vendor, device, subsystem_vendor, subsystem;
	uint16_t class; /* class and subclass */
	uint8_t slot;
	uint8_t irq, irq_pin; /* irq_pin 0: no interrupt line */
	uint8_t nregions;
	uint8_t reserved[2];
	struct vm_pci_region regions[VM_PCI_REGIONS_MAX];
};

struct vm_pci {
	uint32_t n;
	uint32_t reserved;
	struct vm_pci_device devices[VM_PCI_DEVICES_MAX]; /* by slot */
};

#endif
