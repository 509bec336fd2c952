/* i6300esb: Intel's 6300ESB watchdog as a PCI function; the default of QEMU and libvirt, and Linux has a
 * driver of that name. Source: Intel 6300ESB datasheet, chapter "Watchdog timer"; where it leaves open what a
 * driver meets, QEMU's hw/watchdog/wdt_i6300esb.c.
 *
 * Two stages count down one after the other. The end of the first would interrupt the guest, which is not done
 * (nor does QEMU); the end of the second is DEV_EVENT_WATCHDOG, and stops it until the guest enables it again.
 * It counts the time in which the VM runs: not while that is paused, nor between a snapshot and a revert to it. */
#ifndef CAIRN_DEVICES_LEGACY_I6300ESB_H
#define CAIRN_DEVICES_LEGACY_I6300ESB_H

struct dev_host;
struct device;
struct err;
struct pci_host;

/* name "watchdog0". slot: PCI slot, 0 or -1: first free. h->loop runs its timer. Freed through the device's
 * ops. Returns 0 or -errno. */
int i6300esb_new(struct dev_host *h, struct pci_host *p, int slot, struct device **ret_dev, struct err *e);

#endif
