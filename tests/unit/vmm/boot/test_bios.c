/* bios: read what SeaBIOS reads, by fw_cfg's ports. */
#include "base/bytes.h"
#include "base/err.h"
#include "base/util.h"
#include "devices/bus.h"
#include "devices/dev_host.h"
#include "devices/device.h"
#include "devices/legacy/fw_cfg.h"
#include "vmm/boot/bios.h"
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

static void test_boot_order_has_disks_and_the_network(void **state)
{
	static const uint8_t rom[3] = { 0x55, 0xaa, 1 };
	struct state *s = *state;
	char text[256];
	uint8_t got[8];

	s->c.order[0] = 3;
	s->c.order[1] = BIOS_ORDER_NETWORK;
	s->c.order[2] = 0x1f;
	s->c.norder = 3;
	s->c.network_rom = rom;
	s->c.network_rom_bytes = sizeof(rom);
	assert_int_equal(bios_describe(s->d, &s->c, NULL), 0);
	assert_true(file_read(s, "bootorder", text, sizeof(text)) > 0);
	assert_string_equal(text,
		"/pci@i0cf8/scsi@3/disk@0,0\n/rom@genroms/pxe-virtio.rom\n/pci@i0cf8/scsi@1f/disk@0,0");
	assert_int_equal(file_read(s, "genroms/pxe-virtio.rom", got, sizeof(got)), 3);
	assert_memory_equal(got, rom, 3);
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

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_boot_order_has_disks_and_the_network, setup, teardown),
		cmocka_unit_test_setup_teardown(test_no_rom_without_the_network, setup, teardown),
		cmocka_unit_test_setup_teardown(test_smbios_names_cairn_by_default, setup, teardown),
		cmocka_unit_test_setup_teardown(test_smbios_has_the_texts_of_the_definition, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
