#include "vmm/boot/smbios.h"
#include "base/bytes.h"
#include "base/util.h"
#include "devices/legacy/fw_cfg.h"
#include "vmm/boot/bios.h"
#include "vmm/kvm/memory.h"
#include "vmm/vm_msg.h"

/* Types of structures (section 7) */
enum { FIRMWARE = 0, SYSTEM = 1, BOARD = 2, CHASSIS = 3, OEM_STRINGS = 11, END_OF_TABLES = 127 };

/* ---- texts ---- */

/* The texts of vm_config.sysinfo by enum vm_sysinfo_key, but for the OEM strings. NULL: none. */
struct texts {
	const char *of[VM_SYSINFO_KEYS];
	const char *list;
};

/* The structure and the offset of each text. */
static const struct text_row {
	uint8_t key, type, at;
} text_rows[] = {
	{ VM_SYSINFO_BIOS_VENDOR, FIRMWARE, 4 }, { VM_SYSINFO_BIOS_VERSION, FIRMWARE, 5 }, { VM_SYSINFO_BIOS_DATE, FIRMWARE, 8 },
	{ VM_SYSINFO_MANUFACTURER, SYSTEM, 4 }, { VM_SYSINFO_PRODUCT, SYSTEM, 5 }, { VM_SYSINFO_VERSION, SYSTEM, 6 },
	{ VM_SYSINFO_SERIAL, SYSTEM, 7 }, { VM_SYSINFO_SKU, SYSTEM, 25 }, { VM_SYSINFO_FAMILY, SYSTEM, 26 },
	{ VM_SYSINFO_BOARD_MANUFACTURER, BOARD, 4 }, { VM_SYSINFO_BOARD_PRODUCT, BOARD, 5 },
	{ VM_SYSINFO_BOARD_VERSION, BOARD, 6 }, { VM_SYSINFO_BOARD_SERIAL, BOARD, 7 }, { VM_SYSINFO_BOARD_ASSET, BOARD, 8 },
	{ VM_SYSINFO_BOARD_LOCATION, BOARD, 10 },
	{ VM_SYSINFO_CHASSIS_MANUFACTURER, CHASSIS, 4 }, { VM_SYSINFO_CHASSIS_VERSION, CHASSIS, 6 },
	{ VM_SYSINFO_CHASSIS_SERIAL, CHASSIS, 7 }, { VM_SYSINFO_CHASSIS_ASSET, CHASSIS, 8 }, { VM_SYSINFO_CHASSIS_SKU, CHASSIS, 21 },
};

/* Guests see these: other texts are a new machine version. Linux takes a machine with a date before 2008 for one with
 * faulty ACPI tables. */
static const char *const defaults[VM_SYSINFO_KEYS] = {
	[VM_SYSINFO_BIOS_VENDOR] = "Cairn", [VM_SYSINFO_BIOS_VERSION] = "1", [VM_SYSINFO_BIOS_DATE] = "01/01/2026",
	[VM_SYSINFO_MANUFACTURER] = "Cairn", [VM_SYSINFO_PRODUCT] = "Cairn VM",
	[VM_SYSINFO_BOARD_MANUFACTURER] = "Cairn", [VM_SYSINFO_CHASSIS_MANUFACTURER] = "Cairn" };

static struct texts texts_of(const char *list)
{
	struct texts t = { .list = list ? list : "" };

	for (const char *at = t.list; *at; at += strlen(at) + 1)
		if ((unsigned char)*at != VM_SYSINFO_OEM && !t.of[(unsigned char)*at])
			t.of[(unsigned char)*at] = at + 1;
	return t;
}

/* Return the next OEM string from *at on, and move *at behind it; NULL: there is none. */
static const char *oem_next(const char **at)
{
	while (**at) {
		const char *item = *at;

		*at = item + strlen(item) + 1;
		if ((unsigned char)*item == VM_SYSINFO_OEM)
			return item + 1;
	}
	return NULL;
}

/* Does the definition have texts of this structure? */
static bool texts_has(const struct texts *t, uint8_t type)
{
	for (size_t i = 0; i < ARRAY_SIZE(text_rows); i++)
		if (text_rows[i].type == type && t->of[text_rows[i].key])
			return true;
	return false;
}

static const char *text_or_default(const struct texts *t, unsigned key)
{
	return t->of[key] ? t->of[key] : defaults[key];
}

/* ---- structures ---- */

#define STRUCTURE_BYTES_MAX 28
#define SYSTEM_UUID 8

/* A structure's content but for its texts. */
struct shape {
	uint8_t type, bytes;
	uint16_t handle;
	uint8_t body[STRUCTURE_BYTES_MAX]; /* by offset */
};

/* Section 7.1: a ROM of 64 KiB, whose characteristics are not given, of a virtual machine (bit 4 of byte 19). */
static const struct shape firmware_shape = { FIRMWARE, 24, 0x0000, { [6] = 0x00, [7] = 0xf0, [10] = 1 << 3, [19] = 1 << 4,
	[20] = 0xff, [21] = 0xff, [22] = 0xff, [23] = 0xff } };
static const struct shape system_shape = { SYSTEM, 27, 0x0100, { [24] = 6 } };			 /* woken by the power switch */
static const struct shape board_shape = { BOARD, 15, 0x0200, { [9] = 1, [11] = 0x00, [12] = 0x03, [13] = 10 } }; /* a motherboard */
static const struct shape chassis_shape = { CHASSIS, 22, 0x0300, { [5] = 1, [9] = 3, [10] = 3, [11] = 3, [12] = 3 } };
static const struct shape oem_shape = { OEM_STRINGS, 5, 0x0e00, { 0 } };
static const struct shape end_shape = { END_OF_TABLES, 4, 0x7f00, { 0 } };

/* SMBIOS 2.6 and later store the first three fields of a UUID in little endian. */
static void uuid_swap(const uint8_t uuid[16], uint8_t ret[16])
{
	static const uint8_t order[16] = { 3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15 };

	for (unsigned i = 0; i < 16; i++)
		ret[i] = uuid[order[i]];
}

/* Put a structure with its texts, which follow it, ended by an empty one. uuid: of SYSTEM. */
static void structure_put(struct cursor *c, const struct shape *s, const struct texts *t, const uint8_t *uuid)
{
	uint8_t *body = cursor_take(c, s->bytes), n = 0;
	const char *oem = t->list, *text;

	if (!body)
		return;
	memcpy(body, s->body, s->bytes);
	body[0] = s->type;
	body[1] = s->bytes;
	store_le16(body + 2, s->handle);
	if (uuid)
		uuid_swap(uuid, body + SYSTEM_UUID);
	for (size_t i = 0; i < ARRAY_SIZE(text_rows); i++) {
		text = text_or_default(t, text_rows[i].key);
		if (text_rows[i].type != s->type || !text)
			continue;
		body[text_rows[i].at] = ++n;
		cursor_put_bytes(c, text, strlen(text) + 1);
	}
	for (; s->type == OEM_STRINGS && (text = oem_next(&oem)); n++)
		cursor_put_bytes(c, text, strlen(text) + 1);
	if (s->type == OEM_STRINGS)
		body[4] = n;
	cursor_put_bytes(c, "\0", n ? 1 : 2);
}

static bool has_oem(const struct texts *t)
{
	const char *at = t->list;

	return oem_next(&at);
}

/* Room for all structures: the texts once, and the rest. */
#define TABLES_BYTES (VM_SYSINFO_MAX + 256)

/* ---- for SeaBIOS: fields by which it replaces its own, and whole structures (the older of the two ways) ---- */

enum { SMBIOS_FIELD = 0, SMBIOS_TABLE = 1 };

struct smbios {
	struct cursor c;
	uint16_t entries;
};

static void field_put(struct smbios *s, uint16_t field, const void *data, size_t bytes)
{
	cursor_put_le16(&s->c, (uint16_t)(6 + bytes));
	cursor_put_u8(&s->c, SMBIOS_FIELD);
	cursor_put_u8(&s->c, SYSTEM);
	cursor_put_le16(&s->c, field);
	cursor_put_bytes(&s->c, data, bytes);
	s->entries++;
}

static void system_put(struct smbios *s, const struct texts *t, const uint8_t uuid[16])
{
	uint8_t id[16];

	for (size_t i = 0; i < ARRAY_SIZE(text_rows); i++) {
		const char *text = text_or_default(t, text_rows[i].key);

		if (text_rows[i].type == SYSTEM && text)
			field_put(s, text_rows[i].at, text, strlen(text) + 1);
	}
	uuid_swap(uuid, id);
	field_put(s, SYSTEM_UUID, id, sizeof(id));
}

/* Append a structure that SeaBIOS uses instead of its own. */
static void table_put(struct smbios *s, const struct shape *shape, const struct texts *t)
{
	size_t start = s->c.pos;

	cursor_put_le16(&s->c, 0); /* the length, set below */
	cursor_put_u8(&s->c, SMBIOS_TABLE);
	structure_put(&s->c, shape, t, NULL);
	store_le16(s->c.base + start, (uint16_t)(s->c.pos - start));
	s->entries++;
}

int smbios_add_fields(struct device *d, const struct bios_config *b, struct err *e)
{
	uint8_t item[TABLES_BYTES];
	struct smbios s = { .c = cursor_over(item, sizeof(item)) };
	struct texts t = texts_of(b->sysinfo);

	cursor_put_le16(&s.c, 0);
	system_put(&s, &t, b->uuid);
	if (texts_has(&t, FIRMWARE))
		table_put(&s, &firmware_shape, &t);
	if (texts_has(&t, BOARD))
		table_put(&s, &board_shape, &t);
	if (texts_has(&t, CHASSIS))
		table_put(&s, &chassis_shape, &t);
	if (has_oem(&t))
		table_put(&s, &oem_shape, &t);
	store_le16(item, s.entries);
	return fw_cfg_add_item(d, FW_CFG_SMBIOS_ENTRIES, item, s.c.pos, e);
}

/* ---- for OVMF: all structures, and the entry point that leads to them (SMBIOS 3.0, section 5.2.2) ---- */

#define ANCHOR_BYTES 24

static void checksum_set(uint8_t *p, size_t bytes, size_t at)
{
	uint8_t sum = 0;

	p[at] = 0;
	for (size_t i = 0; i < bytes; i++)
		sum = (uint8_t)(sum + p[i]);
	p[at] = (uint8_t)-sum;
}

static void anchor_fill(uint8_t anchor[ANCHOR_BYTES], size_t bytes)
{
	memset(anchor, 0, ANCHOR_BYTES);
	memcpy(anchor, "_SM3_", 5);
	anchor[6] = ANCHOR_BYTES;
	anchor[7] = 3; /* version 3.0 */
	anchor[10] = 1; /* revision of the entry point */
	store_le32(anchor + 12, (uint32_t)bytes);
	checksum_set(anchor, ANCHOR_BYTES, 5);
}

/* OVMF places the structures, and adds that of the firmware itself if it is not among them. */
int smbios_add_tables(struct device *d, const struct bios_config *b, struct err *e)
{
	uint8_t tables[TABLES_BYTES], anchor[ANCHOR_BYTES];
	struct cursor c = cursor_over(tables, sizeof(tables));
	struct texts t = texts_of(b->sysinfo);
	int r;

	if (texts_has(&t, FIRMWARE))
		structure_put(&c, &firmware_shape, &t, NULL);
	structure_put(&c, &system_shape, &t, b->uuid);
	if (texts_has(&t, BOARD))
		structure_put(&c, &board_shape, &t, NULL);
	structure_put(&c, &chassis_shape, &t, NULL);
	if (has_oem(&t))
		structure_put(&c, &oem_shape, &t, NULL);
	structure_put(&c, &end_shape, &t, NULL);
	anchor_fill(anchor, c.pos);
	r = fw_cfg_add_file(d, "etc/smbios/smbios-anchor", anchor, sizeof(anchor), e);
	return r ? r : fw_cfg_add_file(d, "etc/smbios/smbios-tables", tables, c.pos, e);
}

/* ---- in memory: the entry point of SMBIOS 2.8 (section 5.2.1), which every guest knows ---- */

#define ENTRY_BYTES 31
#define ENTRY_DMI 16 /* where the older part begins, which has a checksum of its own */
#define TABLES_AT 32 /* behind the entry point */
_Static_assert(TABLES_AT + TABLES_BYTES <= MEM_SMBIOS_BYTES, "room for the tables");

static void entry_fill(uint8_t *p, size_t bytes, size_t longest, unsigned structures)
{
	memcpy(p, "_SM_", 4);
	p[5] = ENTRY_BYTES;
	p[6] = 2;
	p[7] = 8;
	store_le16(p + 8, (uint16_t)longest);
	memcpy(p + ENTRY_DMI, "_DMI_", 5);
	store_le16(p + 22, (uint16_t)bytes);
	store_le32(p + 24, (uint32_t)(MEM_SMBIOS_BASE + TABLES_AT));
	store_le16(p + 28, (uint16_t)structures);
	p[30] = 0x28; /* the version again */
	checksum_set(p + ENTRY_DMI, ENTRY_BYTES - ENTRY_DMI, 5);
	checksum_set(p, ENTRY_BYTES, 4);
}

void smbios_place(struct memory *m, const uint8_t uuid[16], const char *sysinfo)
{
	struct texts t = texts_of(sysinfo);
	const struct shape *const shapes[] = { &firmware_shape, &system_shape, texts_has(&t, BOARD) ? &board_shape : NULL,
		&chassis_shape, has_oem(&t) ? &oem_shape : NULL, &end_shape };
	uint8_t *base = m->host + MEM_SMBIOS_BASE;
	struct cursor c = cursor_over(base + TABLES_AT, TABLES_BYTES);
	unsigned structures = 0;
	size_t longest = 0;

	for (size_t i = 0; i < ARRAY_SIZE(shapes); i++) {
		size_t start = c.pos;

		if (!shapes[i])
			continue;
		structure_put(&c, shapes[i], &t, shapes[i]->type == SYSTEM ? uuid : NULL);
		longest = MAX(longest, c.pos - start);
		structures++;
	}
	entry_fill(base, c.pos, longest, structures);
}
