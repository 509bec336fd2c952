/* debug_exit: a device for tests: a byte written to port 0xf4 ends the VM with that exit status. */
#ifndef CAIRN_DEVICES_LEGACY_DEBUG_EXIT_H
#define CAIRN_DEVICES_LEGACY_DEBUG_EXIT_H

struct bus;
struct dev_host;
struct device;
struct err;

#define DEBUG_EXIT_PORT 0xf4

/* Create the device "debug-exit". Free it through its ops. Returns 0 or -errno. */
int debug_exit_new(struct dev_host *h, struct bus *pio, struct device **ret_dev, struct err *e);

#endif
