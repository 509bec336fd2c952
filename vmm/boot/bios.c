#include "vmm/boot/bios.h"
#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/util.h"
#include "devices/legacy/fw_cfg.h"
#include "vmm/boot/acpi.h"
#include "vmm/boot/smbios.h"
#include "vmm/kvm/memory.h"
#include "vmm/vm_msg.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define COM1_PORT 0x3f8
#define FILE_TABLES "etc/acpi/tables"
#define FILE_RSDP "etc/acpi/rsdp"

/* ---- etc/table-loader: QEMU's hw/acpi/bios-linker-loader.c ---- */

#define LOADER_ENTRY_BYTES 128
#define LOADER_NAME_BYTES 56
#define LOADER_ENTRIES_MAX 32

enum { LOADER_ALLOCATE = 1, LOADER_ADD_POINTER = 2, LOADER_ADD_CHECKSUM = 3 };
enum { ZONE_HIGH = 1, ZONE_FSEG = 2 };

struct loader {
	uint8_t script[LOADER_ENTRIES_MAX * LOADER_ENTRY_BYTES];
	unsigned n;
};

static uint8_t *loader_entry(struct loader *l, uint32_t command, const char *file)
{
	uint8_t *p = l->script + LOADER_ENTRY_BYTES * l->n++;

	store_le32(p, command);
	memcpy(p + 4, file, strlen(file));
	return p + 4 + LOADER_NAME_BYTES;
}

static void loader_allocate(struct loader *l, const char *file, uint32_t align, uint8_t zone)
{
	uint8_t *p = loader_entry(l, LOADER_ALLOCATE, file);

	store_le32(p, align);
	p[4] = zone;
}

/* Add the address of the tables to the pointer at `at` in file. */
static void loader_pointer(struct loader *l, const char *file, uint32_t at, uint32_t bytes)
{
	uint8_t *p = loader_entry(l, LOADER_ADD_POINTER, file);

	memcpy(p, FILE_TABLES, sizeof(FILE_TABLES));
	store_le32(p + LOADER_NAME_BYTES, at);
	p[LOADER_NAME_BYTES + 4] = (uint8_t)bytes;
}

static void loader_checksum(struct loader *l, const char *file, uint32_t from, uint32_t bytes, uint32_t at)
{
	uint8_t *p = loader_entry(l, LOADER_ADD_CHECKSUM, file);

	store_le32(p, at);
	store_le32(p + 4, from);
	store_le32(p + 8, bytes);
}

/* 2 files, all pointers and the RSDP's, all checksums and the RSDP's two fit. */
_Static_assert(2 + ACPI_POINTERS_MAX + 1 + ACPI_CHECKSUMS_MAX + 2 <= LOADER_ENTRIES_MAX, "the script's size");

static void loader_fill(struct loader *l, const struct acpi_tables *t)
{
	loader_allocate(l, FILE_RSDP, 16, ZONE_FSEG);
	loader_allocate(l, FILE_TABLES, 64, ZONE_HIGH);
	for (unsigned i = 0; i < t->npointers; i++)
		loader_pointer(l, FILE_TABLES, t->pointers[i].at, t->pointers[i].bytes);
	for (unsigned i = 0; i < t->nchecksums; i++)
		loader_checksum(l, FILE_TABLES, t->checksums[i].from, t->checksums[i].bytes, t->checksums[i].at);
	loader_pointer(l, FILE_RSDP, ACPI_RSDP_XSDT, 8);
	loader_checksum(l, FILE_RSDP, 0, 20, 8);
	loader_checksum(l, FILE_RSDP, 0, ACPI_RSDP_BYTES, 32);
}

/* fw_cfg_add_file() or fw_cfg_replace_file() */
typedef int file_put_fn(struct device *d, const char *name, const void *data, size_t bytes, struct err *e);

static int acpi_describe(struct device *d, const struct bios_config *c, file_put_fn *file_put, struct err *e)
{
	const struct acpi_config a = { .vcpus = c->vcpus, .cpu_hotplug = c->cpu_hotplug,
		.vcpus_absent = c->vcpus_absent, .uefi = c->uefi, .keyboard = c->keyboard, .hotplug = true,
		.slots = c->slots };
	CLEANUP_FREE struct acpi_tables *t = NULL;
	CLEANUP_FREE struct loader *l = calloc(1, sizeof(*l));
	int r = l ? acpi_tables_new(&a, &t, e) : err_set_errno(e, -ENOMEM, "firmware");

	if (r < 0)
		return r;
	loader_fill(l, t);
	r = file_put(d, FILE_RSDP, t->rsdp, sizeof(t->rsdp), e);
	if (!r)
		r = file_put(d, FILE_TABLES, t->bytes, t->nbytes, e);
	return r ? r : file_put(d, "etc/table-loader", l->script, l->n * LOADER_ENTRY_BYTES, e);
}

/* ---- memory ---- */

static int memory_describe_e820(struct device *d, const struct bios_config *b, struct err *e)
{
	const struct memory *m = b->mem;
	const struct memory_e820 map[] = {
		/* SeaBIOS itself removes the ranges below 1 MiB that are not RAM. */
		{ .gpa = 0, .bytes = m->low_bytes, .type = E820_RAM },
		{ .gpa = MEM_ECAM_BASE, .bytes = b->uefi ? 0 : MEM_ECAM_BYTES, .type = E820_RESERVED },
		{ .gpa = MEM_HIGH_BASE, .bytes = m->high_bytes, .type = E820_RAM },
	};
	uint8_t table[ARRAY_SIZE(map) * 20];
	struct cursor c = cursor_over(table, sizeof(table));

	for (size_t i = 0; i < ARRAY_SIZE(map); i++) {
		if (!map[i].bytes)
			continue;
		cursor_put_le64(&c, map[i].gpa);
		cursor_put_le64(&c, map[i].bytes);
		cursor_put_le32(&c, map[i].type);
	}
	return fw_cfg_add_file(d, "etc/e820", table, c.pos, e);
}

/* ---- numbers and the boot order ---- */

static int number_add(struct device *d, const char *name, uint16_t value, struct err *e)
{
	uint8_t v[2];

	store_le16(v, value);
	return fw_cfg_add_file(d, name, v, sizeof(v), e);
}

static int number_item(struct device *d, uint16_t key, uint16_t value, struct err *e)
{
	uint8_t v[2];

	store_le16(v, value);
	return fw_cfg_add_item(d, key, v, sizeof(v), e);
}

/* SeaBIOS runs ROMs of this folder as those of PCI devices. A ROM of a BAR would cost an exit for each four bytes. */
#define NETWORK_ROM "genroms/pxe-virtio.rom"

/* One line for each device, as a path of Open Firmware; the ROM's is SeaBIOS' own. */
static int order_describe(struct device *d, const struct bios_config *c, file_put_fn *file_put, struct err *e)
{
	char text[BIOS_ORDER_MAX * 48];
	size_t n = 0;

	for (unsigned i = 0; i < c->norder && n < sizeof(text); i++) {
		const char *line = i ? "\n" : "";
		unsigned at = c->order[i];

		if (at == BIOS_ORDER_NETWORK)
			n += (size_t)snprintf(text + n, sizeof(text) - n, "%s/rom@" NETWORK_ROM, line);
		else if (at >= BIOS_ORDER_INTERFACE(0))
			n += (size_t)snprintf(text + n, sizeof(text) - n, "%s/pci@i0cf8/ethernet@%x/ethernet-phy@0", line, at & 0xff);
		else if (at >= BIOS_ORDER_SCSI(0, 0))
			n += (size_t)snprintf(text + n, sizeof(text) - n, "%s/pci@i0cf8/scsi@%x/channel@0/disk@%x,0", line, at & 0xff,
				at >> 8 & 0xff);
		else
			n += (size_t)snprintf(text + n, sizeof(text) - n, "%s/pci@i0cf8/scsi@%x/disk@0,0", line, at);
	}
	return n && n < sizeof(text) ? file_put(d, "bootorder", text, n + 1, e) : 0;
}

/* A firmware waits until so many vCPUs have answered. */
static uint16_t vcpus_there(const struct bios_config *c)
{
	return (uint16_t)(c->vcpus - (unsigned)__builtin_popcountll(c->vcpus_absent));
}

int bios_describe(struct device *d, const struct bios_config *c, struct err *e)
{
	int r;

	if (c->mem->bytes < MEM_FIRMWARE_MIN_BYTES)
		return err_set(e, -EINVAL, ERR_INVALID, "a VM with a firmware needs at least %llu MiB of memory",
			MEM_FIRMWARE_MIN_BYTES / MIB);
	r = number_item(d, FW_CFG_NB_CPUS, vcpus_there(c), e);
	if (!r)
		r = number_item(d, FW_CFG_MAX_CPUS, (uint16_t)c->vcpus, e);
	if (!r)
		r = number_item(d, FW_CFG_BOOT_MENU, c->menu, e);
	if (!r && c->menu_ms)
		r = number_add(d, "etc/boot-menu-wait", c->menu_ms, e);
	if (!r && !c->uefi)
		r = number_add(d, "etc/sercon-port", COM1_PORT, e);
	if (!r)
		r = memory_describe_e820(d, c, e);
	if (!r)
		r = c->uefi ? smbios_add_tables(d, c, e) : smbios_add_fields(d, c, e);
	if (!r)
		r = order_describe(d, c, fw_cfg_add_file, e);
	if (!r && c->network_rom)
		r = fw_cfg_add_file(d, NETWORK_ROM, c->network_rom, c->network_rom_bytes, e);
	return r ? r : acpi_describe(d, c, fw_cfg_add_file, e);
}

int bios_describe_again(struct device *d, const struct bios_config *c, struct err *e)
{
	uint8_t there[2];
	int r = order_describe(d, c, fw_cfg_replace_file, e);

	store_le16(there, vcpus_there(c));
	if (!r)
		r = fw_cfg_replace_item(d, FW_CFG_NB_CPUS, there, sizeof(there), e);
	return r ? r : acpi_describe(d, c, fw_cfg_replace_file, e);
}
