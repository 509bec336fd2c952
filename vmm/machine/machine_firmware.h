/* machine_firmware: fills fw_cfg for a machine's firmware, and checks whether the firmware finds a bootable device.
 * Main thread. */
#ifndef CAIRN_VMM_MACHINE_MACHINE_FIRMWARE_H
#define CAIRN_VMM_MACHINE_MACHINE_FIRMWARE_H

#include <stddef.h>
#include <stdint.h>

struct device;
struct err;
struct machine;

/* Read an option ROM of 512 to max bytes. fd: -1: there is none. what, package: its name and Debian's package that has
 * it, for errors. *ret: the caller frees it; untouched without a file. Returns 0; -EINVAL: no ROM has this size;
 * -errno. */
int machine_read_rom(int fd, size_t max, const char *what, const char *package, uint8_t **ret, size_t *ret_bytes, struct err *e);
/* Fill m->fw_cfg for the machine version that m boots as. Returns 0; -EINVAL; -errno. */
int machine_describe_firmware(struct machine *m, struct err *e);
/* Replace the tables that depend on m->hardware and on the slots of devices, after a change of these. No vCPU runs.
 * Does nothing without a firmware. Returns 0 or -errno. */
int machine_update_firmware(struct machine *m, struct err *e);
/* Read or map the firmware, and a UEFI's variables. Returns 0; -ENOTSUP: a UEFI does not run here; -EINVAL; -errno. */
int machine_load_firmware(struct machine *m, struct err *e);
/* Create the flash memory of a UEFI's variables. Returns 0 or -errno. */
int machine_flash_new(struct machine *m, struct device **ret_dev, struct err *e);
/* Check that the firmware finds a disk whose first sector ends with 0x55 0xaa, as SeaBIOS wants it, or may boot from
 * the network. A disk whose first sector cannot be read passes. Without a BIOS, nothing is checked.
 * Runs the disks' loops, so call it before their threads run. Returns 0; -ENXIO. */
int machine_check_bootable(struct machine *m, struct err *e);

#endif
