/* bios: read what SeaBIOS reads, by fw_cfg's ports. */
#include "base/bytes.h"
#include "base/util.h"
#include "devices/bus.h"
#include "devices/dev_host.h"
#include "devices/device.h"
#include "devices/legacy/fw_cfg.h"
#include "vmm/boot/acpi.h"
#include "vmm/boot/bios.h"
#include "vmm/boot/smbios.h"
#include "vmm/kvm/memory.h"
#include "vmm/vm_msg.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define DATA_PORT (FW_CFG_PORT + 1)

struct state {
	struct dev_host host;
	struct bus *pio;
	struct device *d;
	struct memory mem;
	struct bios_config c;
};

static int setup(void **state)
{
	struct state *s = calloc(1, sizeof(*s));

	s->pio = bus_new();
	assert_int_equal(fw_cfg_new(&s->host, s->pio, &s->d, NULL), 0);
	s->mem.bytes = s->mem.low_bytes = 64 * MIB;
	s->c = (struct bios_config){ .mem = &s->mem, .vcpus = 1 };
	for (unsigned i = 0; i < 16; i++)
		s->c.uuid[i] = (uint8_t)i;
	*state = s;
	return 0;
}

static int teardown(void **state)
{
	struct state *s = *state;

	s->d->ops->free(s->d);
	bus_free(s->pio);
	free(s);
	return 0;
}

static void item_read(struct state *s, uint16_t key, void *to, size_t n)
{
	bus_write(s->pio, FW_CFG_PORT, 2, key);
	for (size_t i = 0; i < n; i++) {
		uint64_t v = 0;

		bus_read(s->pio, DATA_PORT, 1, &v);
		((uint8_t *)to)[i] = (uint8_t)v;
	}
}

/* Read a file of at most cap bytes. Returns its length; -1: there is no such file. */
static int file_read(struct state *s, const char *name, void *to, size_t cap)
{
	uint8_t dir[4 + 64 * FW_CFG_ITEMS_MAX];

	item_read(s, FW_CFG_FILE_DIR, dir, sizeof(dir));
	for (uint32_t i = 0; i < load_be32(dir); i++) {
		const uint8_t *f = dir + 4 + 64 * i;

		if (strcmp((const char *)f + 8, name))
			continue;
		assert_true(load_be32(f) <= cap);
		item_read(s, load_be16(f + 4), to, load_be32(f));
		return (int)load_be32(f);
	}
	return -1;
}

static int file_bytes(struct state *s, const char *name)
{
	static uint8_t all[ACPI_TABLES_MAX_BYTES];

	return file_read(s, name, all, sizeof(all));
}

static void test_boot_order_has_disks_and_the_network(void **state)
{
	static const uint8_t rom[3] = { 0x55, 0xaa, 1 };
	struct state *s = *state;
	char text[256];
	uint8_t got[8];

	s->c.order[0] = 3;
	s->c.order[1] = BIOS_ORDER_NETWORK;
	s->c.order[2] = 0x1f;
	s->c.order[3] = BIOS_ORDER_INTERFACE(0x12);
	s->c.norder = 4;
	s->c.network_rom = rom;
	s->c.network_rom_bytes = sizeof(rom);
	assert_int_equal(bios_describe(s->d, &s->c, NULL), 0);
	assert_true(file_read(s, "bootorder", text, sizeof(text)) > 0);
	assert_string_equal(text,
		"/pci@i0cf8/scsi@3/disk@0,0\n/rom@genroms/pxe-virtio.rom\n/pci@i0cf8/scsi@1f/disk@0,0\n"
		"/pci@i0cf8/ethernet@12/ethernet-phy@0");
	assert_int_equal(file_read(s, "genroms/pxe-virtio.rom", got, sizeof(got)), 3);
	assert_memory_equal(got, rom, 3);
}

/* The files keep their numbers: a firmware may have read the directory already. */
static void test_tables_and_order_are_replaced(void **state)
{
	struct state *s = *state;
	uint8_t before[4 + 64 * FW_CFG_ITEMS_MAX], after[sizeof(before)];
	char text[256];
	int tables;

	s->c.order[0] = 3;
	s->c.norder = 1;
	s->c.slots = 1u << 24;
	assert_int_equal(bios_describe(s->d, &s->c, NULL), 0);
	item_read(s, FW_CFG_FILE_DIR, before, sizeof(before));
	tables = file_bytes(s, "etc/acpi/tables");
	s->c.order[0] = 4;
	s->c.slots = 3u << 24;
	assert_int_equal(bios_describe_again(s->d, &s->c, NULL), 0);
	item_read(s, FW_CFG_FILE_DIR, after, sizeof(after));
	assert_true(file_read(s, "bootorder", text, sizeof(text)) > 0);
	assert_string_equal(text, "/pci@i0cf8/scsi@4/disk@0,0");
	assert_true(file_bytes(s, "etc/acpi/tables") > tables);
	assert_int_equal(load_be32(before), load_be32(after));
	for (uint32_t i = 0; i < load_be32(before); i++)
		assert_memory_equal(before + 4 + 64 * i + 4, after + 4 + 64 * i + 4, 60);
	/* A file that was not there stays away. */
	assert_int_equal(fw_cfg_replace_file(s->d, "etc/none", "x", 1, NULL), 0);
	assert_int_equal(file_bytes(s, "etc/none"), -1);
}

static void test_no_rom_without_the_network(void **state)
{
	struct state *s = *state;
	char text[8];

	assert_int_equal(bios_describe(s->d, &s->c, NULL), 0);
	assert_int_equal(file_read(s, "genroms/pxe-virtio.rom", text, sizeof(text)), -1);
	assert_int_equal(file_read(s, "bootorder", text, sizeof(text)), -1);
}

/* Return the content of the SMBIOS entry with this field (or of the structure 11, if field is 0) and its length. */
static const uint8_t *entry_find(const uint8_t *item, uint8_t field, size_t *ret_len)
{
	const uint8_t *p = item + 2;

	for (unsigned i = 0; i < load_le16(item); i++, p += load_le16(p)) {
		if (p[2] == 0 && field && p[3] == 1 && load_le16(p + 4) == field) {
			*ret_len = load_le16(p) - 6u;
			return p + 6;
		}
		if (p[2] == 1 && !field && p[3] == 11) {
			*ret_len = load_le16(p) - 3u;
			return p + 3;
		}
	}
	return NULL;
}

static void field_is(const uint8_t *item, uint8_t field, const char *want)
{
	size_t len;
	const uint8_t *p = entry_find(item, field, &len);

	if (!want) {
		assert_null(p);
		return;
	}
	assert_non_null(p);
	assert_int_equal(len, strlen(want) + 1);
	assert_string_equal((const char *)p, want);
}

static void test_smbios_names_cairn_by_default(void **state)
{
	static const uint8_t uuid[16] = { 3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15 };
	struct state *s = *state;
	uint8_t item[2048];
	size_t len;

	assert_int_equal(bios_describe(s->d, &s->c, NULL), 0);
	item_read(s, FW_CFG_SMBIOS_ENTRIES, item, sizeof(item));
	field_is(item, 4, "Cairn");
	field_is(item, 5, "Cairn VM");
	field_is(item, 6, NULL);
	field_is(item, 7, NULL);
	assert_memory_equal(entry_find(item, 8, &len), uuid, 16);
	assert_null(entry_find(item, 0, &len));
}

static void test_smbios_has_the_texts_of_the_definition(void **state)
{
	static const char list[] = "\1Acme\0\4ds=nocloud;s=http://10.0.2.2/\0\7first\0\6F\0\7second\0";
	/* SMBIOS 3.6, 7.12: type, length, handle, number of strings; the strings; an empty string. */
	static const uint8_t oem[] = "\x0b\x05\x00\x0e\x02" "first\0second\0";
	struct state *s = *state;
	uint8_t item[2048];
	const uint8_t *p;
	size_t len;

	s->c.sysinfo = list;
	assert_int_equal(bios_describe(s->d, &s->c, NULL), 0);
	item_read(s, FW_CFG_SMBIOS_ENTRIES, item, sizeof(item));
	field_is(item, 4, "Acme");
	field_is(item, 5, "Cairn VM");
	field_is(item, 7, "ds=nocloud;s=http://10.0.2.2/");
	field_is(item, 25, NULL);
	field_is(item, 26, "F");
	p = entry_find(item, 0, &len);
	assert_non_null(p);
	assert_int_equal(len, sizeof(oem));
	assert_memory_equal(p, oem, sizeof(oem));
}

/* ---- the tables in memory, of a VM without a firmware ---- */

static uint8_t sum_of(const uint8_t *p, size_t n)
{
	uint8_t sum = 0;

	while (n--)
		sum = (uint8_t)(sum + *p++);
	return sum;
}

/* Return the structure of this type by the entry point, after checking both; NULL: there is none. */
static const uint8_t *structure_find(const struct memory *m, uint8_t type)
{
	const uint8_t *entry = m->host + 0xf0000, *at = m->host + load_le32(entry + 24), *end = at + load_le16(entry + 22);
	const uint8_t *found = NULL;
	unsigned n = 0;

	assert_memory_equal(entry, "_SM_", 4);
	assert_int_equal(entry[5], 31);
	assert_int_equal(sum_of(entry, 31), 0);
	assert_memory_equal(entry + 16, "_DMI_", 5);
	assert_int_equal(sum_of(entry + 16, 15), 0);
	for (; at < end; n++) {
		const uint8_t *start = at;

		if (at[0] == type)
			found = at;
		for (at += at[1]; at[0] || at[1]; at++)
			;
		at += 2;
		assert_in_range(at - start, 4, load_le16(entry + 8));
	}
	assert_ptr_equal(at, end);
	assert_int_equal(n, load_le16(entry + 28));
	return found;
}

/* Check the text of the field at this offset of a structure. */
static void text_is(const uint8_t *structure, unsigned at, const char *want)
{
	const char *text = (const char *)structure + structure[1];

	assert_non_null(structure);
	if (!want) {
		assert_int_equal(structure[at], 0);
		return;
	}
	assert_int_not_equal(structure[at], 0);
	for (unsigned i = 1; i < structure[at]; i++)
		text += strlen(text) + 1;
	assert_string_equal(text, want);
}

static void test_smbios_in_memory(void **state)
{
	static const uint8_t uuid[16] = { 3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15 };
	static const char list[] = "\1Acme\0\4S\0\x08V\0\x0f" "tag\0\x14" "asset\0\x15sku\0\7first\0\7second\0";
	struct state *s = *state;
	struct memory m;
	const uint8_t *p;

	assert_int_equal(memory_init(&m, 2 * MIB, false, NULL), 0);
	smbios_place(&m, s->c.uuid, "");
	assert_memory_equal(structure_find(&m, 1) + 8, uuid, 16);
	text_is(structure_find(&m, 0), 4, "Cairn");
	assert_int_equal(structure_find(&m, 0)[19] >> 4 & 1, 1); /* a virtual machine */
	text_is(structure_find(&m, 1), 5, "Cairn VM");
	text_is(structure_find(&m, 1), 7, NULL);
	assert_null(structure_find(&m, 2));
	text_is(structure_find(&m, 3), 4, "Cairn");
	text_is(structure_find(&m, 3), 8, NULL);
	assert_null(structure_find(&m, 11));
	memory_clear(&m);
	smbios_place(&m, s->c.uuid, list);
	text_is(structure_find(&m, 0), 4, "V");
	text_is(structure_find(&m, 1), 4, "Acme");
	text_is(structure_find(&m, 1), 7, "S");
	text_is(structure_find(&m, 2), 8, "tag");
	text_is(structure_find(&m, 3), 8, "asset");
	text_is(structure_find(&m, 3), 21, "sku");
	p = structure_find(&m, 11);
	assert_int_equal(p[4], 2);
	assert_memory_equal(p + 5, "first\0second\0", 14);
	memory_done(&m);
}

/* The longest list fits, with each text once. */
static void test_longest_smbios_texts_fit(void **state)
{
	char list[VM_SYSINFO_MAX] = "", *at = list;
	struct state *s = *state;
	struct memory m;

	for (char key = 1; key < VM_SYSINFO_KEYS; key++)
		if (key != VM_SYSINFO_OEM)
			at = stpcpy(stpncpy(at, &key, 1), "x") + 1;
	*at++ = VM_SYSINFO_OEM;
	memset(at, 'o', (size_t)(list + sizeof(list) - at) - 2);
	assert_int_equal(memory_init(&m, 2 * MIB, false, NULL), 0);
	smbios_place(&m, s->c.uuid, list);
	text_is(structure_find(&m, 3), 21, "x");
	assert_non_null(structure_find(&m, 127));
	memory_done(&m);
	s->c.sysinfo = list;
	assert_int_equal(bios_describe(s->d, &s->c, NULL), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_boot_order_has_disks_and_the_network, setup, teardown),
		cmocka_unit_test_setup_teardown(test_tables_and_order_are_replaced, setup, teardown),
		cmocka_unit_test_setup_teardown(test_no_rom_without_the_network, setup, teardown),
		cmocka_unit_test_setup_teardown(test_smbios_names_cairn_by_default, setup, teardown),
		cmocka_unit_test_setup_teardown(test_smbios_has_the_texts_of_the_definition, setup, teardown),
		cmocka_unit_test_setup_teardown(test_smbios_in_memory, setup, teardown),
		cmocka_unit_test_setup_teardown(test_longest_smbios_texts_fit, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
