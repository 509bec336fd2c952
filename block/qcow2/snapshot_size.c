/* Computes a snapshot's own size: the clusters whose only reference is the snapshot's. It walks the
 * snapshot's tables and changes nothing. It skips a table with other users and everything below
 * that table, because the other users use those clusters, too. */
#include "base/bytes.h"
#include "base/err.h"
#include "base/util.h"
#include "block/qcow2/snapshot_impl.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

enum own_phase { OWN_FLUSH, OWN_FREES, OWN_READ, OWN_WALK };

/* A cluster with compressed streams has one reference per stream. All of them may be the
 * snapshot's. */
struct seen {
	uint64_t cluster; /* number of the cluster + 1; 0: empty slot */
	uint64_t times;
};
struct seen_set {
	struct seen *all;
	size_t cap, used; /* cap is a power of two */
	struct budget memory; /* a forged image could name any number of clusters */
};

struct own {
	struct snapshot_op o;
	char id[BLOCK_SNAPSHOT_ID_MAX + 1];
	unsigned changes; /* q->snapshot_changes at the beginning */
	uint64_t target;  /* value of deferred_free.rounds to wait for */
	uint8_t *buf;     /* the L1's content */
	uint32_t n, index, entry;
	uint32_t sub; /* compressed entry at `entry`: number of checked clusters */
	struct seen_set seen;
	uint64_t clusters;
	uint64_t *ret_bytes;
};

/* ---- counting references to clusters with compressed streams ---- */

static struct seen *seen_slot(const struct seen_set *s, uint64_t cluster)
{
	size_t i = (cluster * 0x9e3779b97f4a7c15ULL >> 20) & (s->cap - 1);

	while (s->all[i].cluster && s->all[i].cluster != cluster + 1)
		i = (i + 1) & (s->cap - 1);
	return &s->all[i];
}

/* Returns 0; -ENOMEM; -EDQUOT: the budget does not allow it. */
static int seen_grow(struct seen_set *s)
{
	struct seen_set bigger = {.cap = s->cap ? 2 * s->cap : 1024, .used = s->used};

	/* Both tables exist for a moment. */
	if (!budget_take(&s->memory, bigger.cap * sizeof(*bigger.all)))
		return -EDQUOT;
	bigger.all = calloc(bigger.cap, sizeof(*bigger.all));
	if (!bigger.all)
		return -ENOMEM;
	for (size_t i = 0; i < s->cap; i++)
		if (s->all[i].cluster)
			*seen_slot(&bigger, s->all[i].cluster - 1) = s->all[i];
	free(s->all);
	budget_give(&s->memory, s->cap * sizeof(*s->all));
	bigger.memory = s->memory;
	*s = bigger;
	return 0;
}

static int seen_count(struct seen_set *s, uint64_t cluster, uint64_t *ret_times)
{
	struct seen *slot;

	int r = 2 * s->used >= s->cap ? seen_grow(s) : 0;

	if (r < 0)
		return r;
	slot = seen_slot(s, cluster);
	s->used += !slot->cluster;
	slot->cluster = cluster + 1;
	*ret_times = ++slot->times;
	return 0;
}

static int own_compressed(struct own *o, uint64_t e)
{
	struct qcow2 *q = o->o.task.q;
	uint64_t off, len, last, refs, times = 1;
	int r = 0;

	l2_compressed(q, e, &off, &len);
	last = (off + len - 1) >> q->cluster_bits;
	for (uint64_t c = (off >> q->cluster_bits) + o->sub; c <= last && !r; c++) {
		r = refcount_get(q, c, &o->o.task.wait, &refs);
		if (!r && refs > 1)
			r = seen_count(&o->seen, c, &times);
		if (r == -EDQUOT)
			return qcow2_memory_exceeded(q, &o->o.err);
		if (r < 0)
			return r;
		o->clusters += refs && times == refs;
		times = 1;
		o->sub++;
	}
	o->sub = 0;
	o->entry++;
	return r;
}

/* ---- walking the snapshot's tables ---- */

static int own_plain(struct own *o, struct slice *s, uint32_t end, uint64_t host)
{
	struct qcow2 *q = o->o.task.q;
	uint32_t n = MAX(slice_run(q, s, o->entry, end), 1u);
	uint64_t refs;
	int r = refcount_run(q, host >> q->cluster_bits, n, &o->o.task.wait, &refs, &n);

	if (r < 0)
		return r;
	o->clusters += refs == 1 ? n : 0;
	o->entry += n;
	return 0;
}

/* Handle the entry at o->entry. An invalid entry names no cluster that could be counted. */
static int own_entry(struct own *o, struct slice *s, uint32_t end)
{
	struct qcow2 *q = o->o.task.q;
	struct l2_entry v = l2_get(q, s, (uint64_t)o->entry << q->cluster_bits);
	bool good = !q->external && l2_check(q, v) == 0;

	if (good && (v.e & QCOW2_COMPRESSED))
		return own_compressed(o, v.e);
	if (good && (v.e & QCOW2_OFFSET_MASK))
		return own_plain(o, s, end, v.e & QCOW2_OFFSET_MASK);
	o->entry++;
	return 0;
}

static int own_slice(struct own *o, uint64_t table)
{
	struct qcow2 *q = o->o.task.q;
	uint32_t end = ROUND_DOWN(o->entry, q->slice_entries) + q->slice_entries;
	uint64_t at = table + (uint64_t)o->entry / q->slice_entries * q->slice_bytes;
	struct slice *s;
	int r;

	cache_ahead(&q->l2, at, table + q->cluster_bytes);
	r = cache_get(&q->l2, at, &o->o.task.wait, &s);
	if (r < 0)
		return r;
	slice_pin(s);
	while (!r && o->entry < end)
		r = own_entry(o, s, end);
	slice_unpin(s);
	return r;
}

/* Returns the offset of the current table; 0: there is none, or its offset is invalid. */
static uint64_t own_table(const struct own *o)
{
	const struct qcow2 *q = o->o.task.q;
	uint64_t e = load_be64(o->buf + o->index * 8ULL), table = e & QCOW2_OFFSET_MASK;
	enum meta_kind k = meta_find(&q->meta, table >> q->cluster_bits);

	if ((e & QCOW2_L1_RESERVED) || (table & (q->cluster_bytes - 1)))
		return 0;
	return k == META_NONE || k == META_L2 || k == META_INACTIVE_L2 ? table : 0;
}

static int step_walk(struct own *o)
{
	struct qcow2 *q = o->o.task.q;
	uint64_t table = o->index < o->n ? own_table(o) : 0, refs = 0;
	int r = 0;

	if (o->index == o->n)
		return TASK_DONE;
	if (table && !o->entry) {
		r = refcount_get(q, table >> q->cluster_bits, &o->o.task.wait, &refs);
		if (r < 0)
			return r;
	}
	if (!table || (!o->entry && !o->sub && refs != 1)) {
		o->index++;
		return -EAGAIN;
	}
	r = own_slice(o, table);
	if (r < 0)
		return r;
	if (o->entry == 1u << q->l2_bits) {
		o->clusters++; /* the table itself */
		o->entry = 0;
		o->index++;
	}
	return -EAGAIN;
}

/* ---- waiting before the walk, and running the task ---- */

/* Wait until clusters that the guest has just released are free. */
static int step_frees(struct own *o)
{
	struct qcow2 *q = o->o.task.q;

	if (!o->target)
		o->target = deferred_free_target(q) + 1;
	if (q->deferred_free.rounds + 1 < o->target) {
		wait_list_add(&q->deferred_free.idle, &o->o.task.wait);
		return -EINPROGRESS;
	}
	o->o.phase = OWN_READ;
	return 0;
}

static int step_read(struct own *o)
{
	struct qcow2 *q = o->o.task.q;
	struct qcow2_snapshot_info *s;
	uint64_t bytes, padded;
	int r = snapshots_load(q, &o->o.err);

	if (r < 0)
		return r;
	s = snapshot_find(q, o->id);
	if (!s)
		return err_set(&o->o.err, -ENOENT, ERR_NOT_FOUND,
			"disk %s has no snapshot with the id %s", q->base.name, o->id);
	bytes = s->l1_size * 8ULL;
	padded = MAX(ROUND_UP(bytes, 4096), 4096ULL);
	if (!qcow2_l1_in_file(q->base.fd, &q->h, s))
		return err_set(&o->o.err, -EINVAL, ERR_CORRUPT,
			"disk %s: the entry of snapshot %s is damaged", q->base.name, s->id);
	o->n = s->l1_size;
	o->seen.memory.max_bytes = q->memory.max_bytes;
	o->buf = io_buffer_new(padded);
	if (!o->buf)
		return -ENOMEM;
	o->o.phase = OWN_WALK;
	return task_read(&o->o.task, o->buf, padded, s->l1_offset);
}

static int own_step(struct task *t)
{
	struct own *o = container_of(t, struct own, o.task);

	if (t->q->snapshot_changes != o->changes)
		return err_set(&o->o.err, -ECANCELED, ERR_BUSY,
			"disk %s: another snapshot operation has begun", t->q->base.name);
	if (t->q->corrupt)
		return -EIO;
	switch ((enum own_phase)o->o.phase) {
	case OWN_FLUSH:
		o->o.phase = OWN_FREES;
		return task_flush(t);
	case OWN_FREES:
		return step_frees(o);
	case OWN_READ:
		return step_read(o);
	case OWN_WALK:
		return step_walk(o);
	}
	return TASK_DONE;
}

static void own_end(struct task *t, int res)
{
	struct own *o = container_of(t, struct own, o.task);

	if (!res)
		*o->ret_bytes = o->clusters << t->q->cluster_bits;
	free(o->buf);
	free(o->seen.all);
	snapshot_op_finish(&o->o, res);
	free(o);
}

void qcow2_snapshot_own(
	struct qcow2 *q, const char *id, uint64_t *ret_bytes, struct block_snapshot_op *op)
{
	struct own *o = calloc(1, sizeof(*o));

	if (!o) {
		snapshot_op_fail(q, op, -ENOMEM, NULL);
		return;
	}
	snprintf(o->id, sizeof(o->id), "%s", id);
	o->changes = q->snapshot_changes;
	o->ret_bytes = ret_bytes;
	o->o.op = op;
	o->o.task.step = own_step;
	o->o.task.end = own_end;
	task_start(&o->o.task, q);
}
