/* Space at the end of the file. A direct write that extends the file, or needs new space, takes an exclusive
 * lock in the host, so such writes run one after the other. Therefore the file is extended ahead of
 * need. Closing the image cuts off the unused part. After a crash, that part is free clusters. */
#include "base/util.h"
#include "block/qcow2/impl.h"

#include <errno.h>
#include <sys/stat.h>
#include <unistd.h>

#define TAIL_AHEAD_BYTES (16 * MIB)
/* Number of refcounts to check before other work gets a turn. */
#define TRIM_TURN_CLUSTERS 8192u

void tail_check(struct qcow2 *q)
{
	struct stat st;

	if (q->is_device || fstat(q->base.fd, &st) < 0)
		return;
	if ((uint64_t)st.st_size < q->tail.file_bytes)
		qcow2_corrupt(q, "another program truncated its file to %llu bytes",
			(unsigned long long)st.st_size);
	q->tail.file_bytes = (uint64_t)st.st_size;
}

int tail_extend(struct qcow2 *q, uint64_t end)
{
	uint64_t bytes = end << q->cluster_bits;

	if (q->is_device || bytes <= q->tail.file_bytes)
		return 0;
	tail_check(q); /* writes may have extended the file */
	if (q->corrupt)
		return -EIO;
	if (bytes <= q->tail.file_bytes)
		return 0;
	if (ftruncate(q->base.fd, (off_t)bytes) < 0)
		return -errno;
	q->tail.file_bytes = bytes;
	return 0;
}

static void tail_grown(struct loop_op *op, int res)
{
	struct qcow2 *q = container_of(op, struct qcow2, tail.op);
	struct tail *t = &q->tail;

	q->internal--;
	t->growing = false;
	t->grown = true; /* possibly only in part */
	if (res < 0) {
		t->refused = true; /* no space, or not supported; writes work without it */
		return;
	}
	t->file_bytes = t->growing_to;
	tail_grow(q);
}

void tail_grow(struct qcow2 *q)
{
	struct tail *t = &q->tail;
	uint64_t need = q->fresh_from << q->cluster_bits, from;
	uint64_t ahead = q->base.info.direct ? TAIL_AHEAD_BYTES / 2 : 0;

	if (t->growing || need + ahead <= t->file_bytes)
		return;
	tail_check(q); /* check now, before the file is extended */
	if (q->corrupt || !q->base.info.direct || q->external || q->is_device || t->refused)
		return;
	from = MAX(t->file_bytes, need);
	t->growing_to = ROUND_UP(from + TAIL_AHEAD_BYTES, TAIL_AHEAD_BYTES);
	t->growing = true;
	q->internal++;
	t->op.done = tail_grown;
	loop_fallocate(q->base.loop, &t->op, q->base.fd, 0, from, t->growing_to - from);
}

void tail_cut(struct qcow2 *q)
{
	uint64_t need = q->fresh_from << q->cluster_bits;

	if (!q->tail.grown || q->corrupt)
		return;
	if (ftruncate(q->base.fd, (off_t)need) < 0)
		q->tail.grown = false; /* the file stays longer, by free clusters */
	else
		q->tail.file_bytes = need;
}

/* Cut the file at cluster `end`, from which on all clusters are free. Do nothing while the file is being extended. */
static void trim_cut(struct qcow2 *q, uint64_t end)
{
	if (q->tail.growing || end == q->fresh_from ||
		ftruncate(q->base.fd, (off_t)(end << q->cluster_bits)) < 0)
		return;
	q->fresh_from = end;
	q->free_from = MIN(q->free_from, end);
	q->tail.file_bytes = end << q->cluster_bits;
	q->tail.grown = false;
}

int tail_trim_step(struct qcow2 *q, struct tail_trim *t, struct wait *w)
{
	if (q->is_device || q->corrupt)
		return 0;
	if (!t->begun || t->taken != q->tail.taken) /* an allocation came in between: start again */
		*t = (struct tail_trim){ true, q->fresh_from, q->tail.taken };
	for (uint32_t i = 0; i < TRIM_TURN_CLUSTERS; i++) {
		uint64_t refs = 1;
		int r = t->end ? refcount_get(q, t->end - 1, w, &refs) : 0;

		if (r < 0)
			return r;
		if (refs) {
			trim_cut(q, t->end);
			return 0;
		}
		t->end--;
	}
	return -EAGAIN;
}
