/* fuzz_qcow2: an image from anybody goes through all that Cairn does with one. libFuzzer.
 * The input's form and what is checked: fuzz_image.h. */
#include "tests/fuzz/fuzz_image.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t len, size_t cap, unsigned seed);
size_t LLVMFuzzerMutate(uint8_t *data, size_t len, size_t cap);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	image_run(data, len);
	return 0;
}

/* Now and then what libFuzzer itself would do: it splices inputs and follows comparisons. */
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t len, size_t cap, unsigned seed)
{
	return seed % 8 ? image_mutate(data, len, cap, seed) : LLVMFuzzerMutate(data, len, cap);
}
