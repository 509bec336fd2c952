#include "vmm/boot/aml.h"
#include "base/bytes.h"

#include <assert.h>
#include <string.h>

void aml_put(struct aml *a, const void *p, size_t n)
{
	assert(a->n + n <= a->max);
	memcpy(a->bytes + a->n, p, n);
	a->n += n;
}

void aml_byte(struct aml *a, unsigned v)
{
	uint8_t b = (uint8_t)v;

	aml_put(a, &b, 1);
}

void aml_dword(struct aml *a, uint32_t v)
{
	uint8_t b[4];

	store_le32(b, v);
	aml_put(a, b, sizeof(b));
}

size_t aml_begin(struct aml *a)
{
	aml_byte(a, 0);
	return a->n - 1;
}

/* The length counts its own bytes: one up to 63, or else two or three, with the lowest four bits in the first. */
void aml_end(struct aml *a, size_t at)
{
	size_t n = a->n - at, more = n < 64 ? 0 : n + 1 < 0x1000 ? 1 : 2;

	for (size_t i = 0; i < more; i++)
		aml_byte(a, 0);
	memmove(a->bytes + at + 1 + more, a->bytes + at + 1, n - 1);
	n += more;
	assert(n < 1u << 20);
	a->bytes[at] = (uint8_t)(more ? more << 6 | (n & 0xf) : n);
	for (size_t i = 0; i < more; i++)
		a->bytes[at + 1 + i] = (uint8_t)(n >> (4 + 8 * i));
}
