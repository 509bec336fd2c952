/* Requests: splitting into extents, reading, flushing. */
#include "base/bytes.h"
#include "base/log.h"
#include "base/util.h"
#include "block/qcow2/impl.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* A part of a request that needs an iovec, a buffer or a sub-request of its own. */
struct part {
	struct rq *rq;
	struct io io;
	struct block_req sub; /* to the backing layer */
	unsigned epoch;
	/* compressed clusters */
	uint8_t *packed;
	uint64_t packed_skip, packed_len, host;
	uint64_t in_cluster, at, len; /* what of the cluster goes where in the request */
	struct iovec one;
	unsigned niov;
	struct iovec iov[];
};

static void rq_step(struct rq *rq);

/* ---- life of a request ---- */

static void rq_resume(struct wait *w, int res)
{
	struct rq *rq = container_of(w, struct rq, wait);

	if (res < 0) {
		rq_part_done(rq, res);
		return;
	}
	rq_step(rq);
}

static struct rq *rq_new(struct qcow2 *q, struct map *m, struct block_req *r, bool internal)
{
	struct rq *rq = q->pool;

	if (rq) {
		q->pool = rq->pool_next;
		q->npool--;
	} else {
		rq = malloc(sizeof(*rq));
		if (!rq)
			return NULL;
	}
	rq->q = q;
	rq->map = m;
	rq->req = r;
	rq->wait.run = rq_resume;
	rq->pos = 0;
	rq->pending = 1;
	rq->res = 0;
	rq->internal = internal;
	return rq;
}

static void rq_finish(struct rq *rq, int res)
{
	struct qcow2 *q = rq->q;
	struct block_req *r = rq->req;
	bool internal = rq->internal;

	if (q->npool < QCOW2_RQ_POOL_MAX) {
		rq->pool_next = q->pool;
		q->pool = rq;
		q->npool++;
	} else {
		free(rq);
	}
	if (!internal) {
		block_complete(r, res);
		return;
	}
	q->internal--;
	r->done(r, res);
}

static void rq_flushed(struct wait *w, int res)
{
	rq_finish(container_of(w, struct rq, wait), res);
}

void rq_part_done(struct rq *rq, int res)
{
	struct block_req *r = rq->req;

	if (res < 0 && !rq->res)
		rq->res = res;
	if (--rq->pending)
		return;
	if (!rq->res && (r->flags & BLOCK_REQ_FUA) && r->op != BLOCK_READ && r->op != BLOCK_FLUSH) {
		rq->wait.run = rq_flushed;
		commit_flush(rq->q, &rq->wait);
		return;
	}
	rq_finish(rq, rq->res);
}

static struct part *part_new(struct rq *rq, uint64_t len)
{
	struct part *p = malloc(sizeof(*p) + rq->req->niov * sizeof(struct iovec));

	if (!p)
		return NULL;
	p->rq = rq;
	p->at = rq->pos;
	p->len = len;
	p->packed = NULL;
	p->niov = iov_slice(rq->req->iov, rq->req->niov, rq->pos, len, p->iov);
	rq->pending++;
	return p;
}

static void part_done(struct part *p, int res)
{
	struct rq *rq = p->rq;

	free(p->packed);
	free(p);
	rq_part_done(rq, res);
}

/* ---- straight to the file ---- */

/* Of a read of data, when it is over. */
static int read_result(const struct qcow2 *q, const struct io *io, int res)
{
	return q->data_fd == q->base.fd ? io_read_result(io, res, q->tail.file_bytes) : res;
}

static void whole_done(struct io *io, int res)
{
	struct rq *rq = container_of(io, struct rq, io);

	epoch_leave(rq->q, rq->epoch);
	rq_part_done(rq, read_result(rq->q, io, res));
}

static void transfer_done(struct io *io, int res)
{
	struct part *p = container_of(io, struct part, io);

	epoch_leave(p->rq->q, p->epoch);
	part_done(p, read_result(p->rq->q, io, res));
}

int rq_transfer(struct rq *rq, uint64_t host, uint64_t len, bool write)
{
	void (*start)(struct io *, struct loop *, int, const struct iovec *, unsigned, uint64_t,
		uint64_t) = write ? io_write : io_read;
	struct qcow2 *q = rq->q;
	struct part *p;

	if (len == rq->req->len) {
		rq->pending++;
		rq->epoch = epoch_enter(q);
		rq->io.done = whole_done;
		start(&rq->io, q->base.loop, q->data_fd, rq->req->iov, rq->req->niov, host, len);
		return 0;
	}
	p = part_new(rq, len);
	if (!p)
		return -ENOMEM;
	p->epoch = epoch_enter(q);
	p->io.done = transfer_done;
	start(&p->io, q->base.loop, q->data_fd, p->iov, p->niov, host, len);
	return 0;
}

/* ---- the backing layer ---- */

bool backing_is_zero(const struct qcow2 *q, const struct map *m, uint64_t off)
{
	return m->vm || !q->base.backing || off >= q->base.backing->info.size_bytes;
}

static void backing_done(struct block_req *r, int res)
{
	part_done(container_of(r, struct part, sub), res);
}

/* Reads [pos, +*len) through the backing layer, or zeros where there is none. *len shrinks
 * to what one answer covers. */
static int read_backing(struct rq *rq, uint64_t off, uint64_t *len)
{
	struct block *backing = rq->q->base.backing;
	struct part *p;

	if (backing_is_zero(rq->q, rq->map, off)) {
		iov_zero(rq->req->iov, rq->req->niov, rq->pos, *len);
		return 0;
	}
	*len = MIN(*len, backing->info.size_bytes - off);
	p = part_new(rq, *len);
	if (!p)
		return -ENOMEM;
	p->sub = (struct block_req){ .op = BLOCK_READ, .offset = off, .len = *len, .iov = p->iov,
		.niov = p->niov, .done = backing_done };
	block_submit(backing, &p->sub);
	return 0;
}

/* ---- compressed clusters ---- */

static void unpacked_copy(struct part *p, const uint8_t *cluster)
{
	iov_from_buf(p->iov, p->niov, 0, cluster + p->in_cluster, p->len);
}

static void packed_read(struct io *io, int res)
{
	struct part *p = container_of(io, struct part, io);
	struct qcow2 *q = p->rq->q;

	epoch_leave(q, p->epoch);
	q->unpacked_host = 0;
	res = io_read_result(io, res, q->tail.file_bytes);
	if (!res)
		res = qcow2_decompress(q->h.compression, p->packed + p->packed_skip, p->packed_len,
			q->unpacked, q->cluster_bytes);
	if (!res) {
		q->unpacked_host = p->host;
		unpacked_copy(p, q->unpacked);
	} else if (res == -EINVAL) {
		log_guest(q->base.name, "the compressed cluster at 0x%llx cannot be unpacked",
			(unsigned long long)p->host);
		res = -EIO;
	}
	part_done(p, res);
}

static int read_compressed(struct rq *rq, uint64_t off, const struct extent *x)
{
	struct qcow2 *q = rq->q;
	uint64_t begin = ROUND_DOWN(x->host, 4096), end = ROUND_UP(x->host + x->packed, 4096);
	struct part *p;

	if (!q->unpacked)
		q->unpacked = malloc(q->cluster_bytes);
	p = q->unpacked ? part_new(rq, x->len) : NULL;
	if (!p)
		return -ENOMEM;
	p->in_cluster = off & (q->cluster_bytes - 1);
	p->host = x->host;
	if (q->unpacked_host == x->host) {
		unpacked_copy(p, q->unpacked);
		free(p);
		rq->pending--;
		return 0;
	}
	p->packed = io_buffer_new(end - begin);
	if (!p->packed) {
		free(p);
		rq->pending--;
		return -ENOMEM;
	}
	p->packed_skip = x->host - begin;
	p->packed_len = x->packed;
	p->one = (struct iovec){ p->packed, end - begin };
	p->epoch = epoch_enter(q);
	p->io.done = packed_read;
	io_read(&p->io, q->base.loop, q->base.fd, &p->one, 1, begin, end - begin);
	return 0;
}

static int rq_step_read(struct rq *rq)
{
	uint64_t off = rq->req->offset + rq->pos;
	struct extent x;
	int r = map_lookup(rq->q, rq->map, off, rq->req->len - rq->pos, &rq->wait, &x);

	if (r < 0)
		return r;
	switch (x.kind) {
	case EXTENT_DATA:
		r = rq_transfer(rq, x.host, x.len, false);
		break;
	case EXTENT_ZERO:
		iov_zero(rq->req->iov, rq->req->niov, rq->pos, x.len);
		break;
	case EXTENT_UNALLOCATED:
		r = read_backing(rq, off, &x.len);
		break;
	case EXTENT_COMPRESSED:
		r = read_compressed(rq, off, &x);
		break;
	}
	rq->pos += x.len;
	return r;
}

/* ---- steps ---- */

static bool op_changes(enum block_op op)
{
	return op != BLOCK_READ && op != BLOCK_FLUSH;
}

static int rq_step_once(struct rq *rq)
{
	if (op_changes(rq->req->op)) {
		if (rq->q->corrupt)
			return -EIO;
		if (gate_wait(rq->q, &rq->wait))
			return -EINPROGRESS;
	}
	switch (rq->req->op) {
	case BLOCK_READ:
		return rq_step_read(rq);
	case BLOCK_WRITE:
		return rq_step_write(rq);
	default:
		return rq_step_zero(rq);
	}
}

static void rq_step(struct rq *rq)
{
	int r = 0;

	while (!r && !rq->res && rq->pos < rq->req->len)
		r = rq_step_once(rq);
	if (r != -EINPROGRESS)
		rq_part_done(rq, r);
}

void qcow2_submit(struct block *b, struct block_req *r)
{
	struct qcow2 *q = qcow2_of(b);
	struct rq *rq = rq_new(q, &q->disk, r, false);

	if (!rq) {
		block_complete_later(r, -ENOMEM);
	} else if (r->op != BLOCK_FLUSH) {
		rq_step(rq);
	} else if (b->info.read_only) {
		rq_finish(rq, 0);
	} else {
		rq->wait.run = rq_flushed;
		commit_flush(q, &rq->wait);
	}
}

/* Begun in the loop's next round, so that done() never runs inside the caller. */
static void internal_begin(struct loop_op *op, int res)
{
	struct rq *rq = container_of(op, struct rq, io.op);

	(void)res;
	rq_step(rq);
}

int rq_start_internal(struct qcow2 *q, struct map *m, struct block_req *r)
{
	struct rq *rq = rq_new(q, m, r, true);

	if (!rq)
		return -ENOMEM;
	q->internal++;
	rq->io.op.done = internal_begin;
	loop_nop(q->base.loop, &rq->io.op);
	return 0;
}

/* ---- the gate ---- */

static void gate_open(struct qcow2 *q, int res)
{
	struct wait_list l;

	q->gate_running = false;
	q->gate_shut = res < 0;
	q->internal--;
	wait_list_init(&l);
	wait_list_move(&l, &q->gate);
	wait_list_wake(&l, res);
}

static void gate_synced(struct loop_op *op, int res)
{
	gate_open(container_of(op, struct qcow2, gate_op), res < 0 ? res : 0);
}

static void gate_written(struct io *io, int res)
{
	struct qcow2 *q = container_of(io, struct qcow2, gate_io);

	if (res < 0) {
		gate_open(q, res);
		return;
	}
	q->gate_op.done = gate_synced;
	loop_fdatasync(q->base.loop, &q->gate_op, q->base.fd);
}

bool gate_wait(struct qcow2 *q, struct wait *w)
{
	if (!q->gate_shut)
		return false;
	wait_list_add(&q->gate, w);
	if (q->gate_running)
		return true;
	q->gate_running = true;
	q->internal++;
	store_be64(q->header_piece + QCOW2_AT_AUTOCLEAR, q->data.raw ? QCOW2_AUTOCLEAR_RAW_DATA : 0);
	q->gate_iov = (struct iovec){ q->header_piece, q->header_piece_bytes };
	q->gate_io.done = gate_written;
	io_write(&q->gate_io, q->base.loop, q->base.fd, &q->gate_iov, 1, 0, q->header_piece_bytes);
	return true;
}
