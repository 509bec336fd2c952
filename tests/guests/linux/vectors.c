/* Two threads and a signal handler that all use the registers beyond SSE: does the kernel keep them apart? */
#define _GNU_SOURCE
#include "init.h"

#include <cpuid.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/time.h>

#define THREADS 2u
#define VECTOR_BYTES 32u
#define SPIN 4000000u /* rounds of a loop: some milliseconds */
#define ALARM_US 20000

struct work {
	uint64_t until;
	uint8_t with;
	unsigned looks, bad;
};

static volatile sig_atomic_t alarms;

static void on_alarm(int sig)
{
	static const uint8_t other[VECTOR_BYTES] = {0xee};

	(void)sig;
	alarms++;
	__asm__ volatile("vmovdqu %0, %%ymm15" : : "m"(other));
}

/* Keep a pattern in a register while a loop runs that touches no memory. */
static void *spin(void *arg)
{
	struct work *w = arg;
	uint8_t in[VECTOR_BYTES], out[VECTOR_BYTES];

	memset(in, w->with, sizeof(in));
	do {
		unsigned n = SPIN;

		__asm__ volatile("vmovdqu %2, %%ymm15\n1: dec %0\n jnz 1b\n vmovdqu %%ymm15, %1"
				 : "+r"(n), "=m"(out) : "m"(in) : "cc", "xmm15");
		w->looks++;
		w->bad += memcmp(in, out, sizeof(in)) != 0;
	} while (now_ns() < w->until);
	return NULL;
}

static int vectors_run(int argc, char **argv)
{
	struct itimerval often = {{0, ALARM_US}, {0, ALARM_US}}, never = {{0, 0}, {0, 0}};
	uint32_t a, b, c = 0, d;
	struct work w[THREADS];
	pthread_t t[THREADS];
	uint64_t ms;

	(void)argc;
	if (number(argv[1], &ms) < 0)
		return -1;
	if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE) || !(c & bit_AVX)) {
		say("none\n");
		return 0;
	}
	for (unsigned i = 0; i < THREADS; i++)
		w[i] = (struct work){now_ns() + ms * 1000000, (uint8_t)(i + 1), 0, 0};
	alarms = 0;
	signal(SIGALRM, on_alarm);
	setitimer(ITIMER_REAL, &often, NULL);
	for (unsigned i = 0; i < THREADS; i++)
		if (pthread_create(&t[i], NULL, spin, &w[i]))
			return fail("no thread");
	for (unsigned i = 0; i < THREADS; i++)
		pthread_join(t[i], NULL);
	setitimer(ITIMER_REAL, &never, NULL);
	say("looks %u %u bad %u alarms %d\n", w[0].looks, w[1].looks, w[0].bad + w[1].bad, (int)alarms);
	return 0;
}

const struct command vectors_commands[] = {
	{"vectors", 1, 1, vectors_run, "vectors MS"},
	{0},
};
