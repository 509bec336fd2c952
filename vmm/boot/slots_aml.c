/* In ASL, with one device and one If for each slot:
 *
 *   Scope (\_SB.PCI0) {
 *       Device (S18) {
 *           Name (_ADR, 0x00180000)
 *           Method (_EJ0, 1) { EJEC (24) }
 *           Method (_OST, 3) { STAT (24, Arg0, Arg1) }
 *       }
 *       Method (TELL, 2) { If (Arg0 & 0x01000000) { Notify (S18, Arg1) } }
 *   }
 *   Scope (\_GPE) {
 *       Method (_E01) {
 *           \_SB.PCI0.TELL (\_SB.PCI0.PLUG, 1)
 *           \_SB.PCI0.TELL (\_SB.PCI0.ASKD, 3)
 *       }
 *   }
 */
#include "vmm/boot/slots_aml.h"
#include "devices/pci/pci.h"
#include "devices/pci/pci_hotplug.h"
#include "vmm/boot/aml.h"

#include <stdio.h>

/* Names of two parts, and of three of which the last one follows. */
#define AML_PCI0 "\\\x2e_SB_PCI0"
#define AML_IN_PCI0 "\\\x2f\x03_SB_PCI0"

static void put_slot_name(struct aml *a, unsigned slot)
{
	char name[8];

	snprintf(name, sizeof(name), "S%02X_", slot);
	aml_put(a, name, 4);
}

static void put_device(struct aml *a, unsigned slot)
{
	size_t device, method;

	AML(a, AML_DEVICE);
	device = aml_begin(a);
	put_slot_name(a, slot);
	AML(a, AML_NAME "_ADR" AML_DWORD);
	aml_dword(a, slot << 16);
	AML(a, AML_METHOD);
	method = aml_begin(a);
	AML(a, "_EJ0\x01"
	       "EJEC" AML_BYTE);
	aml_byte(a, slot);
	aml_end(a, method);
	AML(a, AML_METHOD);
	method = aml_begin(a);
	AML(a, "_OST\x03"
	       "STAT" AML_BYTE);
	aml_byte(a, slot);
	AML(a, AML_ARG0 AML_ARG1);
	aml_end(a, method);
	aml_end(a, device);
}

static void put_tell(struct aml *a, uint32_t slots)
{
	size_t method, branch;

	AML(a, AML_METHOD);
	method = aml_begin(a);
	AML(a, "TELL\x02");
	for (unsigned s = 0; s < PCI_SLOTS; s++) {
		if (!(slots >> s & 1))
			continue;
		AML(a, AML_IF);
		branch = aml_begin(a);
		AML(a, AML_AND AML_ARG0 AML_DWORD);
		aml_dword(a, 1u << s);
		AML(a, AML_NO_TARGET AML_NOTIFY);
		put_slot_name(a, s);
		AML(a, AML_ARG1);
		aml_end(a, branch);
	}
	aml_end(a, method);
}

static void put_event(struct aml *a)
{
	size_t scope, method;

	AML(a, AML_SCOPE);
	scope = aml_begin(a);
	AML(a, "\\_GPE" AML_METHOD);
	method = aml_begin(a);
	_Static_assert(PCI_HOTPLUG_GPE == 1, "the method's name");
	AML(a, "_E01\0");
	AML(a, AML_IN_PCI0 "TELL" AML_IN_PCI0 "PLUG" AML_ONE);
	AML(a, AML_IN_PCI0 "TELL" AML_IN_PCI0 "ASKD" AML_BYTE "\x03");
	aml_end(a, method);
	aml_end(a, scope);
}

size_t slots_aml_put(uint8_t to[SLOTS_AML_MAX_BYTES], uint32_t slots)
{
	struct aml a = { to, 0, SLOTS_AML_MAX_BYTES };
	size_t scope;

	AML(&a, AML_SCOPE);
	scope = aml_begin(&a);
	AML(&a, AML_PCI0);
	for (unsigned s = 0; s < PCI_SLOTS; s++)
		if (slots >> s & 1)
			put_device(&a, s);
	put_tell(&a, slots);
	aml_end(&a, scope);
	put_event(&a);
	return a.n;
}
