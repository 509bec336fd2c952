/* Changes the header's extension for bitmaps. Each write that counts changes one sector of 512 bytes, so that a power
 * cut leaves the old header or the new one. Where the extension's data crosses a sector, the autoclear bit is clear
 * meanwhile, and a cut then removes the bitmaps.
 *
 * A new extension takes the place of an unused one, or is appended to the list: the new end is written before the old
 * end's type. The backing file's name moves out of the way first. In a cluster without room, the extension takes the
 * place of the names of features, which are optional. */
#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/file.h"
#include "base/util.h"
#include "block/qcow2/bitmap_impl.h"

#include <errno.h>
#include <string.h>

#define EXT_HEADER_BYTES 8u
#define EXT_BYTES (EXT_HEADER_BYTES + QCOW2_BITMAPS_EXT_BYTES)

/* Offsets in the first cluster; 0: there is none. */
struct places {
	uint32_t bitmaps; /* of the extension's header */
	uint32_t unused, unused_len; /* an unused one that has room */
	uint32_t names, names_len; /* names of features */
	uint32_t end; /* the end of the list */
};

/* Overwrite bytes of the first cluster, durably. */
static int header_patch(struct qcow2 *q, uint32_t at, const void *data, uint32_t len)
{
	uint32_t piece = q->header_piece_bytes, from = ROUND_DOWN(at, piece), end = ROUND_UP(at + len, piece);
	CLEANUP_FREE uint8_t *buf = io_buffer_new(end - from);
	int r = buf ? qcow2_pread(q->base.fd, buf, end - from, from) : -ENOMEM;

	if (r < 0)
		return r;
	if (!from)
		memcpy(buf, q->header_piece, piece);
	memcpy(buf + at - from, data, len);
	r = pwrite_full(q->base.fd, buf, end - from, from);
	if (!r)
		r = block_sync(&q->base, q->base.fd);
	if (!r && !from)
		memcpy(q->header_piece, buf, piece);
	return r;
}

static int patch_be32(struct qcow2 *q, uint32_t at, uint32_t v)
{
	uint8_t p[4];

	store_be32(p, v);
	return header_patch(q, at, p, sizeof(p));
}

static int patch_be64(struct qcow2 *q, uint32_t at, uint64_t v)
{
	uint8_t p[8];

	store_be64(p, v);
	return header_patch(q, at, p, sizeof(p));
}

/* Write an extension's type and length, which lie in one sector. */
static int patch_ext(struct qcow2 *q, uint32_t at, uint32_t type, uint32_t len)
{
	return patch_be64(q, at, (uint64_t)type << 32 | len);
}

static int autoclear_set(struct qcow2 *q, bool bitmaps)
{
	uint64_t v = autoclear_known(q, bitmaps);
	int r = q->h.autoclear == v ? 0 : patch_be64(q, QCOW2_AT_AUTOCLEAR, v);

	if (!r)
		q->h.autoclear = v;
	return r;
}

static void places_find(const struct qcow2 *q, const uint8_t *p, struct places *ret)
{
	uint64_t backing = load_be64(p + QCOW2_AT_BACKING_OFFSET), pos = q->h.header_length;
	uint64_t limit = backing && backing < q->cluster_bytes ? backing : q->cluster_bytes;

	*ret = (struct places){ 0 };
	while (pos + EXT_HEADER_BYTES <= limit) {
		uint32_t type = load_be32(p + pos), n = load_be32(p + pos + 4), at = (uint32_t)pos;

		if (type == QCOW2_EXT_END) {
			ret->end = at;
			return;
		}
		if (n > limit - pos - EXT_HEADER_BYTES)
			return;
		if (type == QCOW2_EXT_BITMAPS) {
			ret->bitmaps = at;
		} else if (type == QCOW2_EXT_UNUSED && (n == QCOW2_BITMAPS_EXT_BYTES || (n >= EXT_BYTES && !(n & 7)))) {
			ret->unused = at;
			ret->unused_len = n;
		} else if (type == QCOW2_EXT_FEATURE_NAMES && n >= EXT_BYTES && !(n & 7)) {
			ret->names = at;
			ret->names_len = n;
		}
		pos += EXT_HEADER_BYTES + ROUND_UP((uint64_t)n, 8);
	}
}

static int places_load(struct qcow2 *q, struct places *ret)
{
	CLEANUP_FREE uint8_t *p = io_buffer_new(ROUND_UP(q->cluster_bytes, 4096u));
	int r = p ? qcow2_pread(q->base.fd, p, q->cluster_bytes, 0) : -ENOMEM;

	if (r < 0)
		return r;
	memcpy(p, q->header_piece, q->header_piece_bytes);
	places_find(q, p, ret);
	return 0;
}

/* Move the backing file's name behind `end`, and behind its old place, which is not overwritten. */
static int name_move(struct qcow2 *q, uint32_t end)
{
	uint64_t old = load_be64(q->header_piece + QCOW2_AT_BACKING_OFFSET);
	uint32_t len = load_be32(q->header_piece + QCOW2_AT_BACKING_LEN), to;
	int r;

	if (!q->h.has_backing || old >= end)
		return end <= q->cluster_bytes ? 0 : -EMSGSIZE;
	to = ROUND_UP(MAX(end, (uint32_t)old + len), 8u);
	if (to + len > q->cluster_bytes)
		return -EMSGSIZE;
	r = header_patch(q, to, q->h.backing_name, len);
	return r ? r : patch_be64(q, QCOW2_AT_BACKING_OFFSET, to);
}

/* Append the extension to the list. */
static int ext_append(struct qcow2 *q, uint32_t at, const uint8_t data[QCOW2_BITMAPS_EXT_BYTES])
{
	uint8_t tail[QCOW2_BITMAPS_EXT_BYTES + EXT_HEADER_BYTES] = { 0 };
	int r = at ? name_move(q, at + EXT_BYTES + EXT_HEADER_BYTES) : -EMSGSIZE;

	memcpy(tail, data, QCOW2_BITMAPS_EXT_BYTES);
	if (!r)
		r = header_patch(q, at + EXT_HEADER_BYTES, tail, sizeof(tail));
	return r ? r : patch_ext(q, at, QCOW2_EXT_BITMAPS, QCOW2_BITMAPS_EXT_BYTES);
}

/* Put the extension into the place of an unused one of `len` bytes. The rest becomes an unused one. */
static int ext_reuse(struct qcow2 *q, uint32_t at, uint32_t len, const uint8_t data[QCOW2_BITMAPS_EXT_BYTES])
{
	int r = header_patch(q, at + EXT_HEADER_BYTES, data, QCOW2_BITMAPS_EXT_BYTES);

	if (!r && len > QCOW2_BITMAPS_EXT_BYTES)
		r = patch_ext(q, at + EXT_BYTES, QCOW2_EXT_UNUSED, len - EXT_BYTES);
	return r ? r : patch_ext(q, at, QCOW2_EXT_BITMAPS, QCOW2_BITMAPS_EXT_BYTES);
}

static int ext_make(struct qcow2 *q, const struct places *p, const uint8_t data[QCOW2_BITMAPS_EXT_BYTES])
{
	int r;

	if (p->unused)
		return ext_reuse(q, p->unused, p->unused_len, data);
	r = ext_append(q, p->end, data);
	if (r != -EMSGSIZE || !p->names)
		return r;
	r = patch_ext(q, p->names, QCOW2_EXT_UNUSED, p->names_len);
	return r ? r : ext_reuse(q, p->names, p->names_len, data);
}

static int ext_update(struct qcow2 *q, uint32_t at, const uint8_t data[QCOW2_BITMAPS_EXT_BYTES])
{
	uint32_t last = at + QCOW2_BITMAPS_EXT_BYTES - 1;
	int r = at / 512 == last / 512 ? 0 : autoclear_set(q, false);

	return r ? r : header_patch(q, at, data, QCOW2_BITMAPS_EXT_BYTES);
}

int bitmap_header_put(struct qcow2 *q, uint32_t n, uint64_t bytes, uint64_t offset)
{
	uint8_t data[QCOW2_BITMAPS_EXT_BYTES];
	bool was = qcow2_bitmaps_valid(&q->h);
	struct places p;
	int r = autoclear_set(q, was && n);

	if (!r)
		r = places_load(q, &p);
	/* A stale bitmap may have another length. */
	if (!r && p.bitmaps && (!n || !was)) {
		r = patch_be32(q, p.bitmaps, QCOW2_EXT_UNUSED);
		q->h.has_bitmaps = false;
		if (!r)
			r = places_load(q, &p);
	}
	if (r < 0 || !n)
		return r;
	store_be32(data, n);
	store_be32(data + 4, 0);
	store_be64(data + 8, bytes);
	store_be64(data + 16, offset);
	r = p.bitmaps ? ext_update(q, p.bitmaps + EXT_HEADER_BYTES, data) : ext_make(q, &p, data);
	if (!r)
		r = autoclear_set(q, true);
	if (r < 0)
		return r;
	q->h.has_bitmaps = true;
	q->h.nb_bitmaps = n;
	q->h.bitmaps_bytes = bytes;
	q->h.bitmaps_offset = offset;
	return 0;
}
