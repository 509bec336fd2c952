/* fuzz_state: the state of a VM and the data of a snapshot tree, from an image of anybody's. libFuzzer.
 * The input's form and what is checked: fuzz_state.h. */
#include "tests/fuzz/fuzz_state.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	state_run(data, len);
	return 0;
}
