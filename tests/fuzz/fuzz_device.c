/* fuzz_device: libFuzzer target for one device, DEVICE (enum device_kind). Input and checks: fuzz_device.h. */
#include "tests/fuzz/fuzz_device.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	device_run(DEVICE, data, len);
	return 0;
}
