/* Interrupt lines that the guest sets itself, by the test device: the cases that kvm-unit-tests have for an IOAPIC. */
#include "bare.h"

#define LINES_PORT 0x2000 /* and the GSI */
#define GSI 14
#define GSI_AFTER 13 /* of a lower priority */
#define WAIT_CYCLES 30000000000ULL /* some 10 s: timeout of waits */

enum line_case { EDGE, LEVEL, COALESCED, SEQUENTIAL, RETRIGGERED };
static const char *const names[] = {"edge", "level", "coalesced", "sequential", "retriggered"};

static volatile enum line_case now;
static volatile uint64_t begin;
static volatile uint64_t lowered; /* how often the handler has set the line low; the interrupt is counted before that */

static void line_set(unsigned gsi, bool up)
{
	outb((uint16_t)(LINES_PORT + gsi), up);
}

static void line_pulse(unsigned gsi)
{
	line_set(gsi, true);
	line_set(gsi, false);
}

static void line_interrupt(unsigned gsi)
{
	uint64_t n = irq_count[VECTOR_GSI(GSI)] - begin;

	if (gsi != GSI || now == EDGE)
		return;
	if (now == COALESCED && n == 1)
		line_pulse(GSI), line_set(GSI, true);
	if (now == RETRIGGERED && n != 2)
		return;
	line_set(GSI, false);
	lowered++;
}

/* Wait until a count has grown by n since it was `from`. */
static bool line_wait(const volatile uint64_t *count, uint64_t from, uint64_t n)
{
	uint64_t start = rdtsc();

	while (*count - from < n)
		if (rdtsc() - start > WAIT_CYCLES)
			return false;
	return true;
}

static const char *line_run(uint64_t cpu)
{
	uint64_t after = irq_count[VECTOR_GSI(GSI_AFTER)], low = lowered;
	bool came;

	line_handler = line_interrupt;
	begin = irq_count[VECTOR_GSI(GSI)];
	ioapic_route_to(GSI, now != EDGE, (unsigned)cpu);
	ioapic_route_to(GSI_AFTER, false, (unsigned)cpu);
	line_set(GSI, true);
	if (now == EDGE)
		line_set(GSI, false);
	came = line_wait(&irq_count[VECTOR_GSI(GSI)], begin, now == RETRIGGERED ? 2 : 1);
	if (came && now == SEQUENTIAL) {
		came = line_wait(&lowered, low, 1);
		line_set(GSI, true);
		came = came && line_wait(&irq_count[VECTOR_GSI(GSI)], begin, 2);
	}
	/* One interrupt too many would come before this one. */
	line_pulse(GSI_AFTER);
	return came && line_wait(&irq_count[VECTOR_GSI(GSI_AFTER)], after, 1) ? NULL : "no interrupt";
}

static const char *cmd_line(const struct args *a)
{
	const char *wrong = "no such case";

	for (unsigned i = 0; i < ARRAY_SIZE(names); i++)
		if (str_equal(a->s[0], names[i])) {
			now = (enum line_case)i;
			wrong = line_run(a->v[1]);
		}
	print("count=%u\n", irq_count[VECTOR_GSI(GSI)] - begin);
	return wrong;
}

const struct command line_commands[] = {
	{"line", 1, 1, "edge|level|coalesced|sequential|retriggered [CPU]", cmd_line},
	{0},
};
