/* acpi: the tables that let an operating system find its CPUs, PCI and power button
 * (ACPI 6.4, chapter 5). */
#ifndef CAIRN_VMM_BOOT_ACPI_H
#define CAIRN_VMM_BOOT_ACPI_H

#include <stddef.h>
#include <stdint.h>

struct err;
struct memory;

/* Write RSDP, XSDT, FADT, FACS, DSDT, MADT and MCFG into the legacy hole, the RSDP at its very
 * start, where a scan finds it first. *ret_rsdp_gpa: for boot protocols that can point to it.
 * Returns 0; -ENOSPC when they do not fit. */
int acpi_build(struct memory *m, unsigned vcpus, uint64_t *ret_rsdp_gpa, struct err *e);

#endif
