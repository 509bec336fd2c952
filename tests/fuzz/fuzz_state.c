/* fuzz_state: libFuzzer target for a VM state and the data of a snapshot tree from an untrusted
 * image. Input format and checks: fuzz_state.h. */
#include "tests/fuzz/fuzz_state.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	state_run(data, len);
	return 0;
}
