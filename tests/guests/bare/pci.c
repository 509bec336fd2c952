/* PCI configuration by ports 0xcf8 and 0xcfc. */
#include "bare.h"

static uint16_t select_register(uint16_t bdf, unsigned reg)
{
	outl(0xcf8, 0x80000000u | (uint32_t)bdf << 8 | (reg & 0xfc));
	return (uint16_t)(0xcfc + (reg & 3));
}

uint32_t pci_read(uint16_t bdf, unsigned reg, unsigned size)
{
	uint16_t port = select_register(bdf, reg);

	return size == 1 ? inb(port) : size == 2 ? inw(port) : inl(port);
}

void pci_write(uint16_t bdf, unsigned reg, unsigned size, uint32_t v)
{
	uint16_t port = select_register(bdf, reg);

	if (size == 1)
		outb(port, (uint8_t)v);
	else if (size == 2)
		outw(port, (uint16_t)v);
	else
		outl(port, v);
}

int pci_find(uint16_t vendor, uint16_t device, unsigned index)
{
	uint32_t want = (uint32_t)device << 16 | vendor;

	for (uint16_t slot = 0; slot < 32; slot++)
		if (pci_read((uint16_t)(slot << 3), 0, 4) == want && index-- == 0)
			return slot << 3;
	return -1;
}

uint64_t pci_bar(uint16_t bdf, unsigned bar)
{
	uint32_t low = pci_read(bdf, 0x10 + 4 * bar, 4);
	uint64_t gpa = low & ~0xfu;

	if (low & 1)
		return 0;
	if ((low & 6) == 4)
		gpa |= (uint64_t)pci_read(bdf, 0x14 + 4 * bar, 4) << 32;
	if (gpa >> 32 && !page_map(gpa))
		return 0;
	return gpa;
}
