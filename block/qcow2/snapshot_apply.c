/* Applies a snapshot. The refcounts of its tables are incremented, and a new active L1 is written
 * beside the old one. One sector of the header then gets the new L1 and its size, so a crash leaves
 * the old or the new content. A snapshot table with new extra data may be part of the same write.
 * Finally the old L1 is released while guest requests continue. The image is marked dirty all the
 * while. */
#include "base/bytes.h"
#include "base/err.h"
#include "base/log.h"
#include "base/util.h"
#include "block/qcow2/bitmap_impl.h"
#include "block/qcow2/snapshot_impl.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum apply_phase {
	APPLY_FIND,
	APPLY_LOADED,
	APPLY_MARK,
	APPLY_COUNT,
	APPLY_PLACE,
	APPLY_WRITE,
	APPLY_FLUSH,
	APPLY_TABLE, /* instead of APPLY_FLUSH, if the entry's extra data changes */
	APPLY_READY,
	APPLY_DECIDED, /* only if op->ready is set */
	APPLY_HOLD,
	APPLY_HEADER,
	APPLY_RELEASE,
	APPLY_RELEASE_FLUSH,
	APPLY_FREES,
	APPLY_FREES_FLUSH,
	APPLY_TAIL,
	APPLY_CLEAN,
	/* After a failure before the header write: APPLY_STOP, APPLY_UNDO, then continue with APPLY_RELEASE_FLUSH. */
	APPLY_STOP,
	APPLY_UNDO,
	APPLY_OVER,
};

struct apply {
	struct snapshot_op o;
	char id[BLOCK_SNAPSHOT_ID_MAX + 1];
	uint64_t l1_offset, disk_bytes;
	uint32_t from; /* number of entries of the snapshot's L1 that map the disk; those behind them are not used */
	uint8_t *buf; /* the new L1 as the file gets it */
	struct counter count;
	uint32_t next;
	struct table l1; /* the new L1; after the switch, the old one */
	struct contig place;
	struct header_update header;
	struct snapshot_mark mark;
	uint8_t old_fields[QCOW2_AT_INCOMPATIBLE];
	bool with_info; /* the entry's extra data changes */
	struct block_snapshot_info info;
	struct table_swap swap;
	struct release release;
	struct tail_trim trim;
	uint64_t target;
	bool go; /* the argument of block_snapshot_apply_decide() */
	int res;
};

static int apply_check(struct apply *a, const struct qcow2_snapshot_info *s)
{
	struct qcow2 *q = a->o.task.q;
	const char *name = q->base.name;
	uint64_t n = qcow2_l1_entries(s->disk_bytes, q->cluster_bits, q->ext);

	if (s->disk_bytes > INT64_MAX || n > QCOW2_L1_BYTES_MAX / 8 || !qcow2_l1_in_file(q->base.fd, &q->h, s))
		return err_set(&a->o.err, -EINVAL, ERR_CORRUPT, "disk %s: the entry of snapshot %s is damaged",
			name, a->id);
	if (s->disk_bytes != q->h.size_bytes && q->h.version < 3)
		return err_set(&a->o.err, -ENOTSUP, ERR_UNSUPPORTED, "disk %s had another size when snapshot %s "
			"was taken, and an image of version 2 cannot revert to it; use `cairn-img amend -o compat=1.1` "
			"first",
			name, a->id);
	a->l1_offset = s->l1_offset;
	a->disk_bytes = s->disk_bytes;
	a->from = snapshot_disk_entries(q, s);
	a->l1.n = (uint32_t)MAX(n, 1ULL);
	a->l1.cap = (uint32_t)ROUND_UP((uint64_t)a->l1.n, q->cluster_bytes / 8);
	return 0;
}

/* Prepare a snapshot table in which the entry has the new extra data. s: the entry in the current table. */
static int swap_prepare(struct apply *a, const struct qcow2_snapshot_info *s)
{
	struct qcow2 *q = a->o.task.q;
	int r = table_swap_init(&a->swap, q);

	return r < 0 ? r : snapshot_entry_extra(&a->swap.list[s - q->snapshots],
		s->has_icount ? s->icount : UINT64_MAX, a->info.extra, a->info.extra_bytes);
}

static int step_find(struct apply *a)
{
	struct qcow2 *q = a->o.task.q;
	const struct qcow2_snapshot_info *s;
	int r = snapshots_load(q, &a->o.err);
	uint64_t bytes;

	s = r < 0 ? NULL : snapshot_find(q, a->id);
	if (!r && !s)
		r = err_set(&a->o.err, -ENOENT, ERR_NOT_FOUND, "disk %s has no snapshot with the id %s",
			q->base.name, a->id);
	if (!r)
		r = apply_check(a, s);
	if (!r && a->with_info)
		r = swap_prepare(a, s);
	if (!r && s->disk_bytes != q->h.size_bytes)
		r = bitmaps_resize_begin(q, ROUND_DOWN(s->disk_bytes, 512), &a->o.err);
	if (r < 0)
		return r;
	bytes = ROUND_UP(MAX(a->l1.cap, a->from) * 8ULL, 4096);
	a->l1.entries = io_buffer_new(bytes);
	if (!a->l1.entries || bitmap_init(&a->l1.dirty, DIV_ROUND_UP(a->l1.cap * 8ULL, q->slice_bytes)) < 0)
		return -ENOMEM;
	a->o.phase = APPLY_LOADED;
	return task_read(&a->o.task, a->l1.entries, bytes, a->l1_offset);
}

static int step_loaded(struct apply *a)
{
	struct qcow2 *q = a->o.task.q;
	int r = snapshot_l1_take(q, a->l1.entries, a->from, &a->o.err);

	if (r < 0)
		return r;
	for (uint32_t i = a->from; i < a->l1.cap; i++)
		a->l1.entries[i] = 0;
	a->o.phase = APPLY_MARK;
	return counter_borrow(&a->count, q, a->l1.entries, a->l1.n);
}

static int step_mark(struct apply *a)
{
	int r = snapshot_mark_put(&a->mark, &a->o.task, true);

	if (!r)
		a->o.phase = APPLY_COUNT;
	return r;
}

static int step_count(struct apply *a)
{
	struct counter *c = &a->count;

	while (a->next < c->n && (!c->entries[a->next] || c->state[a->next] == COUNT_DONE))
		a->next++;
	if (a->next == c->n) {
		a->o.phase = APPLY_PLACE;
		return 0;
	}
	if (a->o.op->progress)
		a->o.op->progress(a->o.op, a->next, c->n * 2ULL);
	return counter_count(c, a->next, &a->o.task.wait);
}

static int step_place(struct apply *a)
{
	struct qcow2 *q = a->o.task.q;
	int r = contig_alloc(q, a->l1.cap / (q->cluster_bytes / 8), &a->place, &a->o.task.wait);

	if (!r)
		r = contig_meta(q, &a->place, META_L1);
	if (r < 0)
		return r;
	a->l1.offset = a->place.first << q->cluster_bits;
	a->o.phase = APPLY_WRITE;
	return 0;
}

static int step_write(struct apply *a)
{
	a->buf = io_buffer_new(a->l1.cap * 8ULL);
	if (!a->buf)
		return -ENOMEM;
	for (uint32_t i = 0; i < a->l1.cap; i++)
		store_be64(a->buf + i * 8ULL, a->l1.entries[i]);
	a->o.phase = a->with_info ? APPLY_TABLE : APPLY_FLUSH;
	return task_write(&a->o.task, a->buf, a->l1.cap * 8ULL, a->l1.offset);
}

static int step_ready(struct apply *a)
{
	struct block_snapshot_op *op = a->o.op;

	if (!op->ready) {
		a->o.phase = APPLY_HOLD;
		return 0;
	}
	a->o.phase = APPLY_DECIDED;
	op->engine = a;
	op->ready(op);
	return -EINPROGRESS;
}

void qcow2_snapshot_apply_decide(struct block_snapshot_op *op, bool go)
{
	struct apply *a = op->engine;

	a->go = go;
	a->o.task.q->snapshot_held = false;
	task_resume(&a->o.task);
}

static int step_hold(struct apply *a)
{
	struct qcow2 *q = a->o.task.q;
	int r = header_hold(q, &a->o.task.wait);

	if (r < 0)
		return r;
	memcpy(a->old_fields, q->header_piece, sizeof(a->old_fields));
	store_be64(q->header_piece + QCOW2_AT_SIZE, a->disk_bytes);
	store_be32(q->header_piece + QCOW2_AT_L1_SIZE, a->l1.n);
	store_be64(q->header_piece + QCOW2_AT_L1_OFFSET, a->l1.offset);
	if (a->with_info)
		table_swap_fields(&a->swap, q);
	a->o.phase = APPLY_HEADER;
	return header_put(q, &a->header, &a->o.task.wait);
}

static void tables_mark(struct qcow2 *q, const struct table *t, enum meta_kind k)
{
	for (uint32_t i = 0; i < t->n; i++) {
		uint64_t c = (t->entries[i] & QCOW2_OFFSET_MASK) >> q->cluster_bits;

		if (!c)
			continue;
		if (k == META_INACTIVE_L2)
			meta_remove(&q->meta, c);
		(void)meta_add(&q->meta, c, k);
	}
}

/* Make the new L1 the active one, now that the header in the file names it, and prepare the release of the old one. */
static int step_switch(struct apply *a)
{
	struct qcow2 *q = a->o.task.q;
	struct table old = q->disk.l1;
	struct contig place = { .first = old.offset >> q->cluster_bits,
		.n = (uint32_t)DIV_ROUND_UP(old.n * 8ULL, (uint64_t)q->cluster_bytes) };

	header_release(q);
	a->o.op->unknown = true; /* if the remaining work fails */
	if (a->with_info)
		table_swap_adopt(&a->swap, q);
	tables_mark(q, &old, META_INACTIVE_L2);
	tables_mark(q, &a->l1, META_L2);
	q->disk.l1 = a->l1;
	q->l1_changes++;
	a->l1 = old;
	q->h.size_bytes = a->disk_bytes;
	q->h.l1_size = q->disk.l1.n;
	q->h.l1_offset = q->disk.l1.offset;
	q->base.info.size_bytes = ROUND_DOWN(a->disk_bytes, 512);
	bitmaps_resized(q);
	bitmaps_record(q, 0, q->base.info.size_bytes);
	q->unpacked_host = 0;
	(void)contig_meta(q, &place, META_NONE);
	contig_release(q, &place);
	a->release = (struct release){ .entries = a->l1.entries, .n = a->l1.n };
	a->o.phase = APPLY_RELEASE;
	if (a->o.op->stands)
		a->o.op->stands(a->o.op);
	return 0;
}

static int step_release(struct apply *a)
{
	int r = release_step(a->o.task.q, &a->release, &a->o.task.wait);

	if (a->o.op->progress && r == -EAGAIN)
		a->o.op->progress(a->o.op, (uint64_t)a->release.n + a->release.index, a->release.n * 2ULL);
	if (!r)
		a->o.phase = APPLY_RELEASE_FLUSH;
	return r;
}

static int step_frees(struct apply *a)
{
	struct qcow2 *q = a->o.task.q;

	if (!a->target)
		a->target = deferred_free_target(q) + 1;
	if (q->deferred_free.rounds + 1 < a->target) {
		wait_list_add(&q->deferred_free.idle, &a->o.task.wait);
		return -EINPROGRESS;
	}
	a->o.phase = APPLY_FREES_FLUSH;
	return 0;
}

/* End the operation although clearing the dirty bit failed: all other work is done, and the bit stays set
 * needlessly. */
static int clean_failed(struct apply *a)
{
	snapshot_mark_failed(&a->mark, a->o.task.q);
	return a->res < 0 ? a->res : TASK_DONE;
}

static int step_clean(struct apply *a)
{
	int r = snapshot_mark_put(&a->mark, &a->o.task, false);

	if (!r)
		a->o.phase = APPLY_OVER;
	return r;
}

static int step_stop(struct apply *a)
{
	struct qcow2 *q = a->o.task.q;

	if (!a->count.entries) {
		a->o.phase = APPLY_OVER;
		return 0;
	}
	if (counter_busy(&a->count, &a->o.task.wait))
		return -EINPROGRESS;
	(void)contig_meta(q, &a->place, META_NONE);
	contig_release(q, &a->place);
	a->release = (struct release){ .entries = a->count.entries, .n = a->count.n,
		.counted = &a->count };
	a->o.phase = APPLY_UNDO;
	return 0;
}

static int apply_phase_step(struct apply *a)
{
	struct task *t = &a->o.task;
	int r;

	switch ((enum apply_phase)a->o.phase) {
	case APPLY_FIND:
		return gate_wait(t->q, &t->wait) ? -EINPROGRESS : step_find(a);
	case APPLY_LOADED:
		return step_loaded(a);
	case APPLY_MARK:
		return step_mark(a);
	case APPLY_COUNT:
		return step_count(a);
	case APPLY_PLACE:
		return step_place(a);
	case APPLY_WRITE:
		return step_write(a);
	case APPLY_TABLE:
		r = table_swap_write(&a->swap, t);
		if (r != TASK_DONE)
			return r;
		a->o.phase = APPLY_READY;
		return 0;
	case APPLY_FLUSH:
		a->o.phase = APPLY_READY;
		return task_flush(t);
	case APPLY_READY:
		return step_ready(a);
	case APPLY_DECIDED:
		a->o.phase = APPLY_HOLD;
		return a->go ? 0 : -ECANCELED;
	case APPLY_HOLD:
		return step_hold(a);
	case APPLY_HEADER:
		return step_switch(a);
	case APPLY_RELEASE:
	case APPLY_UNDO:
		return step_release(a);
	case APPLY_RELEASE_FLUSH:
		a->o.phase = APPLY_FREES;
		return task_flush(t);
	case APPLY_FREES:
		return step_frees(a);
	case APPLY_FREES_FLUSH:
		a->o.phase = APPLY_TAIL;
		return task_flush(t);
	case APPLY_TAIL:
		r = tail_trim_step(t->q, &a->trim, &t->wait);
		if (!r)
			a->o.phase = APPLY_CLEAN;
		return r;
	case APPLY_CLEAN:
		return step_clean(a);
	case APPLY_STOP:
		return step_stop(a);
	case APPLY_OVER:
		break;
	}
	return a->res < 0 ? a->res : TASK_DONE;
}

/* After a failure: undo the steps before the write of the header, or stop all writes if that write failed. */
static int apply_give_up(struct apply *a, int res)
{
	struct qcow2 *q = a->o.task.q;

	if (a->o.phase == APPLY_HEADER) {
		/* The file may name the old L1 or the new one. A write to the L1 that the file does
		 * not name would be lost, so refuse all writes. */
		memcpy(q->header_piece, a->old_fields, sizeof(a->old_fields));
		header_release(q);
		a->o.op->unknown = true;
		q->corrupt = true;
		log_error(q->base.name, "cannot write the header (%s): nothing more is written to the image",
			strerror(-res));
		block_report_error(&q->base, res, true, "writing its header failed");
		return res;
	}
	if (a->o.phase == APPLY_CLEAN)
		return clean_failed(a);
	if (a->o.phase > APPLY_HEADER)
		return res; /* clusters leak until the next open */
	if (a->o.phase == APPLY_MARK)
		snapshot_mark_failed(&a->mark, q);
	if (a->with_info)
		table_swap_failed(&a->swap, q, res);
	snapshot_refcount_full(q, res, &a->o.err);
	a->res = res;
	a->o.phase = APPLY_STOP;
	return 0;
}

static int apply_step(struct task *t)
{
	struct apply *a = container_of(t, struct apply, o.task);
	int r = apply_phase_step(a);

	return r < 0 && r != -EAGAIN && r != -EINPROGRESS ? apply_give_up(a, r) : r;
}

static int apply_failed(struct task *t, int res)
{
	return apply_give_up(container_of(t, struct apply, o.task), res);
}

static void apply_end(struct task *t, int res)
{
	struct apply *a = container_of(t, struct apply, o.task);

	counter_done(&a->count);
	table_swap_done(&a->swap);
	free(a->l1.entries);
	bitmap_done(&a->l1.dirty);
	free(a->buf);
	snapshot_op_over(t->q);
	snapshot_op_finish(&a->o, res);
	free(a);
}

void qcow2_snapshot_apply(struct qcow2 *q, const char *id, const struct block_snapshot_info *info,
	struct block_snapshot_op *op)
{
	struct apply *a = calloc(1, sizeof(*a));

	if (!a) {
		snapshot_op_over(q);
		snapshot_op_fail(q, op, -ENOMEM, NULL);
		return;
	}
	memcpy(a->id, id, MIN(strlen(id), sizeof(a->id) - 1));
	a->with_info = info;
	if (info)
		a->info = *info;
	a->o.op = op;
	q->snapshot_held = op->ready;
	a->o.task.step = apply_step;
	a->o.task.failed = apply_failed;
	a->o.task.end = apply_end;
	task_start(&a->o.task, q);
}
