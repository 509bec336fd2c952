/* fuzz_config: libFuzzer target for a VM process's configuration from a malfunctioning daemon.
 * Checks: fuzz_api.h. */
#include "tests/fuzz/fuzz_api.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	config_run(data, len);
	return 0;
}
