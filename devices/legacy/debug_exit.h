/* debug_exit: for tests: a byte written to port 0xf4 ends the VM with that status. */
#ifndef CAIRN_DEVICES_LEGACY_DEBUG_EXIT_H
#define CAIRN_DEVICES_LEGACY_DEBUG_EXIT_H

struct bus;
struct dev_host;
struct device;
struct err;

#define DEBUG_EXIT_PORT 0xf4

/* name "debug-exit". Freed through the device's ops. Returns 0 or -errno. */
int debug_exit_new(struct dev_host *h, struct bus *pio, struct device **ret_dev, struct err *e);

#endif
