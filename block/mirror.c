#include "block/mirror.h"
#include "base/bitmap.h"
#include "base/bytes.h"
#include "base/err.h"
#include "base/util.h"
#include "block/block_impl.h"

#include <errno.h>
#include <stdlib.h>

/* What a change makes due: small, because a guest's changes are small and spread. */
#define GRAIN_BYTES (64 * KIB)

struct block_mirror {
	struct block *b, *to;
	struct bitmap due;
	uint64_t ndue, at; /* number of parts that are due; where the next search begins */
	bool both, broken;
	bool holds, holds_all;
	void (*held)(void *opaque); /* NULL: not waited for */
	void *opaque;
	struct block_req *first, **tail; /* requests that are held back */
};

/* A change on its way to the other disk. */
struct forward {
	struct block_req req;
	struct block_mirror *mirror;
	struct block_req *outer;
};

int block_mirror_new(struct block *b, struct block *to, struct block_mirror **ret, struct err *e)
{
	struct block_mirror *m;
	uint64_t n = DIV_ROUND_UP(b->info.size_bytes, GRAIN_BYTES);

	if (b->info.read_only || to->info.read_only || b->info.size_bytes != to->info.size_bytes)
		return err_set(e, -EINVAL, ERR_INVALID, "disk %s: a mirror needs two writable disks of one size", b->name);
	if (to->info.logical_block_bytes > b->info.logical_block_bytes)
		return err_set(e, -EINVAL, ERR_UNSUPPORTED, "disk %s has sectors of %u bytes, but the copy would have %u", b->name,
			b->info.logical_block_bytes, to->info.logical_block_bytes);
	if (b->mirror)
		return err_set(e, -EBUSY, ERR_BUSY, "disk %s is mirrored already", b->name);
	m = calloc(1, sizeof(*m));
	if (!m || bitmap_init(&m->due, n) < 0) {
		free(m);
		return err_set_errno(e, -ENOMEM, "disk %s", b->name);
	}
	m->b = b;
	m->to = to;
	m->tail = &m->first;
	for (uint64_t i = 0; i < n; i++)
		bitmap_set(&m->due, i);
	m->ndue = n;
	b->mirror = m;
	*ret = m;
	return 0;
}

static void range_mark(struct block_mirror *m, uint64_t off, uint64_t len)
{
	for (uint64_t i = off / GRAIN_BYTES; len && i <= (off + len - 1) / GRAIN_BYTES; i++) {
		m->ndue += !bitmap_test(&m->due, i);
		bitmap_set(&m->due, i);
	}
}

bool block_mirror_next(struct block_mirror *m, uint64_t max, uint64_t *ret_off, uint64_t *ret_len)
{
	uint64_t size = m->b->info.size_bytes, n = DIV_ROUND_UP(size, GRAIN_BYTES), first, end;

	if (!m->ndue)
		return false;
	for (first = m->at < n ? m->at : 0; !bitmap_test(&m->due, first); first = first + 1 < n ? first + 1 : 0)
		;
	for (end = first; end < n && bitmap_test(&m->due, end) && (end - first) * GRAIN_BYTES < max; end++)
		bitmap_clear(&m->due, end);
	m->ndue -= end - first;
	m->at = end;
	*ret_off = first * GRAIN_BYTES;
	*ret_len = MIN(end * GRAIN_BYTES, size) - *ret_off;
	return true;
}

bool block_mirror_is_equal(const struct block_mirror *m)
{
	return m->both && !m->broken && !block_is_corrupt(m->to);
}

uint64_t block_mirror_due(const struct block_mirror *m)
{
	return m->ndue * GRAIN_BYTES;
}

/* ---- holding requests back ---- */

void block_mirror_poke(struct block_mirror *m)
{
	void (*held)(void *opaque) = m->held;

	if (!held || (m->holds_all ? m->b->in_flight : m->b->changing))
		return;
	m->held = NULL;
	held(m->opaque);
}

void block_mirror_hold(struct block_mirror *m, bool all, void (*done)(void *opaque), void *opaque)
{
	m->holds = true;
	m->holds_all = all;
	m->held = done;
	m->opaque = opaque;
	block_mirror_poke(m);
}

bool block_mirror_takes(struct block_mirror *m, struct block_req *r)
{
	/* A discard may have another effect on each disk, and the content must be the same. */
	if (m->both && r->op == BLOCK_DISCARD) {
		r->op = BLOCK_WRITE_ZEROES;
		r->flags |= BLOCK_REQ_MAY_UNMAP;
	}
	if (!m->holds || (!m->holds_all && r->op == BLOCK_READ))
		return false;
	r->next = NULL;
	*m->tail = r;
	m->tail = &r->next;
	return true;
}

void block_mirror_submit(struct block_req *r, struct block *on)
{
	for (struct block_req *next; r; r = next) {
		next = r->next; /* a request in flight uses the field */
		block_submit(on, r);
	}
}

void block_mirror_release(struct block_mirror *m, bool both)
{
	struct block_req *r = m->first;

	m->both = both;
	m->holds = m->holds_all = false;
	m->first = NULL;
	m->tail = &m->first;
	block_mirror_submit(r, m->b);
}

struct block_req *block_mirror_end(struct block_mirror *m)
{
	struct block_req *r;

	if (!m)
		return NULL;
	r = m->first;
	m->b->mirror = NULL;
	bitmap_done(&m->due);
	free(m);
	return r;
}

/* ---- changes ---- */

static void forward_done(struct block_req *r, int res)
{
	struct forward *f = container_of(r, struct forward, req);
	struct block_req *outer = f->outer;

	f->mirror->broken = f->mirror->broken || res < 0;
	free(f);
	block_req_end(outer, res);
}

/* Write to the other disk what this one has got. The order of two changes that overlap and are in flight at once is the
 * guest's affair on each disk, but may then be another one on the other disk. */
bool block_mirror_forwards(struct block_mirror *m, struct block_req *r, int res)
{
	struct forward *f;

	if (!m->both) {
		/* Also after an error, which may leave a part of the change. */
		if (r->op != BLOCK_FLUSH)
			range_mark(m, r->offset, r->len);
		return false;
	}
	f = res < 0 ? NULL : calloc(1, sizeof(*f));
	m->broken = m->broken || !f; /* an error may leave a part of the change on one of them */
	if (res < 0)
		return false;
	if (!f) {
		block_req_end(r, -ENOMEM);
		return true;
	}
	f->outer = r;
	f->mirror = m;
	f->req = (struct block_req){ .op = r->op, .flags = r->flags, .offset = r->offset, .len = r->len, .iov = r->iov,
		.niov = r->niov, .done = forward_done };
	block_submit(m->to, &f->req);
	return true;
}
