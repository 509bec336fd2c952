/* Refcounts: finds free clusters, allocates and frees. */
#include "base/bytes.h"
#include "base/log.h"
#include "base/util.h"
#include "block/qcow2/snapshot_impl.h"

#include <errno.h>
#include <linux/falloc.h>
#include <stdlib.h>
#include <string.h>

static int deferred_free_underflow(struct qcow2 *q, uint64_t cluster);

/* ---- reading and writing one refcount of a slice ---- */

static uint64_t ref_read(const struct qcow2 *q, const uint8_t *d, uint32_t i)
{
	uint32_t order = q->h.refcount_order, bits = 1u << order;

	switch (order) {
	case 3:
		return d[i];
	case 4:
		return load_be16(d + i * 2);
	case 5:
		return load_be32(d + i * 4);
	case 6:
		return load_be64(d + i * 8);
	default: /* below a byte: least significant bits first */
		return d[i * bits / 8] >> (i * bits % 8) & ((1u << bits) - 1);
	}
}

static void ref_write(const struct qcow2 *q, uint8_t *d, uint32_t i, uint64_t v)
{
	uint32_t order = q->h.refcount_order, bits = 1u << order, shift = i * bits % 8;

	switch (order) {
	case 3:
		d[i] = (uint8_t)v;
		break;
	case 4:
		store_be16(d + i * 2, (uint16_t)v);
		break;
	case 5:
		store_be32(d + i * 4, (uint32_t)v);
		break;
	case 6:
		store_be64(d + i * 8, v);
		break;
	default:
		d[i * bits / 8] = (uint8_t)((d[i * bits / 8] & ~(((1u << bits) - 1) << shift)) |
					    v << shift);
	}
}

/* ---- scanning and filling several refcounts of a slice ---- */

/* Returns eight bytes of refcounts that all are v. A slice consists of such words. */
static uint64_t ref_word(const struct qcow2 *q, uint64_t v)
{
	uint64_t word = 0;

	for (uint32_t i = 0; i < 64u >> q->h.refcount_order; i++)
		ref_write(q, (uint8_t *)&word, i, v);
	return word;
}

/* Returns the number of refcounts from i on, at most n, that are v, up to the first one that is not. */
static uint32_t ref_same(const struct qcow2 *q, const uint8_t *d, uint32_t i, uint32_t n, uint64_t v)
{
	uint32_t per_word = 64u >> q->h.refcount_order, k = 0;

	while (k < n && (i + k) % per_word && ref_read(q, d, i + k) == v)
		k++;
	if (n - k >= per_word && (i + k) % per_word == 0) {
		uint64_t word = ref_word(q, v);

		while (n - k >= per_word && !memcmp(d + (i + k) / per_word * 8, &word, 8))
			k += per_word;
	}
	while (k < n && ref_read(q, d, i + k) == v)
		k++;
	return k;
}

/* Returns the number of refcounts from i on, at most n, that are not 0, up to the first 0. */
static uint32_t ref_used(const struct qcow2 *q, const uint8_t *d, uint32_t i, uint32_t n)
{
	uint32_t k = 0;

	while (k < n) {
		uint64_t v = ref_read(q, d, i + k);

		if (!v)
			break;
		k += ref_same(q, d, i + k, n - k, v);
	}
	return k;
}

static void ref_fill(const struct qcow2 *q, uint8_t *d, uint32_t i, uint32_t n, uint64_t v)
{
	uint32_t per_word = 64u >> q->h.refcount_order;

	for (; n && i % per_word; i++, n--)
		ref_write(q, d, i, v);
	if (n >= per_word) {
		uint64_t word = ref_word(q, v);

		for (; n >= per_word; i += per_word, n -= per_word)
			memcpy(d + i / per_word * 8, &word, 8);
	}
	for (; n; i++, n--)
		ref_write(q, d, i, v);
}

/* Get the slice with a cluster's refcount. -ENOENT: there is no block, so the refcount is 0. */
static int ref_slice(struct qcow2 *q, uint64_t cluster, struct wait *w, struct slice **ret_s,
	uint32_t *ret_i)
{
	uint64_t block = cluster >> q->refblock_bits, off;
	uint32_t in_block = (uint32_t)(cluster & ((1ULL << q->refblock_bits) - 1));

	if (block >= q->reftable.n || !q->reftable.entries[block])
		return -ENOENT;
	off = q->reftable.entries[block];
	if ((off & (q->cluster_bytes - 1)) || off >= QCOW2_OFFSET_END)
		return qcow2_corrupt(q, "refcount block %llu is misaligned (0x%llx)",
			(unsigned long long)block, (unsigned long long)off);
	*ret_i = in_block & ((1u << q->slice_refs_bits) - 1);
	return cache_get(&q->refs, off + (uint64_t)(in_block >> q->slice_refs_bits) * q->slice_bytes,
		w, ret_s);
}

/* Start reading the rest of the refcount block from a cluster's refcount on, for walks in ascending order. */
static void refs_ahead(struct qcow2 *q, uint64_t cluster)
{
	uint64_t block = cluster >> q->refblock_bits, off;
	uint32_t in_block = (uint32_t)(cluster & ((1ULL << q->refblock_bits) - 1));

	if (block >= q->reftable.n)
		return;
	off = q->reftable.entries[block];
	if (off && !(off & (q->cluster_bytes - 1)) && off < QCOW2_OFFSET_END)
		cache_ahead(&q->refs, off + (uint64_t)(in_block >> q->slice_refs_bits) * q->slice_bytes,
			off + q->cluster_bytes);
}

/* Check before a change that the slice lies in a refcount block, and that no other table claims its cluster. */
static int ref_slice_writable(struct qcow2 *q, const struct slice *s)
{
	enum meta_kind k = meta_find(&q->meta, s->offset >> q->cluster_bits);

	if (k != META_REFBLOCK)
		return qcow2_corrupt(q, "the refcount block at 0x%llx overlaps other metadata",
			(unsigned long long)s->offset);
	return 0;
}

int refcount_get(struct qcow2 *q, uint64_t cluster, struct wait *w, uint64_t *ret)
{
	struct slice *s;
	uint32_t i;
	int r = ref_slice(q, cluster, w, &s, &i);

	if (r == -ENOENT) {
		*ret = 0;
		return 0;
	}
	if (!r)
		*ret = ref_read(q, s->data, i);
	return r;
}

int refcount_run(struct qcow2 *q, uint64_t cluster, uint32_t n, struct wait *w, uint64_t *ret,
	uint32_t *ret_n)
{
	struct slice *s;
	uint32_t i;
	int r;

	refs_ahead(q, cluster);
	r = ref_slice(q, cluster, w, &s, &i);
	*ret = 0;
	*ret_n = (uint32_t)MIN(n, (1ULL << q->refblock_bits) - (cluster & ((1ULL << q->refblock_bits) - 1)));
	if (r < 0)
		return r == -ENOENT ? 0 : r;
	*ret = ref_read(q, s->data, i);
	*ret_n = ref_same(q, s->data, i, MIN(n, (1u << q->slice_refs_bits) - i), *ret);
	return 0;
}

/* ---- creating refcount blocks ---- */

/* Create zeroed slices for a new block at cluster c, regardless of the file's content there. */
static int refblock_blank(struct qcow2 *q, uint64_t c)
{
	uint64_t off = c << q->cluster_bits;

	for (uint32_t o = 0; o < q->cluster_bytes; o += q->slice_bytes) {
		struct slice *s = cache_new_slice(&q->refs, off + o);

		if (!s) {
			cache_drop(&q->refs, off, q->cluster_bytes);
			return -ENOMEM;
		}
		slice_set_dirty(s); /* a dirty slice is not evicted by the next one */
	}
	return meta_add(&q->meta, c, META_REFBLOCK);
}

static int refblock_set_one(struct qcow2 *q, uint64_t cluster)
{
	struct slice *s;
	uint32_t i;
	int r = ref_slice(q, cluster, NULL, &s, &i); /* the new block's slices are cached */

	if (!r)
		ref_write(q, s->data, i, 1);
	return r;
}

static int clusters_unclaimed(struct qcow2 *q, uint64_t first, uint64_t n)
{
	uint64_t hit = meta_next(&q->meta, first, first + n);

	if (hit == first + n)
		return 0;
	return qcow2_corrupt(q, "cluster 0x%llx holds metadata but its refcount is 0",
		(unsigned long long)(hit << q->cluster_bits));
}

static void fresh_passed(struct qcow2 *q, uint64_t end)
{
	q->fresh_from = MAX(q->fresh_from, end);
	q->tail.taken++;
	tail_grow(q);
}

/* Return whether the refcount table has room for the block. Takes the entries into use that were unread when the image
 * was opened. */
static bool reftable_has(struct qcow2 *q, uint64_t block)
{
	struct table *t = &q->reftable;

	if (block < t->n)
		return true;
	if (block >= t->cap)
		return false;
	memset(t->entries + t->n, 0, (t->cap - t->n) * sizeof(*t->entries));
	t->n = t->cap;
	return true;
}

/* Move the refcount table to a larger one, for block numbers up to `block`. The new table lies behind
 * everything that the old one could describe, so its place is free. The blocks that describe the
 * new table lie before it. */
static int reftable_grow(struct qcow2 *q, uint64_t block)
{
	uint64_t start = block << q->refblock_bits, per_cluster = q->cluster_bytes / 8;
	uint64_t want = MAX(2ULL * q->reftable.cap, block + block / 2 + 16), nclusters, nblocks = 1;
	uint64_t *entries;
	int r;

	nclusters = MIN(DIV_ROUND_UP(want, per_cluster), QCOW2_REFTABLE_BYTES_MAX / q->cluster_bytes);
	while (nblocks + nclusters > nblocks << q->refblock_bits)
		nblocks++;
	if (block + nblocks > nclusters * per_cluster)
		return -EFBIG;
	r = clusters_unclaimed(q, start, nblocks + nclusters);
	if (!r)
		r = bitmap_grow(&q->reftable.dirty,
			nclusters * q->cluster_bytes / q->slice_bytes);
	if (r < 0)
		return r;
	entries = reallocarray(q->reftable.entries, nclusters * per_cluster, sizeof(*entries));
	if (!entries)
		return -ENOMEM;
	memset(entries + q->reftable.n, 0, (nclusters * per_cluster - q->reftable.n) * 8);
	cluster_free_later(q, q->reftable.offset >> q->cluster_bits,
		q->reftable.cap / (uint32_t)per_cluster);
	for (uint64_t c = 0; c < q->reftable.cap / per_cluster; c++)
		meta_remove(&q->meta, (q->reftable.offset >> q->cluster_bits) + c);
	q->reftable.entries = entries;
	q->reftable.n = q->reftable.cap = (uint32_t)(nclusters * per_cluster);
	q->reftable.offset = (start + nblocks) << q->cluster_bits;
	q->reftable.moved = true;
	for (uint64_t i = 0; i < nblocks && !r; i++) {
		entries[block + i] = (start + i) << q->cluster_bits;
		r = refblock_blank(q, start + i);
	}
	for (uint64_t i = 0; i < nclusters && !r; i++)
		r = meta_add(&q->meta, start + nblocks + i, META_REFTABLE);
	for (uint64_t i = 0; i < nblocks + nclusters && !r; i++)
		r = refblock_set_one(q, start + i);
	fresh_passed(q, start + nblocks + nclusters);
	/* Out of memory half-way: the table in memory is wrong. */
	return r < 0 ? qcow2_corrupt(q, "out of memory while growing the refcount table") : 0;
}

/* Make cluster c the refcount block number `block`. The cluster is counted, or counts itself in the block. */
static int refblock_put(struct qcow2 *q, uint64_t block, uint64_t c)
{
	int r = refblock_blank(q, c);

	if (r < 0)
		return r;
	table_set(q, &q->reftable, (uint32_t)block, c << q->cluster_bits);
	if (c >> q->refblock_bits != block)
		return 0;
	fresh_passed(q, c + 1);
	return refblock_set_one(q, c);
}

/* Create the refcount block of the range with free_from, which has none. No cluster from free_from on is used, so the
 * block takes that one and counts itself. */
static int refblock_make(struct qcow2 *q)
{
	uint64_t block = q->free_from >> q->refblock_bits;
	int r;

	if (!reftable_has(q, block))
		return reftable_grow(q, block);
	r = clusters_unclaimed(q, q->free_from, 1);
	return r < 0 ? r : refblock_put(q, block, q->free_from);
}

int reftable_reach(struct qcow2 *q, uint64_t end)
{
	uint64_t block = (end - 1) >> q->refblock_bits;

	return reftable_has(q, block) ? 0 : reftable_grow(q, block + 1);
}

uint64_t refblocks_missing(const struct qcow2 *q, uint64_t first, uint64_t n)
{
	uint64_t missing = 0;

	for (uint64_t b = first >> q->refblock_bits; b <= (first + n - 1) >> q->refblock_bits; b++)
		missing += b >= q->reftable.n || !q->reftable.entries[b];
	return missing;
}

int refblock_take(struct qcow2 *q, uint64_t first, uint64_t n, struct wait *w)
{
	uint64_t b = first >> q->refblock_bits;
	uint32_t one;
	int r;

	while (q->reftable.entries[b])
		if (++b > (first + n - 1) >> q->refblock_bits)
			return 0;
	if (first >> q->refblock_bits == b)
		r = clusters_unclaimed(q, first, 1);
	else
		r = clusters_take(q, first, 1, w, &one);
	if (!r)
		r = refblock_put(q, b, first);
	return r < 0 ? r : 1;
}

int refcount_add(struct qcow2 *q, uint64_t cluster, uint32_t n, struct wait *w, uint32_t *ret_n)
{
	uint64_t max = q->h.refcount_order == 6 ? UINT64_MAX : (1ULL << (1u << q->h.refcount_order)) - 1;
	uint32_t i, done = 0;
	struct slice *s;
	int r;

	refs_ahead(q, cluster);
	r = ref_slice(q, cluster, w, &s, &i);
	if (r == -ENOENT)
		return deferred_free_underflow(q, cluster);
	if (!r)
		r = ref_slice_writable(q, s);
	if (r < 0)
		return r;
	n = MIN(n, (1u << q->slice_refs_bits) - i);
	while (done < n) {
		uint64_t v = ref_read(q, s->data, i + done);
		uint32_t same = ref_same(q, s->data, i + done, n - done, v);

		if (!v && !done)
			return deferred_free_underflow(q, cluster);
		if (v == max && !done)
			return -ERANGE;
		if (!v || v == max)
			break;
		ref_fill(q, s->data, i + done, same, v + 1);
		done += same;
	}
	slice_set_dirty(s);
	commit_note_dirty(q);
	*ret_n = done;
	return 0;
}

/* ---- allocating clusters ---- */

static int run_take(struct qcow2 *q, struct slice *s, uint32_t i, uint64_t cluster, uint32_t want,
	struct cluster_run *ret)
{
	uint32_t n = ref_same(q, s->data, i, MIN(want, (1u << q->slice_refs_bits) - i), 0);
	int r = ref_slice_writable(q, s);

	if (!r)
		r = clusters_unclaimed(q, cluster, n);
	if (r < 0)
		return r;
	ref_fill(q, s->data, i, n, 1);
	slice_set_dirty(s);
	*ret = (struct cluster_run){ cluster, n, cluster >= q->fresh_from };
	fresh_passed(q, cluster + n);
	if (q->free_from == cluster)
		q->free_from = cluster + n;
	commit_note_dirty(q);
	return 0;
}

int clusters_take(struct qcow2 *q, uint64_t cluster, uint32_t want, struct wait *w, uint32_t *ret_n)
{
	struct cluster_run run;
	struct slice *s;
	uint32_t i;
	int r = ref_slice(q, cluster, w, &s, &i);

	if (!r)
		r = ref_read(q, s->data, i) ? -EEXIST : run_take(q, s, i, cluster, want, &run);
	if (!r)
		*ret_n = run.n;
	return r;
}

void clusters_reserve(struct qcow2 *q, uint64_t first, uint64_t end)
{
	/* Allocations may have passed the previous range although clusters in it are free. */
	if (q->reserved.end)
		q->free_from = MIN(q->free_from, q->reserved.first);
	q->reserved.first = first;
	q->reserved.end = end;
}

/* Returns how many of `want` clusters from free_from on lie before the reserved range; 0 within it. */
static uint32_t unreserved(const struct qcow2 *q, uint32_t want)
{
	if (q->free_from >= q->reserved.end)
		return want;
	return q->free_from < q->reserved.first ? (uint32_t)MIN(want, q->reserved.first - q->free_from) : 0;
}

int cluster_alloc(struct qcow2 *q, uint32_t want, struct wait *w, struct cluster_run *ret)
{
	uint32_t slice_refs = 1u << q->slice_refs_bits;

	if (q->corrupt)
		return -EIO;
	while (q->free_from < QCOW2_OFFSET_END >> q->cluster_bits) {
		struct slice *s;
		uint32_t i;
		int r;

		if (!unreserved(q, 1))
			q->free_from = q->reserved.end;
		r = ref_slice(q, q->free_from, w, &s, &i);

		if (r == -ENOENT)
			r = refblock_make(q);
		else if (!r) {
			uint32_t used = ref_used(q, s->data, i, slice_refs - i), n;

			i += used;
			q->free_from += used;
			n = unreserved(q, want);
			if (i < slice_refs && n)
				return run_take(q, s, i, q->free_from, n, ret);
		}
		if (r < 0)
			return r;
	}
	return -EFBIG;
}

/* ---- freeing clusters ---- */

static int free_list_add(struct free_list *l, uint64_t cluster, uint32_t n)
{
	struct free_run *last = l->n ? &l->runs[l->n - 1] : NULL;

	if (last && last->cluster + last->n == cluster && last->n <= UINT32_MAX - n) {
		last->n += n;
		return 0;
	}
	if (l->n == l->cap) {
		size_t cap = l->cap ? 2 * l->cap : 64;
		struct free_run *runs = reallocarray(l->runs, cap, sizeof(*runs));

		if (!runs)
			return -ENOMEM;
		l->runs = runs;
		l->cap = cap;
	}
	l->runs[l->n++] = (struct free_run){ cluster, n };
	return 0;
}

void cluster_free_later(struct qcow2 *q, uint64_t cluster, uint32_t n)
{
	if (!n)
		return;
	if (free_list_add(&q->pending_free, cluster, n) < 0)
		log_warn(q->base.name, "out of memory: %u clusters leak", n);
	commit_note_dirty(q);
}

static void deferred_free_run(struct qcow2 *q);

static void deferred_free_end(struct qcow2 *q)
{
	struct deferred_free *f = &q->deferred_free;
	struct free_list next = f->next;

	free(f->list.runs);
	f->list = (struct free_list){ 0 };
	f->next = (struct free_list){ 0 };
	f->running = false;
	f->rounds++;
	q->internal--;
	if (next.n)
		deferred_free_start(q, &next);
	else
		free(next.runs);
	wait_list_wake(&f->idle, 0);
}

/* Note [cluster, end) as free, and drop its metadata marks and cached slices. */
static void freed_drop(struct qcow2 *q, uint64_t cluster, uint64_t end)
{
	q->free_from = MIN(q->free_from, cluster);
	while ((cluster = meta_next(&q->meta, cluster, end)) < end) {
		/* Drop the table's slices, so that no commit writes them over the cluster's next content. */
		if (meta_find(&q->meta, cluster) == META_INACTIVE_L2)
			cache_drop(&q->l2, cluster << q->cluster_bits, q->cluster_bytes);
		meta_remove(&q->meta, cluster++);
	}
}

/* Decrement the refcounts of [cluster, cluster + n) in one slice, which is cached. */
static void deferred_free_drop(struct qcow2 *q, uint64_t cluster, uint32_t n, struct slice *s, uint32_t i)
{
	while (n) {
		uint64_t v = ref_read(q, s->data, i);
		uint32_t same = ref_same(q, s->data, i, n, v);

		ref_fill(q, s->data, i, same, v - 1);
		if (v == 1)
			freed_drop(q, cluster, cluster + same);
		cluster += same;
		i += same;
		n -= same;
	}
	slice_set_dirty(s);
	commit_note_dirty(q);
}

static void deferred_free_advance(struct free_run *run, uint32_t n)
{
	run->cluster += n;
	run->n -= n;
}

/* Returns the number of entries from i on, at most max, with refcount 1 (last_ref) or above
 * (!last_ref). */
static uint32_t deferred_free_span(const struct qcow2 *q, const struct slice *s, uint32_t i, uint32_t max,
	bool last_ref)
{
	uint32_t n = 0;

	max = MIN(max, (1u << q->slice_refs_bits) - i);
	while (n < max) {
		uint64_t v = ref_read(q, s->data, i + n);

		if (!v || (v == 1) != last_ref)
			break;
		n += ref_same(q, s->data, i + n, max - n, v);
	}
	return n;
}

/* Continue after the hole is punched: only now the clusters may be allocated again. */
static void deferred_free_punched(struct loop_op *op, int res)
{
	struct qcow2 *q = container_of(op, struct qcow2, deferred_free.op);

	if (res == -EOPNOTSUPP || res == -ENOSYS || res == -EINVAL || res == -ENODEV)
		q->can_punch = false; /* the space stays allocated */
	q->deferred_free.punched = q->deferred_free.punching;
	deferred_free_run(q);
}

static int deferred_free_punch(struct qcow2 *q, uint64_t cluster, uint32_t n)
{
	q->deferred_free.punching = n;
	q->deferred_free.op.done = deferred_free_punched;
	loop_fallocate(q->base.loop, &q->deferred_free.op, q->base.fd,
		FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, cluster << q->cluster_bits,
		(uint64_t)n << q->cluster_bits);
	return -EINPROGRESS;
}

/* Check that no freed cluster holds metadata. A table loses its mark before it is freed, or is marked META_INACTIVE_L2.
 * With any other mark, an entry has named the cluster as data. */
static int deferred_free_check(struct qcow2 *q, uint64_t cluster, uint32_t n)
{
	uint64_t end = cluster + n;

	for (; (cluster = meta_next(&q->meta, cluster, end)) < end; cluster++)
		if (meta_find(&q->meta, cluster) != META_INACTIVE_L2)
			return qcow2_corrupt(q, "cluster 0x%llx is freed but holds metadata",
				(unsigned long long)(cluster << q->cluster_bits));
	return 0;
}

static int deferred_free_underflow(struct qcow2 *q, uint64_t cluster)
{
	return qcow2_corrupt(q, "cluster 0x%llx is in use but its refcount is 0",
		(unsigned long long)(cluster << q->cluster_bits));
}

/* Free the first part of a run. */
static int deferred_free_run_step(struct qcow2 *q, struct free_run *run)
{
	struct deferred_free *f = &q->deferred_free;
	struct slice *s;
	uint32_t i, n;
	int r;

	if (run->n >= 1u << q->slice_refs_bits)
		refs_ahead(q, run->cluster);
	r = ref_slice(q, run->cluster, &f->wait, &s, &i);
	if (r == -ENOENT)
		return deferred_free_underflow(q, run->cluster);
	if (!r)
		r = ref_slice_writable(q, s);
	if (r < 0)
		return r;
	n = deferred_free_span(q, s, i, run->n, true);
	if (n && !f->punched)
		r = deferred_free_check(q, run->cluster, n);
	if (r < 0)
		return r;
	if (n && q->can_punch && !f->punched)
		return deferred_free_punch(q, run->cluster, n);
	if (n && f->punched)
		n = MIN(n, f->punched);
	if (!n)
		n = deferred_free_span(q, s, i, run->n, false);
	if (!n)
		return deferred_free_underflow(q, run->cluster);
	deferred_free_drop(q, run->cluster, n, s, i);
	deferred_free_advance(run, n);
	f->punched = 0;
	return 0;
}

/* Let the remaining clusters of the round leak. */
static void deferred_free_give_up(struct qcow2 *q, int r)
{
	struct deferred_free *f = &q->deferred_free;
	uint64_t clusters = 0;

	for (; f->pos < f->list.n; f->pos++)
		clusters += f->list.runs[f->pos].n;
	log_warn(q->base.name, "cannot free %llu clusters (%s): they leak", (unsigned long long)clusters, strerror(-r));
}

static void deferred_free_run(struct qcow2 *q)
{
	struct deferred_free *f = &q->deferred_free;

	while (f->pos < f->list.n && !q->corrupt) {
		struct free_run *run = &f->list.runs[f->pos];
		int r = 0;

		if (!run->n)
			f->pos++;
		else
			r = deferred_free_run_step(q, run);
		if (r == -EINPROGRESS)
			return;
		if (r < 0)
			deferred_free_give_up(q, r);
	}
	deferred_free_end(q);
}

static void deferred_free_wait(struct wait *w, int res)
{
	struct qcow2 *q = container_of(w, struct qcow2, deferred_free.wait);

	if (res < 0)
		deferred_free_give_up(q, res);
	deferred_free_run(q);
}

void deferred_free_resume(struct qcow2 *q)
{
	struct deferred_free *f = &q->deferred_free;

	if (!f->draining || q->epoch_io[f->epoch])
		return;
	f->draining = false;
	deferred_free_run(q);
}

/* Start freeing the runs of l, or queue them if a round runs. Takes l->runs. */
void deferred_free_start(struct qcow2 *q, struct free_list *l)
{
	struct deferred_free *f = &q->deferred_free;

	if (f->running) {
		for (size_t i = 0; i < l->n; i++)
			if (free_list_add(&f->next, l->runs[i].cluster, l->runs[i].n) < 0)
				log_warn(q->base.name, "out of memory: clusters leak");
		free(l->runs);
		return;
	}
	f->list = *l;
	f->pos = 0;
	f->punched = 0;
	f->wait.run = deferred_free_wait;
	f->running = f->draining = true;
	q->internal++;
	/* A request that looked these clusters up earlier may still read or write them, so wait for
	 * the I/O of this epoch. The next epoch has no I/O left: the previous round waited for
	 * that. */
	f->epoch = q->epoch & 1;
	q->epoch++;
	deferred_free_resume(q);
}
