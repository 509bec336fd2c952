/* acpi: find and read the tables as an operating system does, starting at the RSDP. */
#include "base/bytes.h"
#include "base/err.h"
#include "base/util.h"
#include "devices/acpi_pm.h"
#include "devices/legacy/rtc.h"
#include "devices/pci/pci.h"
#include "vmm/boot/acpi.h"
#include "vmm/kvm/memory.h"
#include "vmm/vm_msg.h"
#include "tests/unit/tmp.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define HEADER_BYTES 36

static uint64_t build_with(struct memory *m, uint64_t ram, unsigned vcpus, bool keyboard)
{
	struct acpi_config c = { .hotplug = true };
	struct err e = { 0 };
	uint64_t rsdp = 0;

	assert_int_equal(memory_init(m, ram, false, &e), 0);
	c.vcpus = vcpus;
	c.keyboard = keyboard;
	assert_int_equal(acpi_build(m, &c, &rsdp, &e), 0);
	return rsdp;
}

static uint64_t build(struct memory *m, uint64_t ram, unsigned vcpus)
{
	return build_with(m, ram, vcpus, false);
}

static uint8_t sum(const uint8_t *p, size_t n)
{
	uint8_t s = 0;

	while (n--)
		s = (uint8_t)(s + *p++);
	return s;
}

/* ACPI 6.4, 5.2.5.1: at a 16-byte boundary between 0xe0000 and 0xfffff. */
static const uint8_t *rsdp_scan(const struct memory *m)
{
	for (uint64_t a = 0xe0000; a < 0x100000; a += 16)
		if (!memcmp(m->host + a, "RSD PTR ", 8))
			return m->host + a;
	return NULL;
}

static const uint8_t *table_at(const struct memory *m, uint64_t gpa, const char *sig)
{
	const uint8_t *t = m->host + gpa;

	assert_in_range(gpa, MEM_ACPI_BASE, MEM_ACPI_BASE + MEM_ACPI_BYTES - HEADER_BYTES);
	assert_int_equal(gpa % 4, 0);
	assert_memory_equal(t, sig, 4);
	assert_true(gpa + load_le32(t + 4) <= MEM_ACPI_BASE + MEM_ACPI_BYTES);
	if (memcmp(sig, "FACS", 4)) {
		assert_true(load_le32(t + 4) >= HEADER_BYTES);
		assert_int_equal(sum(t, load_le32(t + 4)), 0);
	}
	return t;
}

/* Return the table of that signature which the XSDT lists. */
static const uint8_t *table_find(const struct memory *m, uint64_t rsdp, const char *sig)
{
	const uint8_t *x = table_at(m, load_le64(m->host + rsdp + 24), "XSDT");
	const uint8_t *found = NULL;

	assert_int_equal((load_le32(x + 4) - HEADER_BYTES) % 8, 0);
	for (uint32_t at = HEADER_BYTES; at < load_le32(x + 4); at += 8) {
		uint64_t gpa = load_le64(x + at);

		if (memcmp(m->host + gpa, sig, 4))
			continue;
		assert_null(found); /* exactly one */
		found = table_at(m, gpa, sig);
	}
	assert_non_null(found);
	return found;
}

static void test_rsdp(void **state)
{
	struct memory m;
	uint64_t rsdp = build(&m, 64 * MIB, 1);
	const uint8_t *r = rsdp_scan(&m);

	(void)state;
	assert_ptr_equal(r, m.host + rsdp);
	assert_int_equal(sum(r, 20), 0);
	assert_int_equal(r[15], 2);
	assert_int_equal(load_le32(r + 20), 36);
	assert_int_equal(sum(r, 36), 0);
	memory_done(&m);
}

static void gas_check(const uint8_t *g, uint8_t bits, uint64_t port)
{
	assert_int_equal(g[0], 1); /* system I/O */
	assert_int_equal(g[1], bits);
	assert_int_equal(g[2], 0);
	assert_true(load_le64(g + 4) == port);
}

/* ACPI 6.4, table 5-33 (FADT). */
static void test_fadt_says_what_the_device_does(void **state)
{
	struct memory m;
	uint64_t rsdp = build(&m, 64 * MIB, 2);
	const uint8_t *f = table_find(&m, rsdp, "FACP");
	uint32_t flags = load_le32(f + 112);

	(void)state;
	assert_int_equal(load_le32(f + 4), 276);
	assert_int_equal(f[8], 6);
	assert_int_equal(load_le16(f + 46), ACPI_SCI_GSI);
	assert_int_equal(load_le32(f + 48), 0); /* no SMI_CMD: ACPI is always on */
	assert_int_equal(load_le32(f + 56), ACPI_PM1_EVT_PORT);
	assert_int_equal(load_le32(f + 60), 0);
	assert_int_equal(load_le32(f + 64), ACPI_PM1_CNT_PORT);
	assert_int_equal(load_le32(f + 76), ACPI_PM_TMR_PORT);
	assert_int_equal(load_le32(f + 80), ACPI_GPE0_PORT);
	assert_int_equal(load_le32(f + 84), 0);
	assert_int_equal(f[88], ACPI_PM1_EVT_BYTES);
	assert_int_equal(f[89], ACPI_PM1_CNT_BYTES);
	assert_int_equal(f[90], 0);
	assert_int_equal(f[91], ACPI_PM_TMR_BYTES);
	assert_int_equal(f[92], ACPI_GPE0_BYTES);
	assert_int_equal(f[93], 0);
	assert_true(load_le16(f + 96) > 100 && load_le16(f + 98) > 1000); /* no C2, no C3 */
	assert_int_equal(f[108], RTC_CENTURY_REGISTER);
	assert_true(load_le16(f + 109) & 1 << 1);  /* there is an 8042 */
	assert_true(load_le16(f + 109) & 1 << 2);  /* there is no VGA */
	assert_false(load_le16(f + 109) & 1 << 3); /* there is MSI */
	assert_true(flags & 1 << 0);               /* WBINVD */
	assert_false(flags & 1 << 4);              /* the power button is a fixed one */
	assert_true(flags & 1 << 5);               /* there is no fixed sleep button */
	assert_true(flags & 1 << 8);               /* 32-bit PM timer */
	assert_true(flags & 1 << 10);              /* reset register */
	assert_false(flags & 1 << 20);             /* not hardware-reduced */
	gas_check(f + 116, 8, PCI_RESET_PORT);
	assert_int_equal(f[128], PCI_RESET_VALUE);
	memory_done(&m);
}

static void test_fadt_references_facs_and_dsdt(void **state)
{
	struct memory m;
	uint64_t rsdp = build(&m, 64 * MIB, 2), facs, dsdt;
	const uint8_t *f = table_find(&m, rsdp, "FACP"), *t;

	(void)state;
	facs = load_le32(f + 36);
	t = table_at(&m, facs, "FACS");
	assert_int_equal(facs % 64, 0);
	assert_int_equal(load_le32(t + 4), 64);
	dsdt = load_le32(f + 40);
	t = table_at(&m, dsdt, "DSDT");
	assert_int_equal(t[8], 2); /* 64-bit integers */
	assert_true(load_le64(f + 140) == dsdt || load_le64(f + 140) == 0);
	assert_true(load_le64(f + 132) == facs || load_le64(f + 132) == 0);
	memory_done(&m);
}

static bool has_text(const uint8_t *t, const char *text)
{
	return memmem(t, load_le32(t + 4), text, strlen(text));
}

static void test_dsdt_names_hotplug_only_where_it_is(void **state)
{
	(void)state;
	for (int hotplug = 0; hotplug < 2; hotplug++) {
		struct err e = { 0 };
		struct memory m;
		uint64_t rsdp = 0;
		const uint8_t *t;

		assert_int_equal(memory_init(&m, 64 * MIB, false, &e), 0);
		assert_int_equal(acpi_build(&m, &(struct acpi_config){ .vcpus = 1, .hotplug = hotplug }, &rsdp, &e), 0);
		t = table_at(&m, load_le32(table_find(&m, rsdp, "FACP") + 40), "DSDT");
		assert_int_equal(sum(t, load_le32(t + 4)), 0);
		assert_int_equal(has_text(t, "HPRG") && has_text(t, "S18_") && has_text(t, "_E01"), hotplug);
		assert_int_equal(has_text(t, "HPRG") || has_text(t, "S18_") || has_text(t, "_E01"), hotplug);
		memory_done(&m);
	}
}

/* With hot-plug of vCPUs: the MADT says which are there, and the SSDT has all. */
static void test_absent_vcpus_are_disabled(void **state)
{
	const struct acpi_config c = { .vcpus = 4, .cpu_hotplug = true, .vcpus_absent = 1u << 1 | 1u << 3 };
	const struct acpi_config full = { .vcpus = VM_VCPUS_MAX, .uefi = true, .keyboard = true, .hotplug = true, .slots = ~1u,
		.cpu_hotplug = true };
	struct acpi_tables *tables;
	struct err e = { 0 };
	struct memory m;
	uint64_t rsdp = 0;
	const uint8_t *t;

	(void)state;
	assert_int_equal(memory_init(&m, 64 * MIB, false, &e), 0);
	assert_int_equal(acpi_build(&m, &c, &rsdp, &e), 0);
	t = table_find(&m, rsdp, "APIC") + 44;
	for (unsigned i = 0; i < 4; i++, t += 8) {
		assert_int_equal(t[3], i);
		assert_int_equal(load_le32(t + 4), !(i & 1));
	}
	t = table_find(&m, rsdp, "SSDT");
	assert_int_equal(sum(t, load_le32(t + 4)), 0);
	assert_true(has_text(t, "C000") && has_text(t, "C003") && has_text(t, "_E02") && !has_text(t, "C004"));
	memory_done(&m);
	assert_int_equal(acpi_tables_new(&full, &tables, &e), 0);
	free(tables);
}

/* The DSDT of a machine version from 7 on has a device for each slot of the configuration, and no other ones. */
static void test_dsdt_has_slots_of_configuration(void **state)
{
	const struct acpi_config c = { .vcpus = 1, .hotplug = true, .slots = 1u << 1 | 1u << 24 | 1u << 31 };
	struct err e = { 0 };
	struct memory m;
	uint64_t rsdp = 0;
	const uint8_t *t;

	(void)state;
	assert_int_equal(memory_init(&m, 64 * MIB, false, &e), 0);
	assert_int_equal(acpi_build(&m, &c, &rsdp, &e), 0);
	t = table_at(&m, load_le32(table_find(&m, rsdp, "FACP") + 40), "DSDT");
	assert_int_equal(sum(t, load_le32(t + 4)), 0);
	for (unsigned slot = 0; slot < PCI_SLOTS; slot++) {
		char name[8];

		snprintf(name, sizeof(name), "S%02X_", slot);
		assert_int_equal(has_text(t, name), c.slots >> slot & 1);
	}
	assert_true(has_text(t, "HPRG") && has_text(t, "TELL") && has_text(t, "_E01"));
	memory_done(&m);
}

struct madt_seen {
	unsigned lapics, ioapics, overrides, nmis;
	bool apic_id[256], uid[256];
};

static void madt_entry(const uint8_t *p, struct madt_seen *seen)
{
	switch (p[0]) {
	case 0:
		assert_int_equal(p[1], 8);
		assert_false(seen->uid[p[2]] || seen->apic_id[p[3]]);
		seen->uid[p[2]] = seen->apic_id[p[3]] = true;
		assert_int_equal(load_le32(p + 4), 1);
		seen->lapics++;
		break;
	case 1:
		assert_int_equal(p[1], 12);
		assert_int_equal(load_le32(p + 4), MEM_IOAPIC_BASE);
		assert_int_equal(load_le32(p + 8), 0);
		seen->ioapics++;
		break;
	case 2:
		assert_int_equal(p[1], 10);
		assert_int_equal(p[2], 0);
		assert_int_equal(p[3], ACPI_SCI_GSI);
		assert_int_equal(load_le32(p + 4), ACPI_SCI_GSI);
		assert_int_equal(load_le16(p + 8), 1 | 3 << 2); /* active high, level */
		seen->overrides++;
		break;
	case 4:
		assert_int_equal(p[1], 6);
		assert_int_equal(p[2], 0xff);
		assert_int_equal(p[5], 1);
		seen->nmis++;
		break;
	default:
		fail_msg("MADT entry of type %u", p[0]);
	}
}

static void madt_check(unsigned vcpus)
{
	struct memory m;
	uint64_t rsdp = build(&m, 64 * MIB, vcpus);
	const uint8_t *t = table_find(&m, rsdp, "APIC");
	struct madt_seen seen = { 0 };
	uint32_t at = 44, len = load_le32(t + 4);

	assert_int_equal(load_le32(t + 36), MEM_LAPIC_BASE);
	assert_int_equal(load_le32(t + 40), 1);
	while (at < len) {
		assert_true(t[at + 1] >= 2 && at + t[at + 1] <= len);
		madt_entry(t + at, &seen);
		at += t[at + 1];
	}
	assert_int_equal(at, len);
	assert_int_equal(seen.lapics, vcpus);
	assert_int_equal(seen.ioapics, 1);
	assert_int_equal(seen.overrides, 1);
	assert_int_equal(seen.nmis, 1);
	/* KVM_CREATE_VCPU gives vCPU i the APIC id i. */
	for (unsigned i = 0; i < vcpus; i++)
		assert_true(seen.apic_id[i]);
	memory_done(&m);
}

static void test_madt(void **state)
{
	(void)state;
	madt_check(1);
	madt_check(2);
	madt_check(3);
	madt_check(VM_VCPUS_MAX);
}

static void test_mcfg(void **state)
{
	struct memory m;
	uint64_t rsdp = build(&m, 64 * MIB, 1);
	const uint8_t *t = table_find(&m, rsdp, "MCFG");

	(void)state;
	assert_int_equal(load_le32(t + 4), 60);
	assert_true(load_le64(t + 44) == MEM_ECAM_BASE);
	assert_int_equal(load_le16(t + 52), 0);
	assert_int_equal(t[54], 0);
	/* The window has exactly the size of its buses: 1 MiB each. */
	assert_int_equal((t[55] + 1) * MIB, MEM_ECAM_BYTES);
	memory_done(&m);
}

/* All tables lie in the hole that e820 reserves, without overlaps. */
static void test_tables_stay_in_reserved_hole(void **state)
{
	struct memory m;

	(void)state;
	build(&m, 1 * MIB, VM_VCPUS_MAX);
	for (uint64_t a = 0; a < MEM_ACPI_BASE; a++)
		assert_int_equal(m.host[a], 0);
	memory_done(&m);
	build(&m, 2 * MIB, VM_VCPUS_MAX);
	for (uint64_t a = MEM_ACPI_BASE + MEM_ACPI_BYTES; a < 2 * MIB; a++)
		assert_int_equal(m.host[a], 0);
	memory_done(&m);
}

static void test_tables_that_do_not_fit_are_refused(void **state)
{
	struct err e = { 0 };
	struct memory m;
	uint64_t rsdp;

	(void)state;
	assert_int_equal(memory_init(&m, 1 * MIB, false, &e), 0);
	m.low_bytes = MEM_ACPI_BASE + 1024;
	assert_int_equal(acpi_build(&m, &(struct acpi_config){ .vcpus = 64, .hotplug = true }, &rsdp, &e), -ENOSPC);
	for (uint64_t a = m.low_bytes; a < MIB; a++)
		assert_int_equal(m.host[a], 0);
	memory_done(&m);
}

static void table_save(const char *dir, const char *sig, const uint8_t *t)
{
	char path[128];
	FILE *f;

	snprintf(path, sizeof(path), "%s/%s.dat", dir, sig);
	f = fopen(path, "w");
	assert_non_null(f);
	assert_int_equal(fwrite(t, 1, load_le32(t + 4), f), load_le32(t + 4));
	assert_int_equal(fclose(f), 0);
}

/* ACPICA disassembles each table without errors, and the AML recompiles. */
static void test_iasl_accepts_tables(void **state)
{
	const struct acpi_config bios = { .vcpus = 1, .keyboard = true, .hotplug = true };
	const struct acpi_config all = { .vcpus = 1, .hotplug = true, .slots = ~1u };
	const struct acpi_config cpus = { .vcpus = 64, .hotplug = true, .cpu_hotplug = true };
	struct acpi_tables *t;
	char dir[96], cmd[800];
	struct memory m;
	uint64_t rsdp;
	int r;

	(void)state;
	if (system("iasl -v >/dev/null 2>&1")) {
		print_message("skipped: iasl (acpica-tools) is not installed\n");
		skip();
	}
	snprintf(dir, sizeof(dir), "%s/cairn-acpi-XXXXXX", tmp_folder());
	assert_non_null(mkdtemp(dir));
	rsdp = build_with(&m, 64 * MIB, 64, true);
	table_save(dir, "FACP", table_find(&m, rsdp, "FACP"));
	table_save(dir, "APIC", table_find(&m, rsdp, "APIC"));
	table_save(dir, "MCFG", table_find(&m, rsdp, "MCFG"));
	table_save(dir, "SSDT", table_find(&m, rsdp, "SSDT"));
	assert_int_equal(acpi_tables_new(&bios, &t, NULL), 0);
	table_save(dir, "BIOS", memmem(t->bytes, t->nbytes, "DSDT", 4));
	free(t);
	assert_int_equal(acpi_tables_new(&all, &t, NULL), 0);
	table_save(dir, "SLOT", memmem(t->bytes, t->nbytes, "DSDT", 4));
	free(t);
	assert_int_equal(acpi_tables_new(&cpus, &t, NULL), 0);
	table_save(dir, "CPUS", memmem(t->bytes, t->nbytes, "SSDT", 4));
	free(t);
	table_save(dir, "DSDT", table_at(&m, load_le32(table_find(&m, rsdp, "FACP") + 40), "DSDT"));
	snprintf(cmd, sizeof(cmd),
		"cd %s && for t in FACP APIC MCFG DSDT SSDT BIOS SLOT CPUS; do iasl -d $t.dat || exit; done >log 2>&1"
		" && ! grep -iE 'error|warning|invalid|unknown' log APIC.dsl MCFG.dsl FACP.dsl >bad"
		" && iasl -we -p again DSDT.dsl >>log 2>&1 && iasl -we -p again SSDT.dsl >>log 2>&1"
		" && iasl -we -p again BIOS.dsl >>log 2>&1 && iasl -we -p again SLOT.dsl >>log 2>&1"
		" && iasl -we -p again CPUS.dsl >>log 2>&1 && test $(grep -c '_EJ0' CPUS.dsl) = 63 && grep -q 'Notify (C03F, Local0)' CPUS.dsl"
		" && test $(grep -c '_EJ0' SLOT.dsl) = 31 && grep -q 'Notify (S1F, Arg1)' SLOT.dsl"
		" && grep -q 'TELL (.*ASKD, 0x03)' SLOT.dsl || { cat log bad; exit 1; }",
		dir);
	r = system(cmd);
	snprintf(cmd, sizeof(cmd), "rm -rf '%s'", dir);
	assert_int_equal(system(cmd), 0);
	assert_int_equal(r, 0);
	memory_done(&m);
}

#define PLACED 0x7fe0000u

/* Do what a firmware does with the tables and etc/table-loader, then read them from the RSDP on. */
static void tables_place(bool uefi, bool keyboard)
{
	const struct acpi_config config = { .vcpus = 3, .uefi = uefi, .keyboard = keyboard, .hotplug = true,
		.slots = keyboard ? 0 : ~1u };
	struct acpi_tables *t;
	const uint8_t *xsdt, *dsdt, *fadt = NULL;
	bool mcfg = false, ssdt = false;

	assert_int_equal(acpi_tables_new(&config, &t, NULL), 0);
	for (unsigned i = 0; i < t->npointers; i++) {
		uint8_t *p = t->bytes + t->pointers[i].at;

		assert_in_range(load_le(p, t->pointers[i].bytes), 0, t->nbytes - 1);
		store_le(p, t->pointers[i].bytes, load_le(p, t->pointers[i].bytes) + PLACED);
	}
	for (unsigned i = 0; i < t->nchecksums; i++) {
		const struct acpi_checksum *c = &t->checksums[i];

		/* OVMF writes 0 - the sum, which has the old checksum in it; SeaBIOS subtracts the sum from it. */
		assert_int_equal(t->bytes[c->at], 0);
		t->bytes[c->at] = (uint8_t)(t->bytes[c->at] - sum(t->bytes + c->from, c->bytes));
	}
	assert_int_equal(sum(t->rsdp, 20), 0);
	assert_int_equal(sum(t->rsdp, ACPI_RSDP_BYTES), 0);
	xsdt = t->bytes + load_le64(t->rsdp + ACPI_RSDP_XSDT);
	assert_memory_equal(xsdt, "XSDT", 4);
	assert_int_equal(sum(xsdt, load_le32(xsdt + 4)), 0);
	for (unsigned at = HEADER_BYTES; at < load_le32(xsdt + 4); at += 8) {
		const uint8_t *table = t->bytes + load_le64(xsdt + at) - PLACED;

		assert_int_equal(sum(table, load_le32(table + 4)), 0);
		if (!memcmp(table, "FACP", 4))
			fadt = table;
		mcfg |= !memcmp(table, "MCFG", 4);
		ssdt |= !memcmp(table, "SSDT", 4);
	}
	assert_int_equal(mcfg, !uefi);
	assert_int_equal(ssdt, uefi && keyboard);
	assert_non_null(fadt);
	assert_memory_equal(t->bytes + load_le32(fadt + 36) - PLACED, "FACS", 4);
	assert_int_equal(load_le32(fadt + 36) % 64, 0);
	assert_memory_equal(t->bytes + load_le32(fadt + 40) - PLACED, "DSDT", 4);
	assert_int_equal(load_le64(fadt + 140), load_le32(fadt + 40));
	dsdt = t->bytes + load_le32(fadt + 40) - PLACED;
	assert_int_equal(sum(dsdt, load_le32(dsdt + 4)), 0);
	/* SeaBIOS looks for PNP0303 there. */
	assert_int_equal(memmem(dsdt, load_le32(dsdt + 4), "\x0c\x41\xd0\x03\x03", 5) != NULL, keyboard && !uefi);
	free(t);
}

static void test_tables_that_a_firmware_places(void **state)
{
	(void)state;
	for (unsigned i = 0; i < 4; i++)
		tables_place(i & 1, i & 2);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_rsdp),
		cmocka_unit_test(test_fadt_says_what_the_device_does),
		cmocka_unit_test(test_fadt_references_facs_and_dsdt),
		cmocka_unit_test(test_dsdt_names_hotplug_only_where_it_is),
		cmocka_unit_test(test_absent_vcpus_are_disabled),
		cmocka_unit_test(test_dsdt_has_slots_of_configuration),
		cmocka_unit_test(test_madt),
		cmocka_unit_test(test_mcfg),
		cmocka_unit_test(test_tables_stay_in_reserved_hole),
		cmocka_unit_test(test_tables_that_do_not_fit_are_refused),
		cmocka_unit_test(test_iasl_accepts_tables),
		cmocka_unit_test(test_tables_that_a_firmware_places),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
