/* acpi: the tables by which an operating system finds its CPUs, PCI and power button (ACPI 6.4,
 * chapter 5). */
#ifndef CAIRN_VMM_BOOT_ACPI_H
#define CAIRN_VMM_BOOT_ACPI_H

#include <stdint.h>

struct err;
struct memory;

/* Write RSDP, XSDT, FADT, FACS, DSDT, MADT and MCFG into the legacy hole, from MEM_ACPI_BASE on. The RSDP comes first,
 * where a guest's scan begins.
 * *ret_rsdp_gpa: address of the RSDP, for boot protocols that pass it to the kernel.
 * Returns 0; -ENOSPC when the tables do not fit. */
int acpi_build(struct memory *m, unsigned vcpus, uint64_t *ret_rsdp_gpa, struct err *e);

#endif
