/* smbios: the tables that describe the machine to the guest: for a firmware that places them, or in memory.
 * Source: DMTF DSP0134. */
#ifndef CAIRN_VMM_BOOT_SMBIOS_H
#define CAIRN_VMM_BOOT_SMBIOS_H

#include <stdint.h>

struct bios_config;
struct device;
struct err;
struct memory;

/* Add the SMBIOS item for SeaBIOS, or the two files for OVMF, to the device fw_cfg. Return 0 or -errno. */
int smbios_add_fields(struct device *fw_cfg, const struct bios_config *c, struct err *e);
int smbios_add_tables(struct device *fw_cfg, const struct bios_config *c, struct err *e);

/* Write the tables of a VM without a firmware to MEM_SMBIOS_BASE, the entry point first. sysinfo: vm_config.sysinfo. */
void smbios_place(struct memory *m, const uint8_t uuid[16], const char *sysinfo);

#endif
