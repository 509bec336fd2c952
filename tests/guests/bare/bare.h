/* bare: the runtime of the bare-metal guests. Runs at CPL 3 (IOPL 3, memory mapped one to one and
 * writable), except for functions passed to kcall() and the trap handlers. */
#ifndef CAIRN_TESTS_BARE_H
#define CAIRN_TESTS_BARE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))

/* ---- instructions ---- */
static inline void outb(uint16_t port, uint8_t v)
{
	__asm__ volatile("outb %0, %1" : : "a"(v), "Nd"(port) : "memory");
}

static inline void outw(uint16_t port, uint16_t v)
{
	__asm__ volatile("outw %0, %1" : : "a"(v), "Nd"(port) : "memory");
}

static inline void outl(uint16_t port, uint32_t v)
{
	__asm__ volatile("outl %0, %1" : : "a"(v), "Nd"(port) : "memory");
}

static inline uint8_t inb(uint16_t port)
{
	uint8_t v;

	__asm__ volatile("inb %1, %0" : "=a"(v) : "Nd"(port) : "memory");
	return v;
}

static inline uint16_t inw(uint16_t port)
{
	uint16_t v;

	__asm__ volatile("inw %1, %0" : "=a"(v) : "Nd"(port) : "memory");
	return v;
}

static inline uint32_t inl(uint16_t port)
{
	uint32_t v;

	__asm__ volatile("inl %1, %0" : "=a"(v) : "Nd"(port) : "memory");
	return v;
}

/* Access memory with a single mov, so that a device sees exactly one access of that size. */
uint64_t mmio_read(uint64_t gpa, unsigned size);
void mmio_write(uint64_t gpa, unsigned size, uint64_t v);

static inline uint64_t rdtsc(void)
{
	uint32_t lo, hi;

	__asm__ volatile("lfence; rdtsc" : "=a"(lo), "=d"(hi) : : "memory");
	return (uint64_t)hi << 32 | lo;
}

/* ---- start.S ---- */
struct trap_frame {
	uint64_t r15, r14, r13, r12, r11, r10, r9, r8, rdi, rsi, rbp, rbx, rdx, rcx, rax;
	uint64_t vector, error, rip, cs, rflags, rsp, ss;
};

extern uint64_t start_info_gpa, syscall_count;
extern char kcall_gate[], trap_stubs[], ap_trampoline[], ap_trampoline_end[], count_loop[],
	syscall_entry[], image_end[];
extern uint64_t gdt[], pml4[], pdpt[];

uint64_t kcall(uint64_t (*fn)(uint64_t), uint64_t arg);
void user_enter(void (*fn)(uint64_t), uint64_t arg, void *stack_top) __attribute__((noreturn));
void kernel_wait(void);
void kernel_main(uint64_t unused) __attribute__((noreturn));
void trap(struct trap_frame *f);
void ap_main(uint64_t apic_id) __attribute__((noreturn));

/* ---- boot.c ---- */
#define VECTOR_GSI(gsi) (0x20 + (gsi))
#define GSI_SCI 9
#define VECTOR_TIMER 0x40
#define VECTOR_MSI 0x50
#define VECTOR_DEBUG 1
#define VECTOR_NMI 2
#define VECTOR_PING 0x51
#define VECTOR_SPURIOUS 0xff

/* Number of interrupts by vector. */
extern volatile uint64_t irq_count[256];

/* The guest's program, at CPL 3. Starts again from the beginning, with again set, after an
 * exception, which has been reported as an "err exception" line. */
void program(uint64_t again) __attribute__((noreturn));

void processor_init(unsigned id);
/* Route a GSI to VECTOR_GSI(gsi) on the boot processor. */
void ioapic_route(unsigned gsi, bool level);
/* The same, on the processor with this APIC id. */
void ioapic_route_to(unsigned gsi, bool level, unsigned cpu);
/* Handler of interrupts that no device has, at CPL 0; NULL: none. */
extern void (*volatile line_handler)(unsigned gsi);
/* The same of an NMI, and of VECTOR_PING. */
extern void (*volatile nmi_handler)(void), (*volatile ping_handler)(void);
/* The same of a debug exception, which is an error without a handler. */
extern void (*volatile debug_handler)(struct trap_frame *f);
/* Map a GPA beyond the first 4 GiB. Returns false when no page tables are left or gpa is not
 * canonical. */
bool page_map(uint64_t gpa);
/* Map the first 2 MiB a second time at KERNEL_ALIAS, for CPL 0 only. */
#define KERNEL_ALIAS 0xffffffff80000000ULL
void kernel_alias_map(void);
extern bool lapic_by_msr; /* x2APIC mode */
uint64_t lapic_read(unsigned reg);
void lapic_write(unsigned reg, uint32_t v);
/* Halt until an interrupt, unless a byte is waiting on the serial port or *counter (NULL: none)
 * differs from `seen`. */
void halt_unless(volatile uint64_t *counter, uint64_t seen);
static inline void halt(void)
{
	halt_unless(NULL, 0);
}
/* Register to read at each interrupt of a GSI, to lower its line; 0: none. */
extern volatile uint64_t irq_ack_gpa[24];

/* functions for CPL 0, called through kcall() */
struct kernel_regs {
	uint32_t leaf;
	uint32_t eax, ebx, ecx, edx;
};
uint64_t kernel_rdmsr(uint64_t msr);
uint64_t kernel_wrmsr(uint64_t regs); /* struct kernel_regs: leaf, edx:eax */
uint64_t kernel_cpuid(uint64_t regs); /* struct kernel_regs: leaf and ecx in */

/* ---- lib.c: serial port and text ---- */
void serial_init(void);
bool serial_ready(void);
/* Read up to n bytes; first wait for any interrupt when no byte is there. May return 0. */
size_t serial_read(char *buf, size_t n);
/* Print at most 512 bytes. %s, %c, %d (int64_t), %u (uint64_t), %x (uint64_t, as 0x…). */
void print(const char *fmt, ...);

void *memset(void *p, int c, size_t n);
void *memcpy(void *d, const void *s, size_t n);
int memcmp(const void *a, const void *b, size_t n);
size_t strlen(const char *s);
bool str_equal(const char *a, const char *b);
/* Parse a decimal or 0x… number. Returns false for anything else. */
bool number_parse(const char *s, uint64_t *ret);
uint64_t random_next(uint64_t *state); /* xorshift64; *state not 0 */

/* Linux's Documentation/virt/kvm/x86/msr.rst: MSR_KVM_SYSTEM_TIME_NEW. */
struct kvm_clock {
	volatile uint32_t version, pad;
	volatile uint64_t tsc, ns;
	volatile uint32_t scale;
	volatile int8_t shift;
	volatile uint8_t flags, pad2[2];
} __attribute__((aligned(64)));
#define KVM_CLOCK_STABLE 1 /* of flags: all processors have the same clock */
#define KVM_CLOCK_STOPPED 2 /* the host stopped the VM; the guest clears it */

/* Return the nanoseconds of this processor's kvm-clock since the VM's start; 0 without kvm-clock. The first call makes
 * it the processor's. */
uint64_t kvm_clock_ns(struct kvm_clock *c);
/* The same of processor 0. */
uint64_t clock_ns(void);

/* ---- smp.c ---- */
/* ap_online: bit n is set when APIC id n is up; ap_counter: the count of each processor. */
extern volatile uint64_t ap_online, ap_counter[64];
/* Start or restart all other processors; returns before they are up.
 * enter: function that each runs at CPL 0; a processor halts when enter returns or is NULL. */
void ap_start(void (*enter)(uint64_t id));
void ap_count(uint64_t id);

/* ---- midway.c ---- */
/* At CPL 0: send an interrupt, with the destination's APIC id in the upper half. */
uint64_t ipi_send(uint64_t icr);

/* ---- power.c ---- */
#define PM_BASE 0x600
/* Number of presses that button_pressed() has not returned yet; halt_unless() can wait for it. */
extern volatile uint64_t button_presses;
/* Enable ACPI mode, the button's event and its interrupt. */
void button_init(void);
/* Handle the SCI; called by the trap handler. */
void button_interrupt(void);
/* Return true once after one or more presses. */
bool button_pressed(void);
void power_off(void);

/* ---- the interpreter's commands ---- */
#define ARGS_MAX 8

struct args {
	int n;
	const char *s[ARGS_MAX];
	uint64_t v[ARGS_MAX]; /* 0 where s is missing or a word */
};

struct command {
	const char *name;
	int words;        /* number of leading arguments that are words; the others are numbers */
	int min;          /* minimum number of arguments */
	const char *help; /* names of the arguments */
	/* returns NULL, or the error's text */
	const char *(*run)(const struct args *a);
};

/* Tables of commands; each ends with a row without a name. */
extern const struct command io_commands[], disk_commands[], ring_commands[], machine_commands[],
	crash_commands[], storm_commands[], watchdog_commands[], net_commands[], gap_commands[], vsock_commands[],
	tcp_commands[], balloon_commands[], tablet_commands[], line_commands[], screen_commands[], keyboard_commands[], xstate_commands[],
	nested_commands[], midway_commands[], step_commands[], ping_commands[];

/* ---- machine.c ---- */
/* Start the local APIC's timer with VECTOR_TIMER and a period of count * 16 bus cycles; 0 stops
 * it. */
void timer_start(uint32_t count);

/* ---- pci.c ---- */
uint32_t pci_read(uint16_t bdf, unsigned reg, unsigned size);
void pci_write(uint16_t bdf, unsigned reg, unsigned size, uint32_t v);
/* Return the index-th function with that vendor and device; -1: none. */
int pci_find(uint16_t vendor, uint16_t device, unsigned index);
/* Map a memory BAR and return its address; 0: no such BAR. */
uint64_t pci_bar(uint16_t bdf, unsigned bar);

#endif
