/* rom: saves and loads the firmware's ROM, so that a guest that continues has the ROM that it began with, even if the
 * ROM's file has changed. KVM maps the ROM read-only (vmm/kvm/memory.h); the device has no registers. */
#ifndef CAIRN_DEVICES_LEGACY_ROM_H
#define CAIRN_DEVICES_LEGACY_ROM_H

#include <stddef.h>
#include <stdint.h>

struct device;
struct err;

/* Create the device "rom".
 * rom: the ROM's `bytes` bytes, borrowed; a load writes to them.
 * Free the device through its ops. Returns 0 or -errno. */
int rom_new(uint8_t *rom, size_t bytes, struct device **ret_dev, struct err *e);

#endif
