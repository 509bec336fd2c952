/* Records which clusters hold metadata, so that no data write and no allocation overwrites one, even in a damaged or
 * hostile image. */
#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/util.h"
#include "block/qcow2/impl.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Maximum total size of the snapshots' L1 tables that are read at open. */
#define META_INACTIVE_BYTES_MAX (64 * MIB)
#define META_READ_BYTES (64 * KIB)
#define META_GROUP_BITS 6

static size_t meta_slot(const struct meta_set *m, uint64_t cluster)
{
	uint64_t h = cluster * 0x9e3779b97f4a7c15ULL;
	size_t i = (size_t)(h >> 20) & (m->cap - 1);

	while (m->keys[i] && m->keys[i] != cluster + 1)
		i = (i + 1) & (m->cap - 1);
	return i;
}

static uint64_t cap_bytes(uint64_t cap)
{
	return cap * (sizeof(*((struct meta_set *)NULL)->keys) + 1);
}

static uint64_t meta_bytes(const struct meta_set *m)
{
	return cap_bytes(m->cap);
}

uint64_t meta_bytes_after(const struct meta_set *m, uint64_t n)
{
	uint64_t cap = MAX(m->cap, 64u), before = 0;

	for (; (m->used + n) * 2 > cap; cap *= 2)
		before = cap;
	return cap_bytes(cap) + cap_bytes(before);
}

static int meta_grow(struct meta_set *m)
{
	struct meta_set bigger = { .cap = m->cap ? m->cap * 2 : 64, .used = m->used, .budget = m->budget };

	if (m->budget && !budget_take(m->budget, meta_bytes(&bigger)))
		return -EDQUOT;
	bigger.keys = calloc(bigger.cap, sizeof(*bigger.keys));
	bigger.kinds = calloc(bigger.cap, 1);
	bigger.groups = calloc(QCOW2_META_GROUPS / 64, sizeof(*bigger.groups));
	if (!bigger.keys || !bigger.kinds || !bigger.groups) {
		meta_done(&bigger);
		return -ENOMEM;
	}
	if (m->groups)
		memcpy(bigger.groups, m->groups, QCOW2_META_GROUPS / 8);
	for (size_t i = 0; i < m->cap; i++) {
		size_t to;

		if (!m->keys[i])
			continue;
		to = meta_slot(&bigger, m->keys[i] - 1);
		bigger.keys[to] = m->keys[i];
		bigger.kinds[to] = m->kinds[i];
	}
	if (m->budget)
		budget_give(m->budget, meta_bytes(m));
	meta_done(m);
	*m = bigger;
	return 0;
}

/* Get the word and the bit of a cluster's group. */
static uint64_t *meta_group(const struct meta_set *m, uint64_t cluster, uint64_t *ret_bit)
{
	uint64_t group = (cluster >> META_GROUP_BITS) & (QCOW2_META_GROUPS - 1);

	*ret_bit = 1ULL << (group & 63);
	return &m->groups[group / 64];
}

int meta_add(struct meta_set *m, uint64_t cluster, enum meta_kind k)
{
	uint64_t *group, bit;
	size_t i;

	if (m->used * 2 >= m->cap) {
		int r = meta_grow(m);

		if (r < 0)
			return r;
	}
	group = meta_group(m, cluster, &bit);
	*group |= bit;
	i = meta_slot(m, cluster);
	if (!m->keys[i]) {
		m->keys[i] = cluster + 1;
		m->kinds[i] = (uint8_t)k;
		m->used++;
		return 0;
	}
	/* A snapshot may share L2 tables with the active L1. */
	if (m->kinds[i] == META_L2 && k == META_INACTIVE_L2)
		return 0;
	if (m->kinds[i] == META_INACTIVE_L2 && (k == META_L2 || k == META_INACTIVE_L2))
		m->kinds[i] = (uint8_t)k;
	else if (m->kinds[i] != META_NONE)
		m->kinds[i] = META_CONFLICT;
	else
		m->kinds[i] = (uint8_t)k;
	return 0;
}

/* Remove the cluster's mark. The key stays, because the probe chains of other keys pass through its slot. META_CONFLICT
 * stays, too: another table may still use the cluster, and deferred_free_check() refuses to free a cluster with this
 * mark. */
void meta_remove(struct meta_set *m, uint64_t cluster)
{
	size_t i;

	if (!m->cap)
		return;
	i = meta_slot(m, cluster);
	if (m->keys[i] && m->kinds[i] != META_CONFLICT)
		m->kinds[i] = META_NONE;
}

enum meta_kind meta_find(const struct meta_set *m, uint64_t cluster)
{
	size_t i;

	if (!m->cap)
		return META_NONE;
	i = meta_slot(m, cluster);
	return m->keys[i] ? m->kinds[i] : META_NONE;
}

uint64_t meta_next(const struct meta_set *m, uint64_t cluster, uint64_t end)
{
	if (!m->cap)
		return end;
	while (cluster < end) {
		uint64_t bit, stop = MIN(end, (cluster | ((1u << META_GROUP_BITS) - 1)) + 1);

		if (!(*meta_group(m, cluster, &bit) & bit))
			cluster = stop;
		for (; cluster < stop; cluster++)
			if (meta_find(m, cluster) != META_NONE)
				return cluster;
	}
	return end;
}

void meta_done(struct meta_set *m)
{
	free(m->keys);
	free(m->kinds);
	free(m->groups);
	*m = (struct meta_set){ 0 };
}

static int meta_add_range(struct qcow2 *q, uint64_t off, uint64_t len, enum meta_kind k)
{
	uint64_t first = off >> q->cluster_bits;
	uint64_t end = DIV_ROUND_UP(off + len, (uint64_t)q->cluster_bytes);
	int r = 0;

	for (uint64_t c = first; c < end && !r; c++)
		r = meta_add(&q->meta, c, k);
	return r;
}

static int meta_add_l1(struct qcow2 *q, const uint64_t *entries, uint32_t n, enum meta_kind k)
{
	int r = 0;

	for (uint32_t i = 0; i < n && !r; i++) {
		uint64_t off = entries[i] & QCOW2_OFFSET_MASK;

		if (off)
			r = meta_add(&q->meta, off >> q->cluster_bits, k);
	}
	return r;
}

/* Add one snapshot's L1 and its L2 tables. An L1 at an invalid place is skipped, because every use of such a snapshot
 * fails.
 * buf: META_READ_BYTES.
 * budget: bytes of L1 tables that may still be read; of a larger L1, only the L1 itself is added. */
static int meta_load_snapshot(struct qcow2 *q, const struct qcow2_snapshot_info *s, uint8_t *buf, uint64_t *budget,
	struct err *e)
{
	uint64_t bytes = s->l1_size * 8ULL;
	int r;

	if (!s->l1_size || !qcow2_l1_in_file(q->base.fd, &q->h, s))
		return 0;
	r = meta_add_range(q, s->l1_offset, bytes, META_INACTIVE_L1);
	if (r < 0 || bytes > *budget)
		return r;
	*budget -= bytes;
	for (uint64_t at = 0; at < bytes && !r; at += META_READ_BYTES) {
		uint64_t len = MIN(bytes - at, META_READ_BYTES);

		r = qcow2_pread(q->base.fd, buf, ROUND_UP(len, 4096), s->l1_offset + at);
		if (r < 0)
			return err_set_errno(e, r, "%s: cannot read a snapshot's L1 table", q->base.name);
		for (uint64_t i = 0; i < len && !r; i += 8) {
			uint64_t off = load_be64(buf + i) & QCOW2_OFFSET_MASK;

			if (off)
				r = meta_add(&q->meta, off >> q->cluster_bits, META_INACTIVE_L2);
		}
	}
	return r;
}

static int meta_load_snapshots(struct qcow2 *q, struct err *e)
{
	CLEANUP_FREE uint8_t *buf = io_buffer_new(META_READ_BYTES);
	struct qcow2_snapshot_info *list;
	uint64_t budget = META_INACTIVE_BYTES_MAX;
	size_t n;
	int r = buf ? qcow2_snapshots_read(q->base.fd, &q->h, &list, &n, e) : -ENOMEM;

	if (r < 0)
		return r;
	if (n)
		r = meta_add_range(q, q->h.snapshots_offset, list[n - 1].table_bytes, META_SNAPSHOTS);
	for (size_t i = 0; i < n && !r; i++)
		r = meta_load_snapshot(q, &list[i], buf, &budget, e);
	qcow2_snapshots_free(list, n);
	return r;
}

static int meta_load(struct qcow2 *q, struct err *e)
{
	int r = meta_add_range(q, 0, q->cluster_bytes, META_HEADER);

	if (!r)
		r = meta_add_range(q, q->reftable.offset,
			(uint64_t)q->h.reftable_clusters << q->cluster_bits, META_REFTABLE);
	for (uint32_t i = 0; i < q->reftable.n && !r; i++) {
		uint64_t off = q->reftable.entries[i] & ~QCOW2_REFTABLE_RESERVED;

		if (off)
			r = meta_add(&q->meta, off >> q->cluster_bits, META_REFBLOCK);
	}
	if (!r && q->disk.l1.n)
		r = meta_add_range(q, q->disk.l1.offset, q->disk.l1.n * 8ULL, META_L1);
	if (!r)
		r = meta_add_l1(q, q->disk.l1.entries, q->disk.l1.n, META_L2);
	return r || !q->h.nb_snapshots ? r : meta_load_snapshots(q, e);
}

int qcow2_meta_load(struct qcow2 *q, struct err *e)
{
	struct err why = { 0 };
	int r = meta_load(q, &why);

	if (r == -EDQUOT)
		return qcow2_memory_exceeded(q, e);
	if (r < 0 && !*why.msg)
		err_set_errno(&why, r, "%s", q->base.name);
	else if (r < 0)
		err_prefix(&why, "%s", q->base.name);
	if (r < 0 && e)
		*e = why;
	return r;
}
