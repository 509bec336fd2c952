#include "block/mirror.h"
#include "base/bitmap.h"
#include "base/bytes.h"
#include "base/err.h"
#include "base/util.h"
#include "block/block_impl.h"

#include <errno.h>
#include <stdlib.h>

/* Granularity of dirty tracking: small, because a guest's changes are small and scattered. */
#define GRAIN_BYTES (64 * KIB)

/* A change that goes to both disks. */
struct change {
	struct block_req *outer;
	uint64_t off, len; /* a flush has no length */
	struct change *next;
	struct block_mirror *mirror;
	struct block_req *inner; /* the write to the other disk: outer, or a piece of it */
	struct block_req req;
};

struct block_mirror {
	struct block *b, *to;
	struct bitmap due;
	uint64_t ndue, at; /* number of parts that are due; where the next search begins */
	bool through, sealed;
	bool broken; /* a flush of the other disk failed, so it may lack any change */
	unsigned before; /* with through: changes in flight that began earlier, and make their parts due */
	struct change *changes; /* in flight */
	struct change spare; /* for one change when memory is short */
	uint64_t part_off, part_len; /* with through: the part that the caller copies; len 0: none */
	void (*ready)(void *opaque); /* NULL: not waited for */
	void *ready_opaque;
	bool holds;
	void (*held)(void *opaque); /* NULL: not waited for */
	void *opaque;
	struct block_req *first, **tail; /* requests that are held back, or wait for changes that they overlap */
};

int block_mirror_new(struct block *b, struct block *to, struct block_mirror **ret, struct err *e)
{
	struct block_mirror *m;
	uint64_t n = to ? DIV_ROUND_UP(b->info.size_bytes, GRAIN_BYTES) : 0;

	if (to && (b->info.read_only || to->info.read_only || b->info.size_bytes != to->info.size_bytes))
		return err_set(e, -EINVAL, ERR_INVALID, "disk %s: a mirror needs two writable disks of one size", b->name);
	if (to && to->info.logical_block_bytes > b->info.logical_block_bytes)
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
	if (!m->to || !range_inside(off, len, m->b->info.size_bytes))
		return; /* nothing is mirrored, or the disk has refused the request */
	for (uint64_t i = off / GRAIN_BYTES; len && i <= (off + len - 1) / GRAIN_BYTES; i++) {
		m->ndue += !bitmap_test(&m->due, i);
		bitmap_set(&m->due, i);
	}
}

static bool overlap(uint64_t off, uint64_t len, uint64_t other, uint64_t other_len)
{
	return len && other_len && off < other + other_len && other < off + len;
}

static bool is_changing(const struct block_mirror *m, uint64_t off, uint64_t len)
{
	const struct change *c = m->changes;

	while (c && !overlap(c->off, c->len, off, len))
		c = c->next;
	return c;
}

/* ---- the parts that are due ---- */

static void part_check(struct block_mirror *m)
{
	void (*ready)(void *opaque) = m->ready;

	if (!ready || is_changing(m, m->part_off, m->part_len))
		return;
	m->ready = NULL;
	ready(m->ready_opaque);
}

/* Submit the requests that wait. Some may have to wait again. */
static void waiting_submit(struct block_mirror *m)
{
	struct block_req *r = m->first;

	m->first = NULL;
	m->tail = &m->first;
	block_mirror_submit(r, m->b);
}

void block_mirror_part_end(struct block_mirror *m, bool copied)
{
	if (!m->part_len)
		return;
	if (!copied)
		range_mark(m, m->part_off, m->part_len);
	m->part_len = 0;
	m->ready = NULL;
	if (!m->holds)
		waiting_submit(m);
}

bool block_mirror_next(struct block_mirror *m, uint64_t max, uint64_t *ret_off, uint64_t *ret_len, void (*ready)(void *opaque),
	void *opaque)
{
	uint64_t size = m->b->info.size_bytes, n = DIV_ROUND_UP(size, GRAIN_BYTES), first, end;

	block_mirror_part_end(m, true);
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
	if (m->through) {
		m->part_off = *ret_off;
		m->part_len = *ret_len;
	}
	m->ready = ready;
	m->ready_opaque = opaque;
	part_check(m);
	return true;
}

uint64_t block_mirror_due(const struct block_mirror *m)
{
	return m->ndue * GRAIN_BYTES;
}

void block_mirror_write_through(struct block_mirror *m)
{
	if (m->through)
		return;
	m->through = true;
	m->before = m->b->changing;
}

bool block_mirror_writes_through(const struct block_mirror *m)
{
	return m->through;
}

bool block_mirror_is_complete(const struct block_mirror *m)
{
	return m->through && !m->ndue && !m->part_len && !m->before;
}

bool block_mirror_seal(struct block_mirror *m)
{
	m->sealed = m->sealed || (block_mirror_is_complete(m) && !m->broken);
	return m->sealed;
}

bool block_mirror_is_equal(const struct block_mirror *m)
{
	return m->sealed && block_mirror_is_complete(m) && !m->broken && !block_is_corrupt(m->to);
}

/* ---- holding requests back ---- */

void block_mirror_request_ended(struct block_mirror *m)
{
	void (*held)(void *opaque) = m->held;

	if (!held || m->b->in_flight)
		return;
	m->held = NULL;
	held(m->opaque);
}

void block_mirror_hold(struct block_mirror *m, void (*done)(void *opaque), void *opaque)
{
	m->holds = true;
	m->held = done;
	m->opaque = opaque;
	block_mirror_request_ended(m);
}

void block_mirror_submit(struct block_req *r, struct block *on)
{
	for (struct block_req *next; r; r = next) {
		next = r->next; /* a request in flight uses the field */
		block_submit(on, r);
	}
}

void block_mirror_release(struct block_mirror *m)
{
	m->holds = false;
	m->held = NULL;
	waiting_submit(m);
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

/* Note a change that goes to both disks. Returns false if it has to wait: for another change of a part of its range,
 * for the copying of that, or for memory, which a change in flight has. */
static bool change_begin(struct block_mirror *m, struct block_req *r)
{
	uint64_t len = r->op == BLOCK_FLUSH ? 0 : r->len;
	struct change *c;

	if (overlap(r->offset, len, m->part_off, m->part_len) || is_changing(m, r->offset, len))
		return false;
	c = calloc(1, sizeof(*c));
	if (!c && m->spare.outer)
		return false;
	c = c ? c : &m->spare;
	*c = (struct change){ .outer = r, .off = r->offset, .len = len, .next = m->changes, .mirror = m };
	m->changes = c;
	return true;
}

bool block_mirror_takes(struct block_mirror *m, struct block_req *r)
{
	if (r->op == BLOCK_READ && !m->holds)
		return false;
	/* A discard may have another effect on each disk, and the content must be the same. */
	if (m->through && r->op == BLOCK_DISCARD) {
		r->op = BLOCK_WRITE_ZEROES;
		r->flags |= BLOCK_REQ_MAY_UNMAP;
	}
	if (!m->holds && (!m->through || change_begin(m, r)))
		return false;
	r->next = NULL;
	*m->tail = r;
	m->tail = &r->next;
	return true;
}

static struct change *change_find(struct block_mirror *m, const struct block_req *outer)
{
	struct change *c = m->changes;

	while (c && c->outer != outer)
		c = c->next;
	return c;
}

static void change_end(struct change *c)
{
	struct block_mirror *m = c->mirror;
	struct change **at = &m->changes;

	while (*at != c)
		at = &(*at)->next;
	*at = c->next;
	if (c == &m->spare)
		c->outer = NULL;
	else
		free(c);
	part_check(m);
	if (!m->holds)
		waiting_submit(m);
}

static void forward_done(struct block_req *r, int res)
{
	struct change *c = container_of(r, struct change, req);
	struct block_mirror *m = c->mirror;
	struct block_req *inner = c->inner;

	if (res < 0 && r->op == BLOCK_FLUSH)
		m->broken = true;
	else if (res < 0)
		range_mark(m, r->offset, r->len);
	if (!m->sealed)
		res = 0;
	if (inner == c->outer)
		change_end(c);
	block_req_end(inner, res);
}

bool block_mirror_forwards(struct block_mirror *m, struct block_req *outer, struct block_req *r, int res)
{
	struct change *c = change_find(m, outer);
	bool is_all = r == outer;

	if (!c) {
		m->before -= is_all && m->through;
		/* Mark the range after an error, too: a part of the change may be on the disk. */
		if (is_all && r->op != BLOCK_FLUSH)
			range_mark(m, r->offset, r->len);
		return false;
	}
	if (res < 0 && r->op != BLOCK_FLUSH)
		range_mark(m, c->off, c->len);
	/* The pieces of a write in a bounce buffer have gone to the other disk one by one. */
	if (res < 0 || (is_all && r->op == BLOCK_WRITE)) {
		if (is_all)
			change_end(c);
		return false;
	}
	c->inner = r;
	c->req = (struct block_req){ .op = r->op, .flags = r->flags, .offset = r->offset, .len = r->len, .iov = r->iov,
		.niov = r->niov, .done = forward_done };
	block_submit(m->to, &c->req);
	return true;
}
