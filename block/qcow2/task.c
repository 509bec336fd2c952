/* Long operations in steps: tasks, runs of clusters, header writes. */
#include "base/util.h"
#include "block/qcow2/snapshot_impl.h"
#include "block/qcow2/sync.h"

#include <errno.h>
#include <fcntl.h>

/* Number of steps, each of at most one slice, before other work gets a turn; some 100 us. */
#define TASK_STEPS 16u

/* ---- running a task ---- */

static void task_run(struct task *t)
{
	int r;

	do
		r = t->step(t);
	while (!r || (r == -EAGAIN && ++t->steps % TASK_STEPS));
	if (r == -EINPROGRESS)
		return;
	if (r == -EAGAIN) {
		loop_nop(t->q->base.loop, &t->nop);
		return;
	}
	t->q->internal--;
	t->end(t, r == TASK_DONE ? 0 : r);
}

static void task_fail(struct task *t, int res)
{
	if (t->failed)
		res = t->failed(t, res);
	if (!res) {
		task_run(t);
		return;
	}
	t->q->internal--;
	t->end(t, res == TASK_DONE ? 0 : res);
}

static void task_waited(struct wait *w, int res)
{
	struct task *t = container_of(w, struct task, wait);

	if (res < 0)
		task_fail(t, res);
	else
		task_run(t);
}

bool task_owns(const struct wait *w)
{
	return w->run == task_waited;
}

static void task_turn(struct loop_op *op, int res)
{
	(void)res;
	task_run(container_of(op, struct task, nop));
}

static void task_io_done(struct io *io, int res)
{
	task_waited(&container_of(io, struct task, io)->wait, res);
}

void task_start(struct task *t, struct qcow2 *q)
{
	t->q = q;
	t->wait.run = task_waited;
	t->nop.done = task_turn;
	t->io.done = task_io_done;
	q->internal++;
	loop_nop(q->base.loop, &t->nop);
}

void task_resume(struct task *t)
{
	loop_nop(t->q->base.loop, &t->nop);
}

int task_write(struct task *t, const void *buf, size_t len, uint64_t off)
{
	t->iov = (struct iovec){ (void *)(uintptr_t)buf, len };
	io_write(&t->io, t->q->base.loop, t->q->base.fd, &t->iov, 1, off, len);
	return -EINPROGRESS;
}

int task_read(struct task *t, void *buf, size_t len, uint64_t off)
{
	t->iov = (struct iovec){ buf, len };
	io_read(&t->io, t->q->base.loop, t->q->base.fd, &t->iov, 1, off, len);
	return -EINPROGRESS;
}

int task_flush(struct task *t)
{
	commit_flush(t->q, &t->wait);
	return -EINPROGRESS;
}

int task_punch(struct task *t, uint64_t off, uint64_t len)
{
	/* task_turn() ignores the result. */
	loop_fallocate(t->q->base.loop, &t->nop, t->q->base.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, off, len);
	return -EINPROGRESS;
}

/* ---- allocating runs of clusters ---- */

void contig_release(struct qcow2 *q, struct contig *c)
{
	if (c->searching)
		clusters_reserve(q, 0, 0);
	cluster_free_later(q, c->first, c->n);
	*c = (struct contig){ 0 };
}

/* Search from `first` on. Other allocations keep out of the range, which has room for the refcount blocks that may be
 * missing; a block has at least 64 refcounts. */
static void contig_search_from(struct qcow2 *q, uint32_t want, struct contig *c, uint64_t first)
{
	*c = (struct contig){ .first = first, .searching = true };
	clusters_reserve(q, first, first + want + want / 32 + 2);
}

/* Find `want` adjacent free clusters and, before them, one for each refcount block that they lack. */
static int contig_search(struct qcow2 *q, uint32_t want, struct contig *c, struct wait *w)
{
	uint64_t at = c->first + c->found, refs, need = want;
	uint32_t n;
	int r;

	if (c->found >= want)
		need += refblocks_missing(q, c->first, c->found);
	if (c->found >= need) {
		r = reftable_reach(q, at);
		c->placed = !r;
		return r < 0 ? r : -EAGAIN;
	}
	if (at >= QCOW2_OFFSET_END >> q->cluster_bits)
		return -EFBIG;
	r = refcount_run(q, at, UINT32_MAX, w, &refs, &n);
	if (r < 0)
		return r;
	if (!refs) {
		c->found += MIN(n, need - c->found);
		return -EAGAIN;
	}
	contig_search_from(q, want, c, at + n);
	if (q->free_from == at)
		q->free_from = at + n;
	return -EAGAIN;
}

/* Take the next of the missing refcount blocks, in front of the run. The file's refcount table must not name it before
 * the block that counts it: the table's sectors reach the disk in any order, so that one is durable first.
 * Returns as refblock_take(). */
static int contig_take_block(struct qcow2 *q, uint32_t want, struct contig *c, struct wait *w)
{
	uint64_t range = c->first >> q->refblock_bits;

	if (c->counted != range + 1 && q->reftable.entries[range] && refblocks_missing(q, c->first, want)) {
		c->counted = range + 1;
		commit_flush(q, w);
		return -EINPROGRESS;
	}
	return refblock_take(q, c->first, want, w);
}

static int contig_take(struct qcow2 *q, uint32_t want, struct contig *c, struct wait *w)
{
	uint32_t n;
	int r = c->n ? 0 : contig_take_block(q, want, c, w);

	if (r == 1) {
		c->first++;
		return -EAGAIN;
	}
	if (!r)
		r = clusters_take(q, c->first + c->n, want - c->n, w, &n);
	if (r == -EEXIST) { /* the refcount table has grown into the range meanwhile */
		uint64_t used = c->first + c->n;

		contig_release(q, c);
		contig_search_from(q, want, c, used);
		return -EAGAIN;
	}
	if (r < 0)
		return r;
	c->n += n;
	if (c->n < want)
		return -EAGAIN;
	c->searching = false;
	clusters_reserve(q, 0, 0);
	return 0;
}

int contig_alloc(struct qcow2 *q, uint32_t want, struct contig *c, struct wait *w)
{
	int r;

	if (c->n == want)
		return 0;
	if (!c->searching)
		contig_search_from(q, want, c, q->free_from);
	if (q->corrupt)
		r = -EIO;
	else
		r = c->placed ? contig_take(q, want, c, w) : contig_search(q, want, c, w);
	if (r < 0 && r != -EAGAIN && r != -EINPROGRESS)
		contig_release(q, c);
	return r;
}

int contig_place(struct qcow2 *q, uint32_t n, uint64_t *ret_first)
{
	struct contig c = { 0 };
	int r;

	do
		r = QCOW2_SYNC(q, contig_alloc(q, n, &c, &sync.wait));
	while (r == -EAGAIN);
	if (r < 0)
		contig_release(q, &c);
	*ret_first = c.first;
	return r;
}

int contig_meta(struct qcow2 *q, const struct contig *c, enum meta_kind k)
{
	int r = 0;

	for (uint32_t i = 0; i < c->n && !r; i++) {
		if (k == META_NONE)
			meta_remove(&q->meta, c->first + i);
		else
			r = meta_add(&q->meta, c->first + i, k);
	}
	return r;
}

/* ---- writing the header ---- */

int header_hold(struct qcow2 *q, struct wait *w)
{
	if (q->commit.step != COMMIT_IDLE) {
		wait_list_add(&q->commit.throttled, w);
		return -EINPROGRESS;
	}
	q->commit.held = true;
	return 0;
}

void header_release(struct qcow2 *q)
{
	q->commit.held = false;
	if (q->commit.next_flushes.head || q->commit.throttled.head)
		commit_start(q);
	else
		commit_note_dirty(q);
}

static void header_synced(struct loop_op *op, int res)
{
	struct header_update *h = container_of(op, struct header_update, op);

	h->w->run(h->w, block_synced(&h->q->base, h->q->base.fd, res));
}

static void header_written(struct io *io, int res)
{
	struct header_update *h = container_of(io, struct header_update, io);

	if (res < 0) {
		h->w->run(h->w, res);
		return;
	}
	h->op.done = header_synced;
	block_fdatasync(&h->q->base, &h->op, h->q->base.fd);
}

int header_put(struct qcow2 *q, struct header_update *h, struct wait *w)
{
	h->q = q;
	h->w = w;
	h->iov = (struct iovec){ q->header_piece, q->header_piece_bytes };
	h->io.done = header_written;
	io_write(&h->io, q->base.loop, q->base.fd, &h->iov, 1, 0, q->header_piece_bytes);
	return -EINPROGRESS;
}
