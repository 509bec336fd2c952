/* share_tool FOLDER: write the seeds of fuzz_share as files. */
#include "tests/fuzz/fuzz_share.h"

#include <stdio.h>

int main(int argc, char **argv)
{
	static uint8_t input[SHARE_INPUT_MAX];
	unsigned requests;

	for (size_t i = 0; argc == 2 && i < share_seeds(); i++) {
		size_t n = share_seed(i, input, &requests);
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
