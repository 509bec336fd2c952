/* Replaces the header of an image that nobody has open by one with other values and the same further extensions.
 *
 * A power cut keeps any of the sectors (512 bytes) that a write changes. So a step changes the header in two groups:
 *    1 the bytes behind the first sector that the new header uses; the present header does not use them, or has the
 *      same values there
 *    2 the first sector, which switches to the new header
 * The extensions lie behind the fixed part, and the backing file's name behind them. If the new name would overlap
 * the present one, one step stores it farther behind. If the extensions are in the way of the present ones, an unused
 * extension in the first sector leads to a place behind these for one step. In a small cluster, the names of features
 * make room, because they are optional; version 2 has no features. All steps are planned before the first write. */
#include "base/bytes.h"
#include "base/err.h"
#include "base/file.h"
#include "base/util.h"
#include "block/qcow2/check_impl.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SECTOR_BYTES 512u
#define EXT_HEADER_BYTES 8u
#define STEPS_MAX 6u

/* A content of the first cluster. */
struct layout {
	uint8_t *bytes;
	uint8_t *used; /* for each byte: programs read it */
	uint32_t end;  /* of the used bytes */
	uint32_t bitmaps_at; /* see struct qcow2_header */
};

struct rewrite {
	const struct qcow2_header *old;
	uint32_t bytes; /* of the cluster */
	struct layout is; /* the file's */
	struct layout steps[STEPS_MAX];
	unsigned n;
};

/* ---- layouts ---- */

static int layout_init(struct layout *l, uint32_t bytes)
{
	l->bytes = io_buffer_new(bytes);
	l->used = calloc(1, bytes);
	return l->bytes && l->used ? 0 : -ENOMEM;
}

static void layout_done(struct layout *l)
{
	free(l->bytes);
	free(l->used);
}

static void used_add(const struct rewrite *w, struct layout *l, uint64_t at, uint64_t n)
{
	at = MIN(at, w->bytes);
	n = MIN(n, w->bytes - at);
	memset(l->used + at, 1, n);
	if (n)
		l->end = MAX(l->end, (uint32_t)(at + n));
}

/* Find the bytes that programs read: the fixed part, the extensions and the backing file's name. */
static void layout_mark(const struct rewrite *w, struct layout *l)
{
	const uint8_t *p = l->bytes;
	uint64_t backing = load_be64(p + QCOW2_AT_BACKING_OFFSET), end = backing && backing < w->bytes ? backing : w->bytes;
	uint64_t pos = load_be32(p + QCOW2_AT_VERSION) < 3 ? QCOW2_V2_HEADER_BYTES : load_be32(p + QCOW2_AT_HEADER_LENGTH);

	memset(l->used, 0, w->bytes);
	l->end = 0;
	used_add(w, l, 0, pos);
	while (pos + EXT_HEADER_BYTES <= end) {
		uint32_t type = load_be32(p + pos), n = load_be32(p + pos + 4);

		used_add(w, l, pos, EXT_HEADER_BYTES);
		pos += EXT_HEADER_BYTES;
		if (type == QCOW2_EXT_END || n > end - pos)
			break;
		if (type != QCOW2_EXT_UNUSED)
			used_add(w, l, pos, n);
		if (type == QCOW2_EXT_BITMAPS)
			l->bitmaps_at = (uint32_t)pos;
		pos += ROUND_UP((uint64_t)n, 8);
	}
	if (backing)
		used_add(w, l, backing, load_be32(p + QCOW2_AT_BACKING_LEN));
}

static void fixed_put(const struct rewrite *w, struct cursor *to, const struct qcow2_header *h)
{
	uint8_t *p = to->base;

	memcpy(p, w->is.bytes, MIN(w->old->header_length, h->header_length));
	store_be32(p + QCOW2_AT_VERSION, h->version);
	store_be64(p + QCOW2_AT_BACKING_OFFSET, 0);
	store_be32(p + QCOW2_AT_BACKING_LEN, 0);
	if (h->version >= 3) {
		store_be64(p + QCOW2_AT_INCOMPATIBLE, h->incompatible);
		store_be64(p + QCOW2_AT_COMPATIBLE, h->compatible);
		store_be64(p + QCOW2_AT_AUTOCLEAR, h->autoclear);
		store_be32(p + QCOW2_AT_REFCOUNT_ORDER, h->refcount_order);
		store_be32(p + QCOW2_AT_HEADER_LENGTH, h->header_length);
	}
	cursor_skip(to, h->header_length);
}

/* Copy the file's extensions, without the backing format, the data file's name and unused ones.
 * pin, names: also copy the pin, and the names of features. */
static void extensions_copy(const struct rewrite *w, struct cursor *to, bool pin, bool names)
{
	const uint8_t *p = w->is.bytes;
	uint64_t backing = load_be64(p + QCOW2_AT_BACKING_OFFSET);
	uint64_t pos = w->old->header_length, end = backing && backing < w->bytes ? backing : w->bytes;

	while (pos + EXT_HEADER_BYTES <= end) {
		uint32_t type = load_be32(p + pos), n = load_be32(p + pos + 4);

		pos += EXT_HEADER_BYTES;
		if (type == QCOW2_EXT_END || n > end - pos)
			break;
		if (type != QCOW2_EXT_BACKING_FORMAT && type != QCOW2_EXT_DATA_FILE && type != QCOW2_EXT_UNUSED &&
			(pin || type != QCOW2_EXT_PIN) && (names || type != QCOW2_EXT_FEATURE_NAMES))
			qcow2_put_extension(to, type, p + pos, n);
		pos += ROUND_UP((uint64_t)n, 8);
	}
}

/* The offsets of the parts. */
struct places {
	bool names;	/* with the names of features */
	uint32_t list;	/* the extensions; 0: behind the fixed part */
	uint64_t name;	/* the backing file's name; 0: behind the extensions */
};

/* Returns false if the parts do not fit. */
static bool layout_build(const struct rewrite *w, struct layout *l, const struct qcow2_header *h, const struct places *at)
{
	size_t name = strlen(h->backing_name);
	struct cursor to = cursor_over(l->bytes, w->bytes);

	memset(l->bytes, 0, w->bytes);
	fixed_put(w, &to, h);
	if (at->list) {
		if (at->list < to.pos + EXT_HEADER_BYTES)
			return false;
		cursor_put_be32(&to, QCOW2_EXT_UNUSED);
		cursor_put_be32(&to, at->list - (uint32_t)to.pos - 4);
		cursor_skip(&to, at->list - to.pos);
	}
	if (h->has_backing && *h->backing_format)
		qcow2_put_extension(&to, QCOW2_EXT_BACKING_FORMAT, h->backing_format, (uint32_t)strlen(h->backing_format));
	if (*h->data_file)
		qcow2_put_extension(&to, QCOW2_EXT_DATA_FILE, h->data_file, (uint32_t)strlen(h->data_file));
	extensions_copy(w, &to, h->has_pin, at->names && h->version >= 3);
	cursor_put_be64(&to, 0);
	if (h->has_backing) {
		if (at->name && at->name < to.pos)
			return false;
		if (at->name)
			cursor_skip(&to, at->name - to.pos);
		store_be64(l->bytes + QCOW2_AT_BACKING_OFFSET, to.pos);
		store_be32(l->bytes + QCOW2_AT_BACKING_LEN, (uint32_t)name);
		cursor_put_bytes(&to, h->backing_name, name);
	}
	layout_mark(w, l);
	return cursor_ok(&to);
}

/* ---- the plan ---- */

static const struct layout *plan_end(const struct rewrite *w)
{
	return w->n ? &w->steps[w->n - 1] : &w->is;
}

/* Return whether a step from one layout to the other keeps all bytes behind the first sector that `is` uses. If so,
 * `to` gets the bytes of `is` that it does not use itself. */
static bool layout_follow(const struct rewrite *w, const struct layout *is, struct layout *to)
{
	for (uint32_t i = SECTOR_BYTES; i < w->bytes; i++)
		if (is->used[i] && to->used[i] && is->bytes[i] != to->bytes[i])
			return false;
	for (uint32_t i = SECTOR_BYTES; i < w->bytes; i++)
		if (!to->used[i])
			to->bytes[i] = is->bytes[i];
	return true;
}

/* Append a step to the plan. Returns false if the parts do not fit, or would overwrite present ones. */
static bool plan_add(struct rewrite *w, const struct qcow2_header *h, struct places at)
{
	struct layout *to = &w->steps[w->n];

	if (!layout_build(w, to, h, &at) || !layout_follow(w, plan_end(w), to))
		return false;
	w->n++;
	return true;
}

/* Plan one step to extensions behind the fixed part. behind: where the backing file's name is out of the way. */
static bool plan_near(struct rewrite *w, const struct qcow2_header *h, bool names, uint32_t behind)
{
	const struct layout *is = plan_end(w);
	uint64_t present = load_be64(is->bytes + QCOW2_AT_BACKING_OFFSET);

	return plan_add(w, h, (struct places){ names, 0, 0 }) || plan_add(w, h, (struct places){ names, 0, behind }) ||
	       plan_add(w, h, (struct places){ names, 0, present }) ||
	       plan_add(w, h, (struct places){ names, 0, ROUND_UP(is->end, 8) });
}

/* Plan steps that put all to the usual places, or in a small cluster elsewhere. */
static bool plan_steps(struct rewrite *w, const struct qcow2_header *h, bool names)
{
	uint32_t end = plan_end(w)->end, behind;

	layout_build(w, &w->steps[w->n], h, &(struct places){ names, 0, 0 });
	behind = ROUND_UP(MAX(end, w->steps[w->n].end), 8);
	if (!plan_near(w, h, names, behind)) {
		if (!plan_add(w, h, (struct places){ names, behind, 0 }) &&
			!plan_add(w, h, (struct places){ names, ROUND_UP(end, 8), 0 }))
			return false;
		plan_near(w, h, names, behind);
	}
	plan_add(w, h, (struct places){ names, 0, 0 });
	return true;
}

static int plan_make(struct rewrite *w, const struct qcow2_header *h, struct err *e)
{
	if (!layout_build(w, &w->steps[0], h, &(struct places){ 0 }))
		return err_set(e, -EINVAL, ERR_INVALID, "the backing and data files' names do not fit into "
			"a cluster of %u bytes", w->bytes);
	if (plan_steps(w, h, true) || plan_steps(w, h, false) || (plan_steps(w, w->old, false) && plan_steps(w, h, false)))
		return 0;
	return err_set(e, -EINVAL, ERR_INVALID, "the present and the new names do not fit into a cluster of %u bytes "
		"together, as they must, so that a power cut leaves either; use `cairn-img convert` to make an image with larger "
		"clusters", w->bytes);
}

/* ---- the writes ---- */

/* Make [from, end) of the file durably like `to`. */
static int bytes_write(const struct rewrite *w, int fd, const uint8_t *to, uint32_t from, uint32_t end)
{
	uint8_t *is = w->is.bytes;
	int r;

	while (from < end && !memcmp(is + from, to + from, SECTOR_BYTES))
		from += SECTOR_BYTES;
	while (from < end && !memcmp(is + end - SECTOR_BYTES, to + end - SECTOR_BYTES, SECTOR_BYTES))
		end -= SECTOR_BYTES;
	if (from == end)
		return 0;
	r = pwrite_full(fd, to + from, end - from, from);
	if (!r && fdatasync(fd) < 0)
		r = -errno;
	if (!r)
		memcpy(is + from, to + from, end - from);
	return r;
}

static int steps_write(struct rewrite *w, int fd)
{
	struct layout *last = &w->steps[w->n - 1];
	int r = 0;

	for (unsigned i = 0; i < w->n && !r; i++) {
		r = bytes_write(w, fd, w->steps[i].bytes, SECTOR_BYTES, w->bytes);
		if (!r)
			r = bytes_write(w, fd, w->steps[i].bytes, 0, SECTOR_BYTES);
	}
	for (uint32_t i = SECTOR_BYTES; i < w->bytes; i++)
		if (!last->used[i])
			last->bytes[i] = 0;
	return r ? r : bytes_write(w, fd, last->bytes, SECTOR_BYTES, w->bytes);
}

static int rewrite_run(struct rewrite *w, int fd, struct qcow2_header *h, bool check_only, struct err *e)
{
	int r = layout_init(&w->is, w->bytes);

	for (unsigned i = 0; i < STEPS_MAX && !r; i++)
		r = layout_init(&w->steps[i], w->bytes);
	if (!r)
		r = qcow2_pread(fd, w->is.bytes, w->bytes, 0);
	if (r < 0)
		return err_set_errno(e, r, "cannot read the header");
	layout_mark(w, &w->is);
	r = plan_make(w, h, e);
	if (r || check_only)
		return r;
	r = steps_write(w, fd);
	h->bitmaps_at = plan_end(w)->bitmaps_at;
	return r < 0 ? err_set_errno(e, r, "cannot write the header") : 0;
}

int qcow2_header_rewrite(int fd, const struct qcow2_header *old, struct qcow2_header *h, bool check_only, struct err *e)
{
	struct rewrite w = { .old = old, .bytes = 1u << old->cluster_bits };
	int r;

	/* A program that changes an image clears the autoclear bits of features that it does not
	 * update. */
	h->autoclear &= QCOW2_AUTOCLEAR_BITMAPS | QCOW2_AUTOCLEAR_RAW_DATA;
	r = rewrite_run(&w, fd, h, check_only, e);
	layout_done(&w.is);
	for (unsigned i = 0; i < STEPS_MAX; i++)
		layout_done(&w.steps[i]);
	return r;
}
