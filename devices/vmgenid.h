/* vmgenid: an id that changes when a VM is reverted, restored or cloned. It tells the guest that its secrets may
 * exist twice (Microsoft, "Virtual Machine Generation ID", 2012). 16 bytes in guest memory; a general-purpose event
 * reports a change. */
#ifndef CAIRN_DEVICES_VMGENID_H
#define CAIRN_DEVICES_VMGENID_H

#include <stdbool.h>
#include <stdint.h>

struct dev_host;
struct device;
struct err;

#define VMGENID_GPA 0xff000ULL /* in the range that e820 reserves for ACPI; the DSDT has the same address */
/* The same for a machine with a BIOS, where the id is in the range of a display adapter: such a machine has none, and
 * e820 does not list the RAM that is there. */
#define VMGENID_BIOS_GPA 0xaf000ULL
#define VMGENID_BYTES 16
#define VMGENID_GPE 5 /* \_GPE._E05 */

static inline uint64_t vmgenid_gpa(bool firmware)
{
	return firmware ? VMGENID_BIOS_GPA : VMGENID_GPA;
}

/* Create the device "vmgenid". acpi_pm: borrowed. gpa: of vmgenid_gpa().
 * Free it through its ops. Returns 0 or -errno. */
int vmgenid_new(struct dev_host *h, struct device *acpi_pm, uint64_t gpa, struct device **ret_dev, struct err *e);
/* Write a new id. Main thread; RAM is in place and the VM is paused.
 * tell: also raise the event, because the guest has already read an id. */
void vmgenid_renew(struct device *d, bool tell);

#endif
