/* A program that single-steps itself and has breakpoints, which a snapshot may find in between. */
#include "bare.h"

#define COM1 0x3f8
#define COM1_STATUS 0x3fd
#define DR6_STEP (1u << 14)
#define DR6_NONE 0xffff0ff0u
#define DR7_ARMED 0x900405u /* dr0: an instruction; dr1: writes of 8 bytes */
#define RESUME_FLAG (1u << 16)

static volatile uint64_t watched, steps, hits;

static __attribute__((noinline)) void target(void)
{
	__asm__ volatile("nop");
}

static void debug(struct trap_frame *f)
{
	uint64_t cause;

	__asm__ volatile("mov %%dr6, %0" : "=r"(cause));
	__asm__ volatile("mov %0, %%dr6" : : "r"((uint64_t)DR6_NONE));
	if (cause & DR6_STEP)
		steps++;
	hits |= cause & 15;
	f->rflags |= RESUME_FLAG;
}

static uint64_t kernel_breakpoints(uint64_t dr7)
{
	__asm__ volatile("mov %0, %%dr0" : : "r"((uint64_t)target));
	__asm__ volatile("mov %0, %%dr1" : : "r"((uint64_t)&watched));
	__asm__ volatile("mov %0, %%dr7" : : "r"(dr7));
	return 0;
}

/* Step until a byte is there, and then meet the breakpoints. */
static const char *cmd_step(const struct args *a)
{
	uint64_t loops = 0;
	char byte;

	(void)a;
	steps = hits = 0;
	debug_handler = debug;
	kcall(kernel_breakpoints, DR7_ARMED);
	print("holding\n");
	__asm__ volatile("pushfq; orl $0x100, (%%rsp); popfq\n"
			 "1: inc %0; inb %%dx, %%al; testb $1, %%al; jz 1b\n"
			 "pushfq; andl $~0x100, (%%rsp); popfq"
			 : "+r"(loops) : "d"(COM1_STATUS) : "rax", "memory", "cc");
	byte = (char)inb(COM1);
	watched = 1;
	target();
	kcall(kernel_breakpoints, 0x400);
	debug_handler = NULL;
	print("byte=%c loops=%u steps=%u hits=%x\n", byte, loops, steps, hits);
	return NULL;
}

const struct command step_commands[] = {
	{"step", 0, 0, "", cmd_step},
	{0},
};
