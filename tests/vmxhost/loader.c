/* Multiboot kernel that starts an unpacked Linux (vmlinux, first module) with an initrd (second module) by its PVH
 * entry. GRUB itself starts a bzImage only, whose decompression takes Bochs longer than the rest of the boot.
 * Linked behind the segments of the kernel; GRUB puts the modules behind this program (vmxhost).
 * Multiboot Specification 0.6.96, ELF-64 Object File Format, Xen's public/arch-x86/hvm/start_info.h. */
#include <stddef.h>
#include <stdint.h>

#define SEGMENT_LOAD 1
#define SEGMENT_NOTE 4
#define START_MAGIC 0x336ec578u
#define NOTE_PHYS32_ENTRY 18
#define MAP_ENTRIES 32

struct elf_header {
	uint8_t ident[16];
	uint16_t type, machine;
	uint32_t version;
	uint64_t entry, segments_at, sections_at;
	uint32_t flags;
	uint16_t bytes, segment_bytes, segments;
};

struct elf_segment {
	uint32_t type, flags;
	uint64_t offset, virtual, physical, file_bytes, memory_bytes, align;
};

struct elf_note {
	uint32_t name_bytes, value_bytes, type;
};

struct module {
	uint32_t start, end, string, reserved;
};

struct multiboot_info {
	uint32_t flags, mem_lower, mem_upper, boot_device, cmdline, mods_count, mods_addr, syms[4], mmap_length, mmap_addr;
};

struct multiboot_map {
	uint32_t size; /* of the rest */
	uint64_t base, bytes;
	uint32_t type;
} __attribute__((packed));

struct start_module {
	uint64_t start, bytes, cmdline, reserved;
};

struct start_map {
	uint64_t base, bytes;
	uint32_t type, reserved;
};

static struct {
	uint32_t magic, version, flags, modules;
	uint64_t modules_at, cmdline, rsdp, map_at;
	uint32_t map_entries, reserved;
} start;
static struct start_module initrd;
static struct start_map map[MAP_ENTRIES];
uint8_t stack[4096] __attribute__((aligned(16), used));

__asm__(".text\n\t"
	".balign 4\n\t"
	".long 0x1badb002, 3, -(0x1badb002 + 3)\n\t" /* magic; aligned modules, a memory map; checksum */
	".globl _start\n"
	"_start:\n\t"
	"mov $stack + 4096, %esp\n\t"
	"push %ebx\n\t"
	"call loader_main");

static void bytes_copy(uint32_t to, uint32_t from, uint32_t bytes)
{
	uint32_t words = bytes / 4;

	__asm__ volatile("rep movsl\n\tmov %3, %%ecx\n\trep movsb" : "+D"(to), "+S"(from), "+c"(words) : "r"(bytes % 4) : "memory");
}

static void bytes_clear(uint32_t to, uint32_t bytes)
{
	__asm__ volatile("rep stosb" : "+D"(to), "+c"(bytes) : "a"(0) : "memory");
}

/* Return the kernel's 32-bit entry, or 0. */
static uint32_t note_entry(uint32_t at, uint32_t end)
{
	while (at < end) {
		const struct elf_note *note = (const struct elf_note *)at;
		uint32_t value = at + sizeof(*note) + ((note->name_bytes + 3) & ~3u);

		if (note->type == NOTE_PHYS32_ENTRY)
			return *(const uint32_t *)value;
		at = value + ((note->value_bytes + 3) & ~3u);
	}
	return 0;
}

_Noreturn void loader_main(const struct multiboot_info *info);
_Noreturn void loader_main(const struct multiboot_info *info)
{
	const struct module *modules = (const struct module *)info->mods_addr;
	uint32_t file = modules[0].start, entry = 0;
	const struct elf_header *header = (const struct elf_header *)file;

	for (unsigned int i = 0; i < header->segments; i++) {
		const struct elf_segment *p = (const struct elf_segment *)(file + (uint32_t)header->segments_at) + i;
		uint32_t from = file + (uint32_t)p->offset, to = (uint32_t)p->physical, bytes = (uint32_t)p->file_bytes;

		if (p->type == SEGMENT_NOTE)
			entry = note_entry(from, from + bytes);
		if (p->type != SEGMENT_LOAD)
			continue;
		bytes_copy(to, from, bytes);
		bytes_clear(to + bytes, (uint32_t)p->memory_bytes - bytes);
	}
	for (uint32_t at = info->mmap_addr; at < info->mmap_addr + info->mmap_length && start.map_entries < MAP_ENTRIES;) {
		const struct multiboot_map *m = (const struct multiboot_map *)at;

		map[start.map_entries++] = (struct start_map){m->base, m->bytes, m->type, 0};
		at += m->size + 4;
	}
	initrd = (struct start_module){modules[1].start, modules[1].end - modules[1].start, 0, 0};
	start.magic = START_MAGIC;
	start.version = 1;
	start.modules = 1;
	start.modules_at = (uint32_t)&initrd;
	start.cmdline = modules[0].string;
	start.map_at = (uint32_t)map;
	__asm__ volatile("jmp *%0" : : "r"(entry), "b"(&start));
	__builtin_unreachable();
}
