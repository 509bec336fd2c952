/* Commits: write changed tables to the file in ordered groups.
 *
 *    1 refcount slices
 *    2 if the refcount table changed: sync, then its changed pieces; if it moved: sync, the whole table, sync, header
 *    3 if maps changed, and step 2 wrote something or a map entry depends on new data or refcounts: sync
 *    4 L2 slices and pieces of the L1; in group 1 if neither step 2 nor 3 has anything to do
 *    5 if a request waits for a flush, or clusters are to be freed: sync; then free these clusters
 *
 * The commit copies all content when it begins, so that no group contains a later change.
 * A crash between any two steps leaks clusters; it never leaves a used cluster uncounted. */
#include "base/bytes.h"
#include "base/log.h"
#include "base/util.h"
#include "block/qcow2/impl.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Longest time before changed tables are written without a flush. */
#define COMMIT_DELAY_NS 1000000000ULL
/* Number of queued runs of clusters to be freed that starts a commit; each takes 16 bytes of memory. */
#define COMMIT_FREES_MAX 65536u

static void commit_next(struct qcow2 *q);

static bool commit_dirty(const struct qcow2 *q)
{
	return q->refs.ndirty || q->l2.ndirty || q->disk.l1.any_dirty || q->reftable.any_dirty ||
	       q->reftable.moved || q->pending_free.n;
}

bool commit_idle(const struct qcow2 *q)
{
	return q->commit.step == COMMIT_IDLE && !q->commit.scheduled && !commit_dirty(q) &&
	       !q->deferred_free.running;
}

/* ---- collecting the tables to write ---- */

static int slice_order(const void *a, const void *b)
{
	const struct slice *x = *(struct slice *const *)a, *y = *(struct slice *const *)b;

	return x->offset < y->offset ? -1 : x->offset > y->offset;
}

/* Add a write. If it continues the group's last write, in the file and in memory, extend that write
 * instead. */
static void writes_add(struct commit *c, size_t group_begin, uint64_t offset, uint8_t *data,
	size_t len)
{
	struct commit_write *last = c->nwrites > group_begin ? &c->writes[c->nwrites - 1] : NULL;

	if (last && last->offset + last->len == offset &&
		(uint8_t *)last->iov.iov_base + last->len == data) {
		last->len += len;
		last->iov.iov_len += len;
		return;
	}
	c->writes[c->nwrites++] = (struct commit_write){ .offset = offset, .len = len,
		.iov = { data, len } };
}

static uint8_t *collect_cache(struct qcow2 *q, struct cache *ch, uint8_t *buf)
{
	struct commit *c = &q->commit;
	size_t begin = c->nslices, group = c->nwrites;

	for (struct slice *s = ch->dirty_head; s; s = s->dirty_next)
		c->slices[c->nslices++] = s;
	qsort(c->slices + begin, c->nslices - begin, sizeof(*c->slices), slice_order);
	for (size_t i = begin; i < c->nslices; i++) {
		struct slice *s = c->slices[i];

		slice_pin(s); /* the pin prevents a read of the old content before the write */
		slice_set_clean(s);
		memcpy(buf, s->data, ch->slice_bytes);
		writes_add(c, group, s->offset, buf, ch->slice_bytes);
		buf += ch->slice_bytes;
	}
	return buf;
}

static size_t table_pieces(const struct qcow2 *q, const struct table *t)
{
	return t->moved ? DIV_ROUND_UP(t->cap * 8ULL, q->slice_bytes) : bitmap_count(&t->dirty);
}

static uint8_t *collect_table(struct qcow2 *q, struct table *t, uint8_t *buf)
{
	size_t per_piece = q->slice_bytes / 8, group = q->commit.nwrites;
	size_t npieces = DIV_ROUND_UP(t->n * 8ULL, q->slice_bytes);

	if (t->moved)
		npieces = DIV_ROUND_UP(t->cap * 8ULL, q->slice_bytes);
	for (size_t p = 0; p < npieces; p++) {
		if (!t->moved && !bitmap_test(&t->dirty, p))
			continue;
		for (size_t i = 0; i < per_piece; i++) {
			size_t at = p * per_piece + i;

			store_be64(buf + i * 8, at < t->n ? t->entries[at] : 0);
		}
		writes_add(&q->commit, group, t->offset + p * q->slice_bytes, buf, q->slice_bytes);
		buf += q->slice_bytes;
		bitmap_clear(&t->dirty, p);
	}
	t->any_dirty = false;
	return buf;
}

static int commit_collect(struct qcow2 *q)
{
	struct commit *c = &q->commit;
	size_t nslices = q->refs.ndirty + q->l2.ndirty;
	size_t npieces = nslices + table_pieces(q, &q->reftable) + table_pieces(q, &q->disk.l1);
	uint8_t *buf = npieces ? io_buffer_new(npieces * q->slice_bytes) : NULL;

	c->slices = malloc((nslices + 1) * sizeof(*c->slices));
	c->writes = malloc((npieces + 1) * sizeof(*c->writes));
	c->buf = buf;
	if ((npieces && !buf) || !c->slices || !c->writes)
		return -ENOMEM;
	c->nslices = c->nwrites = 0;
	buf = collect_cache(q, &q->refs, buf);
	c->end_refcounts = c->nwrites;
	c->moved = q->reftable.moved;
	buf = collect_table(q, &q->reftable, buf);
	q->reftable.moved = false;
	c->end_reftable = c->nwrites;
	buf = collect_cache(q, &q->l2, buf);
	collect_table(q, &q->disk.l1, buf);
	c->barrier = q->need_barrier;
	q->need_barrier = false;
	c->frees = q->pending_free;
	q->pending_free = (struct free_list){ 0 };
	return 0;
}

/* ---- the steps of a commit ---- */

static void op_done(struct qcow2 *q, int res)
{
	if (res < 0 && !q->commit.res)
		q->commit.res = res;
	if (!--q->commit.pending)
		commit_next(q);
}

static void write_done(struct io *io, int res)
{
	op_done(container_of(io, struct commit_write, io)->q, res);
}

static bool group_write(struct qcow2 *q, size_t from, size_t to)
{
	q->commit.pending = (unsigned)(to - from);
	for (size_t i = from; i < to; i++) {
		struct commit_write *w = &q->commit.writes[i];

		w->q = q;
		w->io.done = write_done;
		io_write(&w->io, q->base.loop, q->base.fd, &w->iov, 1, w->offset, w->len);
	}
	return to > from;
}

static void sync_done(struct loop_op *op, int res)
{
	struct qcow2 *q = container_of(op, struct qcow2, commit.op);

	op_done(q, block_synced(&q->base, q->base.fd, res));
}

static void data_sync_done(struct loop_op *op, int res)
{
	struct qcow2 *q = container_of(op, struct qcow2, commit.data_op);

	op_done(q, block_synced(&q->base, q->data_fd, res));
}

/* Start a sync. data: also sync guest data. The data file needs one sync per commit: all data that
 * the waiting flushes and the map entries need was written before the commit began. */
static bool group_sync(struct qcow2 *q, bool data)
{
	struct commit *c = &q->commit;

	data = data && q->external && !c->data_synced;
	c->pending = data ? 2 : 1;
	c->op.done = sync_done;
	block_fdatasync(&q->base, &c->op, q->base.fd);
	if (data) {
		c->data_synced = true;
		c->data_op.done = data_sync_done;
		block_fdatasync(&q->base, &c->data_op, q->data_fd);
	}
	return true;
}

static void header_done(struct io *io, int res)
{
	op_done(container_of(io, struct qcow2, commit.header_io), res);
}

/* Write the moved refcount table's offset into the header. */
static bool header_write(struct qcow2 *q)
{
	struct commit *c = &q->commit;

	store_be64(q->header_piece + QCOW2_AT_REFTABLE_OFFSET, c->writes[c->end_refcounts].offset);
	store_be32(q->header_piece + QCOW2_AT_REFTABLE_CLUSTERS, c->moved_clusters);
	c->pending = 1;
	c->header_iov = (struct iovec){ q->header_piece, q->header_piece_bytes };
	c->header_io.done = header_done;
	io_write(&c->header_io, q->base.loop, q->base.fd, &c->header_iov, 1, 0, q->header_piece_bytes);
	return true;
}

/* Tell the flush that wants to know it that all tables are in the file. */
static void written_report(struct commit *c)
{
	const struct wait *w = c->flushes.head;

	while (w && w != c->watched)
		w = w->next;
	if (!w)
		return;
	c->written(c->watched);
	c->watched = NULL;
}

/* Start the current step. Returns false if the step has nothing to do. */
static bool step_start(struct qcow2 *q)
{
	struct commit *c = &q->commit;
	bool tables = c->end_reftable > c->end_refcounts, maps = c->nwrites > c->end_reftable;
	bool one_group = !tables && !c->barrier;

	switch (c->step) {
	case COMMIT_REFCOUNTS:
		return group_write(q, 0, one_group ? c->nwrites : c->end_refcounts);
	case COMMIT_SYNC_REFCOUNTS:
		return tables && group_sync(q, false);
	case COMMIT_REFTABLE:
		return group_write(q, c->end_refcounts, c->end_reftable);
	case COMMIT_SYNC_REFTABLE:
		return c->moved && group_sync(q, false);
	case COMMIT_HEADER:
		return c->moved && header_write(q);
	case COMMIT_SYNC_TABLES:
		return maps && (c->barrier || tables) && group_sync(q, c->barrier);
	case COMMIT_MAPS:
		return !one_group && group_write(q, c->end_reftable, c->nwrites);
	case COMMIT_SYNC_MAPS:
		if (c->watched)
			written_report(c);
		return (c->flushes.head || c->frees.n) && group_sync(q, c->flushes.head);
	case COMMIT_IDLE:
		break;
	}
	return false;
}

/* After a failure, mark all slices of the commit, the whole L1 and the whole refcount table dirty again. */
static void commit_undo(struct qcow2 *q)
{
	struct commit *c = &q->commit;

	for (size_t i = 0; i < c->nslices; i++)
		if (!c->slices[i]->dropped)
			slice_set_dirty(c->slices[i]);
	for (size_t p = 0; p < q->disk.l1.dirty.nbits; p++)
		bitmap_set(&q->disk.l1.dirty, p);
	for (size_t p = 0; p < q->reftable.dirty.nbits; p++)
		bitmap_set(&q->reftable.dirty, p);
	q->disk.l1.any_dirty = q->disk.l1.n > 0;
	q->reftable.any_dirty = true;
	q->reftable.moved |= c->moved;
	q->need_barrier = true;
	for (size_t i = 0; i < c->frees.n; i++)
		cluster_free_later(q, c->frees.runs[i].cluster, c->frees.runs[i].n);
	free(c->frees.runs);
	c->frees = (struct free_list){ 0 };
}

/* Will a request get the error of a failed commit? A failed task tells only its owner, which does not stop the VM. */
static bool has_request(const struct wait_list *l)
{
	for (const struct wait *w = l->head; w; w = w->next)
		if (!task_owns(w))
			return true;
	return false;
}

static void commit_end(struct qcow2 *q)
{
	struct commit *c = &q->commit;
	struct wait_list flushes, throttled;
	int res = c->res;

	wait_list_init(&flushes);
	wait_list_move(&flushes, &c->flushes);
	wait_list_init(&throttled);
	wait_list_move(&throttled, &c->throttled);
	if (res < 0) {
		log_guest(q->base.name, "cannot write the image's tables: %s", strerror(-res));
		commit_undo(q);
	}
	if (res < 0 && !has_request(&flushes) && !has_request(&throttled) && !c->failing)
		block_report_error(&q->base, res, false, "the image's tables cannot be written");
	c->failing = res < 0;
	for (size_t i = 0; i < c->nslices; i++)
		slice_unpin(c->slices[i]);
	c->nslices = 0;
	free(c->slices);
	free(c->writes);
	free(c->buf);
	c->slices = NULL;
	c->writes = NULL;
	c->buf = NULL;
	c->step = COMMIT_IDLE;
	q->internal--;
	if (c->frees.n) {
		struct free_list l = c->frees;

		c->frees = (struct free_list){ 0 };
		deferred_free_start(q, &l);
	}
	wait_list_wake(&flushes, res);
	wait_list_wake(&throttled, res);
	if (c->next_flushes.head || c->throttled.head)
		commit_start(q);
	else
		commit_note_dirty(q);
}

static void commit_next(struct qcow2 *q)
{
	struct commit *c = &q->commit;

	while (!c->res && c->step < COMMIT_SYNC_MAPS) {
		c->step++;
		if (step_start(q))
			return;
	}
	commit_end(q);
}

/* ---- starting commits ---- */

/* Begin a commit. Runs from the loop, never inside a transaction, because a commit must see complete changes. */
static void commit_begin(struct loop_op *op, int res)
{
	struct qcow2 *q = container_of(op, struct qcow2, commit.start_op);
	struct commit *c = &q->commit;

	(void)res;
	c->scheduled = false;
	if (c->step != COMMIT_IDLE || c->held) {
		q->internal--;
		return; /* commit_end() or header_release() checks again */
	}
	wait_list_move(&c->flushes, &c->next_flushes);
	if (q->timer_armed) {
		loop_timer_disarm(q->timer);
		q->timer_armed = false;
	}
	c->moved_clusters = q->reftable.cap / (q->cluster_bytes / 8);
	c->moved = c->data_synced = false;
	tail_check(q);
	/* Write nothing to a corrupt image: the tables in memory may be wrong. */
	c->res = q->corrupt ? -EIO : commit_collect(q);
	c->step = COMMIT_IDLE;
	commit_next(q);
}

void commit_start(struct qcow2 *q)
{
	struct commit *c = &q->commit;

	if (c->scheduled || c->step != COMMIT_IDLE || c->held)
		return;
	c->scheduled = true;
	q->internal++;
	c->start_op.done = commit_begin;
	loop_nop(q->base.loop, &c->start_op);
}

void commit_flush(struct qcow2 *q, struct wait *w)
{
	wait_list_add(&q->commit.next_flushes, w);
	commit_start(q);
}

static bool commit_overdue(const struct qcow2 *q, unsigned factor)
{
	return q->refs.ndirty + q->l2.ndirty > q->dirty_max * factor ||
	       q->pending_free.n > COMMIT_FREES_MAX * factor;
}

void commit_note_dirty(struct qcow2 *q)
{
	if (!commit_dirty(q) || q->corrupt)
		return;
	if (commit_overdue(q, 1) && !q->commit.res) {
		commit_start(q);
	} else if (!q->timer_armed) {
		q->timer_armed = true;
		loop_timer_arm(q->timer, loop_now_ns() + COMMIT_DELAY_NS);
	}
}

bool commit_throttle(struct qcow2 *q, struct wait *w)
{
	/* Commits continue while a round of frees waits for I/O, and each adds its frees to the next round. */
	if (q->deferred_free.next.n > COMMIT_FREES_MAX * 2) {
		wait_list_add(&q->deferred_free.idle, w);
		return true;
	}
	if (!commit_overdue(q, 2))
		return false;
	wait_list_add(&q->commit.throttled, w);
	commit_start(q);
	return true;
}

static void commit_timer(void *opaque)
{
	struct qcow2 *q = opaque;

	q->timer_armed = false;
	if (commit_dirty(q) && !q->corrupt)
		commit_start(q);
}

int commit_init(struct qcow2 *q)
{
	wait_list_init(&q->commit.flushes);
	wait_list_init(&q->commit.next_flushes);
	wait_list_init(&q->commit.throttled);
	wait_list_init(&q->deferred_free.idle);
	return loop_timer_new(q->base.loop, commit_timer, q, &q->timer);
}

void commit_done(struct qcow2 *q)
{
	loop_timer_free(q->timer);
	free(q->pending_free.runs);
	free(q->commit.frees.runs);
	free(q->deferred_free.list.runs);
	free(q->deferred_free.next.runs);
}
