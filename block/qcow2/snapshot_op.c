/* Report the results of operations on snapshots, and wait for operations under way. */
#include "base/err.h"
#include "base/util.h"
#include "block/qcow2/snapshot_impl.h"

#include <errno.h>
#include <stdlib.h>

struct fail_op {
	struct loop_op nop;
	struct block_snapshot_op *op;
	struct block *b;
	struct err err;
	int res;
};

static void fail_run(struct loop_op *nop, int res)
{
	struct fail_op f = *container_of(nop, struct fail_op, nop);

	(void)res;
	free(container_of(nop, struct fail_op, nop));
	f.op->done(f.op, f.res, &f.err);
}

void block_snapshot_op_fail(struct block *b, struct block_snapshot_op *op, int res, const struct err *e)
{
	struct fail_op *f = calloc(1, sizeof(*f));

	if (!f) {
		op->done(op, -ENOMEM, e); /* no memory for reporting from the loop, so report at once */
		return;
	}
	f->op = op;
	f->b = b;
	f->res = res;
	if (e && *e->msg)
		f->err = *e;
	else
		err_set_errno(&f->err, res, "disk %s: snapshot", b->name);
	f->nop.done = fail_run;
	loop_nop(b->loop, &f->nop);
}

void snapshot_op_fail(struct qcow2 *q, struct block_snapshot_op *op, int res, const struct err *e)
{
	block_snapshot_op_fail(&q->base, op, res, e);
}

void snapshot_op_finish(struct snapshot_op *o, int res)
{
	if (res < 0 && !*o->err.msg)
		err_set_errno(&o->err, res, "disk %s: snapshot", o->task.q->base.name);
	o->op->done(o->op, res, &o->err);
}

/* ---- waiting ---- */

static bool is_waited_for(const struct qcow2 *q)
{
	return q->snapshot_busy && !q->snapshot_held;
}

void snapshot_op_over(struct qcow2 *q)
{
	struct block_snapshot_wait *w;

	q->snapshot_busy = q->snapshot_held = false;
	while (!is_waited_for(q) && (w = q->snapshot_waiters)) {
		q->snapshot_waiters = w->next;
		w->run(w);
	}
}

void block_snapshot_wait(struct block *b, struct block_snapshot_wait *w)
{
	struct block_snapshot_wait **end;

	if (b->info.format != BLOCK_FORMAT_QCOW2 || !is_waited_for(qcow2_of(b))) {
		w->run(w);
		return;
	}
	for (end = &qcow2_of(b)->snapshot_waiters; *end; end = &(*end)->next)
		;
	w->next = NULL;
	*end = w;
}
