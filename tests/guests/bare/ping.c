/* Processors 0 and 1 interrupt each other in turn, without end. An interrupt that is lost ends this; one that comes
 * twice is counted. With each turn, kvm-clock may only go forwards. */
#include "bare.h"

#define WAIT_CYCLES 30000000000ULL /* some 10 s: timeout of waits */

static struct kvm_clock clocks[2];
static volatile uint64_t turn, twice, last_ns, backwards_ns;

static void ping(void)
{
	unsigned id = (unsigned)lapic_read(0x20) >> 24;
	uint64_t now;

	if (turn % 2 != id) {
		twice++;
		return;
	}
	now = kvm_clock_ns(&clocks[id]);
	if (now < last_ns && last_ns - now > backwards_ns)
		backwards_ns = last_ns - now;
	last_ns = now;
	turn++;
	ipi_send((uint64_t)(1 - id) << 32 | VECTOR_PING);
}

static const char *ping_wait(uint64_t turns)
{
	uint64_t end = turn + turns, begin = rdtsc();

	while (turn < end)
		if (rdtsc() - begin > WAIT_CYCLES)
			return "an interrupt is lost";
	return NULL;
}

/* start: needs a second processor that runs ("smp count 1"). */
static const char *cmd_ping(const struct args *a)
{
	const char *wrong;

	if (str_equal(a->s[0], "start")) {
		ping_handler = ping;
		kcall(ipi_send, VECTOR_PING);
	}
	wrong = ping_wait(a->v[1]);
	print("twice=%u backwards=%u stable=%u\n", twice, backwards_ns,
		(uint64_t)(clocks[0].flags & clocks[1].flags & KVM_CLOCK_STABLE));
	return wrong;
}

const struct command ping_commands[] = {
	{"ping", 1, 2, "start|wait TURNS", cmd_ping},
	{0},
};
