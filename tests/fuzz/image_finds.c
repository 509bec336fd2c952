/* Regression inputs that once failed, as changes to a seed. `image_tool text FILE` prints such a
 * row for an input. */
#include "tests/fuzz/fuzz_image.h"

#include "base/util.h"

#include <string.h>

#define POKES(...) .pokes = (const struct image_poke[]){ __VA_ARGS__, { 0 } }

const struct image_find image_finds[] = {
	{ .what = "L1 mapped as data: repair left a leak, and for its sake the corrupt mark",
		.seed = "zlib",
		POKES({ 12336, 8, 0x8000000000004000 }, { 16480, 8, 0xd000 }, { 16840, 8, 0x4000 }) },
	{ .what = "a data cluster at the L2 table: the same",
		.seed = "zlib",
		POKES({ 12336, 8, 0xc000000000004000 }, { 16440, 8, 0xc000 },
			{ 16536, 8, 0x8000000000004000 }) },
	{ .what = "version 2 given refcounts of 2 bits, which its header cannot say", .seed = "narrow",
		POKES({ 8, 8, 0x119a0100 }, { 48, 8, 0x514649fb00000002 }, { 112, 8, 0xa200 },
			{ 1232, 8, 0x1000100010001 }, { 1584, 8, 0x800000000000a400 }, { 1608, 8, 0 }) },
	{ .what = "version 3 given to snapshots without sizes: the program did not complete them first, as amend does",
		.seed = "narrow",
		POKES({ 0, 8, 0x11e6300021f2800 }, { 8, 8, 0xc80000111000100 }, { 48, 8, 0x514649fb00000002 }, { 112, 8, 0xa200 },
			{ 1232, 8, 0x1000100010001 }, { 1584, 8, 0x800000000000a400 }, { 1608, 8, 0 }) },
	{ .what = "data as a refcount block: check saw leaks, a write the fault", .seed = "old",
		POKES({ 32, 8, 0x2532e1400000000 }, { 560, 8, 0x1400 }) },
	{ .what = "the same where a snapshot shares it", .seed = "plain",
		POKES({ 560, 8, 0x3400 }, { 42032, 8, 0x3400 }) },
	{ .what = "a data file, and check was asked with an L1 of nothing", .seed = "zlib",
		POKES({ 120, 8, 0x4 }, { 12336, 8, 0 }) },
};
const size_t image_nfinds = ARRAY_SIZE(image_finds);

static void poke(uint8_t *input, size_t *len, size_t cap, const struct image_poke *p)
{
	uint64_t v = p->value;

	if (p->at == UINT32_MAX) {
		*len = MIN(*len, (size_t)v);
		return;
	}
	if (!range_inside(p->at, p->size, cap))
		return;
	for (unsigned i = p->size; i--; v >>= 8)
		input[p->at + i] = (uint8_t)v;
	*len = MAX(*len, p->at + p->size);
}

size_t image_find(const struct image_find *f, uint8_t *input, size_t cap)
{
	for (size_t i = 0; i < image_seeds(); i++) {
		size_t len;

		if (strcmp(image_seed_name(i), f->seed) != 0)
			continue;
		memset(input, 0, cap);
		len = image_seed(i, input, cap);
		for (const struct image_poke *p = f->pokes; p->size; p++)
			poke(input, &len, cap, p);
		return len;
	}
	return 0;
}
