/* fuzz_script: libFuzzer target for commands to both sockets, hostile VM processes and damaged
 * state files, in a whole daemon. Scripts and checks: fuzz_api.h. Environment: FUZZ_KEEP: folder
 * that the fuzzer may write to; SCRIPT_LOG: show the daemon's log. */
#include "tests/fuzz/fuzz_api.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	script_run(data, len, false);
	return 0;
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t len, size_t cap, unsigned seed)
{
	return seed % 4 ? script_mutate(data, len, cap, seed / 4) : LLVMFuzzerMutate(data, len, cap);
}
