/* fuzz_script: libFuzzer target for commands to both sockets, hostile VM processes and damaged
 * state files, in a whole daemon. Scripts and checks: fuzz_api.h. Environment: FUZZ_KEEP: folder
 * that the fuzzer may write to; SCRIPT_LOG: show the daemon's log. */
#include "tests/fuzz/fuzz_api.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define SPENT_MAX_S 5
#define SLOW_S 5

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t len, size_t cap, unsigned seed);
size_t LLVMFuzzerMutate(uint8_t *data, size_t len, size_t cap);

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	int r = script_setup(getenv("FUZZ_KEEP"));

	(void)argc, (void)argv;
	if (r < 0) {
		fprintf(stderr, "fuzz_script: cannot shut itself in: %s\n", strerror(-r));
		exit(1);
	}
	return 0;
}

static double seconds(clockid_t clock)
{
	struct timespec t;

	must(clock_gettime(clock, &t) == 0);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* A script forks processes and waits for them, so on a busy host it takes many times its processor time. Only that has
 * a limit here; libFuzzer's limit (run.sh) finds scripts that hang. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	double began = seconds(CLOCK_MONOTONIC), spent = seconds(CLOCK_PROCESS_CPUTIME_ID);

	script_run(data, len, false);
	spent = seconds(CLOCK_PROCESS_CPUTIME_ID) - spent;
	if (seconds(CLOCK_MONOTONIC) - began > SLOW_S)
		fprintf(stderr, "fuzz_script: %.1f s, with %.1f s of processor time\n", seconds(CLOCK_MONOTONIC) - began, spent);
	must(spent < SPENT_MAX_S);
	return 0;
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t len, size_t cap, unsigned seed)
{
	return seed % 4 ? script_mutate(data, len, cap, seed / 4) : LLVMFuzzerMutate(data, len, cap);
}
