/* aml: writes AML, the bytecode of ACPI tables (ACPI 6.4, chapter 20), into a buffer. It writes the parts of tables
 * that depend on the machine; the other parts are ASL source. */
#ifndef CAIRN_VMM_BOOT_AML_H
#define CAIRN_VMM_BOOT_AML_H

#include <stddef.h>
#include <stdint.h>

/* Opcodes (section 20.3), for string literals. */
#define AML_SCOPE "\x10"
#define AML_DEVICE "\x5b\x82"
#define AML_METHOD "\x14"
#define AML_IF "\xa0"
#define AML_NAME "\x08"
#define AML_BUFFER "\x11"
#define AML_BYTE "\x0a"
#define AML_DWORD "\x0c"
#define AML_STRING "\x0d"
#define AML_AND "\x7b"
#define AML_STORE "\x70"
#define AML_NOTIFY "\x86"
#define AML_RETURN "\xa4"
#define AML_LOCAL0 "\x60"
#define AML_ARG0 "\x68"
#define AML_ARG1 "\x69"
#define AML_NO_TARGET "\0"
#define AML_ONE "\x01"

struct aml {
	uint8_t *bytes;
	size_t n, max; /* to write more than max is a defect of the caller */
};

void aml_put(struct aml *a, const void *p, size_t n);
/* Write the bytes of a string literal. */
#define AML(a, text) aml_put(a, text, sizeof(text) - 1)
void aml_byte(struct aml *a, unsigned v);
void aml_dword(struct aml *a, uint32_t v);
/* Begin a package of which only the opcode is written. Returns where its length goes, for aml_end(). */
size_t aml_begin(struct aml *a);
/* Write the length of the package, which ends here: less than 1 MiB. */
void aml_end(struct aml *a, size_t at);

#endif
