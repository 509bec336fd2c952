/* The key `sysinfo` of a definition: texts of the guest's SMBIOS tables. */
#include "api/definition/definition_key.h"
#include "api/wire/json.h"
#include "base/err.h"
#include "base/util.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* One of the OEM strings: v is text without control characters, so that it is one string for the guest, too. */
static int parse_oem_string(struct parse *p, struct json_object *v, char **to)
{
	const char *text = key_text(p, v, VM_SYSINFO_MAX - 3);

	if (!text)
		return -EINVAL;
	if (!*text)
		return key_error(p, "is empty; an empty string would end the list");
	for (const char *c = text; *c; c++)
		if ((unsigned char)*c < ' ' || *c == 0x7f)
			return key_error(p, "has a control character");
	*to = strdup(text);
	return *to ? 0 : err_set_errno(p->e, -ENOMEM, "definition");
}

static int parse_oem_strings(struct parse *p, struct json_object *v, void *into)
{
	size_t n;

	(void)into;
	if (!json_object_is_type(v, json_type_array))
		return key_error(p, "must be an array of strings, not %s", js_type_words(v));
	n = json_object_array_length(v);
	if (n > DEFINITION_OEM_STRINGS_MAX)
		return key_error(p, "has %zu strings; at most %d", n, DEFINITION_OEM_STRINGS_MAX);
	for (size_t i = 0; i < n; i++) {
		size_t had = key_push_index(p, i);
		int r = parse_oem_string(p, json_object_array_get_idx(v, i), &p->d->oem_strings[i]);

		if (r < 0)
			return r;
		p->d->noem_strings++;
		p->path[had] = 0;
	}
	return 0;
}

#define TEXT(name, key, words) \
	{ name, KEY_TEXT, .offset = offsetof(struct definition, sysinfo) + (key) * sizeof(char *), .max = 255, .about = words }
static const struct key bios_rows[] = {
	TEXT("vendor", VM_SYSINFO_BIOS_VENDOR, "vendor of the firmware"),
	TEXT("version", VM_SYSINFO_BIOS_VERSION, "version of the firmware"),
	TEXT("date", VM_SYSINFO_BIOS_DATE, "date of the firmware, as in 01/31/2026"),
};
static const struct keys bios_keys = { bios_rows, ARRAY_SIZE(bios_rows), NULL };

static const struct key board_rows[] = {
	TEXT("manufacturer", VM_SYSINFO_BOARD_MANUFACTURER, "manufacturer of the base board [Cairn]"),
	TEXT("product", VM_SYSINFO_BOARD_PRODUCT, "product name of the base board"),
	TEXT("version", VM_SYSINFO_BOARD_VERSION, "version of the base board"),
	TEXT("serial", VM_SYSINFO_BOARD_SERIAL, "serial number of the base board"),
	TEXT("asset", VM_SYSINFO_BOARD_ASSET, "asset tag of the base board"),
	TEXT("location", VM_SYSINFO_BOARD_LOCATION, "location of the base board in the chassis"),
};
static const struct keys board_keys = { board_rows, ARRAY_SIZE(board_rows), NULL };

static const struct key chassis_rows[] = {
	TEXT("manufacturer", VM_SYSINFO_CHASSIS_MANUFACTURER, "manufacturer of the chassis [Cairn]"),
	TEXT("version", VM_SYSINFO_CHASSIS_VERSION, "version of the chassis"),
	TEXT("serial", VM_SYSINFO_CHASSIS_SERIAL, "serial number of the chassis"),
	TEXT("asset", VM_SYSINFO_CHASSIS_ASSET, "asset tag of the chassis"),
	TEXT("sku", VM_SYSINFO_CHASSIS_SKU, "SKU number of the chassis"),
};
static const struct keys chassis_keys = { chassis_rows, ARRAY_SIZE(chassis_rows), NULL };

static const struct key sysinfo_rows[] = {
	TEXT("manufacturer", VM_SYSINFO_MANUFACTURER, "manufacturer of the system [Cairn]"),
	TEXT("product", VM_SYSINFO_PRODUCT, "product name of the system [Cairn VM]"),
	TEXT("version", VM_SYSINFO_VERSION, "version of the system"),
	TEXT("serial", VM_SYSINFO_SERIAL, "serial number of the system"),
	TEXT("sku", VM_SYSINFO_SKU, "SKU number of the system"),
	TEXT("family", VM_SYSINFO_FAMILY, "family of the system"),
	{ "bios", KEY_OBJECT, .of = &bios_keys, .about = "texts of the firmware [its own; without a firmware, Cairn's]" },
	{ "board", KEY_OBJECT, .of = &board_keys, .about = "texts of the base board; without any, there is no table of it" },
	{ "chassis", KEY_OBJECT, .of = &chassis_keys, .about = "texts of the chassis" },
	{ "oem_strings", KEY_CUSTOM, .parse = parse_oem_strings, .about = "OEM strings, such as credentials of systemd",
		.form = "{\"type\":\"array\",\"maxItems\":32,\"items\":{\"type\":\"string\",\"minLength\":1,\"maxLength\":2045,"
			"\"pattern\":\"^[^\\u0000-\\u001f\\u007f]+$\"}}" },
};
const struct keys definition_sysinfo_keys = { sysinfo_rows, ARRAY_SIZE(sysinfo_rows), NULL };

static size_t item_bytes(const char *text)
{
	return text && *text ? strlen(text) + 2 : 0;
}

int definition_check_sysinfo(struct parse *p)
{
	const struct definition *d = p->d;
	size_t bytes = 1;

	for (unsigned i = 0; i < VM_SYSINFO_KEYS; i++)
		bytes += item_bytes(d->sysinfo[i]);
	for (unsigned i = 0; i < d->noem_strings; i++)
		bytes += item_bytes(d->oem_strings[i]);
	if (bytes > VM_SYSINFO_MAX)
		return key_error(p, "sysinfo: its texts have %zu bytes in all; at most %d, with two for each text", bytes - 1, VM_SYSINFO_MAX - 1);
	return 0;
}

static char *item_put(char *to, unsigned key, const char *text)
{
	if (!item_bytes(text))
		return to;
	*to++ = (char)key;
	return stpcpy(to, text) + 1;
}

void definition_encode_sysinfo(const struct definition *d, char to[VM_SYSINFO_MAX])
{
	memset(to, 0, VM_SYSINFO_MAX);
	for (unsigned i = 0; i < VM_SYSINFO_KEYS; i++)
		to = item_put(to, i, d->sysinfo[i]);
	for (unsigned i = 0; i < d->noem_strings; i++)
		to = item_put(to, VM_SYSINFO_OEM, d->oem_strings[i]);
}

void definition_free_sysinfo(struct definition *d)
{
	for (unsigned i = 0; i < VM_SYSINFO_KEYS; i++)
		free(d->sysinfo[i]);
	for (unsigned i = 0; i < DEFINITION_OEM_STRINGS_MAX; i++)
		free(d->oem_strings[i]);
}
