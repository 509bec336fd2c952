#include "block/parts.h"
#include "base/err.h"
#include "base/util.h"
#include "block/block_impl.h"
#include "block/io.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct parts {
	struct block base;
	struct block_part *list;
	unsigned n;
};

/* A read of the disk, passed on to one part at a time. */
struct parts_req {
	struct block_req inner;
	struct block_req *outer;
	struct parts *p;
	uint64_t done, now; /* bytes of `outer` that are read; bytes that `inner` reads */
	struct iovec *iov;  /* entries of outer->iov that `inner` reads into: outer->niov of them */
	uint8_t *bounce;    /* NULL: none; else holds a read that is not aligned in the part */
	uint64_t skip;	    /* leading bytes in `bounce` outside the request */
	struct iovec bounce_iov;
};

/* Find the part that has the byte at *off, and make *off relative to it. Returns NULL behind the last part. */
static const struct block_part *part_find(const struct parts *p, uint64_t *off)
{
	for (unsigned i = 0; i < p->n; i++) {
		if (*off < p->list[i].len)
			return &p->list[i];
		*off -= p->list[i].len;
	}
	return NULL;
}

static void req_end(struct parts_req *q, int res)
{
	struct block_req *outer = q->outer;

	free(q->bounce);
	free(q->iov);
	free(q);
	block_complete(outer, res);
}

static void req_next(struct parts_req *q);

/* Note damage of a part's range [at, at + len) as damage of the disk's range from off on. */
static void damage_note(struct block *b, const struct block *part, uint64_t at, uint64_t len, uint64_t off)
{
	const struct block_damage *d = block_damage_find(part, at, len);

	if (!d)
		return;
	b->damage = *d;
	b->damage.off = off;
	b->damage.len = len;
}

static void inner_done(struct block_req *r, int res)
{
	struct parts_req *q = container_of(r, struct parts_req, inner);

	if (res < 0) {
		damage_note(&q->p->base, r->block, r->offset, r->len, q->outer->offset + q->done);
		req_end(q, res);
		return;
	}
	if (q->bounce)
		iov_from_buf(q->outer->iov, q->outer->niov, q->done, q->bounce + q->skip, q->now);
	free(q->bounce);
	q->bounce = NULL;
	q->done += q->now;
	req_next(q);
}

/* Read `now` bytes of the part from `at` on, which is relative to the part. */
static int part_read(struct parts_req *q, const struct block_part *part, uint64_t at)
{
	uint64_t from = part->offset + at, to = from + q->now;
	struct block_info info;

	block_info(part->b, &info);
	q->inner = (struct block_req){ .op = BLOCK_READ, .offset = ROUND_DOWN(from, info.logical_block_bytes),
		.done = inner_done };
	q->inner.len = ROUND_UP(to, info.logical_block_bytes) - q->inner.offset;
	if (q->inner.len == q->now) {
		q->inner.iov = q->iov;
		q->inner.niov = iov_slice(q->outer->iov, q->outer->niov, q->done, q->now, q->iov);
	} else {
		q->skip = from - q->inner.offset;
		q->bounce = io_buffer_new(q->inner.len);
		if (!q->bounce)
			return -ENOMEM;
		q->bounce_iov = (struct iovec){ q->bounce, q->inner.len };
		q->inner.iov = &q->bounce_iov;
		q->inner.niov = 1;
	}
	block_submit(part->b, &q->inner);
	return 0;
}

static void req_next(struct parts_req *q)
{
	uint64_t left = q->outer->len - q->done, at = q->outer->offset + q->done;
	const struct block_part *part = part_find(q->p, &at);
	int r;

	if (!left || !part) {
		if (left)
			iov_zero(q->outer->iov, q->outer->niov, q->done, left);
		req_end(q, 0);
		return;
	}
	q->now = MIN(MIN(left, part->len - at), BLOCK_REQ_BYTES_MAX / 2);
	r = part_read(q, part, at);
	if (r < 0)
		req_end(q, r);
}

static void parts_submit(struct block *b, struct block_req *r)
{
	struct parts_req *q;

	if (r->op != BLOCK_READ) { /* a flush; other requests are refused, as the disk is read-only */
		block_complete(r, 0);
		return;
	}
	q = calloc(1, sizeof(*q));
	if (q)
		q->iov = calloc(r->niov, sizeof(*q->iov));
	if (!q || !q->iov) {
		free(q);
		block_complete(r, -ENOMEM);
		return;
	}
	q->p = container_of(b, struct parts, base);
	q->outer = r;
	req_next(q);
}

/* An extent of a part whose length is not a multiple of the block size counts as data at its end, because the
 * last block has bytes of both. */
static int parts_extent(struct block *b, uint64_t off, uint64_t len, struct block_extent *ret)
{
	const struct parts *p = container_of(b, struct parts, base);
	uint64_t block = b->info.logical_block_bytes, at = off;
	const struct block_part *part = part_find(p, &at);
	struct block_info info;
	int r;

	*ret = (struct block_extent){ .zero = true, .len = len };
	if (!part)
		return 0;
	len = MIN(len, part->len - at);
	block_info(part->b, &info);
	at += part->offset;
	r = block_extent(part->b, at, MIN(len, info.size_bytes - at), ret);
	if (r < 0) {
		damage_note(b, part->b, at, len, off);
		return r;
	}
	ret->has_host = false;
	if (ret->len % block) {
		ret->zero = ret->zero && ret->len > block;
		ret->len = ret->zero ? ROUND_DOWN(ret->len, block) : ROUND_UP(ret->len, block);
	}
	return 0;
}

static void parts_free(struct block *b)
{
	struct parts *p = container_of(b, struct parts, base);

	for (unsigned i = 0; i < p->n; i++)
		block_close(p->list[i].b);
	free(p->list);
	free(p);
}

static const struct block_ops parts_ops = { .submit = parts_submit, .extent = parts_extent, .free = parts_free };

static int parts_check(const struct block_part *parts, unsigned n, uint64_t *ret_bytes, struct err *e)
{
	*ret_bytes = 0;
	for (unsigned i = 0; i < n; i++) {
		struct block_info info;

		block_info(parts[i].b, &info);
		if (!range_inside(parts[i].offset, parts[i].len, info.size_bytes))
			return err_set(e, -EINVAL, ERR_INVALID, "%s: the range lies outside of the disk, which has %llu bytes",
				parts[i].b->name, (unsigned long long)info.size_bytes);
		if (parts[i].len % BLOCK_SECTOR_BYTES && i + 1 < n)
			return err_set(e, -EINVAL, ERR_INVALID, "%s: only the last part may end within a sector",
				parts[i].b->name);
		if (parts[i].len > INT64_MAX - 4096 - *ret_bytes)
			return err_set(e, -EINVAL, ERR_INVALID, "the parts together are too large");
		*ret_bytes += parts[i].len;
	}
	return 0;
}

int block_parts_open(struct loop *l, const struct block_part *parts, unsigned n, struct block **ret_b, struct err *e)
{
	struct block_format_open o = { .loop = l, .name = parts[0].b->name };
	uint64_t bytes;
	struct parts *p;
	int r = parts_check(parts, n, &bytes, e);

	if (r < 0)
		return r;
	p = calloc(1, sizeof(*p));
	if (p)
		p->list = calloc(n, sizeof(*p->list));
	if (!p || !p->list) {
		free(p);
		return err_set_errno(e, -ENOMEM, "%s", o.name);
	}
	block_init(&p->base, &parts_ops, &o);
	memcpy(p->list, parts, n * sizeof(*parts));
	p->n = n;
	p->base.info = (struct block_info){ .format = parts[0].b->info.format,
		.size_bytes = ROUND_UP(bytes, BLOCK_SECTOR_BYTES), .logical_block_bytes = BLOCK_SECTOR_BYTES,
		.buffer_align = 1, .discard_granularity = parts[0].b->info.discard_granularity, .read_only = true };
	*ret_b = &p->base;
	return 0;
}
