/* Counts the tables of an L1: increments the refcounts of each table and of each cluster that the
 * table names. A table does not change meanwhile: a request that wants to change something below it
 * waits for the job. So the job may pause for I/O between any two entries. It counts the table
 * itself first: from then on nobody can free the table, and an incomplete job can be undone. */
#include "base/bytes.h"
#include "base/err.h"
#include "base/util.h"
#include "block/qcow2/snapshot_impl.h"

#include <errno.h>
#include <stdlib.h>

/* Number of entries after which a job yields to other work. */
#define COUNT_TURN_ENTRIES 8192u

static void count_job_run(struct count_job *j);

int counter_borrow(struct counter *c, struct qcow2 *q, const uint64_t *entries, uint32_t n)
{
	*c = (struct counter){ .q = q, .n = n, .entries = entries };
	c->state = calloc(n + 1u, 1);
	if (!c->state) {
		counter_done(c);
		return -ENOMEM;
	}
	return 0;
}

int counter_init(struct counter *c, struct qcow2 *q, const uint64_t *entries, uint32_t n)
{
	uint64_t *own = calloc(n + 1u, sizeof(*own));
	int r;

	for (uint32_t i = 0; own && i < n; i++)
		own[i] = entries[i] & QCOW2_OFFSET_MASK;
	r = own ? counter_borrow(c, q, own, n) : -ENOMEM;
	if (r < 0)
		free(own);
	else
		c->own = own;
	return r;
}

void counter_done(struct counter *c)
{
	while (c->jobs) {
		struct count_job *j = c->jobs;

		c->jobs = j->next;
		free(j);
	}
	free(c->own);
	free(c->state);
	c->own = NULL;
	c->entries = NULL;
	c->state = NULL;
}

/* ---- counting the clusters of entries ---- */

static int job_overlap(struct count_job *j, uint64_t cluster, uint32_t n)
{
	struct qcow2 *q = j->c->q;

	uint64_t hit = meta_next(&q->meta, cluster, cluster + n);

	if (hit == cluster + n)
		return 0;
	return qcow2_corrupt(q, "an L2 entry names a metadata cluster (0x%llx)",
		(unsigned long long)(hit << q->cluster_bits));
}

static uint64_t entry_at(const struct qcow2 *q, const struct slice *s, uint32_t i)
{
	return load_be64(s->data + (i & (q->slice_entries - 1)) * q->l2_entry_bytes);
}

static int job_compressed(struct count_job *j, uint64_t e)
{
	struct qcow2 *q = j->c->q;
	uint64_t off, len, first;
	uint32_t n, done;
	int r;

	l2_compressed(q, e, &off, &len);
	first = off >> q->cluster_bits;
	n = (uint32_t)(((off + len - 1) >> q->cluster_bits) - first + 1);
	r = job_overlap(j, first + j->sub, n - j->sub);
	if (!r)
		r = refcount_add(q, first + j->sub, n - j->sub, &j->wait, &done);
	if (r < 0)
		return r;
	j->sub += done;
	if (j->sub == n) {
		j->sub = 0;
		j->entry++;
	}
	return 0;
}

uint32_t slice_run(const struct qcow2 *q, const struct slice *s, uint32_t i, uint32_t end)
{
	/* An entry may differ from the run in these bits. With any other flag, an entry does not
	 * belong to the run. */
	uint64_t any = ~(QCOW2_COPIED | (q->ext ? 0 : QCOW2_ZERO));
	uint64_t due = entry_at(q, s, i) & QCOW2_OFFSET_MASK;
	uint32_t n = 0;

	if (!due || (due & (q->cluster_bytes - 1)))
		return 0;
	while (i + n < end && due < QCOW2_OFFSET_END && (entry_at(q, s, i + n) & any) == due) {
		due += q->cluster_bytes;
		n++;
	}
	return n;
}

/* Clear COPIED in n entries. */
static void job_uncopy(struct count_job *j, struct slice *s, uint32_t n)
{
	struct qcow2 *q = j->c->q;
	uint8_t *p = s->data + (j->entry & (q->slice_entries - 1)) * q->l2_entry_bytes;
	uint64_t seen = 0;

	for (uint32_t i = 0; i < n; i++, p += q->l2_entry_bytes) {
		uint64_t e = load_be64(p);

		seen |= e;
		store_be64(p, e & ~QCOW2_COPIED);
	}
	if (seen & QCOW2_COPIED)
		slice_set_dirty(s);
}

/* Count the entries from j->entry on that name adjacent clusters, all at once. */
static int job_data(struct count_job *j, struct slice *s, uint64_t e)
{
	struct qcow2 *q = j->c->q;
	uint64_t first = (e & QCOW2_OFFSET_MASK) >> q->cluster_bits;
	uint32_t end = ROUND_DOWN(j->entry, q->slice_entries) + q->slice_entries, done = 0;
	uint32_t n = MAX(slice_run(q, s, j->entry, end), 1u);
	int r = job_overlap(j, first, n);

	if (!r)
		r = refcount_add(q, first, n, &j->wait, &done);
	if (r < 0)
		return r;
	job_uncopy(j, s, done);
	j->entry += done;
	return 0;
}

static int job_entry(struct count_job *j, struct slice *s)
{
	struct qcow2 *q = j->c->q;
	uint64_t e = entry_at(q, s, j->entry);

	if (!(e & QCOW2_COMPRESSED) && ((e & QCOW2_L2_RESERVED) ||
		(e & QCOW2_OFFSET_MASK & (q->cluster_bytes - 1))))
		return qcow2_corrupt(q, "an L2 entry is invalid (0x%016llx)",
			(unsigned long long)e);
	if (e & QCOW2_COMPRESSED)
		return job_compressed(j, e);
	if (e & QCOW2_OFFSET_MASK)
		return job_data(j, s, e);
	j->entry++;
	return 0;
}

static int job_slice(struct count_job *j)
{
	struct qcow2 *q = j->c->q;
	uint32_t end = ROUND_DOWN(j->entry, q->slice_entries) + q->slice_entries;
	uint64_t at = (uint64_t)j->entry / q->slice_entries * q->slice_bytes;
	uint64_t table = j->c->entries[j->index];
	struct slice *s;
	int r;

	cache_ahead(&q->l2, table + at, table + q->cluster_bytes);
	r = cache_get(&q->l2, table + at, &j->wait, &s);
	if (r < 0)
		return r;
	slice_pin(s);
	while (!r && j->entry < end)
		r = job_entry(j, s);
	slice_unpin(s);
	return r;
}

/* ---- running a job ---- */

/* Count the table itself. */
static int job_table(struct count_job *j)
{
	struct qcow2 *q = j->c->q;
	uint64_t table = j->c->entries[j->index];
	enum meta_kind k = meta_find(&q->meta, table >> q->cluster_bits);
	uint32_t done;
	int r;

	if ((table & (q->cluster_bytes - 1)) || (k != META_L2 && k != META_INACTIVE_L2))
		return qcow2_corrupt(q, "the L2 table at 0x%llx overlaps other metadata",
			(unsigned long long)table);
	r = refcount_add(q, table >> q->cluster_bits, 1, &j->wait, &done);
	if (!r)
		j->c->state[j->index] = COUNT_PART;
	return r;
}

static int job_step(struct count_job *j)
{
	struct qcow2 *q = j->c->q;
	uint32_t entries = 1u << q->l2_bits, turn = 0;
	int r = 0;

	if (q->corrupt)
		return -EIO;
	if (gate_wait(q, &j->wait))
		return -EINPROGRESS;
	if (j->c->state[j->index] == COUNT_NONE)
		r = job_table(j);
	while (!r && j->entry < entries) {
		if (commit_throttle(q, &j->wait))
			return -EINPROGRESS;
		r = job_slice(j);
		turn += q->slice_entries;
		if (!r && turn >= COUNT_TURN_ENTRIES && j->entry < entries)
			return -EAGAIN;
	}
	return r;
}

static void job_end(struct count_job *j, int res)
{
	struct counter *c = j->c;
	struct qcow2 *q = c->q;
	struct wait_list waiters;

	commit_note_dirty(q);
	q->internal--;
	wait_list_init(&waiters);
	wait_list_move(&waiters, &j->waiters);
	j->running = false;
	if (res < 0) {
		c->failed = res; /* the job stays, because it knows its progress */
	} else {
		struct count_job **p = &c->jobs;

		while (*p != j)
			p = &(*p)->next;
		*p = j->next;
		c->state[j->index] = COUNT_DONE;
		c->done++;
		free(j);
	}
	/* The waiting requests look up again. The failure concerns the snapshot, not them. */
	wait_list_wake(&waiters, 0);
}

static void count_job_run(struct count_job *j)
{
	int r = job_step(j);

	if (r == -EAGAIN)
		loop_nop(j->c->q->base.loop, &j->nop);
	else if (r != -EINPROGRESS)
		job_end(j, r);
}

static void job_waited(struct wait *w, int res)
{
	struct count_job *j = container_of(w, struct count_job, wait);

	if (res < 0)
		job_end(j, res);
	else
		count_job_run(j);
}

static void job_turn(struct loop_op *op, int res)
{
	(void)res;
	count_job_run(container_of(op, struct count_job, nop));
}

int counter_count(struct counter *c, uint32_t index, struct wait *w)
{
	struct count_job *j;

	if (c->failed)
		return c->failed;
	if (c->state[index] == COUNT_DONE || !c->entries[index])
		return 0;
	for (j = c->jobs; j && j->index != index;)
		j = j->next;
	if (!j) {
		j = calloc(1, sizeof(*j));
		if (!j)
			return -ENOMEM;
		*j = (struct count_job){ .c = c, .index = index, .running = true, .next = c->jobs,
			.wait.run = job_waited, .nop.done = job_turn };
		wait_list_init(&j->waiters);
		c->jobs = j;
		c->q->internal++;
		loop_nop(c->q->base.loop, &j->nop);
	}
	wait_list_add(&j->waiters, w);
	return -EINPROGRESS;
}

bool counter_busy(struct counter *c, struct wait *w)
{
	for (struct count_job *j = c->jobs; j; j = j->next)
		if (j->running) {
			wait_list_add(&j->waiters, w);
			return true;
		}
	return false;
}

void snapshot_refcount_full(const struct qcow2 *q, int res, struct err *e)
{
	if (res == -ERANGE && !*e->msg)
		err_set(e, res, ERR_UNSUPPORTED, "disk %s: a cluster's refcount is at the maximum of %u bits; delete a "
			"snapshot first", q->base.name, 1u << q->h.refcount_order);
}
