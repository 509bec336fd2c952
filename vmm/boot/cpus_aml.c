/* In ASL, with one device and one statement of _E02 for each vCPU; vCPU 0 has no _EJ0:
 *
 *   Scope (\_SB.CPUS) {
 *       Device (C001) {
 *           Name (_HID, "ACPI0007")
 *           Name (_UID, 1)
 *           Name (_MAT, Buffer () { 0, 8, 1, 1, 1, 0, 0, 0 })     // its local APIC, as in the MADT, but enabled
 *           Method (_STA) { Return (CSTA (1)) }
 *           Method (_EJ0, 1) { CEJE (1) }
 *           Method (_OST, 3) { COST (1, Arg0, Arg1) }
 *       }
 *       Method (CSCN) { Local0 = CEVT (1)  If (Local0) { Notify (C001, Local0) } }
 *   }
 *   Scope (\_GPE) { Method (_E02) { \_SB.CPUS.CSCN () } }
 */
#include "vmm/boot/cpus_aml.h"
#include "devices/cpu_hotplug.h"
#include "vmm/boot/aml.h"

#include <stdio.h>

static void put_name(struct aml *a, unsigned i)
{
	char name[16];

	snprintf(name, sizeof(name), "C%03X", i);
	aml_put(a, name, 4);
}

/* Write a method of the vCPU. head: its name and flags, and the bytes before the vCPU's number; tail: the bytes after
 * it. */
static void put_method(struct aml *a, const char *head, size_t nhead, unsigned i, const char *tail)
{
	size_t method;

	AML(a, AML_METHOD);
	method = aml_begin(a);
	aml_put(a, head, nhead);
	AML(a, AML_BYTE);
	aml_byte(a, i);
	while (*tail)
		aml_byte(a, (uint8_t)*tail++);
	aml_end(a, method);
}

#define PUT_METHOD(a, head, i, tail) put_method(a, head, sizeof(head) - 1, i, tail)

static void put_device(struct aml *a, unsigned i)
{
	const uint8_t lapic[] = { 0, 8, (uint8_t)i, (uint8_t)i, 1, 0, 0, 0 };
	size_t device, buffer;

	AML(a, AML_DEVICE);
	device = aml_begin(a);
	put_name(a, i);
	AML(a, AML_NAME "_HID" AML_STRING "ACPI0007\0");
	AML(a, AML_NAME "_UID" AML_BYTE);
	aml_byte(a, i);
	AML(a, AML_NAME "_MAT" AML_BUFFER);
	buffer = aml_begin(a);
	AML(a, AML_BYTE);
	aml_byte(a, sizeof(lapic));
	aml_put(a, lapic, sizeof(lapic));
	aml_end(a, buffer);
	PUT_METHOD(a, "_STA\0" AML_RETURN "CSTA", i, "");
	if (i)
		PUT_METHOD(a, "_EJ0\x01" "CEJE", i, "");
	PUT_METHOD(a, "_OST\x03" "COST", i, AML_ARG0 AML_ARG1);
	aml_end(a, device);
}

static void put_scan(struct aml *a, unsigned vcpus)
{
	size_t method, branch;

	AML(a, AML_METHOD);
	method = aml_begin(a);
	AML(a, "CSCN\0");
	for (unsigned i = 0; i < vcpus; i++) {
		AML(a, AML_STORE "CEVT" AML_BYTE);
		aml_byte(a, i);
		AML(a, AML_LOCAL0 AML_IF);
		branch = aml_begin(a);
		AML(a, AML_LOCAL0 AML_NOTIFY);
		put_name(a, i);
		AML(a, AML_LOCAL0);
		aml_end(a, branch);
	}
	aml_end(a, method);
}

size_t cpus_aml_put(uint8_t to[CPUS_AML_MAX_BYTES], unsigned vcpus)
{
	struct aml a = { to, 0, CPUS_AML_MAX_BYTES };
	size_t scope, method;

	AML(&a, AML_SCOPE);
	scope = aml_begin(&a);
	AML(&a, "\\\x2e_SB_CPUS");
	for (unsigned i = 0; i < vcpus; i++)
		put_device(&a, i);
	put_scan(&a, vcpus);
	aml_end(&a, scope);
	AML(&a, AML_SCOPE);
	scope = aml_begin(&a);
	AML(&a, "\\_GPE" AML_METHOD);
	method = aml_begin(&a);
	_Static_assert(CPU_HOTPLUG_GPE == 2, "the method's name");
	AML(&a, "_E02\0" "\\\x2f\x03_SB_CPUSCSCN");
	aml_end(&a, method);
	aml_end(&a, scope);
	return a.n;
}
