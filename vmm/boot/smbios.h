/* smbios: the tables by which a guest learns what machine it runs on, for the firmware that places them.
 * Source: DMTF DSP0134. */
#ifndef CAIRN_VMM_BOOT_SMBIOS_H
#define CAIRN_VMM_BOOT_SMBIOS_H

struct bios_config;
struct device;
struct err;

/* Add the SMBIOS item for SeaBIOS, or the two files for OVMF, to the device fw_cfg. Return 0 or -errno. */
int smbios_add_fields(struct device *fw_cfg, const struct bios_config *c, struct err *e);
int smbios_add_tables(struct device *fw_cfg, const struct bios_config *c, struct err *e);

#endif
