/* acpi: the tables by which an operating system finds its CPUs, PCI and power button (ACPI 6.4,
 * chapter 5). */
#ifndef CAIRN_VMM_BOOT_ACPI_H
#define CAIRN_VMM_BOOT_ACPI_H

#include <stdbool.h>
#include <stdint.h>

struct err;
struct memory;

struct acpi_config {
	unsigned vcpus;
	bool cpu_hotplug; /* the machine has the device "cpu-hotplug" */
	uint64_t vcpus_absent; /* a bit for each vCPU that is not there */
	bool uefi; /* only for acpi_tables_new() */
	bool keyboard;
	bool hotplug;	/* the machine has the device "pci-hotplug" */
	uint32_t slots; /* with hotplug: the PCI slots whose device the guest can release; 0: those of PCI_HOTPLUG_SLOTS, as
			 * of machine versions before 7 */
};

/* Write RSDP, XSDT, FADT, FACS, DSDT, MADT, MCFG and, with a keyboard and with hot-plug of vCPUs, an SSDT each into
 * the legacy hole, from MEM_ACPI_BASE on. The RSDP comes first, where a guest's scan begins.
 * *ret_rsdp_gpa: address of the RSDP, for boot protocols that pass it to the kernel.
 * Returns 0; -ENOSPC when the tables do not fit. */
int acpi_build(struct memory *m, const struct acpi_config *c, uint64_t *ret_rsdp_gpa, struct err *e);

/* ---- tables that a firmware places ---- */

#define ACPI_TABLES_MAX_BYTES 0x6000u
#define ACPI_RSDP_BYTES 36u
#define ACPI_RSDP_XSDT 24u /* offset of the XSDT's address, 8 bytes */
#define ACPI_POINTERS_MAX 16
#define ACPI_CHECKSUMS_MAX 8

/* The tables but the RSDP as one block, built for address 0, and where it has addresses and checksums. */
struct acpi_tables {
	uint8_t bytes[ACPI_TABLES_MAX_BYTES];
	uint32_t nbytes;
	uint8_t rsdp[ACPI_RSDP_BYTES];
	struct acpi_pointer {
		uint32_t at;
		uint32_t bytes; /* 4 or 8 */
	} pointers[ACPI_POINTERS_MAX];
	unsigned npointers;
	struct acpi_checksum {
		uint32_t from, bytes;
		uint32_t at;
	} checksums[ACPI_CHECKSUMS_MAX];
	unsigned nchecksums;
};

/* Build the tables of a machine with a BIOS or UEFI. UEFI's have no MCFG, since the firmware decides where ECAM is.
 * c: its hotplug is taken as true.
 * *ret: free with free(). Returns 0; -ENOSPC; -ENOMEM. */
int acpi_tables_new(const struct acpi_config *c, struct acpi_tables **ret, struct err *e);

#endif
