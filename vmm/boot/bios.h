/* bios: the items that SeaBIOS and OVMF read by fw_cfg: memory map, ACPI tables with a script that places them, boot
 * order, serial console, SMBIOS. */
#ifndef CAIRN_VMM_BOOT_BIOS_H
#define CAIRN_VMM_BOOT_BIOS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct device;
struct err;
struct memory;

#define BIOS_ORDER_MAX 64
#define BIOS_ORDER_NETWORK 0 /* SeaBIOS' ROM for all interfaces; no disk is in slot 0 */
#define BIOS_ORDER_SCSI(slot, target) (0x10000 | (target) << 8 | (slot)) /* a target of the SCSI controller */
#define BIOS_ORDER_INTERFACE(slot) (0x20000 | (slot)) /* an interface, for OVMF's own driver */
#define BIOS_NETWORK_ROM_MAX (128u << 10)

struct bios_config {
	const struct memory *mem;
	bool uefi; /* for OVMF instead of SeaBIOS */
	bool keyboard;
	unsigned vcpus;
	bool cpu_hotplug;      /* see struct acpi_config */
	uint64_t vcpus_absent;
	uint32_t slots; /* as in struct acpi_config */
	uint8_t uuid[16];
	const char *sysinfo; /* vm_config.sysinfo; borrowed */
	bool menu;
	uint16_t menu_ms; /* 0: SeaBIOS' own waiting time */
	unsigned order[BIOS_ORDER_MAX]; /* PCI slots of disks, or BIOS_ORDER_…; the first to boot first */
	unsigned norder;
	const uint8_t *network_rom; /* an option ROM that boots from the network; NULL: none */
	size_t network_rom_bytes;
};

/* Fill the device "fw_cfg". Returns 0; -EINVAL: too little memory; -errno. */
int bios_describe(struct device *fw_cfg, const struct bios_config *c, struct err *e);
/* Replace the tables that depend on the slots of PCI devices, on the present vCPUs and on the machine version.
 * Returns 0 or -errno. */
int bios_describe_again(struct device *fw_cfg, const struct bios_config *c, struct err *e);

#endif
