/* The kernel of kernel32_entry.S. It prints what its boot loader has told it, turns paging on if its command line says
 * so ("paging=32" or "paging=pae"), and ends the VM by port 0xf4 with status 5. */
#include <stdint.h>

#define COM1 0x3f8
#define CR0_PG 0x80000000u
#define CR4_PSE 0x10u
#define CR4_PAE 0x20u
#define PTE_LARGE 0x83u /* present, writable, of a directory */

void kernel32_main(uint32_t eax, const uint8_t *ebx, const uint8_t *esi);

static uint32_t directory[1024] __attribute__((aligned(4096)));
static uint64_t pointers[4] __attribute__((aligned(32))), directories[4][512] __attribute__((aligned(4096)));

static void put(char c)
{
	__asm__ volatile("outb %0, %1" : : "a"(c), "Nd"((uint16_t)COM1));
}

static void text(const char *s)
{
	while (*s)
		put(*s++);
}

static void hex(const char *name, uint32_t v)
{
	text(name);
	for (int shift = 28; shift >= 0; shift -= 4)
		put("0123456789abcdef"[v >> shift & 15]);
}

static uint32_t load(const uint8_t *p)
{
	return p[0] | p[1] << 8 | p[2] << 16 | (uint32_t)p[3] << 24;
}

static void initrd(uint32_t start, uint32_t bytes)
{
	hex(" initrd=", bytes);
	for (uint32_t i = 0; i < bytes && i < 8; i++)
		put(((const char *)start)[i]);
}

/* Print the RAM of an entry of a memory map with 64-bit numbers. */
static void ram(const uint8_t *p)
{
	if (load(p + 16) != 1)
		return;
	hex(" ram=", load(p));
	hex("+", load(p + 8));
}

static const char *multiboot_1(const uint8_t *i)
{
	const uint8_t *map = (const uint8_t *)load(i + 48), *modules = (const uint8_t *)load(i + 24);

	for (uint32_t at = 0; at < load(i + 44); at += load(map + at) + 4)
		ram(map + at + 4);
	if (load(i + 20))
		initrd(load(modules), load(modules + 4) - load(modules));
	return (const char *)load(i + 16);
}

static const char *multiboot_2(const uint8_t *i)
{
	const char *cmdline = "";

	for (const uint8_t *t = i + 8; load(t); t += (load(t + 4) + 7) & ~7u) {
		if (load(t) == 1)
			cmdline = (const char *)t + 8;
		if (load(t) == 3)
			initrd(load(t + 8), load(t + 12) - load(t + 8));
		for (uint32_t at = 16; load(t) == 6 && at < load(t + 4); at += load(t + 8))
			ram(t + at);
		if (load(t) == 15 && t[8] == 'R')
			text(" rsdp");
	}
	return cmdline;
}

static const char *linux_32(const uint8_t *params)
{
	for (unsigned i = 0; i < params[0x1e8]; i++)
		ram(params + 0x2d0 + 20 * i);
	if (load(params + 0x21c))
		initrd(load(params + 0x218), load(params + 0x21c));
	return (const char *)load(params + 0x228);
}

/* Map 4 GiB one to one by large pages. */
static void paging(int pae)
{
	uint32_t cr4 = pae ? CR4_PAE : CR4_PSE, cr3 = pae ? (uint32_t)pointers : (uint32_t)directory;

	for (uint32_t i = 0; i < 1024; i++)
		directory[i] = i << 22 | PTE_LARGE;
	for (uint32_t i = 0; i < 4; i++) {
		pointers[i] = (uint32_t)directories[i] | 1;
		for (uint32_t k = 0; k < 512; k++)
			directories[i][k] = i << 30 | k << 21 | PTE_LARGE;
	}
	__asm__ volatile("mov %0, %%cr4; mov %1, %%cr3; mov %%cr0, %%eax; or %2, %%eax; mov %%eax, %%cr0; jmp 1f; 1:"
		: : "r"(cr4), "r"(cr3), "r"(CR0_PG) : "eax", "memory");
	text(" paging");
}

/* Is this the last word of s? */
static int ends_with(const char *s, const char *word)
{
	uint32_t n = 0, m = 0;

	while (s[n])
		n++;
	while (word[m])
		m++;
	while (m && n && s[n - 1] == word[m - 1])
		n--, m--;
	return !m;
}

void kernel32_main(uint32_t eax, const uint8_t *ebx, const uint8_t *esi)
{
	const char *cmdline;

	hex("kernel32 eax=", eax);
	cmdline = eax == 0x2badb002 ? multiboot_1(ebx) : eax == 0x36d76289 ? multiboot_2(ebx) : linux_32(esi);
	text(" cmdline=");
	text(cmdline);
	if (ends_with(cmdline, "paging=32"))
		paging(0);
	else if (ends_with(cmdline, "paging=pae"))
		paging(1);
	text(" end\n");
	__asm__ volatile("outb %0, %1" : : "a"((uint8_t)5), "Nd"((uint16_t)0xf4));
}
