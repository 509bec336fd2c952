/* Long operations in steps: tasks, runs of clusters, header writes. */
#include "base/util.h"
#include "block/qcow2/snapshot_impl.h"
#include "block/qcow2/sync.h"

#include <errno.h>

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

/* ---- allocating runs of clusters ---- */

/* Limit of steps to find adjacent clusters. */
#define CONTIG_TRIES 4096u
/* Limit of runs that end at a cluster in use. */
#define CONTIG_BREAKS 4096u

void contig_release(struct qcow2 *q, struct contig *c)
{
	cluster_free_later(q, c->first, c->n);
	*c = (struct contig){ 0 };
}

int contig_alloc(struct qcow2 *q, uint32_t want, struct contig *c, struct wait *w)
{
	struct cluster_run run;
	int r;

	if (c->n == want)
		return 0;
	/* Otherwise a new refcount block could take a cluster in the middle of the run. */
	r = refblocks_ahead(q, want - c->n, w);
	if (!r)
		r = cluster_alloc(q, want - c->n, w, &run);
	if (r == -EINPROGRESS)
		return r;
	if (r < 0) {
		contig_release(q, c);
		return r;
	}
	if (c->n && run.first != c->first + c->n) {
		unsigned breaks = c->breaks + 1;

		contig_release(q, c);
		if (breaks == CONTIG_BREAKS) {
			cluster_free_later(q, run.first, run.n);
			return -EFBIG;
		}
		c->breaks = breaks;
	}
	if (!c->n)
		c->first = run.first;
	c->n += run.n;
	return c->n == want ? 0 : -EAGAIN;
}

int contig_place(struct qcow2 *q, uint32_t n, uint64_t *ret_first)
{
	struct contig c = { 0 };
	int r = -EAGAIN;

	for (unsigned tries = 0; r == -EAGAIN && tries < CONTIG_TRIES; tries++)
		r = QCOW2_SYNC(q, contig_alloc(q, n, &c, &sync.wait));
	if (r == -EAGAIN)
		contig_release(q, &c);
	*ret_first = c.first;
	return r == -EAGAIN ? -ENOTSUP : r;
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
	loop_fdatasync(h->q->base.loop, &h->op, h->q->base.fd);
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
