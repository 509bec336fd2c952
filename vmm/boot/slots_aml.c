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
#include "base/bytes.h"
#include "devices/pci/pci.h"
#include "devices/pci/pci_hotplug.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

/* Opcodes (ACPI 6.4, section 20.3). */
#define AML_SCOPE "\x10"
#define AML_DEVICE "\x5b\x82"
#define AML_METHOD "\x14"
#define AML_IF "\xa0"
#define AML_NAME "\x08"
#define AML_BYTE "\x0a"
#define AML_DWORD "\x0c"
#define AML_AND "\x7b"
#define AML_NOTIFY "\x86"
#define AML_ARG0 "\x68"
#define AML_ARG1 "\x69"
#define AML_NO_TARGET "\0"
#define AML_ONE "\x01"
#define AML_PCI0 "\\\x2e_SB_PCI0"	  /* a name of two parts */
#define AML_IN_PCI0 "\\\x2f\x03_SB_PCI0"	  /* a name of three parts; the last one follows */

struct aml {
	uint8_t *bytes;
	size_t n;
};

static void put(struct aml *a, const void *p, size_t n)
{
	assert(a->n + n <= SLOTS_AML_MAX_BYTES);
	memcpy(a->bytes + a->n, p, n);
	a->n += n;
}

#define PUT(a, text) put(a, text, sizeof(text) - 1)

static void put_byte(struct aml *a, unsigned v)
{
	uint8_t b = (uint8_t)v;

	put(a, &b, 1);
}

static void put_dword(struct aml *a, uint32_t v)
{
	uint8_t b[4];

	store_le32(b, v);
	put(a, b, sizeof(b));
}

static void put_slot_name(struct aml *a, unsigned slot)
{
	char name[8];

	snprintf(name, sizeof(name), "S%02X_", slot);
	put(a, name, 4);
}

/* Begin a package of which only the opcode is written. Returns where its length goes, for package_end(). */
static size_t package_begin(struct aml *a)
{
	put_byte(a, 0);
	return a->n - 1;
}

/* Write the length, which counts its own bytes: one up to 63, or else two, with the lowest four bits in the first. */
static void package_end(struct aml *a, size_t at)
{
	size_t n = a->n - at;

	if (n < 64) {
		a->bytes[at] = (uint8_t)n;
		return;
	}
	put_byte(a, 0);
	memmove(a->bytes + at + 2, a->bytes + at + 1, n - 1);
	n++;
	a->bytes[at] = (uint8_t)(0x40 | (n & 0xf));
	a->bytes[at + 1] = (uint8_t)(n >> 4);
}

static void put_device(struct aml *a, unsigned slot)
{
	size_t device, method;

	PUT(a, AML_DEVICE);
	device = package_begin(a);
	put_slot_name(a, slot);
	PUT(a, AML_NAME "_ADR" AML_DWORD);
	put_dword(a, slot << 16);
	PUT(a, AML_METHOD);
	method = package_begin(a);
	PUT(a, "_EJ0\x01"
	       "EJEC" AML_BYTE);
	put_byte(a, slot);
	package_end(a, method);
	PUT(a, AML_METHOD);
	method = package_begin(a);
	PUT(a, "_OST\x03"
	       "STAT" AML_BYTE);
	put_byte(a, slot);
	PUT(a, AML_ARG0 AML_ARG1);
	package_end(a, method);
	package_end(a, device);
}

static void put_tell(struct aml *a, uint32_t slots)
{
	size_t method, branch;

	PUT(a, AML_METHOD);
	method = package_begin(a);
	PUT(a, "TELL\x02");
	for (unsigned s = 0; s < PCI_SLOTS; s++) {
		if (!(slots >> s & 1))
			continue;
		PUT(a, AML_IF);
		branch = package_begin(a);
		PUT(a, AML_AND AML_ARG0 AML_DWORD);
		put_dword(a, 1u << s);
		PUT(a, AML_NO_TARGET AML_NOTIFY);
		put_slot_name(a, s);
		PUT(a, AML_ARG1);
		package_end(a, branch);
	}
	package_end(a, method);
}

static void put_event(struct aml *a)
{
	size_t scope, method;

	PUT(a, AML_SCOPE);
	scope = package_begin(a);
	PUT(a, "\\_GPE" AML_METHOD);
	method = package_begin(a);
	_Static_assert(PCI_HOTPLUG_GPE == 1, "the method's name");
	PUT(a, "_E01\0");
	PUT(a, AML_IN_PCI0 "TELL" AML_IN_PCI0 "PLUG" AML_ONE);
	PUT(a, AML_IN_PCI0 "TELL" AML_IN_PCI0 "ASKD" AML_BYTE "\x03");
	package_end(a, method);
	package_end(a, scope);
}

size_t slots_aml_put(uint8_t to[SLOTS_AML_MAX_BYTES], uint32_t slots)
{
	struct aml a = { to, 0 };
	size_t scope;

	PUT(&a, AML_SCOPE);
	scope = package_begin(&a);
	PUT(&a, AML_PCI0);
	for (unsigned s = 0; s < PCI_SLOTS; s++)
		if (slots >> s & 1)
			put_device(&a, s);
	put_tell(&a, slots);
	package_end(&a, scope);
	put_event(&a);
	return a.n;
}
