#include "vmm/machine/machine_pci.h"
#include "base/bytes.h"
#include "base/util.h"
#include "devices/device.h"
#include "devices/pci/pci.h"
#include "vmm/machine/machine.h"
#include "vmm/vm_msg.h"

#include <stdio.h>
#include <string.h>

/* Registers of the configuration space (PCI 3.0, section 6.1). */
#define REG_DEVICE 0x02
#define REG_CLASS 0x0a
#define REG_SUBSYSTEM_VENDOR 0x2c
#define REG_SUBSYSTEM 0x2e
#define REG_LINE 0x3c
#define REG_PIN 0x3d

_Static_assert(VM_PCI_DEVICES_MAX == PCI_SLOTS && VM_PCI_REGIONS_MAX == PCI_BARS + 1, "as the bus has them");

static void device_name(const struct machine *m, unsigned slot, char id[32])
{
	for (unsigned i = 0; slot && i < m->ndevices; i++)
		if (m->slots[i] == slot)
			snprintf(id, 32, "%s", m->devices[i]->name);
}

void machine_pci_list(struct machine *m, struct vm_pci *ret)
{
	memset(ret, 0, sizeof(*ret));
	for (unsigned slot = 0; slot < PCI_SLOTS; slot++) {
		struct vm_pci_device *d = &ret->devices[ret->n];
		struct pci_view v;

		if (!pci_host_view(m->pci, slot, &v))
			continue;
		ret->n++;
		d->slot = (uint8_t)slot;
		device_name(m, slot, d->id);
		d->vendor = load_le16(v.config);
		d->device = load_le16(v.config + REG_DEVICE);
		d->class = load_le16(v.config + REG_CLASS);
		d->subsystem_vendor = load_le16(v.config + REG_SUBSYSTEM_VENDOR);
		d->subsystem = load_le16(v.config + REG_SUBSYSTEM);
		d->irq = v.config[REG_LINE];
		d->irq_pin = v.config[REG_PIN];
		for (unsigned i = 0; i < ARRAY_SIZE(v.bars); i++)
			if (v.bars[i].bytes)
				d->regions[d->nregions++] = (struct vm_pci_region){ .bar = (uint8_t)i, .is64 = v.bars[i].is64,
					.bytes = v.bars[i].bytes, .address = v.bars[i].mapped ? v.bars[i].base : VM_PCI_UNMAPPED };
	}
}
