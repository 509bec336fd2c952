#include "vmm/boot/smbios.h"
#include "base/bytes.h"
#include "base/util.h"
#include "devices/legacy/fw_cfg.h"
#include "vmm/boot/bios.h"
#include "vmm/vm_msg.h"

/* ---- for SeaBIOS: fields by which it replaces its own, and whole structures (the older of the two ways) ---- */

enum { SMBIOS_FIELD = 0, SMBIOS_TABLE = 1 };
enum { SYSTEM_INFORMATION = 1, OEM_STRINGS = 11 };
#define SYSTEM_UUID 8
#define SYSTEM_WAKE_UP 24
#define OEM_HANDLE 0x0e00
#define OEM_BYTES 5 /* of the structure without its strings */

/* Offsets of the strings in the structure SYSTEM_INFORMATION, by enum vm_sysinfo_key. */
static const uint8_t system_fields[VM_SYSINFO_OEM] = { [VM_SYSINFO_MANUFACTURER] = 4, [VM_SYSINFO_PRODUCT] = 5,
	[VM_SYSINFO_VERSION] = 6, [VM_SYSINFO_SERIAL] = 7, [VM_SYSINFO_SKU] = 25, [VM_SYSINFO_FAMILY] = 26 };
static const char *const system_defaults[VM_SYSINFO_OEM] = { [VM_SYSINFO_MANUFACTURER] = "Cairn",
	[VM_SYSINFO_PRODUCT] = "Cairn VM" };

struct smbios {
	struct cursor c;
	uint16_t entries;
};

static void field_put(struct smbios *s, uint16_t field, const void *data, size_t bytes)
{
	cursor_put_le16(&s->c, (uint16_t)(6 + bytes));
	cursor_put_u8(&s->c, SMBIOS_FIELD);
	cursor_put_u8(&s->c, SYSTEM_INFORMATION);
	cursor_put_le16(&s->c, field);
	cursor_put_bytes(&s->c, data, bytes);
	s->entries++;
}

/* Return the first text with a key at or after *at in the list, and move *at behind it; NULL: there is none. */
static const char *sysinfo_next(const char **at, unsigned key)
{
	while (**at) {
		const char *item = *at;

		*at = item + 1 + strlen(item + 1) + 1;
		if ((unsigned char)*item == key)
			return item + 1;
	}
	return NULL;
}

/* SMBIOS 2.6 and later store the first three fields of a UUID in little endian. */
static void uuid_swap(const uint8_t uuid[16], uint8_t ret[16])
{
	static const uint8_t order[16] = { 3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15 };

	for (unsigned i = 0; i < 16; i++)
		ret[i] = uuid[order[i]];
}

static void system_put(struct smbios *s, const char *sysinfo, const uint8_t uuid[16])
{
	uint8_t id[16];

	for (unsigned key = 1; key < VM_SYSINFO_OEM; key++) {
		const char *at = sysinfo, *text = sysinfo_next(&at, key);

		if (!text)
			text = system_defaults[key];
		if (text)
			field_put(s, system_fields[key], text, strlen(text) + 1);
	}
	uuid_swap(uuid, id);
	field_put(s, SYSTEM_UUID, id, sizeof(id));
}

static void oem_put(struct smbios *s, const char *sysinfo)
{
	size_t start = s->c.pos;
	const char *at = sysinfo, *text;
	uint8_t n = 0;

	for (; sysinfo_next(&at, VM_SYSINFO_OEM); n++)
		;
	if (!n)
		return;
	cursor_put_le16(&s->c, 0); /* the length, set below */
	cursor_put_u8(&s->c, SMBIOS_TABLE);
	cursor_put_u8(&s->c, OEM_STRINGS);
	cursor_put_u8(&s->c, OEM_BYTES);
	cursor_put_le16(&s->c, OEM_HANDLE);
	cursor_put_u8(&s->c, n);
	for (at = sysinfo; (text = sysinfo_next(&at, VM_SYSINFO_OEM));)
		cursor_put_bytes(&s->c, text, strlen(text) + 1);
	cursor_put_u8(&s->c, 0);
	store_le16(s->c.base + start, (uint16_t)(s->c.pos - start));
	s->entries++;
}

int smbios_add_fields(struct device *d, const struct bios_config *b, struct err *e)
{
	uint8_t item[VM_SYSINFO_MAX + 256];
	struct smbios s = { .c = cursor_over(item, sizeof(item)) };
	const char *sysinfo = b->sysinfo ? b->sysinfo : "";

	cursor_put_le16(&s.c, 0);
	system_put(&s, sysinfo, b->uuid);
	oem_put(&s, sysinfo);
	store_le16(item, s.entries);
	return fw_cfg_add_item(d, FW_CFG_SMBIOS_ENTRIES, item, s.c.pos, e);
}

/* ---- for OVMF: all structures, and the entry point that leads to them (SMBIOS 3.0, sections 5.2.2 and 7) ---- */

#define ANCHOR_BYTES 24
#define SYSTEM_BYTES 27
#define CHASSIS_BYTES 22
enum { CHASSIS = 3, END_OF_TABLES = 127 };
enum { WAKE_UP_BY_SWITCH = 6, CHASSIS_OTHER = 1, STATE_SAFE = 3, SECURITY_NONE = 3 };

static void structure_head(struct cursor *c, uint8_t type, uint8_t bytes, uint16_t handle)
{
	cursor_put_u8(c, type);
	cursor_put_u8(c, bytes);
	cursor_put_le16(c, handle);
}

static void structure_system(struct cursor *c, const struct bios_config *b, const char *sysinfo)
{
	uint8_t body[SYSTEM_BYTES] = { 0 };
	const char *texts[VM_SYSINFO_OEM] = { NULL };
	uint8_t n = 0;

	for (unsigned key = 1; key < VM_SYSINFO_OEM; key++) {
		const char *at = sysinfo;

		texts[key] = sysinfo_next(&at, key);
		if (!texts[key])
			texts[key] = system_defaults[key];
		if (texts[key] && *texts[key])
			body[system_fields[key]] = ++n;
	}
	uuid_swap(b->uuid, body + SYSTEM_UUID);
	body[SYSTEM_WAKE_UP] = WAKE_UP_BY_SWITCH;
	structure_head(c, SYSTEM_INFORMATION, SYSTEM_BYTES, 0x0100);
	cursor_put_bytes(c, body + 4, SYSTEM_BYTES - 4);
	for (unsigned key = 1; key < VM_SYSINFO_OEM; key++)
		if (texts[key] && *texts[key])
			cursor_put_bytes(c, texts[key], strlen(texts[key]) + 1);
	if (!n)
		cursor_put_u8(c, 0);
	cursor_put_u8(c, 0);
}

static void structure_chassis(struct cursor *c)
{
	uint8_t body[CHASSIS_BYTES] = { [4] = 1, [5] = CHASSIS_OTHER, [9] = STATE_SAFE, [10] = STATE_SAFE, [11] = STATE_SAFE,
		[12] = SECURITY_NONE };

	structure_head(c, CHASSIS, CHASSIS_BYTES, 0x0300);
	cursor_put_bytes(c, body + 4, CHASSIS_BYTES - 4);
	cursor_put_bytes(c, "Cairn\0", 7); /* its maker, and the end */
}

static void structure_oem(struct cursor *c, const char *sysinfo)
{
	const char *at = sysinfo, *text;
	uint8_t n = 0;

	for (; sysinfo_next(&at, VM_SYSINFO_OEM); n++)
		;
	if (!n)
		return;
	structure_head(c, OEM_STRINGS, OEM_BYTES, OEM_HANDLE);
	cursor_put_u8(c, n);
	for (at = sysinfo; (text = sysinfo_next(&at, VM_SYSINFO_OEM));)
		cursor_put_bytes(c, text, strlen(text) + 1);
	cursor_put_u8(c, 0);
}

static void anchor_fill(uint8_t anchor[ANCHOR_BYTES], size_t bytes)
{
	uint8_t sum = 0;

	memset(anchor, 0, ANCHOR_BYTES);
	memcpy(anchor, "_SM3_", 5);
	anchor[6] = ANCHOR_BYTES;
	anchor[7] = 3; /* version 3.0 */
	anchor[10] = 1; /* revision of the entry point */
	store_le32(anchor + 12, (uint32_t)bytes);
	for (unsigned i = 0; i < ANCHOR_BYTES; i++)
		sum = (uint8_t)(sum + anchor[i]);
	anchor[5] = (uint8_t)-sum;
}

/* OVMF places the structures, and adds that of the firmware itself. */
int smbios_add_tables(struct device *d, const struct bios_config *b, struct err *e)
{
	uint8_t tables[VM_SYSINFO_MAX + 256], anchor[ANCHOR_BYTES];
	struct cursor c = cursor_over(tables, sizeof(tables));
	const char *sysinfo = b->sysinfo ? b->sysinfo : "";
	int r;

	structure_system(&c, b, sysinfo);
	structure_chassis(&c);
	structure_oem(&c, sysinfo);
	structure_head(&c, END_OF_TABLES, 4, 0x7f00);
	cursor_put_le16(&c, 0);
	anchor_fill(anchor, c.pos);
	r = fw_cfg_add_file(d, "etc/smbios/smbios-anchor", anchor, sizeof(anchor), e);
	return r ? r : fw_cfg_add_file(d, "etc/smbios/smbios-tables", tables, c.pos, e);
}
