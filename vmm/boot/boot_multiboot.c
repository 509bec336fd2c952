/* Multiboot kernels: their header, and the information that they get ("Multiboot Specification" 0.6.96 and "Multiboot2
 * Specification" 2.0). */
#include "base/bytes.h"
#include "base/err.h"
#include "base/util.h"
#include "vmm/boot/boot_internal.h"

#include <errno.h>
#include <string.h>

#define HEADER_1_MAGIC 0x1badb002u
#define HEADER_1_SPAN 8192u /* the header lies in the first bytes of the file */
#define HEADER_1_BYTES 12u
#define HEADER_1_ADDRESSED_BYTES 32u
#define HEADER_2_MAGIC 0xe85250d6u
#define HEADER_2_SPAN 32768u
#define HEADER_2_BYTES 16u

/* Flags of header 1. Bits 0 to 15 are demands. The information's flags tell the kernel that there is no video mode. */
#define DEMANDS 0xffffu
#define DEMANDS_KNOWN 7u /* modules in whole pages, memory, video mode */
#define HAS_ADDRESSES (1u << 16)

/* Tags of header 2 */
enum { TAG_END = 0, TAG_INFORMATION = 1, TAG_ADDRESS = 2, TAG_ENTRY = 3, TAG_RELOCATABLE = 10 };
#define TAG_OPTIONAL 1u

/* Tags of the information */
enum { INFO_END = 0, INFO_CMDLINE = 1, INFO_LOADER = 2, INFO_MODULE = 3, INFO_MEMORY = 4, INFO_MMAP = 6, INFO_RSDP = 15 };
#define RSDP_BYTES 36u

#define LOADER_NAME "Cairn"
#define MODULE_NAME "initrd"

/* ---- the header ---- */

static bool header_1_at(const struct boot_image *b, uint32_t at, struct boot_multiboot *ret)
{
	const uint8_t *p = b->head + at;
	uint32_t flags = load_le32(p + 4);

	if (load_le32(p) != HEADER_1_MAGIC || HEADER_1_MAGIC + flags + load_le32(p + 8))
		return false;
	*ret = (struct boot_multiboot){ .protocol = BOOT_MULTIBOOT_1, .offset = at, .unknown = flags & DEMANDS & ~DEMANDS_KNOWN };
	if (!(flags & HAS_ADDRESSES) || !range_inside(at, HEADER_1_ADDRESSED_BYTES, b->head_bytes))
		return true;
	ret->has_addresses = true;
	ret->header_gpa = load_le32(p + 12);
	ret->load_gpa = load_le32(p + 16);
	ret->load_end_gpa = load_le32(p + 20);
	ret->bss_end_gpa = load_le32(p + 24);
	ret->entry_gpa = load_le32(p + 28);
	return true;
}

static bool info_known(uint32_t type)
{
	return type == INFO_CMDLINE || type == INFO_LOADER || type == INFO_MODULE || type == INFO_MEMORY || type == INFO_MMAP ||
		type == INFO_RSDP;
}

static void tag_read(struct cursor *c, uint16_t type, bool optional, struct boot_multiboot *ret)
{
	switch (type) {
	case TAG_INFORMATION:
		while (cursor_left(c) >= 4)
			if (!info_known(cursor_le32(c)) && !optional)
				ret->unknown = type;
		break;
	case TAG_ADDRESS:
		ret->has_addresses = true;
		ret->header_gpa = cursor_le32(c);
		ret->load_gpa = cursor_le32(c);
		ret->load_end_gpa = cursor_le32(c);
		ret->bss_end_gpa = cursor_le32(c);
		break;
	case TAG_ENTRY:
		ret->has_entry = true;
		ret->entry_gpa = cursor_le32(c);
		break;
	default:
		/* The other tags up to TAG_RELOCATABLE request a screen, or a start by UEFI. */
		if (type > TAG_RELOCATABLE && !optional)
			ret->unknown = type;
	}
}

static bool header_2_at(const struct boot_image *b, uint32_t at, struct boot_multiboot *ret)
{
	const uint8_t *p = b->head + at;
	uint32_t bytes = load_le32(p + 8);
	struct cursor c;

	if (load_le32(p) != HEADER_2_MAGIC || HEADER_2_MAGIC + load_le32(p + 4) + bytes + load_le32(p + 12) || load_le32(p + 4) ||
		bytes < HEADER_2_BYTES || !range_inside(at, bytes, b->head_bytes))
		return false;
	*ret = (struct boot_multiboot){ .protocol = BOOT_MULTIBOOT_2, .offset = at };
	c = cursor_over((void *)(p + HEADER_2_BYTES), bytes - HEADER_2_BYTES);
	while (cursor_left(&c) >= 8) {
		uint16_t type = cursor_le16(&c), flags = cursor_le16(&c);
		uint32_t size = cursor_le32(&c);
		struct cursor body = c;

		if (type == TAG_END || size < 8 || size - 8 > cursor_left(&c))
			break;
		body.len = body.pos + size - 8;
		tag_read(&body, type, flags & TAG_OPTIONAL, ret);
		if (!cursor_ok(&body))
			ret->unknown = type;
		cursor_skip(&c, MIN(ROUND_UP(size - 8, 8), cursor_left(&c)));
	}
	ret->has_addresses = ret->has_addresses && ret->has_entry;
	return true;
}

bool boot_multiboot_find(const struct boot_image *b, struct boot_multiboot *ret)
{
	for (uint32_t at = 0; at < HEADER_2_SPAN && at + HEADER_2_BYTES <= b->head_bytes; at += 8)
		if (header_2_at(b, at, ret))
			return true;
	for (uint32_t at = 0; at < HEADER_1_SPAN && at + HEADER_1_BYTES <= b->head_bytes; at += 4)
		if (header_1_at(b, at, ret))
			return true;
	return false;
}

int boot_multiboot_check(const struct boot_multiboot *h, struct err *e)
{
	if (!h->unknown)
		return 0;
	if (h->protocol == BOOT_MULTIBOOT_1)
		return err_set(e, -EINVAL, ERR_INVALID, "kernel: its Multiboot header demands features 0x%x, which are unknown", h->unknown);
	return err_set(e, -EINVAL, ERR_INVALID, "kernel: its Multiboot 2 header has a tag %u that this machine cannot satisfy; only an "
		"optional one may be there", h->unknown);
}

/* ---- a kernel that is not ELF ---- */

int boot_multiboot_load(struct boot_image *b, const struct boot_multiboot *h, struct err *e)
{
	/* UINT32_MAX: from the beginning of the file. The wrong sizes that come from wrong addresses are too large. */
	uint64_t before = h->load_gpa == UINT32_MAX ? h->offset : (uint64_t)h->header_gpa - h->load_gpa;
	uint64_t start = h->header_gpa - before, bytes, room;
	int r = boot_multiboot_check(h, e);

	if (r < 0)
		return r;
	if (before > h->offset)
		return err_set(e, -EINVAL, ERR_INVALID, "kernel: malformed Multiboot header: its load address is behind the header or "
			"before the file");
	bytes = h->load_end_gpa ? h->load_end_gpa - start : b->file_bytes - (h->offset - before);
	if (!range_inside(h->offset - before, bytes, b->file_bytes))
		return err_set(e, -EINVAL, ERR_INVALID, "kernel: the file is cut off");
	room = h->bss_end_gpa ? MAX(bytes, h->bss_end_gpa - start) : bytes;
	if (!boot_range_loadable(b->mem, start, room))
		return err_set(e, -E2BIG, ERR_INVALID, "kernel: its %llu KiB at 0x%llx do not fit into the VM's memory of %llu MiB",
			(unsigned long long)room / 1024, (unsigned long long)start, (unsigned long long)(b->mem->bytes / MIB));
	if (!boot_range_loadable(b->mem, h->entry_gpa, 1))
		return err_set(e, -EINVAL, ERR_INVALID, "kernel: its entry point is not in memory");
	b->kernel_end = start + room;
	b->protocol = h->protocol;
	b->entry = h->entry_gpa;
	return boot_read(b, h->offset - before, start, bytes, e);
}

/* ---- the information ---- */

/* KiB of memory from 0, and from 1 MiB to the first hole. */
static uint32_t lower_kib(void)
{
	return MEM_EBDA_BASE / 1024;
}

static uint32_t upper_kib(const struct boot_image *b)
{
	return (uint32_t)((b->mem->low_bytes - MIB) / 1024);
}

static void map_put(struct cursor *c, const struct memory_e820 *m)
{
	cursor_put_le64(c, m->gpa);
	cursor_put_le64(c, m->bytes);
	cursor_put_le32(c, m->type);
}

#define INFO_1_MODULES 128u /* where the parts lie behind the information */
#define INFO_1_NAMES 144u
#define INFO_1_MMAP 160u

static void info_1_fill(struct boot_image *b)
{
	enum { MEMORY = 1, CMDLINE = 4, MODULES = 8, MMAP = 64, LOADER = 512 };
	uint8_t *p = b->mem->host + BOOT_MULTIBOOT_GPA;
	struct cursor c = cursor_over(p + INFO_1_MMAP, BOOT_MULTIBOOT_BYTES - INFO_1_MMAP);
	struct memory_e820 map[MEMORY_E820_MAX];
	size_t n = memory_e820(b->mem, map);

	for (size_t i = 0; i < n; i++) {
		cursor_put_le32(&c, 20); /* of the rest of the entry */
		map_put(&c, &map[i]);
	}
	memcpy(p + INFO_1_NAMES, LOADER_NAME, sizeof(LOADER_NAME));
	memcpy(p + INFO_1_NAMES + sizeof(LOADER_NAME), MODULE_NAME, sizeof(MODULE_NAME));
	store_le32(p, MEMORY | CMDLINE | MODULES | MMAP | LOADER);
	store_le32(p + 4, lower_kib());
	store_le32(p + 8, upper_kib(b));
	store_le32(p + 16, BOOT_CMDLINE_GPA);
	store_le32(p + 20, b->initrd_bytes ? 1 : 0);
	store_le32(p + 24, BOOT_MULTIBOOT_GPA + INFO_1_MODULES);
	store_le32(p + 44, (uint32_t)c.pos);
	store_le32(p + 48, BOOT_MULTIBOOT_GPA + INFO_1_MMAP);
	store_le32(p + 64, BOOT_MULTIBOOT_GPA + INFO_1_NAMES);
	p += INFO_1_MODULES;
	store_le32(p, (uint32_t)b->initrd_gpa);
	store_le32(p + 4, (uint32_t)(b->initrd_gpa + b->initrd_bytes));
	store_le32(p + 8, (uint32_t)(BOOT_MULTIBOOT_GPA + INFO_1_NAMES + sizeof(LOADER_NAME)));
}

static void tag_put(struct cursor *c, uint32_t type, size_t bytes)
{
	cursor_skip(c, ROUND_UP(c->pos, 8) - c->pos);
	cursor_put_le32(c, type);
	cursor_put_le32(c, (uint32_t)(8 + bytes));
}

static void text_tag_put(struct cursor *c, uint32_t type, const char *text)
{
	size_t n = strlen(text) + 1;

	tag_put(c, type, n);
	cursor_put_bytes(c, text, n);
}

static void info_2_fill(struct boot_image *b)
{
	uint8_t *p = b->mem->host + BOOT_MULTIBOOT_GPA;
	struct cursor c = cursor_over(p, BOOT_MULTIBOOT_BYTES);
	struct memory_e820 map[MEMORY_E820_MAX];
	size_t n = memory_e820(b->mem, map);

	cursor_skip(&c, 8); /* the size, set below, and 0 */
	text_tag_put(&c, INFO_CMDLINE, b->src->cmdline);
	text_tag_put(&c, INFO_LOADER, LOADER_NAME);
	if (b->initrd_bytes) {
		tag_put(&c, INFO_MODULE, 8 + sizeof(MODULE_NAME));
		cursor_put_le32(&c, (uint32_t)b->initrd_gpa);
		cursor_put_le32(&c, (uint32_t)(b->initrd_gpa + b->initrd_bytes));
		cursor_put_bytes(&c, MODULE_NAME, sizeof(MODULE_NAME));
	}
	tag_put(&c, INFO_MEMORY, 8);
	cursor_put_le32(&c, lower_kib());
	cursor_put_le32(&c, upper_kib(b));
	tag_put(&c, INFO_MMAP, 8 + 24 * n);
	cursor_put_le32(&c, 24); /* bytes of an entry */
	cursor_put_le32(&c, 0);
	for (size_t i = 0; i < n; i++) {
		map_put(&c, &map[i]);
		cursor_put_le32(&c, 0);
	}
	tag_put(&c, INFO_RSDP, RSDP_BYTES);
	cursor_put_bytes(&c, b->mem->host + b->src->rsdp_gpa, RSDP_BYTES);
	tag_put(&c, INFO_END, 0);
	store_le32(p, (uint32_t)c.pos);
}

/* 2047 characters of the command line are the largest part. */
_Static_assert(BOOT_MULTIBOOT_BYTES >= 2048 + 24 * MEMORY_E820_MAX + 512, "room for the information");

void boot_multiboot_fill(struct boot_image *b)
{
	if (b->protocol == BOOT_MULTIBOOT_1)
		info_1_fill(b);
	else
		info_2_fill(b);
}
