/* fuzz_image: what the fuzzer, the replay in `make check` and the tool beside them share.
 *
 * An input is a program, IMAGE_OPS operations of four bytes, and behind it the first bytes of an
 * image; the file that it runs on is longer (a hole), so that tables may lie anywhere in its first
 * 4 MiB. Everything here is deterministic. */
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

/* Run one input. Beyond what sanitizers see it aborts when an image that check finds whole is not
 * whole afterwards, when what was written there does not read back, when an image in which repair
 * left no fault cannot be opened, and when check or a reader changes the file. */
void image_run(const uint8_t *input, size_t len);

/* Seed i of image_seeds(): an input of at most cap bytes. Returns its length. */
size_t image_seeds(void);
const char *image_seed_name(size_t i);
size_t image_seed(size_t i, uint8_t *input, size_t cap);

/* Change some fields of an input, as somebody would who knows the format and means harm. Returns
 * the new length, at most cap. */
size_t image_mutate(uint8_t *input, size_t len, size_t cap, uint64_t random);

/* A past find: what to change in a seed. */
struct image_poke {
	uint32_t at; /* from the input's beginning; ~0: cut the input at value */
	uint8_t size; /* 1, 2, 4 or 8, big-endian; 0 ends the list */
	uint64_t value;
};
struct image_find {
	const char *what, *seed;
	const struct image_poke *pokes;
};
extern const struct image_find image_finds[];
extern const size_t image_nfinds;
/* As image_seed(); 0 when the seed is not known. */
size_t image_find(const struct image_find *f, uint8_t *input, size_t cap);

#endif
