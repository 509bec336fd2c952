/* fuzz_wire: libFuzzer target for the bytes that any user may send to a socket. Checks:
 * fuzz_api.h. */
#include "tests/fuzz/fuzz_api.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	wire_run(data, len);
	return 0;
}
