#include "block/pull.h"
#include "base/bytes.h"
#include "base/err.h"
#include "base/util.h"
#include "block/qcow2/snapshot_impl.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define BACKING_FIELDS_BYTES 12 /* offset and length of the backing file's name */

int block_pull_check(const struct block *b, uint64_t *ret_bytes, struct err *e)
{
	const struct qcow2 *q = (const struct qcow2 *)b;

	if (b->info.format != BLOCK_FORMAT_QCOW2 || !b->backing)
		return err_set(e, -ENOTSUP, ERR_UNSUPPORTED, "disk %s has no backing file", b->name);
	if (b->info.read_only)
		return err_set(e, -EROFS, ERR_INVALID, "disk %s is read-only", b->name);
	if (q->corrupt)
		return err_set(e, -EIO, ERR_CORRUPT, "disk %s: its image is corrupt", b->name);
	if (q->h.nb_snapshots || q->snapshot_busy || q->creating)
		return err_set(e, -ENOTSUP, ERR_UNSUPPORTED, "disk %s has internal snapshots, or live clones read it, and "
			"these need its backing file; delete them first", b->name);
	*ret_bytes = MIN(b->info.size_bytes, b->backing->info.size_bytes);
	return 0;
}

void block_pull_read(struct block *b, struct block_req *r)
{
	block_submit(b->backing, r);
}

void block_pull_write(struct block *b, struct block_req *r)
{
	r->op = BLOCK_WRITE;
	r->flags = BLOCK_REQ_UNALLOCATED;
	block_submit(b, r);
}

bool qcow2_stands_on_backing(int fd)
{
	struct qcow2_header h;
	struct err e;

	return qcow2_header_read(fd, "disk", &h, &e) < 0 || h.has_backing;
}

/* ---- dropping the backing file ---- */

struct finish {
	struct task task;
	struct block_snapshot_op *op;
	struct header_update header;
	uint8_t old_fields[BACKING_FIELDS_BYTES];
	struct block *backing; /* the backing layer, taken out of struct block */
	enum { FINISH_FLUSH, FINISH_HOLD, FINISH_HEADER, FINISH_CLOSE } phase;
};

_Static_assert(QCOW2_AT_BACKING_LEN == QCOW2_AT_BACKING_OFFSET + 8, "the fields are adjacent");

/* Take the backing layer out of the disk, so that new requests do not read it. All that the image lacks is zeros in the
 * backing file, too. */
static void backing_detach(struct finish *f)
{
	struct qcow2 *q = f->task.q;

	q->h.has_backing = q->h.has_pin = false;
	q->h.backing_name[0] = q->h.backing_format[0] = 0;
	f->backing = q->base.backing;
	q->base.backing = NULL;
}

static int finish_step(struct task *t)
{
	struct finish *f = container_of(t, struct finish, task);
	struct qcow2 *q = t->q;
	uint8_t *fields = q->header_piece + QCOW2_AT_BACKING_OFFSET;
	int r;

	switch (f->phase) {
	case FINISH_FLUSH:
		f->phase = FINISH_HOLD;
		return task_flush(t);
	case FINISH_HOLD:
		r = header_hold(q, &t->wait);
		if (r < 0)
			return r;
		memcpy(f->old_fields, fields, sizeof(f->old_fields));
		memset(fields, 0, sizeof(f->old_fields));
		f->phase = FINISH_HEADER;
		return header_put(q, &f->header, &t->wait);
	case FINISH_HEADER:
		header_release(q);
		backing_detach(f);
		f->phase = FINISH_CLOSE;
		return 0;
	case FINISH_CLOSE:
		if (f->backing->in_flight)
			return -EAGAIN; /* requests that began earlier still read it */
		return TASK_DONE;
	}
	return TASK_DONE;
}

static int finish_failed(struct task *t, int res)
{
	struct finish *f = container_of(t, struct finish, task);

	if (f->phase == FINISH_HEADER) {
		memcpy(t->q->header_piece + QCOW2_AT_BACKING_OFFSET, f->old_fields, sizeof(f->old_fields));
		header_release(t->q);
	}
	return res;
}

static void finish_end(struct task *t, int res)
{
	struct finish *f = container_of(t, struct finish, task);
	struct block_snapshot_op *op = f->op;
	struct err e = { 0 };

	if (f->backing)
		(void)block_close(f->backing);
	snapshot_op_over(t->q);
	if (res < 0)
		err_set_errno(&e, res, "disk %s: cannot drop the backing file", t->q->base.name);
	free(f);
	op->done(op, res, &e);
}

void block_pull_finish(struct block *b, struct block_snapshot_op *op)
{
	struct finish *f = NULL;
	struct err e;
	uint64_t bytes;
	int r = block_pull_check(b, &bytes, &e);

	if (!r) {
		f = calloc(1, sizeof(*f));
		r = f ? 0 : err_set_errno(&e, -ENOMEM, "disk %s", b->name);
	}
	if (r < 0) {
		op->done(op, r, &e);
		return;
	}
	f->op = op;
	f->task.step = finish_step;
	f->task.failed = finish_failed;
	f->task.end = finish_end;
	qcow2_of(b)->snapshot_busy = true;
	task_start(&f->task, qcow2_of(b));
}
