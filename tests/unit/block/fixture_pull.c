#include "fixture_pull.h"

#include "base/bytes.h"
#include "base/util.h"

#define PIECE (64 * KIB)

static void pull_next(struct pull *p);

static void pull_written(struct block_req *r, int res)
{
	struct pull *p = container_of(r, struct pull, req);

	assert_int_equal(res, 0);
	p->off += p->len;
	pull_next(p);
}

static void pull_read(struct block_req *r, int res)
{
	struct pull *p = container_of(r, struct pull, req);

	assert_int_equal(res, 0);
	if (bytes_are_zero(p->buf, p->len)) {
		pull_written(r, 0);
		return;
	}
	p->req = (struct block_req){ .offset = p->off, .len = p->len, .iov = &p->iov, .niov = 1, .done = pull_written };
	block_pull_write(p->b, &p->req);
}

static void pull_next(struct pull *p)
{
	p->copied = p->off == p->bytes;
	if (p->copied)
		return;
	p->len = MIN(PIECE, p->bytes - p->off);
	p->iov = (struct iovec){ p->buf, p->len };
	p->req = (struct block_req){ .op = BLOCK_READ, .offset = p->off, .len = p->len, .iov = &p->iov, .niov = 1,
		.done = pull_read };
	block_pull_read(p->b, &p->req);
}

void pull_begin(struct pull *p, struct fixture *f, struct block *b)
{
	*p = (struct pull){ .f = f, .b = b, .buf = aligned_alloc(4096, PIECE) };
	if (block_pull_check(b, &p->bytes, &f->err) < 0)
		fail_msg("%s", f->err.msg);
	pull_next(p);
}

void pull_end(struct pull *p)
{
	struct sync_op o = { .op.done = sync_done };

	while (!p->copied)
		loop_run_once(p->f->loop, UINT64_MAX);
	block_pull_finish(p->b, &o.op);
	if (sync_wait(p->f, &o) < 0)
		fail_msg("%s", o.err.msg);
	free(p->buf);
}
