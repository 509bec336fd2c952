/* Writes: in place if the cluster is not shared; else to new clusters. One write then holds the
 * guest's bytes and the bytes that are copied around them. */
#include "base/util.h"
#include "block/qcow2/impl.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* A read of bytes that are copied around the guest's. */
struct side_read {
	struct alloc_write *a;
	struct block_req req;
	struct iovec iov;
	char *buf; /* owned */
};

/* An allocating write. Its l2meta keeps other requests from changing the entries of its guest clusters. */
struct alloc_write {
	struct l2meta l2meta;
	struct qcow2_req *req;
	struct slice *slice; /* pinned */
	bool reuse;	     /* writes into the entry's own cluster */
	struct cluster_run run;
	uint64_t off, len;	 /* guest offset and length of the guest's bytes */
	uint64_t begin, end;	 /* guest offsets of the whole write */
	bool whole;		 /* extended L2: all subclusters become allocated */
	unsigned reads;
	int res;
	struct side_read side_reads[2];
	struct iovec head, tail; /* copies of the bytes around the guest's, in the buffers of side_reads; NULL: zeros */
	struct io io;
	struct iovec *iov;
	uint64_t bytes; /* counted with parts_take() */
};

static int data_overlap_check(struct qcow2 *q, uint64_t off, uint64_t len)
{
	if (q->external)
		return 0;
	for (uint64_t c = off >> q->cluster_bits; c <= (off + len - 1) >> q->cluster_bits; c++) {
		enum meta_kind k = meta_find(&q->meta, c);

		if (k != META_NONE)
			return qcow2_corrupt(q, "a write of data would hit metadata at 0x%llx",
				(unsigned long long)(c << q->cluster_bits));
	}
	return 0;
}

bool l2meta_wait(struct map *m, uint64_t first, uint64_t last, struct wait *w)
{
	for (struct l2meta *a = m->l2metas; a; a = a->next) {
		if (a->first > last || a->last < first)
			continue;
		if (w)
			wait_list_add(&a->waiters, w);
		return true;
	}
	return false;
}

void l2meta_link(struct map *m, struct l2meta *a)
{
	a->next = m->l2metas;
	a->prev = &m->l2metas;
	if (a->next)
		a->next->prev = &a->next;
	m->l2metas = a;
	wait_list_init(&a->waiters);
}

void l2meta_unlink(struct l2meta *a)
{
	*a->prev = a->next;
	if (a->next)
		a->next->prev = a->prev;
}

/* ---- completing a write ---- */

static uint64_t sub_mask(const struct qcow2 *q, uint64_t begin, uint64_t end)
{
	uint64_t base = ROUND_DOWN(begin, q->cluster_bytes);
	uint32_t from = (uint32_t)((begin - base) / q->grain_bytes);
	uint32_t to = (uint32_t)DIV_ROUND_UP(end - base, (uint64_t)q->grain_bytes);

	return (~0ULL << from) & (to >= 64 ? ~0ULL : (1ULL << to) - 1) & 0xffffffff;
}

/* Set the entry of the cluster at guest offset c. host: its new place. */
static void entry_publish(struct alloc_write *a, uint64_t c, uint64_t host)
{
	struct qcow2 *q = a->req->q;
	struct l2_entry old = l2_get(q, a->slice, c), v = { host | QCOW2_COPIED, 0 };

	if (q->ext) {
		uint64_t mask = a->whole ? 0xffffffff
			: sub_mask(q, MAX(a->begin, c), MIN(a->end, c + q->cluster_bytes));

		v.bitmap = ((old.e & QCOW2_COMPRESSED ? 0 : old.bitmap) & ~(mask << 32)) | mask;
	}
	l2_put(q, a->slice, c, v);
	if (!a->reuse)
		l2_release(q, old);
}

static void entries_publish(struct alloc_write *a)
{
	struct qcow2 *q = a->req->q;

	if (!a->req->map->vm)
		q->need_barrier = true;
	for (uint32_t i = 0; i < a->run.n; i++)
		entry_publish(a, (a->l2meta.first + i) << q->cluster_bits,
			(a->run.first + i) << q->cluster_bits);
}

static void alloc_write_end(struct alloc_write *a, int res)
{
	struct qcow2_req *req = a->req;
	struct qcow2 *q = req->q;
	uint64_t bytes = a->bytes;
	struct wait_list waiters;

	if (!res && q->corrupt)
		res = -EIO;
	if (!res)
		entries_publish(a);
	else if (!a->reuse)
		data_release(q, a->run.first, a->run.n);
	slice_unpin(a->slice);
	l2meta_unlink(&a->l2meta);
	wait_list_init(&waiters);
	wait_list_move(&waiters, &a->l2meta.waiters);
	free(a->side_reads[0].buf);
	free(a->side_reads[1].buf);
	free(a->iov);
	free(a);
	/* The waiting requests start again from the lookup. They do not inherit this failure. */
	wait_list_wake(&waiters, 0);
	qcow2_req_part_done(req, res);
	parts_give(q, bytes);
}

static void alloc_write_take(struct alloc_write *a, uint64_t bytes)
{
	a->bytes += bytes;
	parts_take(a->req->q, bytes);
}

static void alloc_write_written(struct io *io, int res)
{
	alloc_write_end(container_of(io, struct alloc_write, io), res);
}

/* ---- writing the data ---- */

/* Append the bytes beside the guest's: a copy, zeros, or nothing. */
static unsigned iov_add_side(struct iovec *iov, const struct iovec *copy, uint64_t len)
{
	if (!len)
		return 0;
	if (!copy->iov_base)
		return iov_zeros(iov, len);
	*iov = *copy;
	return 1;
}

static void alloc_write_data(struct alloc_write *a)
{
	struct qcow2 *q = a->req->q;
	struct block_req *r = a->req->block_req;
	uint64_t head = a->off - a->begin, tail = a->end - (a->off + a->len);
	uint64_t host = (a->run.first << q->cluster_bits) + a->begin -
			(a->l2meta.first << q->cluster_bits);
	uint64_t bytes = (r->niov + head / IO_ZEROS_BYTES + tail / IO_ZEROS_BYTES + 4) * sizeof(*a->iov);
	unsigned n = 0;

	a->iov = malloc(bytes);
	alloc_write_take(a, bytes);
	if (!a->iov) {
		alloc_write_end(a, -ENOMEM);
		return;
	}
	n += iov_add_side(a->iov, &a->head, head);
	n += iov_slice(r->iov, r->niov, a->off - r->offset, a->len, a->iov + n);
	n += iov_add_side(a->iov + n, &a->tail, tail);
	a->io.done = alloc_write_written;
	io_write(&a->io, q->base.loop, q->data_fd, a->iov, n, host, a->end - a->begin);
}

static void side_done(struct alloc_write *a, int res)
{
	if (res < 0 && !a->res)
		a->res = res;
	if (--a->reads)
		return;
	if (a->res)
		alloc_write_end(a, a->res);
	else
		alloc_write_data(a);
}

static void side_read_done(struct block_req *r, int res)
{
	side_done(container_of(r, struct side_read, req)->a, res);
}

static uint64_t disk_end(const struct alloc_write *a)
{
	return a->req->map->vm ? UINT64_MAX : a->req->q->base.info.size_bytes;
}

/* Start to read len bytes. If the disk ends inside, the rest becomes zeros, or a later resize would show the cluster's
 * old content. */
static int side_read_start(struct side_read *s, uint64_t off, uint64_t len)
{
	uint64_t read_len = MIN(len, disk_end(s->a) - off);

	s->buf = io_buffer_new(len);
	if (!s->buf)
		return -ENOMEM;
	alloc_write_take(s->a, len);
	memset(s->buf + read_len, 0, len - read_len);
	s->iov = (struct iovec){ s->buf, read_len };
	s->req = (struct block_req){ .op = BLOCK_READ, .offset = off, .len = read_len, .iov = &s->iov, .niov = 1,
		.done = side_read_done };
	return qcow2_req_start(s->a->req->q, s->a->req->map, &s->req);
}

/* Return the buffer into which the bytes are read; after an error a->res is set. */
static char *side_read_begin(struct alloc_write *a, struct side_read *s, uint64_t off, uint64_t len)
{
	if (a->res)
		return NULL;
	s->a = a;
	a->reads++;
	a->res = side_read_start(s, off, len);
	if (a->res < 0)
		a->reads--;
	return s->buf;
}

/* Returns true if the cluster at guest offset c reads as zeros around the write. */
static bool side_is_zero(const struct qcow2_req *req, struct l2_entry v, uint64_t c)
{
	const struct qcow2 *q = req->q;
	bool no_backing = backing_is_zero(q, req->map, c);

	if (v.e & QCOW2_COMPRESSED)
		return false;
	if (q->ext)
		return !(v.bitmap & 0xffffffff) && (no_backing || v.bitmap >> 32 == 0xffffffff);
	if (v.e & QCOW2_ZERO)
		return true;
	return !l2_has_host(q, v) && no_backing;
}

/* Read both sides as needed. Zeros in a fresh cluster need not be written. */
static void alloc_write_sides(struct alloc_write *a)
{
	struct qcow2 *q = a->req->q;
	uint64_t first = a->l2meta.first << q->cluster_bits, last = a->l2meta.last << q->cluster_bits;
	bool head_zero = side_is_zero(a->req, l2_get(q, a->slice, first), first);
	bool tail_zero = side_is_zero(a->req, l2_get(q, a->slice, last), last);
	bool fresh = !a->reuse && a->run.fresh, head, tail;
	uint64_t data_end = a->off + a->len;
	char *buf;

	if (head_zero && fresh)
		a->begin = a->off;
	if (tail_zero && fresh)
		a->end = data_end;
	head = !head_zero && a->begin < a->off;
	tail = !tail_zero && data_end < MIN(a->end, disk_end(a));
	a->reads = 1;
	if (head && tail && first == last) {
		/* One read of the cluster costs less than two of its parts; the bytes between them are not used. */
		buf = side_read_begin(a, &a->side_reads[0], a->begin, a->end - a->begin);
		a->head.iov_base = buf;
		a->tail.iov_base = buf ? buf + (data_end - a->begin) : NULL;
	} else {
		if (head)
			a->head.iov_base = side_read_begin(a, &a->side_reads[0], a->begin, a->off - a->begin);
		if (tail)
			a->tail.iov_base = side_read_begin(a, &a->side_reads[1], data_end, a->end - data_end);
	}
	a->head.iov_len = a->off - a->begin;
	a->tail.iov_len = a->end - data_end;
	side_done(a, 0);
}

/* ---- planning a write ---- */

static bool entry_reusable(const struct qcow2 *q, struct l2_entry v)
{
	return (v.e & QCOW2_COPIED) && l2_has_host(q, v) &&
	       (q->ext || (v.e & QCOW2_ZERO));
}

static bool entry_in_place(const struct qcow2 *q, struct l2_entry v)
{
	return !q->ext && !(v.e & QCOW2_ZERO) && (v.e & QCOW2_COPIED) && l2_has_host(q, v);
}

/* Returns the number of guest clusters from `first` on, up to last, for which one run of new clusters can be allocated;
 * at least 1. */
static uint32_t run_length(const struct qcow2_req *req, const struct slice *s, uint64_t first, uint64_t last)
{
	const struct qcow2 *q = req->q;
	uint64_t end = ROUND_DOWN(first, q->slice_entries) + q->slice_entries - 1;
	uint64_t c = first;

	last = MIN(last, end);
	for (; c <= last; c++) {
		struct l2_entry v = l2_get(q, s, c << q->cluster_bits);

		if (l2_check_at(q, v, c << q->cluster_bits) < 0 || entry_reusable(q, v) || entry_in_place(q, v))
			break;
		if (q->ext && ((v.e & QCOW2_COMPRESSED) || l2_has_host(q, v)))
			break;
		if (c > first && l2meta_wait(req->map, c, c, NULL))
			break;
	}
	return (uint32_t)MAX(c - first, 1ULL);
}

/* Plan a write with extended L2: all subclusters if the cluster's content must move to another place, else only the
 * touched ones. */
static void plan_subclusters(struct alloc_write *a, struct l2_entry v)
{
	struct qcow2 *q = a->req->q;
	uint64_t grain = q->grain_bytes, in = q->cluster_bytes - 1;
	uint64_t last = a->off + a->len - 1;

	a->whole = !a->reuse &&
		(a->req->map->vm || (v.e & QCOW2_COMPRESSED) || l2_has_host(q, v));
	if (a->whole)
		return;
	a->begin = ROUND_DOWN(a->off, grain);
	a->end = ROUND_UP(a->off + a->len, grain);
	/* Another request may be writing to the allocated subclusters, so leave them alone. */
	if (a->reuse && (v.bitmap >> ((a->off & in) / grain) & 1))
		a->begin = a->off;
	if (a->reuse && (v.bitmap >> ((last & in) / grain) & 1))
		a->end = last + 1;
}

static int alloc_write_start(struct qcow2_req *req, struct slice *s, uint64_t off, uint64_t len, bool reuse,
	const struct cluster_run *run)
{
	struct qcow2 *q = req->q;
	struct alloc_write *a = calloc(1, sizeof(*a));
	uint64_t first = off >> q->cluster_bits;

	if (!a) {
		if (!reuse)
			data_release(q, run->first, run->n);
		return -ENOMEM;
	}
	a->req = req;
	alloc_write_take(a, sizeof(*a));
	a->slice = s;
	a->run = *run;
	a->reuse = reuse;
	a->off = off;
	a->len = MIN(len, ((first + run->n) << q->cluster_bits) - off);
	a->begin = ROUND_DOWN(off, q->cluster_bytes);
	a->end = ROUND_UP(off + a->len, q->cluster_bytes);
	a->l2meta.first = first;
	a->l2meta.last = first + run->n - 1;
	if (q->ext)
		plan_subclusters(a, l2_get(q, s, off));
	l2meta_link(req->map, &a->l2meta);
	req->pending++;
	req->pos += a->len;
	alloc_write_sides(a);
	return 0;
}

static int alloc_with_slice(struct qcow2_req *req, struct slice *s, uint64_t off, uint64_t len)
{
	struct qcow2 *q = req->q;
	struct l2_entry v = l2_get(q, s, off);
	uint64_t first = off >> q->cluster_bits, last = (off + len - 1) >> q->cluster_bits;
	struct cluster_run run;
	int r;

	if (l2_check_at(q, v, off) < 0)
		return qcow2_corrupt(q, "the L2 entry of offset 0x%llx is invalid (0x%016llx)",
			(unsigned long long)off, (unsigned long long)v.e);
	if (entry_reusable(q, v)) {
		run = (struct cluster_run){ (v.e & QCOW2_OFFSET_MASK) >> q->cluster_bits, 1, false };
		r = data_overlap_check(q, v.e & QCOW2_OFFSET_MASK, q->cluster_bytes);
		return r < 0 ? r : alloc_write_start(req, s, off, len, true, &run);
	}
	r = data_alloc(q, first, run_length(req, s, first, last), &req->wait, &run);
	return r < 0 ? r : alloc_write_start(req, s, off, len, false, &run);
}

static int step_alloc(struct qcow2_req *req, uint64_t off, uint64_t len)
{
	struct qcow2 *q = req->q;
	uint64_t first = off >> q->cluster_bits;
	struct slice *s;
	int r;

	if (l2meta_wait(req->map, first, first, &req->wait) || commit_throttle(q, &req->wait))
		return -EINPROGRESS;
	r = map_get_writable(q, req->map, off, &req->wait, &s);
	if (r < 0)
		return r;
	r = alloc_with_slice(req, s, off, len);
	if (r < 0)
		slice_unpin(s);
	return r;
}

int qcow2_req_step_write(struct qcow2_req *req)
{
	uint64_t off = req->block_req->offset + req->pos, len = req->block_req->len - req->pos;
	struct extent x;
	int r = map_lookup(req->q, req->map, off, len, &req->wait, &x);

	if (r == -EIO)
		return qcow2_corrupt(req->q, "the tables for offset 0x%llx are invalid",
			(unsigned long long)off);
	if (r < 0)
		return r;
	/* No wait is between the lookup and the allocation; after a wait, this step is repeated. */
	if (req->block_req->flags & BLOCK_REQ_UNALLOCATED) {
		if (x.kind == EXTENT_UNALLOCATED)
			return step_alloc(req, off, x.len);
		req->pos += x.len;
		return 0;
	}
	if (x.kind != EXTENT_DATA || !x.in_place)
		return step_alloc(req, off, len);
	r = data_overlap_check(req->q, x.host, x.len);
	if (!r)
		r = qcow2_req_transfer(req, x.host, x.len, true);
	req->pos += x.len;
	return r;
}
