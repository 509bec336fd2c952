/* Commands that bring the processors to a state in the middle of something, in which a snapshot may find them. */
#include "bare.h"

#define MSR_APIC_BASE 0x1b
#define MSR_X2APIC_ICR 0x830
#define APIC_BASE_X2 (1u << 10)
#define APIC_BASE_ENABLED (1u << 11)
#define LAPIC_ICR 0x300
#define LAPIC_ICR_HIGH 0x310
#define ICR_NMI 0x4400 /* to processor 0 */
#define COM1 0x3f8
#define MCR 4
#define MCR_NORMAL 0x0b
#define MCR_LOOP 0x10
#define HALF_A_FIFO 8
#define MSR_TSC_DEADLINE 0x6e0
#define LAPIC_TIMER 0x320
#define TIMER_DEADLINE (2u << 17)
#define RTC_GSI 8
#define WAIT_CYCLES 30000000000ULL /* some 10 s: timeout of waits */

static void msr_write(uint32_t msr, uint64_t v)
{
	struct kernel_regs r = {.leaf = msr, .eax = (uint32_t)v, .edx = (uint32_t)(v >> 32)};

	kernel_wrmsr((uint64_t)&r);
}

/* At CPL 0 with interrupts off: take one byte, without which nothing goes on. */
static char byte_wait(void)
{
	while (!serial_ready())
		__asm__ volatile("pause");
	return (char)inb(COM1);
}

uint64_t ipi_send(uint64_t icr)
{
	if (lapic_by_msr) {
		msr_write(MSR_X2APIC_ICR, icr);
	} else {
		lapic_write(LAPIC_ICR_HIGH, (uint32_t)(icr >> 32) << 24);
		lapic_write(LAPIC_ICR, (uint32_t)icr);
	}
	return 0;
}

static const char *cmd_ipi(const struct args *a)
{
	kcall(ipi_send, a->v[0] << 32 | a->v[1]);
	return NULL;
}

/* ---- NMIs ---- */

/* The handler itself: a further NMI waits for its end. */
static void nmi_wait(void)
{
	char c;

	nmi_handler = NULL;
	ipi_send(ICR_NMI);
	print("holding\n");
	c = byte_wait();
	print("byte=%c inside=%u\n", c, irq_count[VECTOR_NMI]);
}

static const char *cmd_nmi(const struct args *a)
{
	uint64_t begin = rdtsc();

	(void)a;
	irq_count[VECTOR_NMI] = 0;
	nmi_handler = nmi_wait;
	kcall(ipi_send, ICR_NMI);
	while (irq_count[VECTOR_NMI] < 2 && rdtsc() - begin < WAIT_CYCLES)
		__asm__ volatile("pause");
	print("after=%u\n", irq_count[VECTOR_NMI]);
	return NULL;
}

/* ---- a serial port whose buffer is half full ---- */

static uint64_t kernel_fifo(uint64_t unused)
{
	uint64_t nmis = irq_count[VECTOR_NMI];
	char text[2 * HALF_A_FIFO + 1];
	unsigned n = 0;

	outb(COM1 + MCR, MCR_NORMAL | MCR_LOOP);
	for (unsigned i = 0; i < HALF_A_FIFO; i++)
		outb(COM1, (uint8_t)('a' + i));
	outb(COM1 + MCR, MCR_NORMAL);
	print("holding\n");
	while (irq_count[VECTOR_NMI] == nmis)
		__asm__ volatile("pause");
	while (n < sizeof(text) - 1 && serial_ready())
		text[n++] = (char)inb(COM1);
	text[n] = 0;
	print("fifo=%s\n", text);
	return unused;
}

/* Send itself bytes, and read them after an NMI. */
static const char *cmd_fifo(const struct args *a)
{
	(void)a;
	kcall(kernel_fifo, 0);
	return NULL;
}

/* ---- timers ---- */

static uint64_t kernel_deadline_set(uint64_t tsc)
{
	msr_write(MSR_TSC_DEADLINE, tsc);
	return 0;
}

/* Halt until the TSC has the value that raises the timer's interrupt. Without arguments: say whether it came early. */
static const char *cmd_deadline(const struct args *a)
{
	static bool early;
	uint64_t before = irq_count[VECTOR_TIMER], at;

	if (!a->n) {
		print("early=%u\n", (uint64_t)early);
		return NULL;
	}
	lapic_write(LAPIC_TIMER, TIMER_DEADLINE | VECTOR_TIMER);
	at = rdtsc() + a->v[0];
	kcall(kernel_deadline_set, at);
	print("holding\n");
	while (irq_count[VECTOR_TIMER] == before)
		halt_unless(&irq_count[VECTOR_TIMER], before);
	early = rdtsc() < at;
	return NULL;
}

static uint8_t cmos_read(uint8_t reg)
{
	outb(0x70, reg);
	return inb(0x71);
}

static void rtc_interrupt(unsigned gsi)
{
	if (gsi == RTC_GSI)
		cmos_read(0xc);
}

/* Let the real-time clock raise interrupts, 1024 >> (RATE - 6) a second. */
static const char *cmd_rtc(const struct args *a)
{
	line_handler = rtc_interrupt;
	ioapic_route(RTC_GSI, false);
	outb(0x70, 0xa);
	outb(0x71, 0x20 | (uint8_t)a->v[0]);
	outb(0x70, 0xb);
	outb(0x71, 0x42);
	cmos_read(0xc);
	return NULL;
}

/* ---- page directory pointers ---- */

uint8_t pae_read(uint64_t address, uint64_t pdpt, uint64_t new_entry);
extern uint64_t pd[];

static uint64_t pae_pdpt[4] __attribute__((aligned(32)));
static uint64_t pae_pd[2][512] __attribute__((aligned(4096)));

static uint64_t kernel_pae(uint64_t unused)
{
	(void)unused;
	print("holding\n");
	return pae_read(0xc0000000, (uint64_t)pae_pdpt, (uint64_t)pae_pd[1] | 1);
}

/* Replace an entry in memory; the processor may still use the old one, which it has loaded with CR3. */
static const char *cmd_pae(const struct args *a)
{
	(void)a;
	*(volatile uint8_t *)0x2000000 = 1;
	*(volatile uint8_t *)0x2200000 = 2;
	pae_pd[0][0] = 0x2000000 | 0x83;
	pae_pd[1][0] = 0x2200000 | 0x83;
	for (unsigned i = 0; i < 3; i++)
		pae_pdpt[i] = ((uint64_t)pd + 4096 * i) | 1;
	pae_pdpt[3] = (uint64_t)pae_pd[0] | 1;
	print("read=%u\n", kcall(kernel_pae, 0));
	return NULL;
}

/* ---- the local APIC by MSRs ---- */

static uint64_t kernel_x2apic(uint64_t on)
{
	uint64_t base = kernel_rdmsr(MSR_APIC_BASE);

	if (on) {
		msr_write(MSR_APIC_BASE, base | APIC_BASE_X2);
		lapic_by_msr = true;
		return 0;
	}
	msr_write(MSR_APIC_BASE, base & ~(uint64_t)(APIC_BASE_X2 | APIC_BASE_ENABLED));
	msr_write(MSR_APIC_BASE, base & ~(uint64_t)APIC_BASE_X2);
	lapic_by_msr = false;
	lapic_write(0xf0, 0x100 | VECTOR_SPURIOUS);
	return 0;
}

static const char *cmd_x2apic(const struct args *a)
{
	kcall(kernel_x2apic, a->v[0]);
	return NULL;
}

static const char *cmd_lapic(const struct args *a)
{
	if (a->n > 1)
		lapic_write((unsigned)a->v[0], (uint32_t)a->v[1]);
	else
		print("%x\n", lapic_read((unsigned)a->v[0]));
	return NULL;
}

/* ---- registers ---- */

#define REG_READ(name, v) __asm__ volatile("mov %%" name ", %0" : "=r"(v))
#define REG_WRITE(name, v) __asm__ volatile("mov %0, %%" name : : "r"((uint64_t)(v)))

static uint64_t kernel_registers_set(uint64_t seed)
{
	REG_WRITE("cr2", 0x1234500 + seed);
	REG_WRITE("cr8", 1);
	REG_WRITE("dr0", 0x2000000 + seed * 8);
	REG_WRITE("dr1", 0x2001000 + seed * 8);
	REG_WRITE("dr2", 0x2002000 + seed * 8);
	REG_WRITE("dr3", 0x2003000 + seed * 8);
	REG_WRITE("dr6", 0xffff0ff0 | (seed & 15));
	REG_WRITE("dr7", 0x401); /* a breakpoint at dr0, where no code is */
	return 0;
}

static uint64_t kernel_registers_show(uint64_t unused)
{
	uint64_t v[8];

	REG_READ("cr2", v[0]);
	REG_READ("cr8", v[1]);
	REG_READ("dr0", v[2]);
	REG_READ("dr1", v[3]);
	REG_READ("dr2", v[4]);
	REG_READ("dr3", v[5]);
	REG_READ("dr6", v[6]);
	REG_READ("dr7", v[7]);
	print("cr2=%x cr8=%x dr0=%x dr1=%x dr2=%x dr3=%x dr6=%x dr7=%x\n", v[0], v[1], v[2], v[3], v[4], v[5], v[6], v[7]);
	return unused;
}

/* The last 96 bytes of the area are not the processor's. */
static void float_show(void)
{
	static uint64_t area[64] __attribute__((aligned(16)));
	uint64_t sum = 0;

	__asm__ volatile("fxsave64 %0" : "=m"(area));
	for (unsigned i = 0; i < 52; i++)
		sum = sum * 31 + area[i];
	print("float=%x\n", sum);
}

static const char *cmd_regs(const struct args *a)
{
	uint32_t mxcsr = 0x3f80;
	uint16_t control = 0x37e;

	if (str_equal(a->s[0], "set")) {
		kcall(kernel_registers_set, a->v[1]);
		__asm__ volatile("ldmxcsr %0; fldcw %1; fld1; fldpi; movq %2, %%xmm7" : : "m"(mxcsr), "m"(control), "r"(a->v[1]));
	}
	kcall(kernel_registers_show, 0);
	float_show();
	return NULL;
}

const struct command midway_commands[] = {
	{"ipi", 0, 2, "PROCESSOR ICR-LOW", cmd_ipi},
	{"nmi", 0, 0, "", cmd_nmi},
	{"fifo", 0, 0, "", cmd_fifo},
	{"deadline", 0, 0, "[CYCLES]", cmd_deadline},
	{"rtc", 0, 1, "RATE", cmd_rtc},
	{"pae", 0, 0, "", cmd_pae},
	{"x2apic", 0, 1, "0|1", cmd_x2apic},
	{"lapic", 0, 1, "REGISTER [VALUE]", cmd_lapic},
	{"regs", 1, 1, "show|set [SEED]", cmd_regs},
	{0},
};
