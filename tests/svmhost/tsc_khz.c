/* Prints the frequency of this machine's TSC in kHz: that of the emulated host, too. */
#include <stdint.h>
#include <stdio.h>
#include <time.h>
#include <x86intrin.h>

struct moment {
	int64_t ns;
	uint64_t tsc;
};

static int64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * INT64_C(1000000000) + t.tv_nsec;
}

/* Of a hundred readings of both, the one that took least: nothing else ran in between. */
static struct moment moment_find(void)
{
	int64_t least = INT64_MAX;
	struct moment best = { 0 };

	for (int i = 0; i < 100; i++) {
		int64_t before = now_ns();
		uint64_t tsc = __rdtsc();
		int64_t took = now_ns() - before;

		if (took < least)
			best = (struct moment){ .ns = before + took / 2, .tsc = tsc };
		least = took < least ? took : least;
	}
	return best;
}

int main(void)
{
	struct moment a = moment_find(), b;

	nanosleep(&(struct timespec){ .tv_nsec = 200000000 }, NULL);
	b = moment_find();
	printf("%.0f\n", (double)(b.tsc - a.tsc) * 1e6 / (double)(b.ns - a.ns));
	return 0;
}
