/* Splits requests into extents, reads them, and flushes. */
#include "base/bytes.h"
#include "base/log.h"
#include "base/util.h"
#include "block/qcow2/bitmap_impl.h"

#include <errno.h>
#include <stdlib.h>

/* A part of a request with its own iovec, buffer or sub-request. */
struct part {
	struct qcow2_req *req;
	struct io io;
	struct block_req sub; /* request to the backing layer */
	unsigned epoch;
	uint64_t bytes; /* counted with parts_take() */
	/* For compressed clusters: */
	uint8_t *packed;
	uint64_t packed_skip, packed_len, host;
	uint64_t in_cluster, at, len; /* the offset in the cluster, the offset in the request, and the length */
	struct iovec one;
	unsigned niov;
	struct iovec iov[];
};

static void qcow2_req_step(struct qcow2_req *req);

/* ---- creating and completing requests ---- */

static void qcow2_req_resume(struct wait *w, int res)
{
	struct qcow2_req *req = container_of(w, struct qcow2_req, wait);

	if (res < 0) {
		qcow2_req_part_done(req, res);
		return;
	}
	qcow2_req_step(req);
}

static struct qcow2_req *qcow2_req_new(struct qcow2 *q, struct map *m, struct block_req *r, bool internal)
{
	struct qcow2_req *req = q->pool;

	if (req) {
		q->pool = req->pool_next;
		q->npool--;
	} else {
		req = malloc(sizeof(*req));
		if (!req)
			return NULL;
	}
	req->q = q;
	req->map = m;
	req->block_req = r;
	req->wait.run = qcow2_req_resume;
	req->pos = 0;
	req->pending = 1;
	req->res = 0;
	req->internal = internal;
	req->full = false;
	return req;
}

static void qcow2_req_finish(struct qcow2_req *req, int res)
{
	struct qcow2 *q = req->q;
	struct block_req *r = req->block_req;
	bool internal = req->internal;

	if (q->npool < QCOW2_REQ_POOL_MAX) {
		req->pool_next = q->pool;
		q->pool = req;
		q->npool++;
	} else {
		free(req);
	}
	if (!internal) {
		block_complete(r, res);
		return;
	}
	q->internal--;
	r->done(r, res);
}

static void qcow2_req_flushed(struct wait *w, int res)
{
	qcow2_req_finish(container_of(w, struct qcow2_req, wait), res);
}

void qcow2_req_part_done(struct qcow2_req *req, int res)
{
	struct block_req *r = req->block_req;

	if (res < 0 && !req->res)
		req->res = res;
	if (--req->pending) {
		if (req->full && req->pending <= req->q->parts_max / 2 + 1) {
			req->full = false;
			qcow2_req_step(req);
		}
		return;
	}
	if (!req->res && (r->flags & BLOCK_REQ_FUA) && r->op != BLOCK_READ && r->op != BLOCK_FLUSH) {
		req->wait.run = qcow2_req_flushed;
		commit_flush(req->q, &req->wait);
		return;
	}
	qcow2_req_finish(req, req->res);
}

/* Memory of parts is limited for each disk, because a guest can make a request of many small parts, or many requests
 * that copy whole clusters. A request waits before its next part: for its own parts in flight, or if it has none, here.
 * Such a request holds nothing that others wait for. The engine's own requests never wait here, because parts wait
 * for them. Requests for a snapshot's VM state do not wait either, because the guest may wait for memory from them. */
void parts_give(struct qcow2 *q, uint64_t bytes)
{
	struct wait_list l;

	q->parts_bytes -= bytes;
	if (!q->parts_waiters.head || q->parts_bytes > q->parts_bytes_max / 2)
		return;
	wait_list_init(&l);
	wait_list_move(&l, &q->parts_waiters);
	wait_list_wake(&l, 0);
}

static inline bool parts_are_few(const struct qcow2_req *req)
{
	return req->pending <= req->q->parts_max && req->q->parts_bytes < req->q->parts_bytes_max;
}

/* Returns true if the request must not start another part now; it then continues by itself. */
static bool __attribute__((noinline)) part_wait(struct qcow2_req *req)
{
	struct qcow2 *q = req->q;

	if (req->internal && req->pending <= q->parts_max)
		return false;
	req->full = req->pending > 1;
	if (!req->full)
		wait_list_add(&q->parts_waiters, &req->wait);
	return true;
}

static struct part *part_new(struct qcow2_req *req, uint64_t len)
{
	uint64_t bytes = sizeof(struct part) + req->block_req->niov * sizeof(struct iovec);
	struct part *p = malloc(bytes);

	if (!p)
		return NULL;
	parts_take(req->q, bytes);
	p->bytes = bytes;
	p->req = req;
	p->at = req->pos;
	p->len = len;
	p->packed = NULL;
	p->niov = iov_slice(req->block_req->iov, req->block_req->niov, req->pos, len, p->iov);
	req->pending++;
	return p;
}

static void part_done(struct part *p, int res)
{
	struct qcow2_req *req = p->req;
	struct qcow2 *q = req->q;
	uint64_t bytes = p->bytes;

	free(p->packed);
	free(p);
	qcow2_req_part_done(req, res);
	parts_give(q, bytes);
}

/* Drop a part that has not been started. */
static void part_drop(struct part *p)
{
	p->req->pending--;
	p->req->q->parts_bytes -= p->bytes;
	free(p);
}

/* ---- transfers between guest memory and the file ---- */

/* Get the result of a finished read of data. */
static int read_result(const struct qcow2 *q, const struct io *io, int res)
{
	return q->data_fd == q->base.fd ? io_read_result(io, res, q->tail.file_bytes) : res;
}

static void whole_done(struct io *io, int res)
{
	struct qcow2_req *req = container_of(io, struct qcow2_req, io);

	epoch_leave(req->q, req->epoch);
	qcow2_req_part_done(req, read_result(req->q, io, res));
}

static void transfer_done(struct io *io, int res)
{
	struct part *p = container_of(io, struct part, io);

	epoch_leave(p->req->q, p->epoch);
	part_done(p, read_result(p->req->q, io, res));
}

int qcow2_req_transfer(struct qcow2_req *req, uint64_t host, uint64_t len, bool write)
{
	void (*start)(struct io *, struct loop *, int, const struct iovec *, unsigned, uint64_t,
		uint64_t) = write ? io_write : io_read;
	struct qcow2 *q = req->q;
	struct part *p;

	if (len == req->block_req->len) {
		req->pending++;
		req->epoch = epoch_enter(q);
		req->io.done = whole_done;
		start(&req->io, q->base.loop, q->data_fd, req->block_req->iov, req->block_req->niov, host, len);
		return 0;
	}
	p = part_new(req, len);
	if (!p)
		return -ENOMEM;
	p->epoch = epoch_enter(q);
	p->io.done = transfer_done;
	start(&p->io, q->base.loop, q->data_fd, p->iov, p->niov, host, len);
	return 0;
}

/* ---- reads from the backing layer ---- */

bool backing_is_zero(const struct qcow2 *q, const struct map *m, uint64_t off)
{
	return m->vm || !q->base.backing || off >= q->base.backing->info.size_bytes;
}

static void backing_done(struct block_req *r, int res)
{
	part_done(container_of(r, struct part, sub), res);
}

/* Read [pos, +*len) from the backing layer, or zeros without one. *len is reduced to the length of one request. */
static int read_backing(struct qcow2_req *req, uint64_t off, uint64_t *len)
{
	struct block *backing = req->q->base.backing;
	struct part *p;

	if (backing_is_zero(req->q, req->map, off)) {
		iov_zero(req->block_req->iov, req->block_req->niov, req->pos, *len);
		return 0;
	}
	*len = MIN(*len, backing->info.size_bytes - off);
	p = part_new(req, *len);
	if (!p)
		return -ENOMEM;
	p->sub = (struct block_req){ .op = BLOCK_READ, .offset = off, .len = *len, .iov = p->iov,
		.niov = p->niov, .done = backing_done };
	block_submit(backing, &p->sub);
	return 0;
}

/* ---- reads of compressed clusters ---- */

static void unpacked_copy(struct part *p, const uint8_t *cluster)
{
	iov_from_buf(p->iov, p->niov, 0, cluster + p->in_cluster, p->len);
}

static void packed_read(struct io *io, int res)
{
	struct part *p = container_of(io, struct part, io);
	struct qcow2 *q = p->req->q;

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
		if (!p->req->map->vm)
			block_note_damage(&q->base, p->req->block_req->offset + p->at - p->in_cluster, q->cluster_bytes,
				"the compressed cluster");
		res = -EIO;
	}
	part_done(p, res);
}

static int read_compressed(struct qcow2_req *req, uint64_t off, const struct extent *x)
{
	struct qcow2 *q = req->q;
	uint64_t begin = ROUND_DOWN(x->host, 4096), end = ROUND_UP(x->host + x->packed, 4096);
	struct part *p;

	if (!q->unpacked)
		q->unpacked = malloc(q->cluster_bytes);
	p = q->unpacked ? part_new(req, x->len) : NULL;
	if (!p)
		return -ENOMEM;
	p->in_cluster = off & (q->cluster_bytes - 1);
	p->host = x->host;
	if (q->unpacked_host == x->host) {
		unpacked_copy(p, q->unpacked);
		part_drop(p);
		return 0;
	}
	p->packed = io_buffer_new(end - begin);
	if (!p->packed) {
		part_drop(p);
		return -ENOMEM;
	}
	p->bytes += end - begin;
	parts_take(q, end - begin);
	p->packed_skip = x->host - begin;
	p->packed_len = x->packed;
	p->one = (struct iovec){ p->packed, end - begin };
	p->epoch = epoch_enter(q);
	p->io.done = packed_read;
	io_read(&p->io, q->base.loop, q->base.fd, &p->one, 1, begin, end - begin);
	return 0;
}

static int qcow2_req_step_read(struct qcow2_req *req)
{
	uint64_t off = req->block_req->offset + req->pos;
	struct extent x;
	int r = map_lookup(req->q, req->map, off, req->block_req->len - req->pos, &req->wait, &x);

	if (r < 0)
		return r;
	switch (x.kind) {
	case EXTENT_DATA:
		r = qcow2_req_transfer(req, x.host, x.len, false);
		break;
	case EXTENT_ZERO:
		iov_zero(req->block_req->iov, req->block_req->niov, req->pos, x.len);
		break;
	case EXTENT_UNALLOCATED:
		r = read_backing(req, off, &x.len);
		break;
	case EXTENT_COMPRESSED:
		r = read_compressed(req, off, &x);
		break;
	}
	req->pos += x.len;
	return r;
}

/* ---- handling a request extent by extent ---- */

static bool op_changes(enum block_op op)
{
	return op != BLOCK_READ && op != BLOCK_FLUSH;
}

static int qcow2_req_step_once(struct qcow2_req *req)
{
	if (op_changes(req->block_req->op)) {
		if (req->q->corrupt)
			return -EIO;
		if (gate_wait(req->q, &req->wait))
			return -EINPROGRESS;
	}
	switch (req->block_req->op) {
	case BLOCK_READ:
		return qcow2_req_step_read(req);
	case BLOCK_WRITE:
		return qcow2_req_step_write(req);
	default:
		return qcow2_req_step_zero(req);
	}
}

static void qcow2_req_step(struct qcow2_req *req)
{
	int r = 0;

	while (!r && !req->res && req->pos < req->block_req->len) {
		if (!parts_are_few(req) && part_wait(req))
			return;
		r = qcow2_req_step_once(req);
	}
	if (r != -EINPROGRESS)
		qcow2_req_part_done(req, r);
}

void qcow2_submit(struct block *b, struct block_req *r)
{
	struct qcow2 *q = qcow2_of(b);
	struct qcow2_req *req = qcow2_req_new(q, &q->disk, r, false);

	if (q->bitmaps.n && op_changes(r->op))
		bitmaps_record(q, r->offset, r->len);
	if (!req) {
		block_complete_later(r, -ENOMEM);
	} else if (r->op != BLOCK_FLUSH) {
		qcow2_req_step(req);
	} else if (b->info.read_only) {
		qcow2_req_finish(req, 0);
	} else {
		req->wait.run = qcow2_req_flushed;
		commit_flush(q, &req->wait);
	}
}

/* Runs in the loop's next round, so that done() never runs inside the caller. */
static void internal_begin(struct loop_op *op, int res)
{
	struct qcow2_req *req = container_of(op, struct qcow2_req, io.op);

	(void)res;
	qcow2_req_step(req);
}

int qcow2_req_start(struct qcow2 *q, struct map *m, struct block_req *r)
{
	struct qcow2_req *req = qcow2_req_new(q, m, r, true);

	if (!req)
		return -ENOMEM;
	q->internal++;
	req->io.op.done = internal_begin;
	loop_nop(q->base.loop, &req->io.op);
	return 0;
}

/* ---- the gate: the first change waits until the header and the bitmap directory allow changes ---- */

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
	struct qcow2 *q = container_of(op, struct qcow2, gate_op);

	res = block_synced(&q->base, q->base.fd, res);
	if (res >= 0 && q->h.version >= 3)
		q->h.autoclear = load_be64(q->header_piece + QCOW2_AT_AUTOCLEAR);
	/* Synchronous: this happens once, and only to images with bitmaps. */
	gate_open(q, res < 0 ? res : bitmaps_mark(q, false));
}

static void gate_written(struct io *io, int res)
{
	struct qcow2 *q = container_of(io, struct qcow2, gate_io);

	if (res < 0) {
		gate_open(q, res);
		return;
	}
	q->gate_op.done = gate_synced;
	block_fdatasync(&q->base, &q->gate_op, q->base.fd);
}

bool gate_wait(struct qcow2 *q, struct wait *w)
{
	uint64_t keep;

	if (!q->gate_shut)
		return false;
	wait_list_add(&q->gate, w);
	if (q->gate_running)
		return true;
	q->gate_running = true;
	q->internal++;
	keep = autoclear_known(q, qcow2_bitmaps_valid(&q->h));
	if (q->h.version < 3 || q->h.autoclear == keep) {
		q->gate_op.done = gate_synced;
		loop_nop(q->base.loop, &q->gate_op);
		return true;
	}
	store_be64(q->header_piece + QCOW2_AT_AUTOCLEAR, keep);
	q->gate_iov = (struct iovec){ q->header_piece, q->header_piece_bytes };
	q->gate_io.done = gate_written;
	io_write(&q->gate_io, q->base.loop, q->base.fd, &q->gate_iov, 1, 0, q->header_piece_bytes);
	return true;
}
