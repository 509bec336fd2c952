/* fuzz_share: libFuzzer target for the FUSE requests of a guest that cairn-share serves. */
#include "tests/fuzz/fuzz_share.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	share_run(data, len);
	return 0;
}
