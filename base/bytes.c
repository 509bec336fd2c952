#include "base/bytes.h"
#include "base/util.h"

uint64_t load_le(const void *p, unsigned size)
{
	switch (size) {
	case 1:
		return *(const uint8_t *)p;
	case 2:
		return load_le16(p);
	case 4:
		return load_le32(p);
	case 8:
		return load_le64(p);
	default:
		return 0;
	}
}

void store_le(void *p, unsigned size, uint64_t v)
{
	switch (size) {
	case 1:
		*(uint8_t *)p = (uint8_t)v;
		break;
	case 2:
		store_le16(p, (uint16_t)v);
		break;
	case 4:
		store_le32(p, (uint32_t)v);
		break;
	case 8:
		store_le64(p, v);
		break;
	}
}

void *cursor_take(struct cursor *c, size_t n)
{
	uint8_t *p;

	if (c->failed || n > c->len - c->pos) {
		c->failed = true;
		return NULL;
	}
	p = c->base + c->pos;
	c->pos += n;
	return p;
}

void cursor_skip(struct cursor *c, size_t n)
{
	cursor_take(c, n);
}

uint8_t cursor_u8(struct cursor *c)
{
	uint8_t *p = cursor_take(c, 1);

	return p ? *p : 0;
}

void cursor_put_u8(struct cursor *c, uint8_t v)
{
	uint8_t *p = cursor_take(c, 1);

	if (p)
		*p = v;
}

#define CURSOR_ACCESS(order, bits)                                                                 \
	uint##bits##_t cursor_##order##bits(struct cursor *c)                                      \
	{                                                                                          \
		uint8_t *p = cursor_take(c, bits / 8);                                             \
		return p ? load_##order##bits(p) : 0;                                              \
	}                                                                                          \
	void cursor_put_##order##bits(struct cursor *c, uint##bits##_t v)                          \
	{                                                                                          \
		uint8_t *p = cursor_take(c, bits / 8);                                             \
		if (p)                                                                             \
			store_##order##bits(p, v);                                                 \
	}
CURSOR_ACCESS(be, 16)
CURSOR_ACCESS(be, 32)
CURSOR_ACCESS(be, 64)
CURSOR_ACCESS(le, 16)
CURSOR_ACCESS(le, 32)
CURSOR_ACCESS(le, 64)

void cursor_bytes(struct cursor *c, void *dst, size_t n)
{
	const void *p = cursor_take(c, n);

	if (p)
		memcpy(dst, p, n);
	else
		memset(dst, 0, n);
}

void cursor_put_bytes(struct cursor *c, const void *src, size_t n)
{
	void *p = cursor_take(c, n);

	if (p)
		memcpy(p, src, n);
}

void cursor_put_padded(struct cursor *c, const void *src, size_t n)
{
	static const uint8_t pad[8];

	cursor_put_bytes(c, src, n);
	cursor_put_bytes(c, pad, ROUND_UP(n, 8) - n);
}
