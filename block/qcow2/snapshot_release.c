/* Releases an L1: decrements the refcounts of each cluster and each table that it names. Then sets
 * COPIED again where the active L1 is the only user. */
#include "base/bytes.h"
#include "base/util.h"
#include "block/qcow2/snapshot_impl.h"

#include <errno.h>

/* ---- decrementing refcounts ---- */

static void release_entry(struct qcow2 *q, struct l2_entry v)
{
	/* An invalid entry does not say which clusters it uses, so they leak. */
	if (l2_check(q, v) == 0)
		l2_release(q, v);
}

/* Get the part of table r->index to release. Returns the number of whole entries. *ret_sub: number
 * of clusters to release of the compressed entry that follows them. */
static uint32_t release_limit(const struct qcow2 *q, const struct release *r, uint32_t *ret_sub)
{
	*ret_sub = 0;
	if (r->counted && r->counted->state[r->index] == COUNT_PART)
		for (struct count_job *j = r->counted->jobs; j; j = j->next)
			if (j->index == r->index) {
				*ret_sub = j->sub;
				return j->entry;
			}
	return 1u << q->l2_bits;
}

static bool release_skip(const struct qcow2 *q, const struct release *r)
{
	uint64_t table = r->entries[r->index] & QCOW2_OFFSET_MASK;

	if (r->counted && r->counted->state[r->index] == COUNT_NONE)
		return true;
	return !table || (table & (q->cluster_bytes - 1));
}

static int release_slice(struct qcow2 *q, struct release *r, uint32_t limit, struct wait *w)
{
	uint64_t table = r->entries[r->index] & QCOW2_OFFSET_MASK;
	uint32_t end = MIN(limit, ROUND_DOWN(r->entry, q->slice_entries) + q->slice_entries);
	uint64_t at = table + (uint64_t)r->entry / q->slice_entries * q->slice_bytes;
	struct slice *s;
	int res;

	cache_ahead(&q->l2, at, table + q->cluster_bytes);
	res = cache_get(&q->l2, at, w, &s);
	if (res < 0)
		return res;
	while (r->entry < end) {
		struct l2_entry v = l2_get(q, s, (uint64_t)r->entry << q->cluster_bits);
		uint32_t n = slice_run(q, s, r->entry, end);

		if (n)
			cluster_free_later(q, (v.e & QCOW2_OFFSET_MASK) >> q->cluster_bits, n);
		else
			release_entry(q, v);
		r->entry += MAX(n, 1u);
	}
	return 0;
}

/* Release the counted clusters of a compressed entry whose count was interrupted. */
static int release_sub(struct qcow2 *q, struct release *r, uint32_t sub, struct wait *w)
{
	uint64_t table = r->entries[r->index] & QCOW2_OFFSET_MASK, off, len;
	struct slice *s;
	int res = cache_get(&q->l2, table + (uint64_t)r->entry / q->slice_entries * q->slice_bytes, w,
		&s);

	if (res < 0)
		return res;
	l2_compressed(q, l2_get(q, s, (uint64_t)r->entry << q->cluster_bits).e, &off, &len);
	cluster_free_later(q, off >> q->cluster_bits, sub);
	return 0;
}

int release_step(struct qcow2 *q, struct release *r, struct wait *w)
{
	uint32_t limit, sub;
	uint64_t table;
	int res = 0;

	while (r->index < r->n && release_skip(q, r))
		r->index++;
	if (r->index >= r->n)
		return 0;
	if (q->corrupt)
		return -EIO;
	if (commit_throttle(q, w))
		return -EINPROGRESS;
	limit = release_limit(q, r, &sub);
	if (r->entry < limit) {
		res = release_slice(q, r, limit, w);
		return res < 0 ? res : -EAGAIN;
	}
	if (sub)
		res = release_sub(q, r, sub, w);
	if (res < 0)
		return res;
	table = r->entries[r->index] & QCOW2_OFFSET_MASK;
	if (r->unnamed)
		cache_drop(&q->l2, table, q->cluster_bytes);
	cluster_free_later(q, table >> q->cluster_bits, 1);
	r->entry = 0;
	r->index++;
	return -EAGAIN;
}

/* ---- setting COPIED again ---- */

/* Set COPIED in n entries from `i` on. */
static void recopy_set(struct qcow2 *q, struct slice *s, uint32_t i, uint32_t n)
{
	uint8_t *p = s->data + (i & (q->slice_entries - 1)) * q->l2_entry_bytes;
	uint64_t all = QCOW2_COPIED;

	for (uint32_t k = 0; k < n; k++, p += q->l2_entry_bytes) {
		uint64_t e = load_be64(p);

		all &= e;
		store_be64(p, e | QCOW2_COPIED);
	}
	if (all)
		return;
	slice_set_dirty(s);
	commit_note_dirty(q);
}

/* Handle entry `i` and the following ones that form a run with it. */
static int recopy_entries(struct qcow2 *q, struct slice *s, uint32_t i, uint32_t end, struct wait *w,
	uint32_t *ret_n)
{
	struct l2_entry v = l2_get(q, s, (uint64_t)i << q->cluster_bits);
	uint32_t n = slice_run(q, s, i, end);
	uint64_t refs;
	int res;

	*ret_n = 1;
	if (!n)
		return 0;
	res = refcount_run(q, (v.e & QCOW2_OFFSET_MASK) >> q->cluster_bits, n, w, &refs, ret_n);
	if (!res && refs == 1)
		recopy_set(q, s, i, *ret_n);
	return res;
}

static int recopy_slice(struct qcow2 *q, struct recopy *r, uint64_t table, struct wait *w)
{
	uint64_t base = (uint64_t)r->index << (q->cluster_bits + q->l2_bits);
	uint32_t end = ROUND_DOWN(r->entry, q->slice_entries) + q->slice_entries;
	uint64_t first = (base >> q->cluster_bits) + r->entry;
	uint64_t at = table + (uint64_t)r->entry / q->slice_entries * q->slice_bytes;
	struct slice *s;
	int res;

	/* An allocating write in flight may still copy from a cluster of this range. With COPIED, other requests would
	 * write to that cluster in place, so wait. */
	if (l2meta_wait(&q->disk, first, first + end - r->entry - 1, w))
		return -EINPROGRESS;
	cache_ahead(&q->l2, at, table + q->cluster_bytes);
	res = cache_get(&q->l2, at, w, &s);
	if (res < 0)
		return res;
	slice_pin(s);
	while (r->entry < end && !res) {
		uint32_t n;

		res = recopy_entries(q, s, r->entry, end, w, &n);
		r->entry += res ? 0 : n;
	}
	slice_unpin(s);
	return res;
}

static int recopy_table(struct qcow2 *q, struct recopy *r, uint64_t e1, struct wait *w)
{
	uint64_t refs;
	int res;

	if (e1 & QCOW2_COPIED)
		return 0;
	res = refcount_get(q, (e1 & QCOW2_OFFSET_MASK) >> q->cluster_bits, w, &refs);
	if (res < 0)
		return res;
	if (refs == 1)
		table_set(q, &q->disk.l1, r->index, e1 | QCOW2_COPIED);
	else
		r->entry = 1u << q->l2_bits; /* the table is shared, and therefore everything below */
	return 0;
}

int recopy_step(struct qcow2 *q, struct recopy *r, struct wait *w)
{
	uint64_t e1;
	int res = 0;

	while (r->index < r->n && (r->index >= q->disk.l1.n || !r->touched[r->index] ||
		!(q->disk.l1.entries[r->index] & QCOW2_OFFSET_MASK)))
		r->index++;
	if (r->index >= r->n)
		return 0;
	if (q->corrupt)
		return -EIO;
	if (table_made(&q->disk, r->index, w) || commit_throttle(q, w))
		return -EINPROGRESS;
	e1 = q->disk.l1.entries[r->index];
	if (!r->entry)
		res = recopy_table(q, r, e1, w);
	if (!res && r->entry < 1u << q->l2_bits)
		res = recopy_slice(q, r, e1 & QCOW2_OFFSET_MASK, w);
	if (res < 0)
		return res;
	if (r->entry >= 1u << q->l2_bits) {
		r->entry = 0;
		r->index++;
	}
	return -EAGAIN;
}
