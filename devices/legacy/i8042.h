/* i8042: the keyboard controller, without a keyboard: reset (0xFE to port 0x64), the self-test that
 * lets a driver's probe end quickly, and port 0x92 (fast A20 and reset). */
#ifndef CAIRN_DEVICES_LEGACY_I8042_H
#define CAIRN_DEVICES_LEGACY_I8042_H

struct bus;
struct dev_host;
struct device;
struct err;

/* Create the device "i8042". Free it through its ops. Returns 0 or -errno. */
int i8042_new(struct dev_host *h, struct bus *pio, struct device **ret_dev, struct err *e);
/* Let the status read as without a controller, but for the bit "input full" that reboot code waits for. UEFI firmware
 * would wait 90 s in an emulated host for a keyboard's answers. Resets work. Call before vCPUs run. */
void i8042_hide(struct device *d);

#endif
