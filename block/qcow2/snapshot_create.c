/* Creates a snapshot. qcow2_snapshot_freeze() does no I/O; the guest's later writes do not change the snapshot. A task
 * increments refcounts in the background and then waits for commit or abort. qcow2_snapshot_begin() is open and freeze
 * in one call.
 *
 *    open     the VM state may be written; the disk is not frozen yet
 *    freeze   copy the L1, clear COPIED in the active L1 (in memory only)
 *    mark     set the dirty bit, by a task of its own beside the next steps; commit.c writes no table before that
 *    load     for a copy of another snapshot, instead of freeze: read that snapshot's L1. Its tables and clusters stay
 *             while they are counted, because the other snapshot has them and cannot be deleted meanwhile
 *    count    increment refcounts, clear COPIED below    snapshot_refcount.c
 *    commit   write the snapshot's L1 and the new table, wait for the mark, flush, header, sync
 *    abort    decrement the counted refcounts, set COPIED again
 *    clean    clear the dirty bit when everything is durable */
#include "base/bytes.h"
#include "base/util.h"
#include "block/qcow2/snapshot_impl.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum create_phase {
	CREATE_MARK,
	CREATE_LOAD,
	CREATE_LOADED,
	CREATE_COUNT,
	CREATE_PARKED,
	CREATE_PREPARE,
	CREATE_L1_PLACE,
	CREATE_L1_WRITE,
	CREATE_TABLE,
	/* Phases of an abort. A commit ends with those from CREATE_RELEASE_FLUSH on, except CREATE_COPIED. */
	CREATE_STOP,
	CREATE_RELEASE_DISK,
	CREATE_RELEASE_VM,
	/* Wait until the released clusters, including those of the old snapshot table, may be
	 * allocated again. */
	CREATE_RELEASE_FLUSH,
	CREATE_RELEASE_FREES,
	CREATE_COPIED,
	CREATE_CLEAN_FLUSH,
	CREATE_CLEAN,
};

struct block_snapshot {
	struct task task, marking; /* marking: sets the dirty bit */
	unsigned beside; /* work in flight in addition to the task: the mark, and the write of the L1 */
	bool waits_for_beside;
	int beside_res;
	struct qcow2 *q;
	enum create_phase phase;
	struct counter frozen;
	struct map vm;
	struct block_snapshot_op *op; /* NULL: neither commit nor abort was called yet */
	bool commit, refused;
	bool is_copy; /* the new snapshot is a copy of the snapshot whose L1 has from_n entries at from_offset */
	uint64_t from_offset;
	uint32_t from_n;
	bool stands; /* the header names the snapshot */
	struct snapshot_mark mark;
	int res; /* reason of the abort */
	struct err err;
	struct qcow2_snapshot_info entry; /* owned until the table has it */
	struct block_snapshot_info info;
	struct contig l1_place;
	uint8_t *l1_buf;
	struct io l1_io;
	struct iovec l1_iov;
	struct table_swap swap;
	bool is_first; /* the image has no older snapshot table, whose clusters would have to be freed */
	struct release release;
	struct recopy recopy;
	uint64_t target;
	uint32_t next; /* the next table to count */
	uint64_t l1_changes; /* of the active L1, when the disk was frozen */
	bool is_pin; /* of the frozen disk: pin describes it */
	struct qcow2_pin pin;
};

struct map *qcow2_snapshot_vmstate_map(struct block_snapshot *s)
{
	return &s->vm;
}

struct qcow2 *qcow2_snapshot_q(struct block_snapshot *s)
{
	return s->q;
}

/* ---- opening and freezing ---- */

static int open_check(struct qcow2 *q, struct err *e)
{
	const char *name = q->base.name;

	if (q->base.info.read_only)
		return err_set(e, -EROFS, ERR_INVALID, "disk %s is read-only", name);
	if (q->corrupt)
		return err_set(e, -EIO, ERR_CORRUPT, "disk %s: its image is corrupt", name);
	if (q->h.refcount_order == 0)
		return err_set(e, -ENOTSUP, ERR_UNSUPPORTED, "disk %s: the image's refcounts have 1 bit, "
			"which is too few for snapshots; widen them with `cairn-img amend -o refcount_bits=16`", name);
	if (q->snapshot_busy)
		return err_set(e, -EBUSY, ERR_BUSY, "disk %s: another snapshot operation is running", name);
	if (q->h.nb_snapshots >= QCOW2_SNAPSHOTS_MAX)
		return err_set(e, -EFBIG, ERR_UNSUPPORTED, "disk %s has %u snapshots, the maximum for an "
			"image; delete one first", name, q->h.nb_snapshots);
	return 0;
}

/* Clear COPIED in the first entries of the active L1, those of the disk. Tables behind them (a VM state that
 * QEMU left there) are not counted, so they stay unshared. */
static void frozen_uncopy(struct block_snapshot *s)
{
	struct qcow2 *q = s->q;
	struct table *l1 = &q->disk.l1;

	for (uint32_t i = 0; i < s->frozen.n; i++)
		if (l1->entries[i] & QCOW2_COPIED)
			table_set(q, l1, i, l1->entries[i] & ~QCOW2_COPIED);
	s->l1_changes = q->l1_changes;
}

static int count_before_own(struct qcow2 *q, uint32_t index, struct wait *w);
static int create_step(struct task *t);
static int create_failed(struct task *t, int res);
static void create_end(struct task *t, int res);

int qcow2_snapshot_open(struct qcow2 *q, struct block_snapshot **ret_s, struct err *e)
{
	struct block_snapshot *s;
	int r = open_check(q, e);

	if (r < 0)
		return r;
	s = calloc(1, sizeof(*s));
	if (!s)
		return err_set_errno(e, -ENOMEM, "disk %s", q->base.name);
	s->q = q;
	s->vm.vm = true;
	s->entry.disk_bytes = q->h.size_bytes;
	q->creating = s;
	q->before_own = count_before_own;
	q->snapshot_busy = q->snapshot_held = true;
	q->snapshot_changes++;
	/* From here on, sharing VM state increments refcounts, and so does count_before_own() once the disk
	 * is frozen. The file may contain these refcounts only once it has the dirty bit, so commit.c must not
	 * write tables before. */
	q->commit.held = q->h.version >= 3;
	s->task = (struct task){ .step = create_step, .failed = create_failed, .end = create_end };
	task_start(&s->task, q);
	*ret_s = s;
	return 0;
}

int qcow2_snapshot_freeze(struct block_snapshot *s, struct err *e)
{
	struct qcow2 *q = s->q;
	uint64_t disk = qcow2_l1_entries(q->h.size_bytes, q->cluster_bits, q->ext);

	if (s->frozen.failed)
		return err_set_errno(e, s->frozen.failed, "disk %s: cannot make the snapshot", q->base.name);
	if (counter_init(&s->frozen, q, q->disk.l1.entries, (uint32_t)disk) < 0) {
		s->frozen.n = 0;
		return err_set_errno(e, -ENOMEM, "disk %s", q->base.name);
	}
	frozen_uncopy(s);
	if (s->phase == CREATE_PARKED) {
		s->phase = CREATE_COUNT;
		task_resume(&s->task);
	}
	return 0;
}

int qcow2_snapshot_begin(struct qcow2 *q, struct block_snapshot **ret_s, struct err *e)
{
	uint64_t disk = qcow2_l1_entries(q->h.size_bytes, q->cluster_bits, q->ext);
	struct counter frozen;
	int r;

	/* After qcow2_snapshot_open(), a failure would need an abort, so allocate first. */
	if (counter_init(&frozen, q, q->disk.l1.entries, (uint32_t)disk) < 0)
		return err_set_errno(e, -ENOMEM, "disk %s", q->base.name);
	r = qcow2_snapshot_open(q, ret_s, e);
	if (r < 0) {
		counter_done(&frozen);
		return r;
	}
	(*ret_s)->frozen = frozen;
	frozen_uncopy(*ret_s);
	return 0;
}

/* Count a table before the guest's write copies it; see struct qcow2. */
static int count_before_own(struct qcow2 *q, uint32_t index, struct wait *w)
{
	struct counter *c = &q->creating->frozen;

	/* After a failure or an abort, no further table needs a count: the abort decrements only
	 * the counted refcounts. */
	if (index >= c->n || c->failed || q->creating->phase >= CREATE_STOP)
		return 0;
	return counter_count(c, index, w) == -EINPROGRESS ? -EINPROGRESS : 0;
}

/* ---- counting references ---- */

static void beside_end(struct block_snapshot *s, int res)
{
	if (res < 0 && !s->beside_res)
		s->beside_res = res;
	if (--s->beside || !s->waits_for_beside)
		return;
	s->waits_for_beside = false;
	task_resume(&s->task);
}

/* Returns whether other work is in flight; the task then continues at its end. */
static bool beside_wait(struct block_snapshot *s)
{
	s->waits_for_beside = s->beside > 0;
	return s->beside > 0;
}

static int mark_step(struct task *t)
{
	struct block_snapshot *s = container_of(t, struct block_snapshot, marking);
	int r;

	if (gate_wait(s->q, &t->wait))
		return -EINPROGRESS;
	r = snapshot_mark_put(&s->mark, t, true);
	return r ? r : TASK_DONE;
}

static void mark_end(struct task *t, int res)
{
	struct block_snapshot *s = container_of(t, struct block_snapshot, marking);

	if (res < 0) {
		snapshot_mark_failed(&s->mark, s->q);
		s->frozen.failed = res;
	}
	beside_end(s, res);
}

static int step_mark(struct block_snapshot *s)
{
	s->beside++;
	s->marking = (struct task){ .step = mark_step, .end = mark_end };
	task_start(&s->marking, s->q);
	s->phase = s->is_copy ? CREATE_LOAD : CREATE_COUNT;
	return 0;
}

static int step_load(struct block_snapshot *s)
{
	uint64_t bytes = ROUND_UP(MAX(s->from_n, 1u) * 8ULL, 4096);

	s->l1_buf = io_buffer_new(bytes);
	if (!s->l1_buf)
		return -ENOMEM;
	s->phase = CREATE_LOADED;
	return task_read(&s->task, s->l1_buf, bytes, s->from_offset);
}

static int step_loaded(struct block_snapshot *s)
{
	uint64_t *entries = (uint64_t *)(void *)s->l1_buf;
	int r = s->frozen.failed; /* counter_borrow() clears it */

	if (!r)
		r = snapshot_l1_take(s->q, entries, s->from_n, &s->err);
	if (!r)
		r = counter_borrow(&s->frozen, s->q, entries, s->from_n);
	if (r < 0) {
		s->frozen.n = 0;
	} else {
		s->frozen.own = entries;
		s->l1_buf = NULL;
	}
	s->phase = CREATE_COUNT;
	return r;
}

static int create_give_up(struct block_snapshot *s, int res)
{
	if (!s->res) {
		s->res = res;
		snapshot_refcount_full(s->q, res, &s->err);
		if (!*s->err.msg)
			err_set_errno(&s->err, res, "disk %s: cannot make the snapshot", s->q->base.name);
	}
	s->phase = CREATE_STOP;
	return 0;
}

static void create_progress(struct block_snapshot *s, uint64_t done, uint64_t total)
{
	if (s->op && s->op->progress)
		s->op->progress(s->op, done, total);
}

static int step_count(struct block_snapshot *s)
{
	struct counter *c = &s->frozen;
	int r;

	if (s->op && !s->commit)
		return create_give_up(s, -ECANCELED);
	if (gate_wait(s->q, &s->task.wait))
		return -EINPROGRESS;
	while (s->next < c->n && (!c->entries[s->next] || c->state[s->next] == COUNT_DONE))
		s->next++;
	if (s->next == c->n) {
		s->phase = CREATE_PARKED;
		return 0;
	}
	create_progress(s, s->next, c->n);
	r = counter_count(c, s->next, &s->task.wait);
	if (r < 0 && r != -EINPROGRESS) {
		c->failed = r;
		s->phase = CREATE_PARKED;
		return 0;
	}
	return r;
}

static int step_parked(struct block_snapshot *s)
{
	if (!s->op)
		return -EINPROGRESS; /* the task waits for commit or abort */
	if (!s->commit)
		return create_give_up(s, -ECANCELED);
	if (s->frozen.failed)
		return create_give_up(s, s->frozen.failed);
	s->phase = CREATE_PREPARE;
	return 0;
}

/* ---- writing the snapshot's tables ---- */

/* Set the id to the highest one plus one, so that no existing snapshot of Cairn names it as its parent. Fails if
 * another snapshot has the name. An id that fits no uint64_t has the value UINT64_MAX here and in the tree, so a new
 * snapshot may not get that one. */
static int prepare_id(struct block_snapshot *s)
{
	struct qcow2 *q = s->q;
	unsigned long long max = 0;
	char id[32];

	for (size_t i = 0; i < q->nsnapshots; i++) {
		unsigned long long v = strtoull(q->snapshots[i].id, NULL, 10);

		if (v > max && v < UINT64_MAX)
			max = v;
		if (!strcmp(q->snapshots[i].name, s->info.name))
			return err_set(&s->err, -EEXIST, ERR_EXISTS, "disk %s already has a snapshot '%s'",
				q->base.name, s->info.name);
	}
	if (max + 1 == UINT64_MAX)
		return err_set(&s->err, -EOVERFLOW, ERR_UNSUPPORTED, "disk %s has a snapshot with the id %llu, so there is no "
			"higher one for another snapshot; delete that snapshot first", q->base.name, max);
	s->entry.id_len = (uint16_t)snprintf(id, sizeof(id), "%llu", max + 1);
	s->entry.id = strdup(id);
	snprintf(s->op->id, sizeof(s->op->id), "%s", id);
	return s->entry.id ? 0 : -ENOMEM;
}

static int prepare_l1(struct block_snapshot *s)
{
	struct qcow2 *q = s->q;
	uint64_t n = (uint64_t)s->frozen.n + s->vm.l1.n, bytes;

	n = MAX(n, (uint64_t)1);
	bytes = ROUND_UP(n * 8, q->cluster_bytes);
	if (n * 8 > QCOW2_L1_BYTES_MAX)
		return -EFBIG;
	s->l1_buf = io_buffer_new(ROUND_UP(bytes, 4096));
	if (!s->l1_buf)
		return -ENOMEM;
	memset(s->l1_buf, 0, bytes);
	for (uint32_t i = 0; i < s->frozen.n; i++)
		store_be64(s->l1_buf + i * 8ULL, s->frozen.entries[i]);
	for (uint32_t i = 0; i < s->vm.l1.n; i++)
		store_be64(s->l1_buf + (s->frozen.n + (uint64_t)i) * 8,
			s->vm.l1.entries[i] & QCOW2_OFFSET_MASK);
	s->entry.l1_size = (uint32_t)n;
	return 0;
}

static int step_prepare(struct block_snapshot *s)
{
	struct qcow2_snapshot_info *en = &s->entry;
	const struct block_snapshot_info *info = &s->info;
	int r = snapshots_load(s->q, &s->err);

	if (!r)
		r = prepare_id(s);
	if (!r)
		r = prepare_l1(s);
	if (r < 0)
		return r;
	en->name = strdup(info->name);
	en->name_len = (uint16_t)strlen(info->name);
	en->sec = info->sec;
	en->nsec = info->nsec;
	en->vm_clock_ns = info->vm_clock_ns;
	en->vm_state_bytes = info->vm_state_bytes;
	if (!en->name || snapshot_entry_extra(en, UINT64_MAX, info->extra, info->extra_bytes) < 0)
		return -ENOMEM;
	s->phase = CREATE_L1_PLACE;
	return 0;
}

static uint64_t l1_bytes(const struct block_snapshot *s)
{
	return ROUND_UP(s->entry.l1_size * 8ULL, s->q->cluster_bytes);
}

static void place_report(struct block_snapshot *s)
{
	bool is_pin = qcow2_pin_describe(&s->swap.list[s->swap.n - 1], s->q->cluster_bits, s->l1_buf, &s->pin);

	s->is_pin = is_pin && !s->is_copy;
	if (s->op->placed && is_pin)
		s->op->placed(s->op, &s->pin);
}

static int step_l1_place(struct block_snapshot *s)
{
	struct qcow2 *q = s->q;
	int r = contig_alloc(q, (uint32_t)(l1_bytes(s) >> q->cluster_bits), &s->l1_place,
		&s->task.wait);

	if (!r)
		r = contig_meta(q, &s->l1_place, META_INACTIVE_L1);
	if (!r)
		r = table_swap_init(&s->swap, q);
	if (r < 0)
		return r;
	s->is_first = !q->nsnapshots;
	s->entry.l1_offset = s->l1_place.first << q->cluster_bits;
	s->swap.list[s->swap.n++] = s->entry;
	s->entry = (struct qcow2_snapshot_info){ .l1_size = s->entry.l1_size };
	place_report(s);
	s->phase = CREATE_L1_WRITE;
	return 0;
}

static void l1_written(struct io *io, int res)
{
	beside_end(container_of(io, struct block_snapshot, l1_io), res);
}

/* Start to write the L1. The table, which is written meanwhile, is flushed together with it. */
static int step_l1_write(struct block_snapshot *s)
{
	struct qcow2 *q = s->q;

	s->beside++;
	s->l1_iov = (struct iovec){ s->l1_buf, l1_bytes(s) };
	s->l1_io.done = l1_written;
	io_write(&s->l1_io, q->base.loop, q->base.fd, &s->l1_iov, 1, s->l1_place.first << q->cluster_bits, l1_bytes(s));
	s->phase = CREATE_TABLE;
	return 0;
}

/* Change the mark of the VM state's tables to META_INACTIVE_L2. */
static void vm_tables_given(struct block_snapshot *s)
{
	struct qcow2 *q = s->q;

	for (uint32_t i = 0; i < s->vm.l1.n; i++) {
		uint64_t c = (s->vm.l1.entries[i] & QCOW2_OFFSET_MASK) >> q->cluster_bits;

		if (!c)
			continue;
		meta_remove(&q->meta, c);
		(void)meta_add(&q->meta, c, META_INACTIVE_L2);
	}
}

/* The L1 was written before the flush, and the flush has written the tables below it. */
static void tables_written(struct wait *w)
{
	struct block_snapshot *s = container_of(container_of(w, struct task, wait), struct block_snapshot, task);

	s->op->readable(s->op);
}

static int step_table(struct block_snapshot *s)
{
	struct commit *c = &s->q->commit;
	int r;

	/* The flush writes refcounts, so the file must have the mark, and it must cover the write of the L1. */
	if (table_swap_is_written(&s->swap) && beside_wait(s))
		return -EINPROGRESS;
	c->watched = table_swap_is_written(&s->swap) && s->op->readable ? &s->task.wait : NULL;
	c->written = tables_written;
	r = s->beside_res && !s->beside ? s->beside_res : table_swap_step(&s->swap, &s->task);
	if (r < 0 && r != -EAGAIN && r != -EINPROGRESS)
		return table_swap_failed(&s->swap, s->q, r);
	if (r != TASK_DONE)
		return r;
	vm_tables_given(s);
	s->stands = true;
	if (s->is_pin)
		qcow2_pin_note(s->q, &s->pin, s->l1_changes);
	if (s->op->stands)
		s->op->stands(s->op);
	/* The flush before the header made everything durable. */
	s->phase = s->is_first ? CREATE_CLEAN : CREATE_RELEASE_FLUSH;
	return s->q->h.version < 3 ? TASK_DONE : 0;
}

/* ---- aborting, and driving the task ---- */

static int step_stop(struct block_snapshot *s)
{
	struct qcow2 *q = s->q;

	if (beside_wait(s) || counter_busy(&s->frozen, &s->task.wait))
		return -EINPROGRESS;
	(void)contig_meta(q, &s->l1_place, META_NONE);
	contig_release(q, &s->l1_place);
	s->release = (struct release){ .entries = s->frozen.entries, .n = s->frozen.n,
		.counted = &s->frozen };
	s->phase = CREATE_RELEASE_DISK;
	return 0;
}

static int step_release(struct block_snapshot *s)
{
	int r = release_step(s->q, &s->release, &s->task.wait);

	if (r)
		return r;
	if (s->phase == CREATE_RELEASE_VM) {
		s->phase = CREATE_RELEASE_FLUSH;
		return 0;
	}
	vm_tables_given(s); /* because deferred_free_check() refuses to free tables marked META_L2 */
	s->release = (struct release){ .entries = s->vm.l1.entries, .n = s->vm.l1.n, .unnamed = true };
	s->phase = CREATE_RELEASE_VM;
	return 0;
}

static int step_frees(struct block_snapshot *s)
{
	struct qcow2 *q = s->q;

	if (!s->target)
		s->target = deferred_free_target(q) + 1;
	if (q->deferred_free.rounds + 1 < s->target) {
		wait_list_add(&q->deferred_free.idle, &s->task.wait);
		return -EINPROGRESS;
	}
	s->recopy = (struct recopy){ .touched = s->frozen.entries, .n = s->frozen.n };
	s->phase = s->stands ? CREATE_CLEAN_FLUSH : CREATE_COPIED;
	return 0;
}

/* End the task after a failure that came when the snapshot was committed or aborted already. The dirty bit stays set,
 * so the next open of the image for writing repairs the rest. */
static int clean_failed(struct block_snapshot *s)
{
	if (s->phase == CREATE_CLEAN)
		snapshot_mark_failed(&s->mark, s->q);
	return TASK_DONE;
}

static int step_clean(struct block_snapshot *s)
{
	int r = snapshot_mark_put(&s->mark, &s->task, false);

	if (r < 0 && r != -EINPROGRESS)
		return clean_failed(s);
	return r ? r : TASK_DONE;
}

static int create_step(struct task *t)
{
	struct block_snapshot *s = container_of(t, struct block_snapshot, task);
	int r = 0;

	switch (s->phase) {
	case CREATE_MARK:
		return step_mark(s);
	case CREATE_LOAD:
		r = step_load(s);
		break;
	case CREATE_LOADED:
		r = step_loaded(s);
		break;
	case CREATE_COUNT:
		return step_count(s);
	case CREATE_PARKED:
		return step_parked(s);
	case CREATE_PREPARE:
		r = step_prepare(s);
		break;
	case CREATE_L1_PLACE:
		r = step_l1_place(s);
		break;
	case CREATE_L1_WRITE:
		return step_l1_write(s);
	case CREATE_TABLE:
		r = step_table(s);
		break;
	case CREATE_STOP:
		return step_stop(s);
	case CREATE_RELEASE_DISK:
	case CREATE_RELEASE_VM:
		return step_release(s);
	case CREATE_RELEASE_FLUSH:
		s->phase = CREATE_RELEASE_FREES;
		return task_flush(t);
	case CREATE_RELEASE_FREES:
		return step_frees(s);
	case CREATE_COPIED:
		r = recopy_step(s->q, &s->recopy, &t->wait);
		if (!r)
			s->phase = CREATE_CLEAN_FLUSH;
		return r;
	case CREATE_CLEAN_FLUSH:
		s->phase = CREATE_CLEAN;
		return s->q->h.version < 3 ? TASK_DONE : task_flush(t);
	case CREATE_CLEAN:
		return step_clean(s);
	}
	if (r < 0 && r != -EAGAIN && r != -EINPROGRESS && !s->swap.unknown)
		return create_give_up(s, r);
	return r;
}

/* Handle a failed wait. Before the header names the snapshot, abort. */
static int create_failed(struct task *t, int res)
{
	struct block_snapshot *s = container_of(t, struct block_snapshot, task);

	if (s->stands || s->phase >= CREATE_CLEAN_FLUSH)
		return clean_failed(s);
	if (s->phase == CREATE_TABLE) {
		table_swap_failed(&s->swap, s->q, res);
		if (s->swap.unknown)
			return res;
	}
	if (s->phase >= CREATE_STOP)
		return res; /* clusters leak */
	create_give_up(s, res);
	return 0;
}

static void create_free(struct block_snapshot *s)
{
	counter_done(&s->frozen);
	free(s->vm.l1.entries);
	bitmap_done(&s->vm.l1.dirty);
	snapshot_entry_done(&s->entry);
	table_swap_done(&s->swap);
	free(s->l1_buf);
	free(s);
}

static void create_end(struct task *t, int res)
{
	struct block_snapshot *s = container_of(t, struct block_snapshot, task);
	struct block_snapshot_op *op = s->op;
	struct qcow2 *q = s->q;
	struct err e = s->err;

	if (s->res && (s->commit || s->refused))
		res = s->res;
	else if (res < 0 && (!*e.msg || !s->commit))
		err_set_errno(&e, res, "disk %s: snapshot", q->base.name);
	q->creating = NULL;
	q->commit.watched = NULL;
	q->before_own = NULL;
	op->unknown = s->swap.unknown;
	create_free(s);
	snapshot_op_over(q);
	op->done(op, res, &e);
}

static void create_continue(struct block_snapshot *s, struct block_snapshot_op *op, bool commit)
{
	s->op = op;
	s->commit = commit;
	s->q->snapshot_held = false;
	if (s->phase == CREATE_PARKED)
		task_resume(&s->task);
}

void qcow2_snapshot_commit(struct block_snapshot *s, const struct block_snapshot_info *info,
	struct block_snapshot_op *op)
{
	s->info = *info;
	create_continue(s, op, true);
}

void qcow2_snapshot_copy(struct qcow2 *q, const char *id, const struct block_snapshot_info *info,
	struct block_snapshot_op *op)
{
	const struct qcow2_snapshot_info *from;
	struct block_snapshot *s;
	struct err e = { 0 };
	int r = snapshots_load(q, &e);

	from = r < 0 ? NULL : snapshot_find(q, id);
	if (!r && !from)
		r = err_set(&e, -ENOENT, ERR_NOT_FOUND, "disk %s has no snapshot with the id %s", q->base.name, id);
	if (!r && !qcow2_l1_is_valid(q->base.fd, &q->h, from))
		r = err_set(&e, -EINVAL, ERR_CORRUPT, "disk %s: the entry of snapshot %s is damaged", q->base.name, id);
	if (!r)
		r = qcow2_snapshot_open(q, &s, &e);
	if (r < 0) {
		snapshot_op_fail(q, op, r, &e);
		return;
	}
	s->is_copy = true;
	s->from_offset = from->l1_offset;
	s->from_n = snapshot_disk_entries(q, from);
	s->entry.disk_bytes = from->disk_bytes;
	qcow2_snapshot_commit(s, info, op);
}

void qcow2_snapshot_abort(struct block_snapshot *s, struct block_snapshot_op *op)
{
	create_continue(s, op, false);
}

void qcow2_snapshot_refuse(struct block_snapshot *s, struct block_snapshot_op *op, int res,
	const struct err *e)
{
	s->res = res;
	s->err = *e;
	s->refused = true;
	create_continue(s, op, false);
}

static void close_done(struct block_snapshot_op *op, int res, const struct err *e)
{
	(void)res;
	(void)e;
	op->engine = op;
}

void qcow2_snapshot_close(struct qcow2 *q)
{
	struct block_snapshot_op op = { .done = close_done };

	if (!q->creating)
		return;
	create_continue(q->creating, &op, false);
	while (!op.engine)
		loop_run_once(q->base.loop, UINT64_MAX);
}
