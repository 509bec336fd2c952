#include "base/bitmap.h"
#include "base/util.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

int bitmap_init(struct bitmap *b, size_t nbits)
{
	b->words = calloc(DIV_ROUND_UP(nbits, 64) + 1, sizeof(*b->words));
	b->nbits = b->words ? nbits : 0;
	return b->words ? 0 : -ENOMEM;
}

void bitmap_done(struct bitmap *b)
{
	if (!b)
		return;
	free(b->words);
	b->words = NULL;
	b->nbits = 0;
}

int bitmap_grow(struct bitmap *b, size_t nbits)
{
	size_t had = DIV_ROUND_UP(b->nbits, 64) + 1, want = DIV_ROUND_UP(nbits, 64) + 1;
	uint64_t *w;

	if (nbits <= b->nbits)
		return 0;
	w = reallocarray(b->words, want, sizeof(*w));
	if (!w)
		return -ENOMEM;
	memset(w + had, 0, (want - had) * sizeof(*w));
	b->words = w;
	b->nbits = nbits;
	return 0;
}

int bitmap_resize(struct bitmap *b, size_t nbits)
{
	if (nbits >= b->nbits)
		return bitmap_grow(b, nbits);
	/* The words behind the end are clear, as bitmap_grow() expects. */
	memset(b->words + DIV_ROUND_UP(nbits, 64), 0,
		(DIV_ROUND_UP(b->nbits, 64) - DIV_ROUND_UP(nbits, 64)) * sizeof(*b->words));
	if (nbits % 64)
		b->words[nbits / 64] &= (1ULL << nbits % 64) - 1;
	b->nbits = nbits;
	return 0;
}

void bitmap_set_range(struct bitmap *b, size_t i, size_t n)
{
	size_t end = i + n;

	for (; i < end && i % 64; i++)
		bitmap_set(b, i);
	for (; end - i >= 64; i += 64)
		b->words[i / 64] = UINT64_MAX;
	for (; i < end; i++)
		bitmap_set(b, i);
}

void bitmap_set_all(struct bitmap *b)
{
	memset(b->words, 0xff, b->nbits / 64 * sizeof(*b->words));
	if (b->nbits % 64)
		b->words[b->nbits / 64] = (1ULL << b->nbits % 64) - 1;
}

void bitmap_clear_all(struct bitmap *b)
{
	memset(b->words, 0, DIV_ROUND_UP(b->nbits, 64) * sizeof(*b->words));
}

void bitmap_copy(struct bitmap *to, const struct bitmap *from)
{
	memcpy(to->words, from->words, DIV_ROUND_UP(to->nbits, 64) * sizeof(*to->words));
}

void bitmap_or(struct bitmap *to, const struct bitmap *from)
{
	for (size_t w = 0; w < DIV_ROUND_UP(to->nbits, 64); w++)
		to->words[w] |= from->words[w];
}

static size_t next_bit(const struct bitmap *b, size_t from, uint64_t flip)
{
	size_t nwords = DIV_ROUND_UP(b->nbits, 64);

	for (size_t w = from / 64; w < nwords; w++) {
		uint64_t v = b->words[w] ^ flip;

		if (w == from / 64)
			v &= ~0ULL << (from % 64);
		if (v)
			return MIN(w * 64 + (size_t)__builtin_ctzll(v), b->nbits);
	}
	return b->nbits;
}

size_t bitmap_next_set(const struct bitmap *b, size_t from)
{
	return next_bit(b, from, 0);
}

size_t bitmap_next_clear(const struct bitmap *b, size_t from)
{
	return next_bit(b, from, ~0ULL);
}

size_t bitmap_count(const struct bitmap *b)
{
	size_t n = 0;

	for (size_t w = 0; w < DIV_ROUND_UP(b->nbits, 64); w++)
		n += (size_t)__builtin_popcountll(b->words[w]);
	return n;
}
