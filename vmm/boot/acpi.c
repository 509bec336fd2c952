#include "vmm/boot/acpi.h"
#include "base/bytes.h"
#include "base/err.h"
#include "base/util.h"
#include "devices/acpi_pm.h"
#include "devices/legacy/rtc.h"
#include "devices/pci/pci.h"
#include "vmm/boot/cpus_aml.h"
#include "vmm/boot/slots_aml.h"
#include "vmm/kvm/memory.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

/* Generated from dsdt.asl: dsdt_aml_code[]; for a machine without hot-plug, with a BIOS or with UEFI,
 * dsdt_1_aml_code[], dsdt_bios_aml_code[] or dsdt_uefi_aml_code[]; for machine versions 7, 8 (with a BIOS) and 9 (with
 * UEFI), dsdt_7_aml_code[] and so on. From ssdt_keyboard.asl and ssdt_cpus.asl: ssdt_keyboard_aml_code[] and
 * ssdt_cpus_aml_code[]. */
#include "dsdt.h"
#include "dsdt_1.h"
#include "dsdt_7.h"
#include "dsdt_8.h"
#include "dsdt_9.h"
#include "dsdt_bios.h"
#include "dsdt_uefi.h"
#include "ssdt_cpus.h"
#include "ssdt_keyboard.h"

#define HEADER_BYTES 36u
#define FADT_BYTES 276u /* revision 6 */
#define RSDP_BYTES ACPI_RSDP_BYTES
#define IASL_VERSION 0x20200925 /* the one of the golden states */

#define FADT_WBINVD (1u << 0)
#define FADT_PROC_C1 (1u << 2)
#define FADT_SLP_BUTTON (1u << 5) /* there is no fixed sleep button; the power button is fixed hardware */
#define FADT_TMR_VAL_EXT (1u << 8)
#define FADT_RESET_REG_SUP (1u << 10)
#define FADT_APIC_PHYSICAL (1u << 19)
#define BOOT_LEGACY_DEVICES (1u << 0)
#define BOOT_8042 (1u << 1)
#define BOOT_NO_VGA (1u << 2)

#define MADT_ACTIVE_HIGH_LEVEL 0x000d

/* Memory left for tables, and the tables that the XSDT will list. */
struct acpi_area {
	uint8_t *host; /* of address 0 */
	const struct acpi_config *config;
	struct acpi_tables *record; /* notes pointers and checksums; NULL: the tables lie where they are built */
	uint64_t next, end;
	uint64_t tables[8];
	size_t ntables;
	bool full;
};

static uint8_t *area_take(struct acpi_area *a, size_t bytes, size_t align, uint64_t *ret_gpa)
{
	uint64_t gpa = ROUND_UP(a->next, align);

	if (gpa + bytes > a->end) {
		a->full = true;
		return NULL;
	}
	a->next = gpa + bytes;
	*ret_gpa = gpa;
	return memset(a->host + gpa, 0, bytes);
}

/* Note that the field at `field` is the address of a table. */
static void pointer_note(struct acpi_area *a, const uint8_t *field, unsigned bytes)
{
	struct acpi_tables *t = a->record;

	if (!t)
		return;
	if (t->npointers == ACPI_POINTERS_MAX)
		a->full = true;
	else
		t->pointers[t->npointers++] = (struct acpi_pointer){ (uint32_t)(field - a->host), bytes };
}

static void checksum_set(struct acpi_area *a, uint8_t *table, size_t bytes, size_t at)
{
	struct acpi_tables *t = a->record;
	uint8_t sum = 0;

	if (t && t->nchecksums == ACPI_CHECKSUMS_MAX)
		a->full = true;
	else if (t)
		t->checksums[t->nchecksums++] = (struct acpi_checksum){ (uint32_t)(table - a->host), (uint32_t)bytes,
			(uint32_t)(table - a->host + at) };
	table[at] = 0;
	/* OVMF sums up the old checksum, too, so it has to be 0. */
	if (t)
		return;
	for (size_t i = 0; i < bytes; i++)
		sum = (uint8_t)(sum + table[i]);
	table[at] = (uint8_t)-sum;
}

static void header_put(struct cursor *c, const char *sig, size_t bytes, uint8_t revision)
{
	cursor_put_bytes(c, sig, 4);
	cursor_put_le32(c, (uint32_t)bytes);
	cursor_put_u8(c, revision);
	cursor_put_u8(c, 0); /* checksum */
	cursor_put_bytes(c, "CAIRN CAIRNVM ", 14);
	cursor_put_le32(c, 1);
	cursor_put_bytes(c, "CARN", 4);
	cursor_put_le32(c, 1);
}

/* Allocate a table, list it in the XSDT and write its header. */
static uint8_t *table_new(struct acpi_area *a, const char *sig, size_t bytes, uint8_t revision,
	struct cursor *c)
{
	uint64_t gpa;
	uint8_t *t = area_take(a, bytes, 16, &gpa);

	if (!t)
		return NULL;
	a->tables[a->ntables++] = gpa;
	*c = cursor_over(t, bytes);
	header_put(c, sig, bytes, revision);
	return t;
}

/* Write a generic address structure for system I/O space. */
static void gas_put(struct cursor *c, uint8_t bits, uint8_t access, uint64_t port)
{
	cursor_put_u8(c, 1);
	cursor_put_u8(c, bits);
	cursor_put_u8(c, 0);
	cursor_put_u8(c, access);
	cursor_put_le64(c, port);
}

static void fadt_build(struct acpi_area *a, uint64_t facs, uint64_t dsdt)
{
	struct cursor c;
	uint8_t *t = table_new(a, "FACP", FADT_BYTES, 6, &c);

	if (!t)
		return;
	store_le32(t + 36, (uint32_t)facs);
	pointer_note(a, t + 36, 4);
	store_le32(t + 40, (uint32_t)dsdt);
	pointer_note(a, t + 40, 4);
	store_le16(t + 46, ACPI_SCI_GSI);
	store_le32(t + 56, ACPI_PM1_EVT_PORT);
	store_le32(t + 64, ACPI_PM1_CNT_PORT);
	store_le32(t + 76, ACPI_PM_TMR_PORT);
	store_le32(t + 80, ACPI_GPE0_PORT);
	t[88] = ACPI_PM1_EVT_BYTES;
	t[89] = ACPI_PM1_CNT_BYTES;
	t[91] = ACPI_PM_TMR_BYTES;
	t[92] = ACPI_GPE0_BYTES;
	store_le16(t + 96, 0xfff); /* there is no C2 state */
	store_le16(t + 98, 0xfff); /* there is no C3 state */
	t[108] = RTC_CENTURY_REGISTER;
	store_le16(t + 109, BOOT_LEGACY_DEVICES | (a->config->uefi && !a->config->keyboard ? 0 : BOOT_8042) | BOOT_NO_VGA);
	store_le32(t + 112, FADT_WBINVD | FADT_PROC_C1 | FADT_SLP_BUTTON | FADT_TMR_VAL_EXT |
		FADT_RESET_REG_SUP | FADT_APIC_PHYSICAL);
	c.pos = 116;
	gas_put(&c, 8, 1, PCI_RESET_PORT);
	cursor_put_u8(&c, PCI_RESET_VALUE);
	/* X_FIRMWARE_CTRL and the X_ blocks except X_DSDT stay 0, so the guest uses the 32-bit
	 * fields. */
	store_le64(t + 140, dsdt);
	pointer_note(a, t + 140, 8);
	checksum_set(a, t, FADT_BYTES, 9);
}

static void madt_build(struct acpi_area *a)
{
	unsigned vcpus = a->config->vcpus;
	size_t bytes = HEADER_BYTES + 8 + 8 * vcpus + 12 + 10 + 6;
	struct cursor c;
	uint8_t *t = table_new(a, "APIC", bytes, 4, &c);

	if (!t)
		return;
	cursor_put_le32(&c, MEM_LAPIC_BASE);
	cursor_put_le32(&c, 1); /* PCAT_COMPAT: the machine also has two 8259s */
	for (unsigned i = 0; i < vcpus; i++) {
		cursor_put_u8(&c, 0);
		cursor_put_u8(&c, 8);
		cursor_put_u8(&c, (uint8_t)i); /* processor UID */
		cursor_put_u8(&c, (uint8_t)i); /* APIC id */
		cursor_put_le32(&c, !(a->config->vcpus_absent >> i & 1)); /* enabled */
	}
	cursor_put_u8(&c, 1);
	cursor_put_u8(&c, 12);
	cursor_put_u8(&c, 0); /* IOAPIC id */
	cursor_put_u8(&c, 0);
	cursor_put_le32(&c, MEM_IOAPIC_BASE);
	cursor_put_le32(&c, 0); /* GSI base */
	/* The SCI is level-triggered and active high. */
	cursor_put_u8(&c, 2);
	cursor_put_u8(&c, 10);
	cursor_put_u8(&c, 0);
	cursor_put_u8(&c, ACPI_SCI_GSI);
	cursor_put_le32(&c, ACPI_SCI_GSI);
	cursor_put_le16(&c, MADT_ACTIVE_HIGH_LEVEL);
	/* LINT1 of every CPU is NMI. */
	cursor_put_u8(&c, 4);
	cursor_put_u8(&c, 6);
	cursor_put_u8(&c, 0xff);
	cursor_put_le16(&c, 0);
	cursor_put_u8(&c, 1);
	checksum_set(a, t, bytes, 9);
}

static void mcfg_build(struct acpi_area *a)
{
	size_t bytes = HEADER_BYTES + 8 + 16;
	struct cursor c;
	uint8_t *t = table_new(a, "MCFG", bytes, 1, &c);

	if (!t)
		return;
	cursor_skip(&c, 8);
	cursor_put_le64(&c, MEM_ECAM_BASE); /* segment 0; start bus 0 and end bus 0 stay zero */
	checksum_set(a, t, bytes, 9);
}

static uint64_t facs_build(struct acpi_area *a)
{
	uint64_t gpa = 0;
	uint8_t *t = area_take(a, 64, 64, &gpa);

	if (t) {
		memcpy(t, "FACS", 4);
		store_le32(t + 4, 64);
		t[32] = 2; /* version */
	}
	return gpa;
}

/* SeaBIOS looks for a keyboard in the DSDT only, so with SeaBIOS the DSDT also has the SSDT's content. */
static bool keyboard_in_dsdt(const struct acpi_area *a)
{
	return a->config->keyboard && a->record && !a->config->uefi;
}

static const uint8_t *dsdt_choose(const struct acpi_area *a)
{
	if (a->config->uefi)
		return a->config->slots ? dsdt_9_aml_code : dsdt_uefi_aml_code;
	if (a->record)
		return a->config->slots ? dsdt_8_aml_code : dsdt_bios_aml_code;
	if (!a->config->hotplug)
		return dsdt_1_aml_code;
	return a->config->slots ? dsdt_7_aml_code : dsdt_aml_code;
}

/* Complete a table that iasl has begun. A guest sees the same version of iasl with each build of Cairn. */
static void aml_end(uint8_t *t, size_t bytes)
{
	struct acpi_area none = { 0 };

	store_le32(t + 4, (uint32_t)bytes);
	store_le32(t + 32, IASL_VERSION);
	checksum_set(&none, t, bytes, 9);
}

static uint64_t dsdt_build(struct acpi_area *a)
{
	uint8_t slots[SLOTS_AML_MAX_BYTES];
	const uint8_t *aml = dsdt_choose(a);
	size_t bytes = load_le32(aml + 4); /* the table's header */
	size_t keyboard = keyboard_in_dsdt(a) ? sizeof(ssdt_keyboard_aml_code) - HEADER_BYTES : 0;
	size_t nslots = a->config->slots ? slots_aml_put(slots, a->config->slots) : 0, all = bytes + keyboard + nslots;
	uint64_t gpa = 0;
	uint8_t *t = area_take(a, all, 16, &gpa);

	if (!t)
		return gpa;
	memcpy(t, aml, bytes);
	memcpy(t + bytes, ssdt_keyboard_aml_code + HEADER_BYTES, keyboard);
	memcpy(t + bytes + keyboard, slots, nslots);
	aml_end(t, all);
	return gpa;
}

static void ssdt_build(struct acpi_area *a)
{
	uint64_t gpa;
	uint8_t *t = a->config->keyboard && !keyboard_in_dsdt(a) ? area_take(a, sizeof(ssdt_keyboard_aml_code), 16, &gpa) : NULL;

	if (!t)
		return;
	memcpy(t, ssdt_keyboard_aml_code, sizeof(ssdt_keyboard_aml_code));
	aml_end(t, sizeof(ssdt_keyboard_aml_code));
	a->tables[a->ntables++] = gpa;
}

static void ssdt_cpus_build(struct acpi_area *a)
{
	uint8_t cpus[CPUS_AML_MAX_BYTES];
	size_t own = sizeof(ssdt_cpus_aml_code), n = a->config->cpu_hotplug ? cpus_aml_put(cpus, a->config->vcpus) : 0;
	uint64_t gpa;
	uint8_t *t = n ? area_take(a, own + n, 16, &gpa) : NULL;

	if (!t)
		return;
	memcpy(t, ssdt_cpus_aml_code, own);
	memcpy(t + own, cpus, n);
	aml_end(t, own + n);
	a->tables[a->ntables++] = gpa;
}

static uint64_t xsdt_build(struct acpi_area *a)
{
	size_t bytes = HEADER_BYTES + 8 * a->ntables;
	uint64_t gpa = 0;
	uint8_t *t = area_take(a, bytes, 16, &gpa);
	struct cursor c;

	if (!t)
		return 0;
	c = cursor_over(t, bytes);
	header_put(&c, "XSDT", bytes, 1);
	for (size_t i = 0; i < a->ntables; i++) {
		pointer_note(a, t + c.pos, 8);
		cursor_put_le64(&c, a->tables[i]);
	}
	checksum_set(a, t, bytes, 9);
	return gpa;
}

static void rsdp_fill(struct acpi_area *a, uint8_t *t, uint64_t xsdt)
{
	memcpy(t, "RSD PTR ", 8);
	memcpy(t + 9, "CAIRN ", 6);
	t[15] = 2; /* revision */
	store_le32(t + 20, RSDP_BYTES);
	store_le64(t + 24, xsdt);
	checksum_set(a, t, 20, 8);
	checksum_set(a, t, RSDP_BYTES, 32);
}

/* Build all tables but the RSDP. Returns the XSDT's address. */
static uint64_t tables_build(struct acpi_area *a)
{
	uint64_t facs = facs_build(a), dsdt = dsdt_build(a);

	fadt_build(a, facs, dsdt);
	madt_build(a);
	if (!a->config->uefi)
		mcfg_build(a);
	ssdt_build(a);
	ssdt_cpus_build(a);
	return xsdt_build(a);
}

int acpi_build(struct memory *m, const struct acpi_config *c, uint64_t *ret_rsdp_gpa, struct err *e)
{
	struct acpi_area a = { .host = m->host, .next = MEM_ACPI_BASE, .config = c,
		.end = MIN(MEM_ACPI_BASE + MEM_ACPI_BYTES, m->low_bytes) };
	uint64_t rsdp_gpa = 0, xsdt;
	uint8_t *rsdp = area_take(&a, RSDP_BYTES, 16, &rsdp_gpa);

	xsdt = tables_build(&a);
	if (a.full || !rsdp)
		return err_set(e, -ENOSPC, ERR_GENERIC, "the ACPI tables do not fit");
	rsdp_fill(&a, rsdp, xsdt);
	*ret_rsdp_gpa = rsdp_gpa;
	return 0;
}

int acpi_tables_new(const struct acpi_config *c, struct acpi_tables **ret, struct err *e)
{
	struct acpi_tables *t = calloc(1, sizeof(*t));
	struct acpi_area a = { .config = c, .record = t, .end = ACPI_TABLES_MAX_BYTES }, none = { 0 };

	if (!t)
		return err_set_errno(e, -ENOMEM, "ACPI tables");
	a.host = t->bytes;
	rsdp_fill(&none, t->rsdp, tables_build(&a));
	t->nbytes = (uint32_t)a.next;
	if (a.full) {
		free(t);
		return err_set(e, -ENOSPC, ERR_GENERIC, "the ACPI tables do not fit");
	}
	*ret = t;
	return 0;
}
