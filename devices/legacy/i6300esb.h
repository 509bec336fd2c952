/* i6300esb: Intel's 6300ESB watchdog as a PCI function; the default of QEMU and libvirt, and Linux
 * has a driver of that name. Source: Intel 6300ESB datasheet, chapter "Watchdog timer"; for
 * behaviour that the datasheet leaves open, QEMU's hw/watchdog/wdt_i6300esb.c.
 *
 * Two stages count down one after the other. The end of the first does not interrupt the guest (as
 * in QEMU); the end of the second sends DEV_EVENT_WATCHDOG, if the guest has not disabled the output,
 * and stops the watchdog until the guest enables it again. Only time in which the VM runs counts, not
 * time in which it is paused, nor the time between a snapshot and a revert to it. */
#ifndef CAIRN_DEVICES_LEGACY_I6300ESB_H
#define CAIRN_DEVICES_LEGACY_I6300ESB_H

struct dev_host;
struct device;
struct err;
struct pci_host;

/* Create the device "watchdog0". h->loop runs its timer. Free it through its ops.
 * slot: PCI slot; 0 or -1: first free.
 * Returns 0 or -errno. */
int i6300esb_new(struct dev_host *h, struct pci_host *p, int slot, struct device **ret_dev, struct err *e);

#endif
