/* pvpanic: lets the guest report a panic (ISA, one port; QEMU's docs/specs/pvpanic). */
#ifndef CAIRN_DEVICES_LEGACY_PVPANIC_H
#define CAIRN_DEVICES_LEGACY_PVPANIC_H

struct bus;
struct dev_host;
struct device;
struct err;

#define PVPANIC_PORT 0x505
#define PVPANIC_PANICKED 1
#define PVPANIC_CRASH_LOADED 2

/* Create the device "pvpanic". Free it through its ops. Returns 0 or -errno. */
int pvpanic_new(struct dev_host *h, struct bus *pio, struct device **ret_dev, struct err *e);

#endif
