/* Commands for RAM, time, processors and power. */
#include "bare.h"

#define MSR_STAR 0xc0000081
#define MSR_LSTAR 0xc0000082
#define MSR_FMASK 0xc0000084
#define MSR_KVM_CLOCK 0x4b564d01
#define LAPIC_TIMER 0x320
#define LAPIC_TIMER_COUNT 0x380
#define LAPIC_TIMER_DIVIDE 0x3e0
#define TIMER_PERIODIC (1u << 17)
#define PIT_HZ 1193182
#define WAIT_CYCLES 30000000000ULL /* some 10 s: timeout of waits */

/* Xen's start info: docs/misc/pvh in its tree, "hvm_start_info". */
struct start_info {
	uint32_t magic, version, flags, modules;
	uint64_t modules_gpa, cmdline_gpa, rsdp_gpa, memmap_gpa;
	uint32_t memmap_entries, reserved;
};

struct memmap_entry {
	uint64_t gpa, bytes;
	uint32_t type, reserved;
};

/* ---- RAM ---- */

static uint64_t ram_word(uint64_t gpa, uint64_t seed)
{
	return (gpa + seed * 0x9e3779b97f4a7c15ULL) * 0xd6e8feb86659fd93ULL;
}

/* Map each 2 MiB of the range; refuse a range that overlaps the guest itself. */
static const char *ram_check_range(uint64_t gpa, uint64_t bytes)
{
	if (gpa % 8 || bytes % 8 || gpa + bytes < gpa)
		return "not aligned";
	if (gpa < (uint64_t)image_end && gpa + bytes > 0x100000)
		return "the guest lives there";
	for (uint64_t p = gpa & ~0x1fffffULL; p < gpa + bytes; p += 0x200000)
		if (p >> 32 && !page_map(p))
			return "no such address";
	return NULL;
}

/* The distance between two words that `fill` writes and `check` reads. */
static uint64_t ram_step(const struct args *a)
{
	return a->n > 3 && a->v[3] >= 8 ? a->v[3] & ~7ULL : 8;
}

static const char *cmd_fill(const struct args *a)
{
	const char *wrong = ram_check_range(a->v[0], a->v[1]);
	uint64_t end = a->v[0] + a->v[1], step = ram_step(a);

	if (wrong)
		return wrong;
	for (uint64_t p = a->v[0]; p < end; p += step)
		*(volatile uint64_t *)p = ram_word(p, a->v[2]);
	return NULL;
}

static const char *cmd_clear(const struct args *a)
{
	const char *wrong = ram_check_range(a->v[0], a->v[1]);

	if (!wrong)
		memset((void *)a->v[0], 0, a->v[1]);
	return wrong;
}

static const char *cmd_check(const struct args *a)
{
	const char *wrong = ram_check_range(a->v[0], a->v[1]);
	uint64_t end = a->v[0] + a->v[1], step = ram_step(a);

	if (wrong)
		return wrong;
	for (uint64_t p = a->v[0]; p < end; p += step) {
		uint64_t v = *(volatile uint64_t *)p;

		if (v == ram_word(p, a->v[2]))
			continue;
		print("gpa=%x is=%x want=%x\n", p, v, ram_word(p, a->v[2]));
		return "differs";
	}
	return NULL;
}

/* Blocks of 64 KiB that are zero but for one copy of CRC32C's polynomial, so that their CRC32C is that of
 * zeros. */
#define BLOCK_BYTES 0x10000ULL
#define POLYNOMIAL 0x105ec76f1ULL

/* The seed decides where in the block the polynomial is: at any bit. */
static uint64_t like_zeros_at(uint64_t block, uint64_t seed)
{
	return block + (ram_word(block, seed) >> 32) % (BLOCK_BYTES / 8) * 8;
}

static uint64_t like_zeros_word(uint64_t block, uint64_t seed)
{
	return POLYNOMIAL << (ram_word(block, seed) & 31);
}

static const char *cmd_like_zeros(const struct args *a)
{
	const char *wrong = ram_check_range(a->v[0], a->v[1]);

	for (uint64_t b = a->v[0]; !wrong && b < a->v[0] + a->v[1]; b += BLOCK_BYTES) {
		for (uint64_t p = b; p < b + BLOCK_BYTES; p += 8)
			if (*(volatile uint64_t *)p)
				*(volatile uint64_t *)p = 0;
		*(volatile uint64_t *)like_zeros_at(b, a->v[2]) = like_zeros_word(b, a->v[2]);
	}
	return wrong;
}

static const char *cmd_like_zeros_check(const struct args *a)
{
	const char *wrong = ram_check_range(a->v[0], a->v[1]);
	uint64_t blocks = 0;

	for (uint64_t b = a->v[0]; !wrong && b < a->v[0] + a->v[1]; b += BLOCK_BYTES) {
		uint64_t at = like_zeros_at(b, a->v[2]), word = like_zeros_word(b, a->v[2]), differ = 0;

		for (uint64_t p = b; p < b + BLOCK_BYTES; p += 8)
			differ |= *(volatile uint64_t *)p ^ (p == at ? word : 0);
		blocks += differ != 0;
	}
	if (blocks)
		print("%u blocks differ\n", blocks);
	return wrong ? wrong : blocks ? "differs" : NULL;
}

static const char *cmd_memmap(const struct args *a)
{
	const struct start_info *s = (const struct start_info *)start_info_gpa;
	const struct memmap_entry *m = (const struct memmap_entry *)s->memmap_gpa;

	(void)a;
	for (uint32_t i = 0; i < s->memmap_entries; i++)
		print("gpa=%x bytes=%x type=%u\n", m[i].gpa, m[i].bytes, (uint64_t)m[i].type);
	return NULL;
}

static const char *cmd_start(const struct args *a)
{
	const struct start_info *s = (const struct start_info *)start_info_gpa;

	(void)a;
	print("magic=%x version=%u modules=%u rsdp=%x\n", (uint64_t)s->magic, (uint64_t)s->version,
		(uint64_t)s->modules, s->rsdp_gpa);
	if (s->modules) {
		const uint64_t *m = (const uint64_t *)s->modules_gpa;

		print("initrd=%x bytes=%x\n", m[0], m[1]);
	}
	print("cmdline=%s\n", s->cmdline_gpa ? (const char *)s->cmdline_gpa : "");
	return NULL;
}

/* ---- time ---- */

uint64_t kvm_clock_ns(struct kvm_clock *c)
{
	uint64_t delta, ns;
	uint32_t version;

	if (!c->scale) {
		struct kernel_regs r = {.leaf = MSR_KVM_CLOCK, .eax = (uint32_t)(uint64_t)c | 1};

		kcall(kernel_wrmsr, (uint64_t)&r);
	}
	do {
		version = c->version;
		__asm__ volatile("" : : : "memory");
		delta = rdtsc() - c->tsc;
		delta = c->shift < 0 ? delta >> -c->shift : delta << c->shift;
		ns = c->ns + (uint64_t)((unsigned __int128)delta * c->scale >> 32);
		__asm__ volatile("" : : : "memory");
	} while ((version & 1) || version != c->version);
	return c->scale ? ns : 0;
}

static struct kvm_clock clock;

uint64_t clock_ns(void)
{
	return kvm_clock_ns(&clock);
}

/* Linux clears KVM_CLOCK_STOPPED, too, when it has seen it. */
static const char *cmd_clock(const struct args *a)
{
	uint64_t ns = clock_ns();

	(void)a;
	print("ns=%u tsc=%u stopped=%u\n", ns, rdtsc(), (uint64_t)(clock.flags & KVM_CLOCK_STOPPED ? 1 : 0));
	clock.flags &= (uint8_t)~KVM_CLOCK_STOPPED;
	return NULL;
}

static const char *cmd_pit(const struct args *a)
{
	uint64_t divisor = a->v[0] ? PIT_HZ / a->v[0] : 0;

	if (!divisor || divisor > 65535)
		return "from 19 to 1193182 Hz";
	outb(0x43, 0x34);
	outb(0x40, (uint8_t)divisor);
	outb(0x40, (uint8_t)(divisor >> 8));
	/* The PIT is on pin 2 of a PC (by an ACPI override), or on pin 0 without an override. */
	ioapic_route(0, false);
	ioapic_route(2, false);
	return NULL;
}

void timer_start(uint32_t count)
{
	lapic_write(LAPIC_TIMER_DIVIDE, 0x3);
	lapic_write(LAPIC_TIMER, TIMER_PERIODIC | VECTOR_TIMER);
	lapic_write(LAPIC_TIMER_COUNT, count);
}

static const char *cmd_timer(const struct args *a)
{
	timer_start((uint32_t)a->v[0]);
	return NULL;
}

static uint64_t ticks(void)
{
	return irq_count[VECTOR_GSI(0)] + irq_count[VECTOR_GSI(2)] + irq_count[VECTOR_TIMER];
}

static const char *cmd_ticks(const struct args *a)
{
	(void)a;
	print("pit=%u lapic=%u\n", irq_count[VECTOR_GSI(0)] + irq_count[VECTOR_GSI(2)],
		irq_count[VECTOR_TIMER]);
	return NULL;
}

static const char *cmd_wait(const struct args *a)
{
	uint64_t end = ticks() + a->v[0];

	while (ticks() < end) {
		halt();
		if (serial_ready())
			return "interrupted";
	}
	return NULL;
}

static const char *cmd_irqs(const struct args *a)
{
	(void)a;
	/* Skip exceptions, except NMI. */
	for (uint64_t v = VECTOR_NMI; v < 256; v = v < 32 ? 32 : v + 1)
		if (irq_count[v])
			print("vector=%x count=%u\n", v, irq_count[v]);
	return NULL;
}

/* ---- processors ---- */

static const char *cmd_cpuid(const struct args *a)
{
	struct kernel_regs r = {.leaf = (uint32_t)a->v[0], .ecx = (uint32_t)a->v[1]};

	kcall(kernel_cpuid, (uint64_t)&r);
	print("eax=%x ebx=%x ecx=%x edx=%x\n", (uint64_t)r.eax, (uint64_t)r.ebx, (uint64_t)r.ecx,
		(uint64_t)r.edx);
	return NULL;
}

static const char *cmd_rdmsr(const struct args *a)
{
	print("%x\n", kcall(kernel_rdmsr, a->v[0]));
	return NULL;
}

static void msr_write(uint32_t msr, uint64_t v)
{
	struct kernel_regs r = {.leaf = msr, .eax = (uint32_t)v, .edx = (uint32_t)(v >> 32)};

	kcall(kernel_wrmsr, (uint64_t)&r);
}

static const char *cmd_wrmsr(const struct args *a)
{
	msr_write((uint32_t)a->v[0], a->v[1]);
	return NULL;
}

static unsigned bits_set(uint64_t v)
{
	unsigned n = 0;

	for (; v; v &= v - 1)
		n++;
	return n;
}

/* Start all other processors and wait until v[1] processors are up. */
static const char *cmd_smp(const struct args *a)
{
	uint64_t begin = rdtsc();

	if (str_equal(a->s[0], "start") || str_equal(a->s[0], "count"))
		ap_start(a->s[0][0] == 'c' ? ap_count : NULL);
	else if (!str_equal(a->s[0], "show"))
		return "start, count or show";
	while (bits_set(ap_online) < a->v[1] && rdtsc() - begin < WAIT_CYCLES)
		__asm__ volatile("pause");
	print("online=%x\n", ap_online);
	for (uint64_t id = 0; id < 64; id++)
		if (ap_counter[id])
			print("id=%u counter=%u\n", id, ap_counter[id]);
	return bits_set(ap_online) < a->v[1] ? "not all came" : NULL;
}

static const char *cmd_syscall(const struct args *a)
{
	uint64_t before = syscall_count, tsc;

	msr_write(MSR_STAR, 0x10ULL << 48 | 0x08ULL << 32);
	kernel_alias_map();
	msr_write(MSR_LSTAR, KERNEL_ALIAS + (uint64_t)syscall_entry);
	msr_write(MSR_FMASK, 0x200);
	tsc = rdtsc();
	for (uint64_t i = 0; i < a->v[0]; i++)
		__asm__ volatile("syscall" : : : "rcx", "r11", "memory");
	print("count=%u tsc=%u\n", syscall_count - before, rdtsc() - tsc);
	return syscall_count - before == a->v[0] ? NULL : "lost some";
}

/* ---- power ---- */

static const char *cmd_button(const struct args *a)
{
	if (str_equal(a->s[0], "init")) {
		button_init();
		return NULL;
	}
	if (!str_equal(a->s[0], "wait"))
		return "init or wait";
	while (!button_pressed()) {
		halt_unless(&button_presses, 0);
		if (serial_ready())
			return "interrupted";
	}
	print("pressed\n");
	return NULL;
}

static const char *cmd_poweroff(const struct args *a)
{
	(void)a;
	power_off();
	return "still here";
}

static const char *cmd_exit(const struct args *a)
{
	outb(0xf4, (uint8_t)a->v[0]);
	return "still here";
}

static const char *cmd_echo(const struct args *a)
{
	print("%s\n", a->s[0]);
	return NULL;
}

const struct command machine_commands[] = {
	{"fill", 0, 3, "GPA BYTES SEED [STEP]", cmd_fill},
	{"check", 0, 3, "GPA BYTES SEED [STEP]", cmd_check},
	{"clear", 0, 2, "GPA BYTES", cmd_clear},
	{"like-zeros", 0, 3, "GPA BYTES SEED", cmd_like_zeros},
	{"like-zeros-check", 0, 3, "GPA BYTES SEED", cmd_like_zeros_check},
	{"memmap", 0, 0, "", cmd_memmap},
	{"start", 0, 0, "", cmd_start},
	{"clock", 0, 0, "", cmd_clock},
	{"pit", 0, 1, "HZ", cmd_pit},
	{"timer", 0, 1, "COUNT", cmd_timer},
	{"ticks", 0, 0, "", cmd_ticks},
	{"wait", 0, 1, "TICKS", cmd_wait},
	{"irqs", 0, 0, "", cmd_irqs},
	{"cpuid", 0, 1, "LEAF [SUBLEAF]", cmd_cpuid},
	{"rdmsr", 0, 1, "MSR", cmd_rdmsr},
	{"wrmsr", 0, 2, "MSR VALUE", cmd_wrmsr},
	{"smp", 1, 1, "start|count|show [HOW-MANY]", cmd_smp},
	{"syscall", 0, 1, "TIMES", cmd_syscall},
	{"button", 1, 1, "init|wait", cmd_button},
	{"poweroff", 0, 0, "", cmd_poweroff},
	{"exit", 0, 1, "STATUS", cmd_exit},
	{"echo", 1, 1, "WORD", cmd_echo},
	{0},
};
