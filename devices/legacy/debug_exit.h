/* debug_exit: a device for tests. A byte written to port 0xf4 ends the VM with that exit status. The other parts are
 * those of QEMU's pc-testdev, which kvm-unit-tests use: interrupt lines that the guest sets itself, and registers and
 * memory whose accesses KVM emulates. Its registers and its memory are no part of a saved state; they are zeros after
 * a restore. */
#ifndef CAIRN_DEVICES_LEGACY_DEBUG_EXIT_H
#define CAIRN_DEVICES_LEGACY_DEBUG_EXIT_H

struct bus;
struct dev_host;
struct device;
struct err;

#define DEBUG_EXIT_PORT 0xf4
#define TESTDEV_REGISTER_PORT 0xe0 /* four bytes that the guest can read and write */
#define TESTDEV_IRQ_PORT 0x2000	   /* port 0x2000 + GSI: the level of that line */
#define TESTDEV_IRQS 24
#define TESTDEV_RAM_BASE 0xff000000ULL /* bytes that the guest can read and write, but that are no RAM to KVM */
#define TESTDEV_RAM_BYTES 0x10000u

/* Create the device "debug-exit". Free it through its ops. Returns 0 or -errno. */
int debug_exit_new(struct dev_host *h, struct bus *pio, struct bus *mmio, struct device **ret_dev, struct err *e);

#endif
