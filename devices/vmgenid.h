/* vmgenid: a number that changes when a VM is taken back, restored or copied, so that the guest
 * knows that its secrets may exist twice (Microsoft, "Virtual Machine Generation ID", 2012).
 * 16 bytes in guest memory; a general-purpose event says that they changed. */
#ifndef CAIRN_DEVICES_VMGENID_H
#define CAIRN_DEVICES_VMGENID_H

#include <stdbool.h>
#include <stdint.h>

struct dev_host;
struct device;
struct err;

#define VMGENID_GPA 0xff000ULL /* in what e820 keeps for ACPI; the DSDT says so, too */
#define VMGENID_BYTES 16
#define VMGENID_GPE 5 /* \_GPE._E05 */

/* acpi_pm: borrowed. name "vmgenid". Freed through the device's ops. */
int vmgenid_new(struct dev_host *h, struct device *acpi_pm, struct device **ret_dev, struct err *e);
/* A new number; with `tell` also the event: the guest had one before. Main thread; memory is in
 * place, the VM is paused. */
void vmgenid_renew(struct device *d, bool tell);

#endif
