/* Deletes a snapshot, or changes its entry. First the dirty bit is set, then the table is replaced,
 * so a crash leaves leaks at most. Then clusters are freed table by table while guest requests
 * continue. Finally COPIED is set again where only the active L1 is left, the file's end is cut,
 * and the dirty bit is cleared. */
#include "base/bytes.h"
#include "base/err.h"
#include "base/util.h"
#include "block/qcow2/snapshot_impl.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum delete_phase {
	DELETE_FIND,
	DELETE_MARK,
	DELETE_TABLE,
	DELETE_RELEASE,
	DELETE_L1,
	DELETE_FREES,
	DELETE_COPIED,
	DELETE_FLUSH,
	DELETE_TAIL,
	DELETE_CLEAN,
};

struct delete {
	struct snapshot_op o;
	bool update; /* true: only change the entry */
	struct block_snapshot_info info;
	struct table_swap swap;
	struct contig l1;
	uint64_t *entries; /* of the snapshot's L1: as in the file, then offsets */
	uint32_t n;
	struct release release;
	struct recopy recopy;
	struct tail_trim trim;
	struct snapshot_mark mark;
	uint64_t target;
	int res; /* the reason why replacing the table failed */
};

/* ---- finding and changing the entry ---- */

static int entry_find(struct delete *d, size_t *ret_i)
{
	struct qcow2 *q = d->o.task.q;
	int r = snapshots_load(q, &d->o.err);

	if (r < 0)
		return r;
	for (size_t i = 0; i < q->nsnapshots; i++)
		if (!strcmp(q->snapshots[i].id, d->info.id)) {
			*ret_i = i;
			return table_swap_init(&d->swap, q);
		}
	return err_set(&d->o.err, -ENOENT, ERR_NOT_FOUND, "disk %s has no snapshot with the id %s",
		q->base.name, d->info.id);
}

static int update_entry(struct delete *d, size_t i)
{
	struct qcow2_snapshot_info *s = &d->swap.list[i];
	char *name;

	/* Other programs allow two snapshots of one name. Such a snapshot may keep its name. */
	for (size_t k = 0; k < d->swap.n && strcmp(s->name, d->info.name); k++)
		if (!strcmp(d->swap.list[k].name, d->info.name))
			return err_set(&d->o.err, -EEXIST, ERR_EXISTS, "disk %s already has a snapshot '%s'",
				d->o.task.q->base.name, d->info.name);
	name = strdup(d->info.name);
	if (!name)
		return -ENOMEM;
	free(s->name);
	s->name = name;
	s->name_len = (uint16_t)strlen(name);
	return snapshot_entry_extra(s, s->has_icount ? s->icount : UINT64_MAX, d->info.extra,
		d->info.extra_bytes);
}

static int delete_entry(struct delete *d, size_t i)
{
	struct qcow2 *q = d->o.task.q;
	struct qcow2_snapshot_info *s = &d->swap.list[i];
	uint64_t bytes = s->l1_size * 8ULL, padded = MAX(ROUND_UP(bytes, 4096), 4096ULL);

	if (!qcow2_l1_in_file(q->base.fd, &q->h, s))
		return err_set(&d->o.err, -EINVAL, ERR_CORRUPT, "disk %s: the entry of snapshot %s is damaged",
			q->base.name, s->id);
	if (snapshot_vmstate_drop(q, s->id) < 0)
		return err_set(&d->o.err, -EBUSY, ERR_BUSY, "disk %s: the VM state of snapshot %s is being read",
			q->base.name, s->id);
	d->n = s->l1_size;
	d->l1 = (struct contig){ .first = s->l1_offset >> q->cluster_bits,
		.n = (uint32_t)DIV_ROUND_UP(bytes, (uint64_t)q->cluster_bytes) };
	for (uint32_t c = 0; c < d->l1.n; c++)
		if (meta_find(&q->meta, d->l1.first + c) == META_CONFLICT)
			return qcow2_corrupt(q, "the L1 table of snapshot %s is also used as another table", s->id);
	d->entries = io_buffer_new(padded);
	if (!d->entries)
		return -ENOMEM;
	qcow2_pin_invalidate(q, s);
	snapshot_entry_done(s);
	memmove(s, s + 1, (d->swap.n - i - 1) * sizeof(*s));
	d->swap.n--;
	return task_read(&d->o.task, d->entries, padded, d->l1.first << q->cluster_bits);
}

static int step_find(struct delete *d)
{
	struct task *t = &d->o.task;
	size_t i = 0;
	int r;

	if (gate_wait(t->q, &t->wait))
		return -EINPROGRESS;
	r = entry_find(d, &i);
	if (r < 0)
		return r;
	d->o.phase = DELETE_MARK;
	return d->update ? update_entry(d, i) : delete_entry(d, i);
}

/* ---- releasing the snapshot's clusters ---- */

static void release_begin(struct delete *d)
{
	struct qcow2 *q = d->o.task.q;

	for (uint32_t i = 0; i < d->n; i++) {
		uint64_t e = be64toh(d->entries[i]);

		/* An invalid entry names nothing that could be freed. */
		d->entries[i] = e & QCOW2_L1_RESERVED ? 0 : e & QCOW2_OFFSET_MASK;
	}
	(void)contig_meta(q, &d->l1, META_NONE);
	d->release = (struct release){ .entries = d->entries, .n = d->n };
	d->o.phase = DELETE_RELEASE;
}

static int mark_failed(struct delete *d, int res)
{
	snapshot_mark_failed(&d->mark, d->o.task.q);
	return res;
}

static int step_mark(struct delete *d)
{
	int r = snapshot_mark_put(&d->mark, &d->o.task, true);

	if (!r)
		d->o.phase = DELETE_TABLE;
	return r < 0 && r != -EINPROGRESS ? mark_failed(d, r) : r;
}

/* Handle a failed replacement of the table: keep the snapshot's clusters, and free only the new table's. If the header
 * in the file may name either table, free nothing. */
static int table_failed(struct delete *d, int res)
{
	if (table_swap_retry(&d->swap, d->o.task.q, res))
		return 0;
	d->res = table_swap_failed(&d->swap, d->o.task.q, res);
	d->n = 0;
	d->o.phase = DELETE_L1;
	d->o.op->unknown = d->swap.unknown;
	return d->swap.unknown ? d->res : 0;
}

static int step_table(struct delete *d)
{
	int r = table_swap_step(&d->swap, &d->o.task);

	if (r < 0 && r != -EAGAIN && r != -EINPROGRESS)
		return table_failed(d, r);
	if (r != TASK_DONE)
		return r;
	d->o.op->unknown = true; /* if the remaining work fails */
	if (d->update)
		d->o.phase = DELETE_L1; /* frees the old table */
	else
		release_begin(d);
	return 0;
}

static int step_release(struct delete *d)
{
	struct qcow2 *q = d->o.task.q;
	int r = release_step(q, &d->release, &d->o.task.wait);

	if (d->o.op->progress && r == -EAGAIN)
		d->o.op->progress(d->o.op, d->release.index, d->n * 2ULL);
	if (r)
		return r;
	contig_release(q, &d->l1);
	d->o.phase = DELETE_L1;
	return 0;
}

static int step_frees(struct delete *d)
{
	struct qcow2 *q = d->o.task.q;

	if (!d->target)
		d->target = deferred_free_target(q) + 1;
	if (q->deferred_free.rounds + 1 < d->target) {
		wait_list_add(&q->deferred_free.idle, &d->o.task.wait);
		return -EINPROGRESS;
	}
	d->recopy = (struct recopy){ .touched = d->entries, .n = d->n };
	d->o.phase = DELETE_COPIED;
	return 0;
}

static int step_copied(struct delete *d)
{
	int r = recopy_step(d->o.task.q, &d->recopy, &d->o.task.wait);

	if (d->o.op->progress && r == -EAGAIN)
		d->o.op->progress(d->o.op, (uint64_t)d->n + d->recopy.index, d->n * 2ULL);
	if (!r)
		d->o.phase = DELETE_FLUSH;
	return r;
}

/* Everything is durable: clear the dirty bit. */
static int step_clean(struct delete *d)
{
	int r = snapshot_mark_put(&d->mark, &d->o.task, false);

	if (r < 0 && r != -EINPROGRESS)
		r = mark_failed(d, 0); /* the bit stays set needlessly, but the work is done */
	return r ? r : d->res < 0 ? d->res : TASK_DONE;
}

static int delete_step(struct task *t)
{
	struct delete *d = container_of(t, struct delete, o.task);
	int r;

	switch ((enum delete_phase)d->o.phase) {
	case DELETE_FIND:
		return step_find(d);
	case DELETE_MARK:
		return step_mark(d);
	case DELETE_TABLE:
		return step_table(d);
	case DELETE_RELEASE:
		return step_release(d);
	case DELETE_L1:
		d->o.phase = DELETE_FREES;
		return task_flush(t);
	case DELETE_FREES:
		return step_frees(d);
	case DELETE_COPIED:
		return step_copied(d);
	case DELETE_FLUSH:
		d->o.phase = d->update ? DELETE_CLEAN : DELETE_TAIL;
		return task_flush(t);
	case DELETE_TAIL:
		r = tail_trim_step(t->q, &d->trim, &t->wait);
		if (!r)
			d->o.phase = DELETE_CLEAN;
		return r;
	case DELETE_CLEAN:
		return step_clean(d);
	}
	return TASK_DONE;
}

static int delete_failed(struct task *t, int res)
{
	struct delete *d = container_of(t, struct delete, o.task);

	if (d->o.phase == DELETE_MARK)
		return mark_failed(d, res);
	if (d->o.phase == DELETE_TABLE)
		return table_failed(d, res);
	if (d->o.phase == DELETE_CLEAN)
		res = mark_failed(d, 0);
	return d->res < 0 ? d->res : res ? res : TASK_DONE;
}

static void delete_end(struct task *t, int res)
{
	struct delete *d = container_of(t, struct delete, o.task);

	table_swap_done(&d->swap);
	free(d->entries);
	snapshot_op_over(t->q);
	snapshot_op_finish(&d->o, res);
	free(d);
}

static void delete_start(struct qcow2 *q, const struct block_snapshot_info *info, const char *id,
	struct block_snapshot_op *op)
{
	struct delete *d = calloc(1, sizeof(*d));

	if (!d) {
		snapshot_op_over(q);
		snapshot_op_fail(q, op, -ENOMEM, NULL);
		return;
	}
	d->update = info != NULL;
	if (info)
		d->info = *info;
	snprintf(d->info.id, sizeof(d->info.id), "%s", id);
	d->o.op = op;
	d->o.task.step = delete_step;
	d->o.task.failed = delete_failed;
	d->o.task.end = delete_end;
	task_start(&d->o.task, q);
}

void qcow2_snapshot_delete(struct qcow2 *q, const char *id, struct block_snapshot_op *op)
{
	delete_start(q, NULL, id, op);
}

void qcow2_snapshot_update(struct qcow2 *q, const struct block_snapshot_info *info,
	struct block_snapshot_op *op)
{
	char id[BLOCK_SNAPSHOT_ID_MAX + 1];

	snprintf(id, sizeof(id), "%s", info->id);
	delete_start(q, info, id, op);
}
