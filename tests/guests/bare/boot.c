/* Startup from start.S to program() at CPL 3: descriptor tables, interrupt controllers, traps. */
#include "bare.h"

#define LAPIC 0xfee00000ULL
#define LAPIC_EOI 0xb0
#define MSR_X2APIC 0x800
#define LAPIC_SPURIOUS 0xf0
#define IOAPIC 0xfec00000ULL
#define USER_STACK_BYTES 16384
#define EXTRA_TABLES 16

volatile uint64_t irq_count[256], irq_ack_gpa[24];

struct gate {
	uint16_t low, selector;
	uint8_t ist, flags;
	uint16_t middle;
	uint32_t high, zero;
};

struct tss {
	uint32_t reserved;
	uint64_t rsp[3], more[8];
	uint32_t tail[3];
} __attribute__((packed));

struct table_pointer {
	uint16_t limit;
	uint64_t base;
} __attribute__((packed));

static struct gate idt[256];
static struct tss tss[64];
static uint8_t kernel_stacks[64][2048] __attribute__((aligned(16)));
static uint8_t user_stack[USER_STACK_BYTES] __attribute__((aligned(16)));
static uint64_t tables[EXTRA_TABLES][512] __attribute__((aligned(4096)));
static unsigned tables_used;

static void gate_set(unsigned vector)
{
	uint64_t to = (uint64_t)trap_stubs + 16 * vector;

	idt[vector] = (struct gate){
		.low = (uint16_t)to,
		.selector = 0x08,
		.flags = 0x8e,
		.middle = (uint16_t)(to >> 16),
		.high = (uint32_t)(to >> 32),
	};
}

void processor_init(unsigned id)
{
	struct table_pointer p = {sizeof(idt) - 1, (uint64_t)idt};
	uint64_t t = (uint64_t)&tss[id];
	uint64_t *d = &gdt[6 + 2 * id];
	uint16_t selector = (uint16_t)(0x30 + 16 * id);

	tss[id].rsp[0] = (uint64_t)kernel_stacks[id] + sizeof(kernel_stacks[id]);
	d[0] = (sizeof(struct tss) - 1) | (t & 0xffffff) << 16 | 0x89ULL << 40 |
	       (t >> 24 & 0xff) << 56;
	d[1] = t >> 32;
	__asm__ volatile("lidt %0" : : "m"(p));
	__asm__ volatile("ltr %0" : : "r"(selector));
	mmio_write(LAPIC + LAPIC_SPURIOUS, 4, 0x100 | VECTOR_SPURIOUS);
}

/* At CPL 3, because a PVM host emulates each instruction at CPL 0. */
static void begin(uint64_t again)
{
	for (unsigned v = 0; v < 0x60; v++)
		gate_set(v);
	gate_set(VECTOR_SPURIOUS);
	program(again);
}

void kernel_main(uint64_t unused)
{
	(void)unused;
	outb(0x21, 0xff); /* mask the 8259s */
	outb(0xa1, 0xff);
	processor_init(0);
	user_enter(begin, 0, user_stack + USER_STACK_BYTES - 8);
}

bool lapic_by_msr;

static bool at_cpl_0(void)
{
	uint16_t cs;

	__asm__("mov %%cs, %0" : "=r"(cs));
	return !(cs & 3);
}

uint64_t lapic_read(unsigned reg)
{
	if (!lapic_by_msr)
		return mmio_read(LAPIC + reg, 4);
	return at_cpl_0() ? kernel_rdmsr(MSR_X2APIC + reg / 16) : kcall(kernel_rdmsr, MSR_X2APIC + reg / 16);
}

void lapic_write(unsigned reg, uint32_t v)
{
	struct kernel_regs r = {.leaf = MSR_X2APIC + reg / 16, .eax = v};

	if (!lapic_by_msr)
		mmio_write(LAPIC + reg, 4, v);
	else if (at_cpl_0())
		kernel_wrmsr((uint64_t)&r);
	else
		kcall(kernel_wrmsr, (uint64_t)&r);
}

static void ioapic_write(unsigned reg, uint32_t v)
{
	mmio_write(IOAPIC, 4, reg);
	mmio_write(IOAPIC + 0x10, 4, v);
}

void (*volatile line_handler)(unsigned gsi);
void (*volatile nmi_handler)(void), (*volatile ping_handler)(void);
void (*volatile debug_handler)(struct trap_frame *f);

void ioapic_route_to(unsigned gsi, bool level, unsigned cpu)
{
	ioapic_write(0x11 + 2 * gsi, cpu << 24);
	ioapic_write(0x10 + 2 * gsi, VECTOR_GSI(gsi) | (level ? 1u << 15 : 0));
}

void ioapic_route(unsigned gsi, bool level)
{
	ioapic_route_to(gsi, level, (unsigned)lapic_read(0x20) >> 24);
}

static uint64_t *table_below(uint64_t *entry)
{
	if (!(*entry & 1)) {
		if (tables_used == EXTRA_TABLES)
			return NULL;
		*entry = (uint64_t)tables[tables_used++] | 7;
	}
	return (uint64_t *)(*entry & ~0xfffULL);
}

bool page_map(uint64_t gpa)
{
	uint64_t *t;

	if (gpa >> 47)
		return false;
	t = table_below(&pml4[gpa >> 39 & 511]);
	if (!t || !(t = table_below(&t[gpa >> 30 & 511])))
		return false;
	t[gpa >> 21 & 511] = (gpa & ~0x1fffffULL) | 0x87;
	return true;
}

void kernel_alias_map(void)
{
	uint64_t *t = table_below(&pml4[511]);

	t = t ? table_below(&t[510]) : NULL;
	if (t)
		t[0] = 0x83; /* present, writable, 2 MiB page; no user access */
}

struct halt {
	volatile uint64_t *counter;
	uint64_t seen;
};

/* Runs with interrupts off, so that none is missed between the check and the hlt. */
static uint64_t kernel_halt(uint64_t halt)
{
	struct halt *h = (struct halt *)halt;

	if (!serial_ready() && (!h->counter || *h->counter == h->seen))
		kernel_wait();
	return 0;
}

void halt_unless(volatile uint64_t *counter, uint64_t seen)
{
	struct halt h = {counter, seen};

	kcall(kernel_halt, (uint64_t)&h);
}

uint64_t kernel_rdmsr(uint64_t msr)
{
	uint32_t lo, hi;

	__asm__ volatile("rdmsr" : "=a"(lo), "=d"(hi) : "c"((uint32_t)msr));
	return (uint64_t)hi << 32 | lo;
}

uint64_t kernel_wrmsr(uint64_t regs)
{
	struct kernel_regs *r = (struct kernel_regs *)regs;

	__asm__ volatile("wrmsr" : : "c"(r->leaf), "a"(r->eax), "d"(r->edx) : "memory");
	return 0;
}

uint64_t kernel_cpuid(uint64_t regs)
{
	struct kernel_regs *r = (struct kernel_regs *)regs;

	r->eax = r->leaf;
	__asm__ volatile("cpuid" : "+a"(r->eax), "=b"(r->ebx), "+c"(r->ecx), "=d"(r->edx));
	return 0;
}

/* Abandon the interrupted code and restart the program at CPL 3. */
static void program_restart(struct trap_frame *f)
{
	f->cs = 0x23;
	f->ss = 0x1b;
	f->rflags = 0x3202;
	f->rip = (uint64_t)program;
	f->rdi = 1;
	f->rsp = (uint64_t)user_stack + USER_STACK_BYTES - 8;
}

static void exception(struct trap_frame *f)
{
	uint64_t cr2;

	__asm__ volatile("mov %%cr2, %0" : "=r"(cr2));
	print("err exception %u error %x rip %x cs %x cr2 %x\n", f->vector, f->error, f->rip, f->cs,
		cr2);
	program_restart(f);
}

static uint64_t port_in(uint16_t port, unsigned size)
{
	return size == 1 ? inb(port) : size == 2 ? inw(port) : inl(port);
}

static void port_out(uint16_t port, unsigned size, uint64_t v)
{
	if (size == 1)
		outb(port, (uint8_t)v);
	else if (size == 2)
		outw(port, (uint16_t)v);
	else
		outl(port, (uint32_t)v);
}

/* Emulate a port instruction of CPL 3: a PVM host does not honour IOPL, so in and out (port in DX
 * or immediate) trap. */
static bool port_access_done(struct trap_frame *f)
{
	const uint8_t *p = (const uint8_t *)f->rip;
	unsigned size = 4, n = 0;
	uint16_t port = (uint16_t)f->rdx;

	if (f->vector != 13 || (f->cs & 3) != 3)
		return false;
	if (p[n] == 0x66) {
		size = 2;
		n++;
	}
	if ((p[n] & 0xf4) != 0xe4)
		return false;
	if (!(p[n] & 1))
		size = 1;
	if (!(p[n] & 8))
		port = p[n + 1];
	if (p[n] & 2)
		port_out(port, size, f->rax);
	else if (size == 4)
		f->rax = port_in(port, size);
	else
		memcpy(&f->rax, &(uint64_t){port_in(port, size)}, size);
	f->rip += n + (p[n] & 8 ? 1 : 2);
	return true;
}

/* Acknowledge the cause: a level-triggered interrupt would otherwise fire again at once. */
static void interrupt_ack(unsigned gsi)
{
	if (gsi == GSI_SCI)
		button_interrupt();
	else if (gsi < ARRAY_SIZE(irq_ack_gpa) && irq_ack_gpa[gsi])
		mmio_read(irq_ack_gpa[gsi], 1);
	else if (line_handler)
		line_handler(gsi);
}

void trap(struct trap_frame *f)
{
	if (port_access_done(f))
		return;
	irq_count[f->vector]++;
	if (f->vector == VECTOR_NMI && nmi_handler)
		nmi_handler();
	if (f->vector == VECTOR_PING && ping_handler)
		ping_handler();
	if (f->vector == VECTOR_DEBUG && debug_handler) {
		debug_handler(f);
	} else if (f->vector == 6 && f->rip == (uint64_t)kcall_gate) {
		f->rip += 2;
		f->rax = ((uint64_t(*)(uint64_t))f->rdi)(f->rsi);
	} else if (f->vector < 32 && f->vector != VECTOR_NMI) {
		exception(f);
	} else if (f->vector >= 32 && f->vector != VECTOR_SPURIOUS) {
		interrupt_ack((unsigned)f->vector - 32);
		lapic_write(LAPIC_EOI, 0);
	}
}
