/* An EFI application for tests of UEFI, \EFI\BOOT\BOOTX64.EFI. It prints "efi app var=X boot=Y" with the last byte of
 * the variable "CairnTest" and whether there is a boot entry Boot0099 ("no": neither is there), and then obeys single
 * characters from COM1:
 *   0 to 9  set the variable; print "set"
 *   b       make the boot entry; print "set"
 *   r       reset; o: turn the machine off, both by the firmware
 * Tables: UEFI 2.10, sections 4.3, 4.4 and 4.5. */
#include "port.h"

#define TPL_HIGH 31
#define NON_VOLATILE 7u /* and for the boot and the runtime */
#define RESET_COLD 0
#define RESET_SHUTDOWN 2

#define EFI __attribute__((ms_abi))

struct guid {
	uint32_t a;
	uint16_t b, c;
	uint8_t d[8];
};

struct boot_services {
	uint8_t header[24];
	uint64_t (EFI *raise_tpl)(uint64_t to);
	void (EFI *restore_tpl)(uint64_t old);
	void *others[27];
	uint64_t (EFI *set_watchdog)(uint64_t s, uint64_t code, uint64_t bytes, void *data);
};

struct runtime_services {
	uint8_t header[24];
	void *others[6];
	uint64_t (EFI *get_variable)(const uint16_t *name, const struct guid *g, uint32_t *attributes, uint64_t *bytes, void *data);
	void *next_name;
	uint64_t (EFI *set_variable)(const uint16_t *name, const struct guid *g, uint32_t attributes, uint64_t bytes, const void *data);
	void *count;
	void (EFI *reset)(uint32_t type, uint64_t status, uint64_t bytes, const void *data);
};

struct system_table {
	uint8_t header[24];
	void *others[8];
	struct runtime_services *runtime;
	struct boot_services *boot;
};

uint64_t EFI efi_main(void *image, struct system_table *st);

static const uint16_t test_name[] = u"CairnTest", entry_name[] = u"Boot0099";
static const struct guid test_guid = { 0x13c4a2d6, 0x7b11, 0x4a55, { 0x9e, 0x1d, 0x35, 0x66, 0x2f, 0x08, 0x4c, 0x17 } };
static const struct guid global_guid = { 0x8be4df61, 0x93ca, 0x11d2, { 0xaa, 0x0d, 0x00, 0xe0, 0x98, 0x03, 0x2b, 0x8c } };
/* Not active; a path of 4 bytes: its end; the description "C". */
static const uint8_t entry[] = { 0, 0, 0, 0, 4, 0, 'C', 0, 0, 0, 0x7f, 0xff, 4, 0 };

static void show(struct runtime_services *rt)
{
	uint8_t v[16] = { 'n', 'o' };
	char text[3] = "no";
	uint64_t bytes = 1;

	if (!rt->get_variable(test_name, &test_guid, 0, &bytes, v)) {
		text[0] = (char)v[0];
		text[1] = 0;
	}
	com1_print("efi app var=");
	com1_print(text);
	bytes = sizeof(v);
	com1_print(rt->get_variable(entry_name, &global_guid, 0, &bytes, v) ? " boot=no\r\n" : " boot=yes\r\n");
}

/* The firmware's terminal must not take the input, so its timer is held off while this waits. */
static char take(struct boot_services *b)
{
	uint64_t old = b->raise_tpl(TPL_HIGH);
	char c = com1_take();

	b->restore_tpl(old);
	return c;
}

uint64_t EFI efi_main(void *image, struct system_table *st)
{
	struct runtime_services *rt = st->runtime;

	(void)image;
	st->boot->set_watchdog(0, 0, 0, 0);
	show(rt);
	for (;;) {
		char c = take(st->boot);
		uint64_t r = 0;

		if (c >= '0' && c <= '9')
			r = rt->set_variable(test_name, &test_guid, NON_VOLATILE, 1, &c);
		else if (c == 'b')
			r = rt->set_variable(entry_name, &global_guid, NON_VOLATILE, sizeof(entry), entry);
		else if (c == 'r' || c == 'o')
			rt->reset(c == 'r' ? RESET_COLD : RESET_SHUTDOWN, 0, 0, 0);
		else
			continue;
		com1_print(r ? "failed\r\n" : "set\r\n");
	}
}
