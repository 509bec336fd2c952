/* The external data file. Each cluster of the disk lies there at its guest offset, because QEMU
 * accepts nothing else. So nothing is allocated, counted or moved. If the file is *raw*, its
 * content alone must equal the disk's: the engine writes zeros to the file, not to the map. */
#include "base/err.h"
#include "base/util.h"
#include "block/qcow2/impl.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

/* A punch or a write of zeros in the data file. Allocating writes to the same clusters wait for its
 * l2meta. */
struct data_op {
	struct l2meta l2meta;
	struct qcow2_req *req;
	struct loop_op op;
	uint64_t len;
	bool punch;
};

int qcow2_data_open(struct qcow2 *q, const struct block_format_open *o, struct err *e)
{
	bool wanted = q->h.incompatible & QCOW2_INCOMPAT_DATA_FILE;

	q->data_fd = o->fd;
	if (wanted && !o->data_fd)
		return err_set(e, -EINVAL, ERR_INVALID, "%s: the image keeps its data in another file "
			"('%s'); give that file, too", o->name, q->h.data_file);
	if (!wanted && o->data_fd)
		return err_set(e, -EINVAL, ERR_INVALID,
			"%s: the image keeps its data itself; give no data file", o->name);
	if (!wanted)
		return 0;
	q->external = true;
	q->data_fd = o->data_fd;
	q->data.raw = q->h.autoclear & QCOW2_AUTOCLEAR_RAW_DATA;
	if (q->data.raw && q->h.has_backing)
		return err_set(e, -EINVAL, ERR_CORRUPT,
			"%s: a raw data file and a backing file do not go together", o->name);
	q->data.is_device = o->data_file->is_device;
	q->data.can_punch = q->data.can_zero = true;
	q->data.can_seek = !q->data.is_device;
	q->data.fresh_from = q->data.is_device
		? UINT64_MAX : DIV_ROUND_UP(o->data_file->size_bytes, 1ULL << q->h.cluster_bits);
	return 0;
}

/* ---- allocating clusters of the data file ---- */

/* Returns true if the data file reads as zeros in the range. */
static bool data_is_hole(struct qcow2 *q, uint64_t off, uint64_t len)
{
	off_t next = q->data.can_seek ? lseek(q->data_fd, (off_t)off, SEEK_DATA) : 0;

	if (next < 0 && errno != ENXIO)
		q->data.can_seek = false;
	return next < 0 ? q->data.can_seek : (uint64_t)next >= off + len;
}

/* Note that the data file may hold anything below this cluster. */
static void data_used(struct qcow2 *q, uint64_t end)
{
	q->data.fresh_from = MAX(q->data.fresh_from, end);
}

int data_alloc(struct qcow2 *q, uint64_t guest, uint32_t want, struct wait *w,
	struct cluster_run *ret)
{
	if (!q->external)
		return cluster_alloc(q, want, w, ret);
	if (q->corrupt)
		return -EIO;
	if (guest + want > QCOW2_OFFSET_END >> q->cluster_bits)
		return -EFBIG; /* no entry can name this offset */
	*ret = (struct cluster_run){ guest, want, guest >= q->data.fresh_from ||
		data_is_hole(q, guest << q->cluster_bits, (uint64_t)want << q->cluster_bits) };
	data_used(q, guest + want);
	return 0;
}

void data_release(struct qcow2 *q, uint64_t cluster, uint32_t n)
{
	if (!q->external)
		cluster_free_later(q, cluster, n);
}

/* ---- discards and zeros ---- */

static struct data_op *data_op_start(struct qcow2_req *req, uint64_t off, uint64_t len, bool punch,
	void (*done)(struct loop_op *op, int res))
{
	struct qcow2 *q = req->q;
	struct data_op *d = malloc(sizeof(*d));

	if (!d)
		return NULL;
	d->req = req;
	d->len = len;
	d->punch = punch;
	d->op.done = done;
	d->l2meta.first = off >> q->cluster_bits;
	d->l2meta.last = (off + len - 1) >> q->cluster_bits;
	l2meta_link(req->map, &d->l2meta);
	loop_fallocate(q->base.loop, &d->op, q->data_fd,
		(punch ? FALLOC_FL_PUNCH_HOLE : FALLOC_FL_ZERO_RANGE) | FALLOC_FL_KEEP_SIZE, off, len);
	return d;
}

static void data_op_end(struct data_op *d)
{
	struct wait_list waiters;

	l2meta_unlink(&d->l2meta);
	wait_list_init(&waiters);
	wait_list_move(&waiters, &d->l2meta.waiters);
	free(d);
	wait_list_wake(&waiters, 0);
}

static void punch_done(struct loop_op *op, int res)
{
	struct data_op *d = container_of(op, struct data_op, op);
	struct qcow2_req *req = d->req;

	if (io_host_cannot(res))
		req->q->data.can_punch = false; /* the space stays allocated; nobody reads it */
	data_op_end(d);
	qcow2_req_part_done(req, 0);
}

int data_punch(struct qcow2_req *req, uint64_t off, uint64_t len)
{
	struct qcow2 *q = req->q;

	data_used(q, DIV_ROUND_UP(off + len, (uint64_t)q->cluster_bytes));
	if (!q->data.can_punch)
		return 0;
	if (!data_op_start(req, off, len, true, punch_done))
		return -ENOMEM;
	req->pending++;
	return 0;
}

static void zero_done(struct loop_op *op, int res)
{
	struct data_op *d = container_of(op, struct data_op, op);
	struct qcow2_req *req = d->req;

	if (io_host_cannot(res)) {
		*(d->punch ? &req->q->data.can_punch : &req->q->data.can_zero) = false;
		res = 0; /* the next step tries another method */
	} else if (res == -EINTR || res == -EAGAIN) {
		res = 0;
	} else if (res >= 0) {
		req->pos += d->len;
		res = 0;
	}
	data_op_end(d);
	req->wait.run(&req->wait, res);
}

int data_zero_step(struct qcow2_req *req)
{
	struct qcow2 *q = req->q;
	uint64_t off = req->block_req->offset + req->pos, len = req->block_req->len - req->pos;
	bool unmap = req->block_req->op == BLOCK_DISCARD || (req->block_req->flags & BLOCK_REQ_MAY_UNMAP);
	bool punch = unmap && q->data.can_punch;

	if (!punch && req->block_req->op == BLOCK_DISCARD) {
		req->pos += len; /* a discard is a hint; this host cannot follow it */
		return 0;
	}
	if (!punch && !q->data.can_zero)
		return -EOPNOTSUPP;
	if (l2meta_wait(req->map, off >> q->cluster_bits, (off + len - 1) >> q->cluster_bits, &req->wait))
		return -EINPROGRESS;
	return data_op_start(req, off, len, punch, zero_done) ? -EINPROGRESS : -ENOMEM;
}

/* ---- changing the whole file ---- */

int data_truncate(struct qcow2 *q, uint64_t size)
{
	if (!q->external || q->data.is_device)
		return 0;
	return ftruncate(q->data_fd, (off_t)size) < 0 ? -errno : block_sync(&q->base, q->data_fd);
}

int data_extend(struct qcow2 *q, uint64_t size)
{
	struct stat st;

	if (!q->external || q->data.is_device)
		return 0;
	if (fstat(q->data_fd, &st) < 0)
		return -errno;
	return (uint64_t)st.st_size < size ? data_truncate(q, size) : 0;
}

void data_empty(struct qcow2 *q)
{
	uint64_t size = q->base.info.size_bytes;

	if (!q->external)
		return;
	data_used(q, DIV_ROUND_UP(size, (uint64_t)q->cluster_bytes));
	if (fallocate(q->data_fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, (off_t)size) < 0)
		q->data.can_punch = false; /* the space stays allocated; nobody reads it */
}
