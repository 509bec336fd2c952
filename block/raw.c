/* raw: the file or device is the disk. A size that is not a multiple of a sector is rounded up.
 * Bytes past the end of the file read as zeros. */
#include "base/err.h"
#include "base/util.h"
#include "block/block_impl.h"
#include "block/io.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

/* Step in bytes for writing zeros if the host cannot zero the range itself. */
#define RAW_ZERO_STEP_BYTES (1 * MIB)
#define RAW_ZERO_IOVS (RAW_ZERO_STEP_BYTES / IO_ZEROS_BYTES)
#define RAW_POOL_MAX 256

struct raw {
	struct block base;
	uint64_t file_bytes; /* length at open, or after the last resize */
	bool is_device;
	/* Permanently false once the host reports the operation as unsupported. */
	bool can_punch, can_zero_range;
	struct io_holes holes; /* until the next write */
	struct raw_req *pool;
	unsigned npool;
};

struct raw_req {
	struct io io;
	struct loop_op op;
	struct raw *raw;
	struct block_req *req;
	struct raw_req *next; /* next request in the pool */
	uint64_t done_bytes;  /* zeros written in steps so far */
	bool tried_zero_range, tried_punch;
};

static struct raw_req *raw_req_new(struct raw *w)
{
	struct raw_req *q = w->pool;

	if (!q)
		return malloc(sizeof(*q));
	w->pool = q->next;
	w->npool--;
	return q;
}

static void raw_finish(struct raw_req *q, int res)
{
	struct raw *w = q->raw;
	struct block_req *r = q->req;

	if (w->npool < RAW_POOL_MAX) {
		q->next = w->pool;
		w->pool = q;
		w->npool++;
	} else {
		free(q);
	}
	block_complete(r, res);
}

static void sync_done(struct loop_op *op, int res)
{
	struct raw_req *q = container_of(op, struct raw_req, op);

	raw_finish(q, block_synced(&q->raw->base, q->raw->base.fd, res));
}

/* Complete a transfer: after a sync if it is a change with FUA, else at once. */
static void raw_data_done(struct raw_req *q, int res)
{
	if (q->req->op != BLOCK_READ)
		q->raw->holes.end = 0;
	if (res < 0 || !(q->req->flags & BLOCK_REQ_FUA) || q->req->op == BLOCK_READ) {
		raw_finish(q, res);
		return;
	}
	q->op.done = sync_done;
	block_fdatasync(&q->raw->base, &q->op, q->raw->base.fd);
}

static void rw_done(struct io *io, int res)
{
	struct raw_req *q = container_of(io, struct raw_req, io);

	raw_data_done(q, io_read_result(io, res, q->raw->file_bytes));
}

/* ---- writing zeros and punching holes ---- */

static void zero_step(struct raw_req *q);

struct zero_write {
	struct raw_req *q;
	uint64_t len;
	struct iovec iov[RAW_ZERO_IOVS];
};

static void zero_write_done(struct io *io, int res)
{
	struct raw_req *q = container_of(io, struct raw_req, io);
	struct zero_write *z = q->req->engine;

	q->done_bytes += z->len;
	free(z);
	q->req->engine = NULL;
	if (res < 0 || q->done_bytes == q->req->len)
		raw_data_done(q, res);
	else
		zero_step(q);
}

static void zero_write_buffer(struct raw_req *q)
{
	struct zero_write *z = malloc(sizeof(*z));
	unsigned n;

	if (!z) {
		raw_data_done(q, -ENOMEM);
		return;
	}
	z->len = MIN(q->req->len - q->done_bytes, RAW_ZERO_STEP_BYTES);
	n = iov_zeros(z->iov, z->len);
	q->req->engine = z;
	q->io.done = zero_write_done;
	io_write(&q->io, q->raw->base.loop, q->raw->base.fd, z->iov, n,
		q->req->offset + q->done_bytes, z->len);
}

static void fallocate_done(struct loop_op *op, int res)
{
	struct raw_req *q = container_of(op, struct raw_req, op);
	bool *can = q->tried_zero_range && !q->tried_punch ? &q->raw->can_zero_range
							    : &q->raw->can_punch;

	if (res == -EINTR || res == -EAGAIN) {
		q->tried_zero_range = q->tried_punch = false;
		zero_step(q);
	} else if (io_host_cannot(res)) {
		*can = false;
		zero_step(q);
	} else {
		raw_data_done(q, res < 0 ? res : 0);
	}
}

static void fallocate_start(struct raw_req *q, int mode)
{
	q->op.done = fallocate_done;
	loop_fallocate(q->raw->base.loop, &q->op, q->raw->base.fd, mode | FALLOC_FL_KEEP_SIZE,
		q->req->offset, q->req->len);
}

/* Zero the range in the best way that is not yet tried: free its space (on a device, BLKZEROOUT with unmap), which also
 * gives zeros; zero the range (BLKZEROOUT); write zeros. Without permission to unmap, the space must stay allocated. */
static void zero_step(struct raw_req *q)
{
	bool unmap = q->req->op == BLOCK_DISCARD || (q->req->flags & BLOCK_REQ_MAY_UNMAP);

	if (unmap && q->raw->can_punch && !q->tried_punch) {
		q->tried_punch = true;
		q->tried_zero_range = false;
		fallocate_start(q, FALLOC_FL_PUNCH_HOLE);
	} else if (q->req->op == BLOCK_DISCARD) {
		raw_data_done(q, 0); /* a discard is a hint; this host cannot follow it */
	} else if (q->raw->can_zero_range && !q->tried_zero_range) {
		q->tried_zero_range = true;
		q->tried_punch = false;
		fallocate_start(q, FALLOC_FL_ZERO_RANGE);
	} else {
		zero_write_buffer(q);
	}
}

/* ---- the functions of struct block_ops ---- */

static void raw_submit(struct block *b, struct block_req *r)
{
	struct raw *w = container_of(b, struct raw, base);
	struct raw_req *q = raw_req_new(w);

	if (!q) {
		block_complete_later(r, -ENOMEM);
		return;
	}
	if (r->op != BLOCK_READ && r->op != BLOCK_FLUSH)
		w->holes.end = 0;
	q->raw = w;
	q->req = r;
	q->done_bytes = 0;
	q->tried_zero_range = q->tried_punch = false;
	q->io.done = rw_done;
	q->op.done = sync_done;
	switch (r->op) {
	case BLOCK_READ:
		io_read(&q->io, b->loop, b->fd, r->iov, r->niov, r->offset, r->len);
		break;
	case BLOCK_WRITE:
		io_write(&q->io, b->loop, b->fd, r->iov, r->niov, r->offset, r->len);
		break;
	case BLOCK_FLUSH:
		block_fdatasync(b, &q->op, b->fd);
		break;
	case BLOCK_DISCARD:
	case BLOCK_WRITE_ZEROES:
		zero_step(q);
		break;
	}
}

static int raw_extent(struct block *b, uint64_t off, uint64_t len, struct block_extent *ret)
{
	struct raw *w = container_of(b, struct raw, base);

	*ret = (struct block_extent){ .len = len, .present = true, .has_host = true, .host = off };
	ret->zero = io_hole_find(&w->holes, b->fd, off, &ret->len);
	return 0;
}

static int raw_flush_all(struct block *b)
{
	return block_sync(b, b->fd);
}

static int device_resize(struct block *b, uint64_t size, struct err *e)
{
	uint64_t now;
	int r = block_device_bytes(b, &now);

	if (r < 0)
		return err_set_errno(e, r, "%s: cannot ask the device for its size", b->name);
	if (size != now)
		return err_set(e, -ENOTSUP, ERR_UNSUPPORTED, "%s is a block device of %llu bytes; change the size of the device first, and then "
			"that of the disk", b->name, (unsigned long long)now);
	b->info.size_bytes = size;
	return 0;
}

static int file_resize(struct raw *w, uint64_t size, struct err *e)
{
	struct block *b = &w->base;
	int r = ftruncate(b->fd, (off_t)size) < 0 ? -errno : block_sync(b, b->fd);

	if (r < 0)
		return err_set_errno(e, r, "%s: cannot change the size", b->name);
	b->info.size_bytes = w->file_bytes = size;
	w->holes.end = 0;
	return 0;
}

/* Allocate the space of the added part behind the file's end. */
static int added_reserve(struct raw *w, uint64_t size, struct err *e)
{
	uint64_t old = w->file_bytes;

	if (!fallocate(w->base.fd, FALLOC_FL_KEEP_SIZE, (off_t)old, (off_t)(size - old)) || errno == EOPNOTSUPP)
		return 0;
	return err_set_errno(e, -errno, "%s: cannot allocate the space", w->base.name);
}

static int raw_resize(struct block *b, uint64_t size, const struct block_fill *fill, struct err *e)
{
	struct raw *w = container_of(b, struct raw, base);
	uint64_t old_file = w->file_bytes, old = b->info.size_bytes;
	struct err ignored;
	int r = fill && !w->is_device ? added_reserve(w, size, e) : 0;

	if (!r)
		r = w->is_device ? device_resize(b, size, e) : file_resize(w, size, e);
	if (!r && fill)
		r = fill->run(b, old, fill->opaque, e);
	if (r < 0 && fill && !w->is_device)
		(void)file_resize(w, old_file, &ignored);
	if (r < 0)
		b->info.size_bytes = old;
	return r;
}

static void raw_free(struct block *b)
{
	struct raw *w = container_of(b, struct raw, base);

	while (w->pool) {
		struct raw_req *q = w->pool;

		w->pool = q->next;
		free(q);
	}
	free(w);
}

static const struct block_ops raw_ops = { .submit = raw_submit, .extent = raw_extent,
	.flush_all = raw_flush_all, .resize = raw_resize, .free = raw_free };

int raw_open(const struct block_format_open *o, struct block **ret_b, struct err *e)
{
	uint64_t step = o->file->offset_align;
	struct raw *w;

	if (o->backing)
		return err_set(e, -EINVAL, ERR_INVALID,
			"%s is raw and cannot have a backing file; only qcow2 can", o->name);
	if (o->file->size_bytes > INT64_MAX - 4096)
		return err_set(e, -EINVAL, ERR_INVALID, "%s is too large", o->name);
	w = calloc(1, sizeof(*w));
	if (!w)
		return err_set_errno(e, -ENOMEM, "%s", o->name);
	block_init(&w->base, &raw_ops, o);
	w->is_device = o->file->is_device;
	w->file_bytes = o->file->size_bytes;
	w->can_punch = w->can_zero_range = true;
	w->base.info = (struct block_info){ .format = BLOCK_FORMAT_RAW,
		.size_bytes = ROUND_UP(o->file->size_bytes, step),
		.logical_block_bytes = (uint32_t)step, .buffer_align = o->file->memory_align,
		.discard_granularity = o->file->punch_granularity, .read_only = o->read_only,
		.direct = o->file->direct };
	*ret_b = &w->base;
	return 0;
}
