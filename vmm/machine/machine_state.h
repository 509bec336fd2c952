/* machine_state: the state of a paused machine except RAM and disks, as sections of the VM state:
 * "machine", "cpu", "vcpu" × n, "irqchip" × 3, "pit", "clock", one for each device, and "frozen" if the
 * guest's file systems may be frozen.
 *
 * Threading: main thread, while the machine is paused (machine_pause()), except machine_state_check(). */
#ifndef CAIRN_VMM_MACHINE_MACHINE_STATE_H
#define CAIRN_VMM_MACHINE_MACHINE_STATE_H

#include "vmm/vm_msg.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct device;
struct err;
struct machine;
struct state_writer;

/* Write all sections. Returns 0 or -errno. */
int machine_save(struct machine *m, struct state_writer *w, struct err *e);

/* The machine version stands for the hardware that the guest sees: all devices with their registers, and the ACPI and
 * SMBIOS tables. A change that a guest can notice is a new version, and a row of machine_version_newest().
 * 7, 8 and 9 are 6, 4 (with a BIOS) and 5 (with UEFI), but the guest can also release the disks and interfaces that it
 * booted with. 3 is 6 without SMBIOS tables. 1 and 2 are 3 and 4 without hot-plug of PCI devices; no VM boots as 2, but
 * a guest keeps it until it boots again. */
#define MACHINE_HARDWARE_VERSION_1 1
#define MACHINE_HARDWARE_VERSION_3 3
#define MACHINE_HARDWARE_FIRMWARE_2 2

/* Return the PCI slot of a device of m; 0: it has none. */
unsigned machine_slot(const struct machine *m, const struct device *d);
/* Return the PCI slots whose device the guest's DSDT lets it release, if a guest with this machine version boots with
 * the devices of m; 0: the version has no list of its own (struct acpi_config). */
uint32_t machine_eject_slots(const struct machine *m, uint32_t hardware);
/* Return the version that a guest of m gets when it boots. */
uint32_t machine_hardware_to_boot(const struct machine *m);
/* Make m a machine of that version: m->hardware, hot-plug, and without that consecutive
 * PCI slots. Returns 0 or -errno. */
int machine_hardware_boot(struct machine *m, struct err *e);

/* Check whether the state belongs to a machine like m: same memory, vCPUs, machine version, and devices by
 * type and name, with every section complete and of a known version; and whether this host can give the
 * guest the processor that it knows (guest_cpu_check()). Changes nothing; also on the worker's thread while the guest
 * runs.
 * A state of format version 1 names no processor; the guest then gets this host's.
 * Returns 0; -EINVAL (ERR_CORRUPT; ERR_INVALID for the state of another machine; ERR_UNSUPPORTED for a section of a
 * newer version); -ENOTSUP for another machine version; -errno of guest_cpu_check(). */
int machine_state_check(struct machine *m, const uint8_t *buf, size_t len, struct err *e);

/* The disks and interfaces of a machine that a state lacks. */
struct machine_absent {
	bool disks[VM_DISKS_MAX];
	bool interfaces[VM_INTERFACES_MAX];
};

/* The same, but the machine may have disks and interfaces that the state lacks. They have to be removed before
 * machine_load(). ret_absent: also set on errors. */
int machine_state_check_lacking(struct machine *m, const uint8_t *buf, size_t len, struct machine_absent *ret_absent, struct err *e);

/* Check the state, then load all sections and, unless the VM is handed over, give the guest a new generation id. RAM
 * has to be in place, because devices read their rings.
 * Returns 0 or -errno. When it fails after the check, the machine has to be reset. */
int machine_load(struct machine *m, const uint8_t *buf, size_t len, struct err *e);

#endif
