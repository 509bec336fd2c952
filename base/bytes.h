/* bytes: loads and stores of either byte order at any alignment, and a cursor that never reads or
 * writes outside its buffer.
 *
 * The cursor latches its first fault. Afterwards reads return 0, writes do nothing, and cursor_ok()
 * is false. So a parser reads a whole record and then checks once. */
#ifndef CAIRN_BASE_BYTES_H
#define CAIRN_BASE_BYTES_H

#include <endian.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#define BYTES_ACCESS(bits)                                                                         \
	static inline uint##bits##_t load_le##bits(const void *p)                                  \
	{                                                                                          \
		uint##bits##_t v;                                                                  \
		memcpy(&v, p, sizeof(v));                                                          \
		return le##bits##toh(v);                                                           \
	}                                                                                          \
	static inline uint##bits##_t load_be##bits(const void *p)                                  \
	{                                                                                          \
		uint##bits##_t v;                                                                  \
		memcpy(&v, p, sizeof(v));                                                          \
		return be##bits##toh(v);                                                           \
	}                                                                                          \
	static inline void store_le##bits(void *p, uint##bits##_t v)                               \
	{                                                                                          \
		v = htole##bits(v);                                                                \
		memcpy(p, &v, sizeof(v));                                                          \
	}                                                                                          \
	static inline void store_be##bits(void *p, uint##bits##_t v)                               \
	{                                                                                          \
		v = htobe##bits(v);                                                                \
		memcpy(p, &v, sizeof(v));                                                          \
	}
BYTES_ACCESS(16)
BYTES_ACCESS(32)
BYTES_ACCESS(64)
#undef BYTES_ACCESS

/* Load or store a little-endian value of 1, 2, 4 or 8 bytes. With another size, load_le() returns 0
 * and store_le() does nothing. */
uint64_t load_le(const void *p, unsigned size);
void store_le(void *p, unsigned size, uint64_t v);

/* Returns true if all len bytes are zero. len: not 0. */
static inline bool bytes_are_zero(const uint8_t *p, size_t len)
{
	return !p[0] && !memcmp(p, p + 1, len - 1);
}

/* Returns true if the first n bits are equal. Bit 0 is the highest bit of the first byte, as in a network address. */
static inline bool bits_are_equal(const uint8_t *a, const uint8_t *b, unsigned n)
{
	unsigned bytes = n / 8, rest = n % 8;

	return !memcmp(a, b, bytes) && (!rest || !((a[bytes] ^ b[bytes]) >> (8 - rest)));
}

struct cursor {
	uint8_t *base; /* borrowed; the functions that read do not write to it */
	size_t pos;
	size_t len;
	bool failed;
};

static inline struct cursor cursor_over(void *buf, size_t len)
{
	return (struct cursor){ .base = buf, .len = len };
}

static inline bool cursor_ok(const struct cursor *c)
{
	return !c->failed;
}

static inline size_t cursor_left(const struct cursor *c)
{
	return c->failed ? 0 : c->len - c->pos;
}

/* Take the next n bytes.
 * Returns a pointer into the buffer, valid as long as the buffer; NULL if fewer than n bytes are
 * left (this latches the fault). */
void *cursor_take(struct cursor *c, size_t n);
void cursor_skip(struct cursor *c, size_t n);

uint8_t cursor_u8(struct cursor *c);
uint16_t cursor_be16(struct cursor *c);
uint32_t cursor_be32(struct cursor *c);
uint64_t cursor_be64(struct cursor *c);
uint16_t cursor_le16(struct cursor *c);
uint32_t cursor_le32(struct cursor *c);
uint64_t cursor_le64(struct cursor *c);
void cursor_bytes(struct cursor *c, void *dst, size_t n);

void cursor_put_u8(struct cursor *c, uint8_t v);
void cursor_put_be16(struct cursor *c, uint16_t v);
void cursor_put_be32(struct cursor *c, uint32_t v);
void cursor_put_be64(struct cursor *c, uint64_t v);
void cursor_put_le16(struct cursor *c, uint16_t v);
void cursor_put_le32(struct cursor *c, uint32_t v);
void cursor_put_le64(struct cursor *c, uint64_t v);
void cursor_put_bytes(struct cursor *c, const void *src, size_t n);
/* Put n bytes, and zeros up to a multiple of 8. */
void cursor_put_padded(struct cursor *c, const void *src, size_t n);

#endif
