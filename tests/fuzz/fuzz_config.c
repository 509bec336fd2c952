/* fuzz_config: what a VM process is told to be, by a daemon that went mad. libFuzzer.
 * What is checked: fuzz_api.h. */
#include "tests/fuzz/fuzz_api.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	config_run(data, len);
	return 0;
}
