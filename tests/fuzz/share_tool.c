/* share_tool FOLDER: write the seeds of fuzz_share as files. */
#include "tests/fuzz/fuzz_share.h"
#include "tests/fuzz/seed_file.h"

static size_t seed_make(size_t i, uint8_t *seed)
{
	unsigned requests;

	return share_seed(i, seed, &requests);
}

int main(int argc, char **argv)
{
	return argc != 2 || seed_files_write(argv[1], share_seeds(), SHARE_INPUT_MAX, seed_make);
}
