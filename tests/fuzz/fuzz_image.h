/* fuzz_image: declarations shared by the fuzzer, the replay in `make check` and image_tool.
 *
 * An input is a program of IMAGE_OPS operations of four bytes, followed by the first bytes of an
 * image. The image file is longer (a hole), so that tables may lie anywhere in its first 4 MiB.
 * Everything is deterministic. */
#ifndef CAIRN_TESTS_FUZZ_IMAGE_H
#define CAIRN_TESTS_FUZZ_IMAGE_H

#include <stddef.h>
#include <stdint.h>

#define IMAGE_OPS 12u
#define IMAGE_PROGRAM_BYTES (IMAGE_OPS * 4)
#define IMAGE_INPUT_MAX (512u << 10)

enum image_op {
	IMAGE_READ,
	IMAGE_WRITE,
	IMAGE_ZERO,
	IMAGE_DISCARD,
	IMAGE_FLUSH,
	IMAGE_SNAPSHOT,
	IMAGE_ABORT,
	IMAGE_APPLY,
	IMAGE_DELETE,
	IMAGE_UPDATE,
	IMAGE_VMSTATE,
	IMAGE_EXTENTS,
	IMAGE_RESIZE,
	IMAGE_REOPEN,
	IMAGE_CHECK,
	IMAGE_REPAIR_LEAKS,
	IMAGE_REPAIR_ALL,
	IMAGE_HEADER,
	IMAGE_TRIM,
	IMAGE_EMPTY,
	IMAGE_PREALLOCATE,
	IMAGE_OP_COUNT,
};

/* Run one input. Beyond the sanitizers' checks, it aborts when an image that check finds consistent
 * is inconsistent afterwards; when data written to such an image does not read back; when an image
 * cannot be opened after a repair that left no fault; when check or a reader changes the file. */
void image_run(const uint8_t *input, size_t len);

/* Write seed i of image_seeds(), at most cap bytes. Returns its length. */
size_t image_seeds(void);
const char *image_seed_name(size_t i);
size_t image_seed(size_t i, uint8_t *input, size_t cap);

/* Return a memory file with a qcow2 image that has a pin, for images that stand on it. The caller closes it.
 * ret: gets the pin; NULL: not wanted. */
struct qcow2_pin;
int image_pin_base(struct qcow2_pin *ret);

/* Mutate some fields of an input with knowledge of the format. Returns the new length, at most
 * cap. */
size_t image_mutate(uint8_t *input, size_t len, size_t cap, uint64_t random);

/* A regression input, as changes to a seed. */
struct image_poke {
	uint32_t at; /* offset from the input's start; ~0: cut the input at value */
	uint8_t size; /* 1, 2, 4 or 8, big-endian; 0 ends the list */
	uint64_t value;
};
struct image_find {
	const char *what, *seed;
	const struct image_poke *pokes;
};
extern const struct image_find image_finds[];
extern const size_t image_nfinds;
/* Write a regression input. Returns its length; 0 when the seed is unknown. */
size_t image_find(const struct image_find *f, uint8_t *input, size_t cap);

#endif
