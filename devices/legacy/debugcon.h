/* debugcon: the port to which firmware writes its debug messages. They go to the VM's log, a line at a time and at a
 * limited rate. */
#ifndef CAIRN_DEVICES_LEGACY_DEBUGCON_H
#define CAIRN_DEVICES_LEGACY_DEBUGCON_H

struct bus;
struct dev_host;
struct device;
struct err;

#define DEBUGCON_PORT 0x402
#define DEBUGCON_READBACK 0xe9 /* a read of the port tells the firmware that the device exists */

/* Create the device "debugcon". Free it through its ops. Returns 0 or -errno. */
int debugcon_new(struct dev_host *h, struct bus *pio, struct device **ret_dev, struct err *e);

#endif
