/* slots_aml: a part of the DSDT of machine version 7 and later, for PCI slots whose device a guest can release
 * (devices/pci/pci_hotplug.h). It has a device for each slot, and the method of the event. It depends on the devices
 * that the guest boots with, so it is no ASL source. It follows the content of dsdt.asl, compiled with
 * SLOTS_APPENDED. */
#ifndef CAIRN_VMM_BOOT_SLOTS_AML_H
#define CAIRN_VMM_BOOT_SLOTS_AML_H

#include <stddef.h>
#include <stdint.h>

#define SLOTS_AML_MAX_BYTES 3072u /* 31 slots take some 2,400 */

/* Write the AML of these slots, a mask. Returns its length. */
size_t slots_aml_put(uint8_t to[SLOTS_AML_MAX_BYTES], uint32_t slots);

#endif
