/* bios: what SeaBIOS reads by fw_cfg: memory map, ACPI tables with a script that places them, boot order, serial
 * console, SMBIOS fields. */
#ifndef CAIRN_VMM_BOOT_BIOS_H
#define CAIRN_VMM_BOOT_BIOS_H

#include <stdbool.h>
#include <stdint.h>

struct device;
struct err;
struct memory;

#define BIOS_ORDER_MAX 64

struct bios_config {
	const struct memory *mem;
	unsigned vcpus;
	uint8_t uuid[16];
	bool menu;
	uint16_t menu_ms; /* 0: SeaBIOS' own waiting time */
	unsigned order[BIOS_ORDER_MAX]; /* PCI slots of disks, the first to boot first */
	unsigned norder;
};

/* Fill the device "fw_cfg". Returns 0; -EINVAL: too little memory; -errno. */
int bios_describe(struct device *fw_cfg, const struct bios_config *c, struct err *e);

#endif
