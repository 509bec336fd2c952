#include "tools/archive/archive.h"
#include "base/bytes.h"
#include "base/hex.h"
#include "base/util.h"

#include <string.h>

static void block_add(struct sum *s, uint64_t block, const uint8_t *p, size_t len)
{
	uint8_t number[8];

	if (bytes_are_zero(p, len))
		return;
	store_be64(number, block);
	sha256_update(&s->sha, sizeof(number), number);
	sha256_update(&s->sha, len, p);
}

static void sum_flush(struct sum *s)
{
	size_t len = MIN(SUM_BLOCK_BYTES, s->size - s->block * SUM_BLOCK_BYTES);

	if (!s->have)
		return;
	memset(s->buf + s->have, 0, len - s->have);
	block_add(s, s->block, s->buf, len);
	s->have = 0;
}

void sum_init(struct sum *s, uint64_t size_bytes)
{
	sha256_init(&s->sha);
	s->size = size_bytes;
	s->begun = true;
	s->have = 0;
}

/* Add part of a block and keep it until the rest follows. */
static void part_add(struct sum *s, uint64_t block, size_t at, const uint8_t *p, size_t len)
{
	if (s->have && s->block != block)
		sum_flush(s);
	s->block = block;
	memset(s->buf + s->have, 0, at - s->have);
	memcpy(s->buf + at, p, len);
	s->have = at + len;
	if (s->have == SUM_BLOCK_BYTES)
		sum_flush(s);
}

void sum_update(struct sum *s, uint64_t off, const void *data, size_t len)
{
	const uint8_t *p = data;

	while (len) {
		size_t at = off % SUM_BLOCK_BYTES, n = MIN(len, SUM_BLOCK_BYTES - at);

		if (n == SUM_BLOCK_BYTES) {
			sum_flush(s);
			block_add(s, off / SUM_BLOCK_BYTES, p, n);
		} else {
			part_add(s, off / SUM_BLOCK_BYTES, at, p, n);
		}
		off += n;
		p += n;
		len -= n;
	}
}

void sum_final(struct sum *s, char ret_text[SUM_TEXT])
{
	uint8_t digest[SHA256_DIGEST_SIZE];

	sum_flush(s);
	sha256_digest(&s->sha, sizeof(digest), digest);
	hex_print(digest, sizeof(digest), ret_text);
}
