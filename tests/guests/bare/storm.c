/* Processors that write memory without a pause, so that its content can be verified at any moment.
 * A page holds a number and a pattern derived from it, and each write raises the number by one. The
 * sum of all numbers shows a page that was lost or has old content. */
#include "bare.h"

#define PAGE_WORDS 512u
#define CPUS_MAX 8u
#define STACK_BYTES 1024u
#define WAIT_CYCLES 20000000000ULL

static struct storm {
	volatile uint64_t *pages;
	uint64_t npages, random;
	volatile uint64_t total; /* number of page writes */
	volatile uint64_t halted; /* number of the last halt that this processor obeyed */
} storms[CPUS_MAX];
static volatile uint64_t storm_halt, halts; /* 0: run; else the number of the current halt */
static uint8_t stacks[CPUS_MAX][STACK_BYTES] __attribute__((aligned(16)));

static uint64_t word(const volatile uint64_t *at, uint64_t n)
{
	return ((uint64_t)at + n * 0x9e3779b97f4a7c15ULL) * 0xd6e8feb86659fd93ULL;
}

static void storm_loop(uint64_t id)
{
	struct storm *s = &storms[id];

	for (;;) {
		volatile uint64_t *p = s->pages + random_next(&s->random) % s->npages * PAGE_WORDS;
		uint64_t n = p[0] + 1, halt_now;

		for (unsigned i = 1; i < PAGE_WORDS; i++)
			p[i] = word(p + i, n);
		p[0] = n;
		s->total++;
		while ((halt_now = storm_halt)) {
			s->halted = halt_now;
			__asm__ volatile("pause");
		}
	}
}

static void storm_enter(uint64_t id)
{
	if (id < CPUS_MAX && storms[id].npages)
		user_enter(storm_loop, id, stacks[id] + STACK_BYTES - 8);
}

static const char *storm_start(uint64_t cpus, uint64_t gpa, uint64_t bytes)
{
	uint64_t begin = rdtsc(), want = 0;

	if (!cpus || cpus >= CPUS_MAX || bytes < 4096 || gpa < (uint64_t)image_end || gpa % 4096)
		return "1 to 7 processors, above the program";
	storm_halt = 0;
	for (uint64_t id = 1; id <= cpus; id++) {
		storms[id].pages = (uint64_t *)(gpa + (id - 1) * bytes);
		storms[id].npages = bytes / 4096;
		storms[id].random = id;
		storms[id].total = 0;
		memset((void *)storms[id].pages, 0, bytes);
		want |= 1ULL << id;
	}
	ap_start(storm_enter);
	while ((ap_online & want) != want)
		if (rdtsc() - begin > WAIT_CYCLES)
			return "not all came";
	return NULL;
}

/* Check a processor's pages while it is halted. */
static const char *storm_check_one(uint64_t id)
{
	struct storm *s = &storms[id];
	uint64_t begin = rdtsc(), sum = 0;

	while (s->halted != storm_halt)
		if (rdtsc() - begin > WAIT_CYCLES)
			return "a processor does not stop";
	for (volatile uint64_t *p = s->pages; p < s->pages + s->npages * PAGE_WORDS; p += PAGE_WORDS) {
		sum += p[0];
		for (unsigned i = 1; p[0] && i < PAGE_WORDS; i++) {
			if (p[i] == word(p + i, p[0]))
				continue;
			print("id=%u gpa=%x number=%u is=%x\n", id, (uint64_t)(p + i), p[0], p[i]);
			return "differs";
		}
	}
	print("id=%u total=%u sum=%u\n", id, s->total, sum);
	return sum == s->total ? NULL : "the sum differs";
}

static const char *storm_check(void)
{
	const char *wrong = NULL;

	storm_halt = ++halts;
	for (uint64_t id = 0; id < CPUS_MAX && !wrong; id++)
		if (storms[id].npages)
			wrong = storm_check_one(id);
	storm_halt = 0;
	return wrong;
}

static const char *cmd_storm(const struct args *a)
{
	if (str_equal(a->s[0], "check"))
		return storm_check();
	if (!str_equal(a->s[0], "start") || a->n < 4)
		return "start CPUS GPA BYTES, or check";
	return storm_start(a->v[1], a->v[2], a->v[3]);
}

const struct command storm_commands[] = {
	{"storm", 1, 1, "start CPUS GPA BYTES | check", cmd_storm},
	{0},
};
