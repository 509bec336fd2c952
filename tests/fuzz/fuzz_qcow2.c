/* fuzz_qcow2: libFuzzer target that runs all operations of Cairn on an untrusted image. Input
 * format and checks: fuzz_image.h. */
#include "tests/fuzz/fuzz_image.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t len, size_t cap, unsigned seed);
size_t LLVMFuzzerMutate(uint8_t *data, size_t len, size_t cap);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	image_run(data, len);
	return 0;
}

/* One time in eight use libFuzzer's own mutations, which splice inputs and follow comparisons. */
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t len, size_t cap, unsigned seed)
{
	return seed % 8 ? image_mutate(data, len, cap, seed) : LLVMFuzzerMutate(data, len, cap);
}
