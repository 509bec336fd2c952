/* A processor that reads the TSC without a pause and keeps the largest difference between two reads: the longest time
 * for which it stood still. */
#include "bare.h"

#define GAP_CPU 1u
#define STACK_BYTES 1024u
#define WAIT_CYCLES 20000000000ULL

static volatile uint64_t largest, forget; /* forget: start anew */
static uint8_t stack[STACK_BYTES] __attribute__((aligned(16)));

static void gap_loop(uint64_t id)
{
	uint64_t last = rdtsc(), now;

	(void)id;
	for (;; last = now) {
		now = rdtsc();
		if (forget)
			largest = forget = 0;
		else if (now - last > largest)
			largest = now - last;
	}
}

static void gap_enter(uint64_t id)
{
	if (id == GAP_CPU)
		user_enter(gap_loop, id, stack + STACK_BYTES - 8);
}

static const char *gap_start(void)
{
	uint64_t begin = rdtsc();

	ap_start(gap_enter);
	while (!(ap_online >> GAP_CPU & 1))
		if (rdtsc() - begin > WAIT_CYCLES)
			return "the processor did not start";
	return NULL;
}

/* Print the largest gap since the last call, and the time, in cycles of the TSC. */
static const char *gap_show(void)
{
	uint64_t begin = rdtsc();

	print("largest=%u now=%u\n", largest, begin);
	forget = 1;
	while (forget)
		if (rdtsc() - begin > WAIT_CYCLES)
			return "the processor does not answer";
	return NULL;
}

static const char *cmd_gap(const struct args *a)
{
	if (str_equal(a->s[0], "show"))
		return gap_show();
	return str_equal(a->s[0], "start") ? gap_start() : "start, or show";
}

const struct command gap_commands[] = {
	{"gap", 1, 1, "start|show", cmd_gap},
	{0},
};
