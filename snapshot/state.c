#include "snapshot/state.h"
#include "base/bytes.h"
#include "base/crc32c.h"
#include "base/err.h"
#include "base/util.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define SECTION_MAGIC 0x43454353u
#define SECTION_HEADER_BYTES 20u
#define SECTION_CRC_OFFSET 16u

void state_writer_init(struct state_writer *w)
{
	memset(w, 0, sizeof(*w));
}

void state_writer_done(struct state_writer *w)
{
	if (!w)
		return;
	free(w->buf);
	state_writer_init(w);
}

static uint8_t *writer_extend(struct state_writer *w, size_t n)
{
	if (w->failed)
		return NULL;
	if (n > w->cap - w->len) {
		size_t cap = MAX(w->cap * 2, w->len + n + 4096);
		uint8_t *b = realloc(w->buf, cap);

		if (!b) {
			w->failed = true;
			return NULL;
		}
		w->buf = b;
		w->cap = cap;
	}
	w->len += n;
	return w->buf + w->len - n;
}

void state_put_bytes(struct state_writer *w, const void *p, size_t n)
{
	uint8_t *dst = writer_extend(w, n);

	if (dst && n)
		memcpy(dst, p, n);
}

void state_put_u8(struct state_writer *w, uint8_t v)
{
	state_put_bytes(w, &v, 1);
}

#define STATE_INT(bits)                                                                            \
	void state_put_u##bits(struct state_writer *w, uint##bits##_t v)                           \
	{                                                                                          \
		uint8_t b[bits / 8];                                                               \
		store_le##bits(b, v);                                                              \
		state_put_bytes(w, b, sizeof(b));                                                  \
	}                                                                                          \
	uint##bits##_t state_u##bits(struct state_reader *r)                                       \
	{                                                                                          \
		uint8_t b[bits / 8];                                                               \
		state_bytes(r, b, sizeof(b));                                                      \
		return load_le##bits(b);                                                           \
	}
STATE_INT(16)
STATE_INT(32)
STATE_INT(64)

void state_section_begin(struct state_writer *w, const char *name, const char *instance,
	uint16_t version)
{
	size_t start = w->len;

	state_put_u32(w, SECTION_MAGIC);
	state_put_u16(w, version);
	state_put_u16(w, (uint16_t)strnlen(name, STATE_NAME_MAX));
	state_put_u16(w, (uint16_t)strnlen(instance, STATE_NAME_MAX));
	state_put_u16(w, 0);
	state_put_u32(w, 0); /* length and CRC; set at the end */
	state_put_u32(w, 0);
	state_put_bytes(w, name, strnlen(name, STATE_NAME_MAX));
	state_put_bytes(w, instance, strnlen(instance, STATE_NAME_MAX));
	w->section = start + 1;
}

/* Returns the CRC over the header before the CRC field and over everything after it. */
static uint32_t section_crc(const uint8_t *s, size_t len)
{
	uint32_t c = crc32c(0, s, SECTION_CRC_OFFSET);

	return crc32c(c, s + SECTION_HEADER_BYTES, len - SECTION_HEADER_BYTES);
}

void state_section_end(struct state_writer *w)
{
	static const uint8_t zeros[8];
	size_t start, len, names;

	if (w->failed || !w->section)
		return;
	start = w->section - 1;
	w->section = 0;
	len = w->len - start;
	names = (size_t)load_le16(w->buf + start + 6) + load_le16(w->buf + start + 8);
	if (len - SECTION_HEADER_BYTES - names > STATE_SECTION_MAX_BYTES) {
		w->failed = true; /* no reader would accept it */
		return;
	}
	store_le32(w->buf + start + 12, (uint32_t)(len - SECTION_HEADER_BYTES - names));
	store_le32(w->buf + start + SECTION_CRC_OFFSET, section_crc(w->buf + start, len));
	state_put_bytes(w, zeros, ROUND_UP(len, 8) - len);
}

void state_bytes(struct state_reader *r, void *dst, size_t n)
{
	if (r->failed || n > r->len - r->pos) {
		r->failed = true;
		memset(dst, 0, n);
		return;
	}
	memcpy(dst, r->buf + r->pos, n);
	r->pos += n;
}

uint8_t state_u8(struct state_reader *r)
{
	uint8_t v;

	state_bytes(r, &v, 1);
	return v;
}

bool state_reader_complete(const struct state_reader *r)
{
	return !r->failed && r->pos == r->len;
}

/* Check the padding, which the CRC does not cover. */
static bool padding_ok(const uint8_t *h, size_t total, size_t left)
{
	if (ROUND_UP(total, 8) > left)
		return false;
	for (size_t i = total; i < ROUND_UP(total, 8); i++)
		if (h[i])
			return false;
	return true;
}

int state_section_next(const uint8_t *buf, size_t len, size_t *pos, struct state_section *s,
	struct err *e)
{
	size_t left, name_len, inst_len, body, total;
	const uint8_t *h = buf + *pos;

	if (*pos >= len)
		return 0;
	left = len - *pos;
	if (left < SECTION_HEADER_BYTES || load_le32(h) != SECTION_MAGIC)
		return err_set(e, -EINVAL, ERR_CORRUPT, "VM state: no section at byte %zu", *pos);
	name_len = load_le16(h + 6);
	inst_len = load_le16(h + 8);
	body = load_le32(h + 12);
	if (name_len > STATE_NAME_MAX || inst_len > STATE_NAME_MAX ||
		body > STATE_SECTION_MAX_BYTES || load_le16(h + 10))
		return err_set(e, -EINVAL, ERR_CORRUPT, "VM state: malformed section at byte %zu", *pos);
	total = SECTION_HEADER_BYTES + name_len + inst_len + body;
	if (total > left || !padding_ok(h, total, left))
		return err_set(e, -EINVAL, ERR_CORRUPT, "VM state: section at byte %zu is cut off or badly "
			"padded", *pos);
	if (load_le32(h + SECTION_CRC_OFFSET) != section_crc(h, total))
		return err_set(e, -EINVAL, ERR_CORRUPT, "VM state: wrong checksum at byte %zu", *pos);
	memset(s, 0, sizeof(*s));
	memcpy(s->name, h + SECTION_HEADER_BYTES, name_len);
	memcpy(s->instance, h + SECTION_HEADER_BYTES + name_len, inst_len);
	s->version = load_le16(h + 4);
	s->content = (struct state_reader){ .buf = h + total - body, .len = body };
	*pos += ROUND_UP(total, 8);
	return 1;
}
