/* Partition tables: MBR with logical partitions, and GPT. Sectors have 512 bytes. */
#include "base/bytes.h"
#include "base/util.h"
#include "tools/diff/files.h"

#include <string.h>

#define SECTOR 512u
#define MBR_ENTRIES 446u
#define MBR_SIGNATURE 510u
#define MBR_TYPE 4u
#define MBR_START 8u
#define MBR_SECTORS 12u
#define TYPE_GPT 0xee
#define LOGICAL_MAX 60u
#define GPT_ENTRY_BYTES_MAX 4096u

static void part_add(struct parts *p, unsigned number, uint64_t start, uint64_t sectors, uint64_t disk_bytes)
{
	uint64_t disk_sectors = disk_bytes / SECTOR;

	for (size_t i = 0; i < p->n; i++)
		if (p->list[i].start == start * SECTOR)
			return;
	if (p->n < PARTS_MAX && start && sectors && start < disk_sectors)
		p->list[p->n++] = (struct part){ .number = number, .start = start * SECTOR, .bytes = MIN(sectors, disk_sectors - start) * SECTOR };
}

static bool is_extended(uint8_t type)
{
	return type == 0x05 || type == 0x0f || type == 0x85;
}

static bool sector_read(struct view *v, uint64_t sector, uint8_t buf[SECTOR])
{
	return sector < v->bytes / SECTOR && view_read(v, sector * SECTOR, buf, SECTOR) == 0;
}

static bool is_table(const uint8_t *s)
{
	return s[MBR_SIGNATURE] == 0x55 && s[MBR_SIGNATURE + 1] == 0xaa;
}

/* Follow the chain of tables in an extended partition. Each has one logical partition and a link to the next table. */
static void logical_find(struct view *v, uint64_t extended, struct parts *p)
{
	uint8_t s[SECTOR];
	uint64_t at = extended;

	for (unsigned i = 0; i < LOGICAL_MAX && sector_read(v, at, s) && is_table(s); i++) {
		const uint8_t *entry = s + MBR_ENTRIES, *link = entry + 16;

		part_add(p, 5 + i, at + load_le32(entry + MBR_START), load_le32(entry + MBR_SECTORS), v->bytes);
		if (!is_extended(link[MBR_TYPE]) || !load_le32(link + MBR_START))
			return;
		at = extended + load_le32(link + MBR_START);
	}
}

static void gpt_find(struct view *v, struct parts *p)
{
	uint8_t s[SECTOR], entry[128];
	uint64_t table;
	uint32_t n, bytes;

	if (!sector_read(v, 1, s) || memcmp(s, "EFI PART", 8) != 0)
		return;
	table = load_le64(s + 72);
	n = load_le32(s + 80);
	bytes = load_le32(s + 84);
	if (bytes < sizeof(entry) || bytes > GPT_ENTRY_BYTES_MAX || table > v->bytes / SECTOR)
		return;
	for (uint32_t i = 0; i < MIN(n, PARTS_MAX); i++) {
		static const uint8_t unused[16];
		uint64_t first, last;

		if (view_read(v, table * SECTOR + (uint64_t)i * bytes, entry, sizeof(entry)) < 0)
			return;
		first = load_le64(entry + 32);
		last = load_le64(entry + 40);
		if (memcmp(entry, unused, sizeof(unused)) != 0 && last >= first && last < UINT64_MAX)
			part_add(p, i + 1, first, last - first + 1, v->bytes);
	}
}

void parts_find(struct view *v, struct parts *p)
{
	uint8_t s[SECTOR];

	if (!sector_read(v, 0, s) || !is_table(s))
		return;
	for (unsigned i = 0; i < 4; i++) {
		const uint8_t *entry = s + MBR_ENTRIES + 16 * i;
		uint32_t start = load_le32(entry + MBR_START);

		if (entry[MBR_TYPE] == TYPE_GPT)
			gpt_find(v, p);
		else if (is_extended(entry[MBR_TYPE]))
			logical_find(v, start, p);
		else if (entry[MBR_TYPE])
			part_add(p, i + 1, start, load_le32(entry + MBR_SECTORS), v->bytes);
	}
}
