/* bzImage by the 64-bit and 32-bit boot protocols (Linux, Documentation/x86/boot.rst). */
#include "base/bytes.h"
#include "base/err.h"
#include "base/util.h"
#include "vmm/boot/boot_internal.h"

#include <errno.h>
#include <string.h>

#define HDR_SETUP_SECTS 0x1f1
#define HDR_SYSSIZE 0x1f4 /* in units of 16 bytes */
#define HDR_BOOT_FLAG 0x1fe
#define HDR_JUMP 0x200 /* the jump's second byte gives the header's end */
#define HDR_MAGIC 0x202
#define HDR_VERSION 0x206
#define HDR_LOADFLAGS 0x211
#define HDR_INITRD_ADDR_MAX 0x22c
#define HDR_ALIGNMENT 0x230
#define HDR_RELOCATABLE 0x234
#define HDR_XLOADFLAGS 0x236
#define HDR_CMDLINE_SIZE 0x238
#define HDR_PREF_ADDRESS 0x258
#define HDR_INIT_SIZE 0x260
#define HDR_MIN_BYTES 0x268

#define LOADED_HIGH 1u
#define XLF_KERNEL_64 1u
#define PROTOCOL_2_10 0x020a /* the first with the preferred address and the room that the kernel needs */
#define PROTOCOL_2_12 0x020c
#define ENTRY_64_OFFSET 0x200
#define LOW_LOAD_GPA 0x100000ULL

bool boot_bzimage_is(const struct boot_image *b)
{
	return b->head_bytes >= HDR_MIN_BYTES && load_le16(b->head + HDR_BOOT_FLAG) == 0xaa55 &&
		!memcmp(b->head + HDR_MAGIC, "HdrS", 4);
}

static int header_check(const struct boot_image *b, struct err *e)
{
	const uint8_t *h = b->head;
	uint32_t cmdline_max = load_le32(h + HDR_CMDLINE_SIZE);

	if (load_le16(h + HDR_VERSION) < PROTOCOL_2_10 || !(h[HDR_LOADFLAGS] & LOADED_HIGH))
		return err_set(e, -EINVAL, ERR_INVALID,
			"kernel: a bzImage that starts in real mode (boot protocol %u.%u; 2.10 or later is needed), such as iPXE, memdisk "
			"or a Linux before 2.6.31; write it to a disk image or an ISO with a boot loader, and boot that with \"firmware\": "
			"\"bios\"", h[HDR_VERSION + 1], h[HDR_VERSION]);
	if (h[HDR_RELOCATABLE] && !is_power_of_two(load_le32(h + HDR_ALIGNMENT)))
		return err_set(e, -EINVAL, ERR_INVALID, "kernel: malformed header: its alignment is "
			"not a power of two");
	if (strlen(b->src->cmdline) > cmdline_max)
		return err_set(e, -EINVAL, ERR_INVALID,
			"kernel: its command line may have at most %u characters; shorten \"cmdline\"", cmdline_max);
	return 0;
}

/* Return the address at which to load the kernel, the address where it will run (boot.rst,
 * init_size). A relocatable kernel moves itself up to its preferred address, so a lower load
 * address would save nothing. */
static uint64_t load_address(const struct boot_image *b)
{
	uint64_t pref = load_le64(b->head + HDR_PREF_ADDRESS);
	uint64_t align = load_le32(b->head + HDR_ALIGNMENT);

	if (!b->head[HDR_RELOCATABLE] || pref >= MEM_LOW_MAX)
		return pref;
	return ROUND_UP(MAX(pref, LOW_LOAD_GPA), align);
}

static bool has_64_bit_entry(const struct boot_image *b)
{
	return load_le16(b->head + HDR_VERSION) >= PROTOCOL_2_12 && load_le16(b->head + HDR_XLOADFLAGS) & XLF_KERNEL_64;
}

int boot_bzimage_load(struct boot_image *b, struct err *e)
{
	uint64_t setup, gpa, bytes, room;
	size_t header_end;
	int r = header_check(b, e);

	if (r < 0)
		return r;
	setup = ((uint64_t)(b->head[HDR_SETUP_SECTS] ? b->head[HDR_SETUP_SECTS] : 4) + 1) * 512;
	/* The last 16 bytes may be incomplete, as those of memtest86+ are. */
	if (ROUND_UP(b->file_bytes, 16) < setup + 16ULL * load_le32(b->head + HDR_SYSSIZE) ||
		b->file_bytes <= setup + ENTRY_64_OFFSET)
		return err_set(e, -EINVAL, ERR_INVALID, "kernel: the file is cut off");
	gpa = load_address(b);
	bytes = b->file_bytes - setup;
	room = MAX(bytes, load_le32(b->head + HDR_INIT_SIZE));
	if (!boot_range_loadable(b->mem, gpa, room))
		return err_set(e, -E2BIG, ERR_INVALID,
			"kernel: it needs %llu MiB at 0x%llx; the VM has %llu MiB of memory",
			(unsigned long long)DIV_ROUND_UP(room, MIB), (unsigned long long)gpa,
			(unsigned long long)(b->mem->bytes / MIB));
	r = boot_read(b, setup, gpa, bytes, e);
	if (r < 0)
		return r;
	header_end = MIN((size_t)HDR_MAGIC + b->head[HDR_JUMP + 1], 0x290);
	memcpy(b->mem->host + BOOT_PARAMS_GPA + HDR_SETUP_SECTS, b->head + HDR_SETUP_SECTS,
		header_end - HDR_SETUP_SECTS);
	b->kernel_end = gpa + room;
	b->initrd_max_gpa = MIN(b->initrd_max_gpa, load_le32(b->head + HDR_INITRD_ADDR_MAX));
	b->protocol = has_64_bit_entry(b) ? BOOT_LINUX_64 : BOOT_LINUX_32;
	b->entry = b->protocol == BOOT_LINUX_64 ? gpa + ENTRY_64_OFFSET : gpa;
	return 0;
}
