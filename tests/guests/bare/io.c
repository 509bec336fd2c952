/* Commands for ports, memory and PCI configuration. */
#include "bare.h"

static const char *cmd_in(const struct args *a, unsigned size)
{
	uint16_t port = (uint16_t)a->v[0];
	uint32_t v = size == 1 ? inb(port) : size == 2 ? inw(port) : inl(port);

	print("%x\n", (uint64_t)v);
	return NULL;
}

static const char *cmd_inb(const struct args *a)
{
	return cmd_in(a, 1);
}

static const char *cmd_inw(const struct args *a)
{
	return cmd_in(a, 2);
}

static const char *cmd_inl(const struct args *a)
{
	return cmd_in(a, 4);
}

static const char *cmd_outb(const struct args *a)
{
	outb((uint16_t)a->v[0], (uint8_t)a->v[1]);
	return NULL;
}

static const char *cmd_outw(const struct args *a)
{
	outw((uint16_t)a->v[0], (uint16_t)a->v[1]);
	return NULL;
}

static const char *cmd_outl(const struct args *a)
{
	outl((uint16_t)a->v[0], (uint32_t)a->v[1]);
	return NULL;
}

static bool reach(uint64_t gpa, unsigned size)
{
	return gpa + size <= 1ULL << 32 || (page_map(gpa) && page_map(gpa + size - 1));
}

static const char *cmd_rd(const struct args *a, unsigned size)
{
	if (!reach(a->v[0], size))
		return "no such address";
	print("%x\n", mmio_read(a->v[0], size));
	return NULL;
}

static const char *cmd_wr(const struct args *a, unsigned size)
{
	if (!reach(a->v[0], size))
		return "no such address";
	mmio_write(a->v[0], size, a->v[1]);
	return NULL;
}

static const char *cmd_rd8(const struct args *a)
{
	return cmd_rd(a, 1);
}

static const char *cmd_rd16(const struct args *a)
{
	return cmd_rd(a, 2);
}

static const char *cmd_rd32(const struct args *a)
{
	return cmd_rd(a, 4);
}

/* At CPL 3, like all commands. */
static const char *cmd_cpuid(const struct args *a)
{
	uint32_t eax = (uint32_t)a->v[0], ebx, ecx = (uint32_t)a->v[1], edx;

	__asm__ volatile("cpuid" : "+a"(eax), "=b"(ebx), "+c"(ecx), "=d"(edx));
	print("%x %x %x %x\n", (uint64_t)eax, (uint64_t)ebx, (uint64_t)ecx, (uint64_t)edx);
	return NULL;
}

static const char *cmd_rd64(const struct args *a)
{
	return cmd_rd(a, 8);
}

static const char *cmd_wr8(const struct args *a)
{
	return cmd_wr(a, 1);
}

static const char *cmd_wr16(const struct args *a)
{
	return cmd_wr(a, 2);
}

static const char *cmd_wr32(const struct args *a)
{
	return cmd_wr(a, 4);
}

static const char *cmd_wr64(const struct args *a)
{
	return cmd_wr(a, 8);
}

struct exchange {
	uint64_t gpa, low;
};

/* KVM's emulator of kernel mode refuses CMPXCHG16B, so that Cairn's assist carries it out. */
static uint64_t kernel_exchange16(uint64_t exchange)
{
	const struct exchange *x = (const struct exchange *)exchange;
	uint64_t low = ((volatile uint64_t *)x->gpa)[0], high = ((volatile uint64_t *)x->gpa)[1];

	__asm__ volatile("lock cmpxchg16b (%2)" : "+a"(low), "+d"(high) : "r"(x->gpa), "b"(x->low), "c"(high) : "cc", "memory");
	return 0;
}

static const char *cmd_exchange16(const struct args *a)
{
	struct exchange x = {a->v[0], a->v[1]};

	if (x.gpa % 16 || x.gpa >> 32)
		return "no such address";
	kcall(kernel_exchange16, (uint64_t)&x);
	return NULL;
}

static bool size_ok(uint64_t size)
{
	return size == 1 || size == 2 || size == 4;
}

static const char *cmd_cfgrd(const struct args *a)
{
	unsigned size = a->n > 2 ? (unsigned)a->v[2] : 4;

	if (!size_ok(size))
		return "size is 1, 2 or 4";
	print("%x\n", (uint64_t)pci_read((uint16_t)a->v[0], (unsigned)a->v[1], size));
	return NULL;
}

static const char *cmd_cfgwr(const struct args *a)
{
	unsigned size = a->n > 3 ? (unsigned)a->v[3] : 4;

	if (!size_ok(size))
		return "size is 1, 2 or 4";
	pci_write((uint16_t)a->v[0], (unsigned)a->v[1], size, (uint32_t)a->v[2]);
	return NULL;
}

static const char *cmd_pci(const struct args *a)
{
	(void)a;
	for (uint16_t bdf = 0; bdf < 256; bdf += 8) {
		uint32_t id = pci_read(bdf, 0, 4);

		if (id == 0xffffffff)
			continue;
		print("bdf=%x vendor=%x device=%x class=%x\n", (uint64_t)bdf,
			(uint64_t)(id & 0xffff), (uint64_t)(id >> 16),
			(uint64_t)(pci_read(bdf, 8, 4) >> 8));
	}
	return NULL;
}

/* Wait until the port of devices/pci/pci_hotplug.h, and of QEMU's pc, names the slot of a new device. */
static const char *cmd_plugged(const struct args *a)
{
	uint32_t slots;

	do
		slots = inl((uint16_t)a->v[0]);
	while (!slots);
	print("%x\n", (uint64_t)pci_read((uint16_t)(__builtin_ctz(slots) << 3), 0, 4));
	return NULL;
}

const struct command io_commands[] = {
	{"inb", 0, 1, "PORT", cmd_inb},
	{"inw", 0, 1, "PORT", cmd_inw},
	{"inl", 0, 1, "PORT", cmd_inl},
	{"outb", 0, 2, "PORT VALUE", cmd_outb},
	{"outw", 0, 2, "PORT VALUE", cmd_outw},
	{"outl", 0, 2, "PORT VALUE", cmd_outl},
	{"cpuid-user", 0, 2, "LEAF INDEX", cmd_cpuid},
	{"rd8", 0, 1, "GPA", cmd_rd8},
	{"rd16", 0, 1, "GPA", cmd_rd16},
	{"rd32", 0, 1, "GPA", cmd_rd32},
	{"rd64", 0, 1, "GPA", cmd_rd64},
	{"wr8", 0, 2, "GPA VALUE", cmd_wr8},
	{"wr16", 0, 2, "GPA VALUE", cmd_wr16},
	{"wr32", 0, 2, "GPA VALUE", cmd_wr32},
	{"wr64", 0, 2, "GPA VALUE", cmd_wr64},
	{"cx16", 0, 2, "GPA VALUE", cmd_exchange16},
	{"cfgrd", 0, 2, "BDF REGISTER [SIZE]", cmd_cfgrd},
	{"cfgwr", 0, 3, "BDF REGISTER VALUE [SIZE]", cmd_cfgwr},
	{"pci", 0, 0, "", cmd_pci},
	{"plugged", 0, 1, "PORT", cmd_plugged},
	{0},
};
