/* state_tool FOLDER: write the seeds of fuzz_state as files. */
#include "tests/fuzz/fuzz_state.h"
#include "tests/fuzz/seed_file.h"

int main(int argc, char **argv)
{
	return argc != 2 || seed_files_write(argv[1], state_seeds(), STATE_INPUT_MAX, state_seed);
}
