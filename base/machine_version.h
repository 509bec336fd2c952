/* machine_version: which machine versions (docs/vmstate.md) a VM can boot as. A version identifies the devices and
 * tables that a guest sees.
 *
 * firmware: 0: the VM boots a kernel; 1: a BIOS; 2: UEFI. */
#ifndef CAIRN_BASE_MACHINE_VERSION_H
#define CAIRN_BASE_MACHINE_VERSION_H

#include <stdbool.h>

/* The PCI slots that no version has for its board: that has 0, and 31 with UEFI. */
#define MACHINE_SLOT_MIN 1
#define MACHINE_SLOT_MAX 30

/* Return the newest version, which a new VM gets. */
unsigned machine_version_newest(unsigned firmware);
/* Return the version of a VM whose definition has no key "machine". A Cairn older than this key defined the VM, so
 * return the oldest version with which the VM can have booted. It never changes. */
unsigned machine_version_unnamed(unsigned firmware);
/* Return whether such a VM can boot as this version. */
bool machine_version_boots(unsigned firmware, unsigned version);
/* Return whether a device of this version may have a PCI slot of its own choice: without hot-plug, all are in a row. */
bool machine_version_keeps_slots(unsigned version);
/* Return whether a guest of this version can release disks and interfaces that it booted with. */
bool machine_version_ejects(unsigned version);

#endif
