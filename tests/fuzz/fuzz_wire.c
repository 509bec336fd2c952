/* fuzz_wire: what anybody may send to a socket, before it is known to be a command. libFuzzer.
 * What is checked: fuzz_api.h. */
#include "tests/fuzz/fuzz_api.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	wire_run(data, len);
	return 0;
}
