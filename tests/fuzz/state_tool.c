/* state_tool FOLDER: write the seeds of fuzz_state as files. */
#include "tests/fuzz/fuzz_state.h"

#include <stdio.h>

static uint8_t input[STATE_INPUT_MAX];

int main(int argc, char **argv)
{
	for (size_t i = 0; argc == 2 && i < state_seeds(); i++) {
		size_t n = state_seed(i, input);
		char path[4096];
		FILE *f;

		snprintf(path, sizeof(path), "%s/seed-%zu", argv[1], i);
		f = fopen(path, "w");
		if (!f || fwrite(input, 1, n, f) != n || fclose(f)) {
			perror(path);
			return 1;
		}
	}
	return argc != 2;
}
