/* Commands that crash the guest, or must not. */
#include "bare.h"

static uint64_t kernel_triple(uint64_t unused)
{
	struct {
		uint16_t limit;
		uint64_t base;
	} __attribute__((packed)) none = {0, 0};

	__asm__ volatile("lidt %0; int3" : : "m"(none));
	return unused;
}

static uint64_t kernel_dead(uint64_t unused)
{
	for (;;)
		__asm__ volatile("cli; hlt");
	return unused;
}

/* Load a float from an address without memory, which no KVM emulates. */
static uint64_t kernel_unemulatable(uint64_t gpa)
{
	__asm__ volatile("flds (%0)" : : "r"(gpa));
	return 0;
}

static uint64_t kernel_spin(uint64_t unused)
{
	for (;;)
		__asm__ volatile("pause");
	return unused;
}

static const char *cmd_crash(const struct args *a)
{
	if (str_equal(a->s[0], "triple"))
		kcall(kernel_triple, 0);
	else if (str_equal(a->s[0], "dead"))
		kcall(kernel_dead, 0);
	else if (str_equal(a->s[0], "spin"))
		kcall(kernel_spin, 0);
	else if (str_equal(a->s[0], "emulation"))
		kcall(kernel_unemulatable, 0xd8000000);
	else if (str_equal(a->s[0], "panic"))
		outb(0x505, 1);
	else if (str_equal(a->s[0], "ud"))
		__asm__ volatile("ud2");
	else
		return "triple, dead, spin, emulation, panic or ud";
	return a->s[0][0] == 'p' ? NULL : "still here";
}

static const char *cmd_reset(const struct args *a)
{
	if (str_equal(a->s[0], "cf9"))
		outb(0xcf9, 0x06);
	else if (str_equal(a->s[0], "keyboard"))
		outb(0x64, 0xfe);
	else if (str_equal(a->s[0], "port92"))
		outb(0x92, 0x01);
	else
		return "cf9, keyboard or port92";
	halt(); /* halt, because another thread of the VM process may be the one that stops the VM */
	return "still here";
}

/* Ports at which a machine of this kind has devices. */
static const struct {
	uint16_t first, last;
} claimed_ports[] = {
	{0x20, 0x21},
	{0x40, 0x43},
	{0x60, 0x64},
	{0x70, 0x71},
	{0x92, 0x92},
	{0xa0, 0xa1},
	{0xe0, 0xe3},
	{0xf4, 0xf7},
	{0x3f8, 0x3ff},
	{0x4d0, 0x4d1},
	{0x505, 0x505},
	{0x600, 0x62f},
	{0xcf8, 0xcff},
	{0x2000, 0x2017},
};

static bool port_claimed(unsigned first, unsigned last)
{
	for (size_t i = 0; i < ARRAY_SIZE(claimed_ports); i++)
		if (first <= claimed_ports[i].last && last >= claimed_ports[i].first)
			return true;
	return false;
}

struct storm {
	uint64_t first, last, step, done;
};

/* Access ports at CPL 0: from CPL 3 each access would trap on a PVM host. */
static uint64_t kernel_port_storm(uint64_t storm)
{
	struct storm *s = (struct storm *)storm;

	for (uint64_t p = s->first; p <= s->last; p += s->step) {
		if (port_claimed((unsigned)p, (unsigned)p + 3))
			continue;
		outb((uint16_t)p, 0xff);
		outw((uint16_t)p, 0xffff);
		outl((uint16_t)p, 0xffffffff);
		(void)inb((uint16_t)p);
		(void)inw((uint16_t)p);
		if (inl((uint16_t)p) == 0xffffffff)
			s->done++;
	}
	return 0;
}

static const char *cmd_ports(const struct args *a)
{
	struct storm s = {a->v[0], a->v[1], a->v[2], 0};

	if (!s.step || s.last > 0xffff)
		return "STEP is not 0, LAST at most 0xffff";
	kcall(kernel_port_storm, (uint64_t)&s);
	print("unclaimed=%u\n", s.done);
	return NULL;
}

static const char *cmd_addresses(const struct args *a)
{
	uint64_t done = 0;

	if (!a->v[2])
		return "STEP is not 0";
	for (uint64_t p = a->v[0]; p < a->v[1]; p += a->v[2]) {
		if ((p + 8) >> 32 && !(page_map(p) && page_map(p + 8)))
			return "no such address";
		for (unsigned size = 1; size <= 8; size *= 2) {
			mmio_write(p, size, ~0ULL);
			(void)mmio_read(p, size);
		}
		/* An access across a page boundary: KVM splits it into two for the host. */
		mmio_write(p + 3, 8, ~0ULL);
		done += mmio_read(p, 8) == ~0ULL;
	}
	print("unclaimed=%u\n", done);
	return NULL;
}

/* Access random offsets of a range of registers that tolerate any access. */
static const char *cmd_fuzz(const struct args *a)
{
	uint64_t state = a->v[3] | 1ULL << 63;

	if (!a->v[1] || (a->v[0] >> 32 && !page_map(a->v[0])))
		return "no such address";
	for (uint64_t i = 0; i < a->v[2]; i++) {
		uint64_t r = random_next(&state), gpa = a->v[0] + (r >> 8) % a->v[1];
		unsigned size = 1u << (r & 3);

		if (r & 4)
			gpa &= ~(uint64_t)(size - 1);
		if (r & 8)
			mmio_write(gpa, size, random_next(&state));
		else
			(void)mmio_read(gpa, size);
	}
	return NULL;
}

const struct command crash_commands[] = {
	{"crash", 1, 1, "triple|dead|spin|emulation|panic|ud", cmd_crash},
	{"reset", 1, 1, "cf9|keyboard|port92", cmd_reset},
	{"ports", 0, 3, "FIRST LAST STEP", cmd_ports},
	{"addresses", 0, 3, "FIRST END STEP", cmd_addresses},
	{"fuzz", 0, 4, "GPA BYTES TIMES SEED", cmd_fuzz},
	{0},
};
