/* bitmap: a growable set of small integers. */
#ifndef CAIRN_BASE_BITMAP_H
#define CAIRN_BASE_BITMAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct bitmap {
	uint64_t *words;
	size_t nbits;
};

/* Create a bitmap with all bits clear.
 * Returns 0 or -ENOMEM. The caller releases it with bitmap_done(). */
int bitmap_init(struct bitmap *b, size_t nbits);
void bitmap_done(struct bitmap *b);
/* Change the size: bits behind the new end are lost, new bits are clear. Returns 0 or -ENOMEM. */
int bitmap_resize(struct bitmap *b, size_t nbits);
/* Grow to nbits; old bits keep their value, new bits are clear. Never shrinks.
 * Returns 0 or -ENOMEM. */
int bitmap_grow(struct bitmap *b, size_t nbits);

static inline bool bitmap_test(const struct bitmap *b, size_t i)
{
	return i < b->nbits && (b->words[i / 64] >> (i % 64) & 1);
}

static inline void bitmap_set(struct bitmap *b, size_t i)
{
	b->words[i / 64] |= 1ULL << (i % 64);
}

static inline void bitmap_clear(struct bitmap *b, size_t i)
{
	b->words[i / 64] &= ~(1ULL << (i % 64));
}

/* Set n bits from i on. */
void bitmap_set_range(struct bitmap *b, size_t i, size_t n);
void bitmap_set_all(struct bitmap *b);
void bitmap_clear_all(struct bitmap *b);
/* Copy all bits. Both bitmaps have the same size. */
void bitmap_copy(struct bitmap *to, const struct bitmap *from);
/* Set the bits in `to` that are set in `from`. from: at least as large as `to`. */
void bitmap_or(struct bitmap *to, const struct bitmap *from);

/* Find the first set (or clear) bit at or after `from`.
 * Returns its index; nbits if there is none. */
size_t bitmap_next_set(const struct bitmap *b, size_t from);
size_t bitmap_next_clear(const struct bitmap *b, size_t from);
size_t bitmap_count(const struct bitmap *b);

#endif
