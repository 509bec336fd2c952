/* The L1 and L2 tables: map guest offsets to places in the file. */
#include "base/bytes.h"
#include "base/log.h"
#include "base/util.h"
#include "block/qcow2/snapshot_impl.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* An L2 table that is being created or copied. */
struct l2_make {
	struct qcow2 *q;
	struct map *map;
	struct l2_make *next;
	uint32_t l1_index;
	uint64_t cluster, old_offset;
	uint8_t *buf; /* the new table's content */
	struct io io;
	struct iovec iov;
	struct wait_list waiters;
};

void table_set(struct qcow2 *q, struct table *t, uint32_t i, uint64_t v)
{
	t->entries[i] = v;
	q->l1_changes += t == &q->disk.l1;
	bitmap_set(&t->dirty, i * 8ULL / q->slice_bytes);
	t->any_dirty = true;
	commit_note_dirty(q);
}

/* ---- changing L2 entries ---- */

void l2_put(struct qcow2 *q, struct slice *s, uint64_t off, struct l2_entry v)
{
	uint8_t *p = s->data + l2_at(q, off);

	store_be64(p, v.e);
	if (q->ext)
		store_be64(p + 8, v.bitmap);
	slice_set_dirty(s);
	commit_note_dirty(q);
}

void l2_release(struct qcow2 *q, struct l2_entry v)
{
	uint64_t off = v.e & QCOW2_OFFSET_MASK, len = 1;

	if (q->external)
		return;
	if (v.e & QCOW2_COMPRESSED)
		l2_compressed(q, v.e, &off, &len);
	else if (!off)
		return;
	cluster_free_later(q, off >> q->cluster_bits,
		(uint32_t)(((off + len - 1) >> q->cluster_bits) - (off >> q->cluster_bits) + 1));
}

/* ---- looking up guest offsets ---- */

/* Get the extent of the entry at guest offset off, without its length. */
static void entry_classify(const struct qcow2 *q, struct l2_entry v, uint64_t off, bool l1_copied,
	struct extent *x)
{
	uint64_t in_cluster = off & (q->cluster_bytes - 1), host = v.e & QCOW2_OFFSET_MASK;

	*x = (struct extent){ .kind = EXTENT_UNALLOCATED, .has_host = l2_has_host(q, v) };
	if (v.e & QCOW2_COMPRESSED) {
		x->kind = EXTENT_COMPRESSED;
		l2_compressed(q, v.e, &x->host, &x->packed);
		return;
	}
	if (q->ext) {
		uint32_t sub = (uint32_t)(in_cluster / q->grain_bytes);

		if (v.bitmap >> (32 + sub) & 1)
			x->kind = EXTENT_ZERO;
		else if (v.bitmap >> sub & 1)
			x->kind = EXTENT_DATA;
	} else if (v.e & QCOW2_ZERO) {
		x->kind = EXTENT_ZERO;
	} else if (x->has_host) {
		x->kind = EXTENT_DATA;
	}
	if (x->has_host)
		x->host = host + in_cluster;
	if (x->kind == EXTENT_DATA)
		x->in_place = l1_copied && (v.e & QCOW2_COPIED);
}

static bool extent_continues(const struct extent *x, const struct extent *next, uint64_t len)
{
	return x->kind == next->kind && x->kind != EXTENT_COMPRESSED &&
	       x->in_place == next->in_place &&
	       x->has_host == next->has_host && (!x->has_host || next->host == x->host + len);
}

/* Find the extent from off on, within one slice. */
static int extent_in_slice(const struct qcow2 *q, const struct slice *s, uint64_t off, uint64_t len,
	bool l1_copied, struct extent *ret)
{
	uint64_t reach = (uint64_t)q->slice_entries << q->cluster_bits, pos = off;
	uint64_t end = MIN(off + len, ROUND_DOWN(off, reach) + reach);
	struct extent x;

	while (pos < end) {
		struct l2_entry v = l2_get(q, s, pos);
		uint64_t step = ROUND_DOWN(pos, q->grain_bytes) + q->grain_bytes;

		if (l2_check_at(q, v, pos) < 0) {
			if (pos > off)
				break;
			log_guest(q->base.name, "the L2 entry of offset 0x%llx is invalid "
				"(0x%016llx)", (unsigned long long)off, (unsigned long long)v.e);
			return -EIO;
		}
		entry_classify(q, v, pos, l1_copied, &x);
		if (x.kind == EXTENT_COMPRESSED)
			step = ROUND_DOWN(pos, q->cluster_bytes) + q->cluster_bytes;
		if (pos == off)
			*ret = x;
		else if (!extent_continues(ret, &x, pos - off))
			break;
		pos = step;
	}
	ret->len = MIN(pos, end) - off;
	return 0;
}

/* Find the extent from the runs of an evicted slice. */
static bool extent_in_run(const struct qcow2 *q, uint64_t slice, uint64_t off, uint64_t len,
	bool l1_copied, struct extent *ret)
{
	uint32_t i = (uint32_t)(off >> q->cluster_bits) & (q->slice_entries - 1), n;
	struct l2_entry v = { 0 };

	if (!l2_runs_find(q->l2.runs, slice, i, &v.e, &n) || l2_check_at(q, v, off) < 0)
		return false;
	entry_classify(q, v, off, l1_copied, ret);
	ret->len = MIN(len, ((uint64_t)n << q->cluster_bits) - (off & (q->cluster_bytes - 1)));
	return true;
}

uint64_t slice_offset(const struct qcow2 *q, uint64_t table, uint64_t off)
{
	uint64_t i = (off >> q->cluster_bits) & ((1ULL << q->l2_bits) - 1);

	return table + i * q->l2_entry_bytes / q->slice_bytes * q->slice_bytes;
}

static int l1_check(const struct qcow2 *q, uint64_t e1)
{
	uint64_t table = e1 & QCOW2_OFFSET_MASK;

	return (e1 & QCOW2_L1_RESERVED) || (table & (q->cluster_bytes - 1)) ? -EIO : 0;
}

static int extent_find(struct qcow2 *q, const struct map *m, uint64_t off, uint64_t len, struct wait *w, struct extent *ret)
{
	uint64_t i = off >> (q->cluster_bits + q->l2_bits);
	uint64_t e1 = i < m->l1.n ? m->l1.entries[i] : 0, table = e1 & QCOW2_OFFSET_MASK;
	uint64_t reach = map_table_reach(q);
	struct slice *s;
	int r;

	if (l1_check(q, e1) < 0) {
		log_guest(q->base.name, "L1 entry %u is invalid (0x%016llx)",
			l1_index(q, off), (unsigned long long)e1);
		return -EIO;
	}
	if (!table) {
		*ret = (struct extent){ .kind = EXTENT_UNALLOCATED,
			.len = MIN(len, reach - (off & (reach - 1))) };
		return 0;
	}
	if (extent_in_run(q, slice_offset(q, table, off), off, len, e1 & QCOW2_COPIED, ret))
		return 0;
	r = cache_get(&q->l2, slice_offset(q, table, off), w, &s);
	return r < 0 ? r : extent_in_slice(q, s, off, len, e1 & QCOW2_COPIED, ret);
}

int map_lookup(struct qcow2 *q, const struct map *m, uint64_t off, uint64_t len, struct wait *w, struct extent *ret)
{
	int r = extent_find(q, m, off, len, w, ret);

	if (r == -EIO && !m->vm)
		block_note_damage(&q->base, off, 1, "the table entry");
	return r;
}

/* ---- creating and copying tables ---- */

static void make_end(struct l2_make *m, int res)
{
	struct qcow2 *q = m->q;
	struct l2_make **p = &m->map->l2_makes;
	struct wait_list waiters;

	while (*p != m)
		p = &(*p)->next;
	*p = m->next;
	q->internal--;
	wait_list_init(&waiters);
	wait_list_move(&waiters, &m->waiters);
	free(m->buf);
	free(m);
	wait_list_wake(&waiters, res);
}

/* Name the new table, whose content is in the file, in the L1, and release the old table. The commit writes the L1
 * after a sync. */
static int make_publish(struct l2_make *m)
{
	struct qcow2 *q = m->q;

	if (meta_add(&q->meta, m->cluster, META_L2) < 0)
		return -ENOMEM;
	cache_drop(&q->l2, m->cluster << q->cluster_bits, q->cluster_bytes);
	if (!m->map->vm)
		q->need_barrier = true;
	table_set(q, &m->map->l1, m->l1_index, m->cluster << q->cluster_bits | QCOW2_COPIED);
	if (m->old_offset) {
		uint64_t old = m->old_offset >> q->cluster_bits;

		/* Only snapshots use the old table now. Its dirty slices must still be written. */
		meta_remove(&q->meta, old);
		(void)meta_add(&q->meta, old, META_INACTIVE_L2);
		cluster_free_later(q, old, 1);
	}
	return 0;
}

static void make_written(struct io *io, int res)
{
	struct l2_make *m = container_of(io, struct l2_make, io);

	if (!res)
		res = make_publish(m);
	if (res < 0)
		cluster_free_later(m->q, m->cluster, 1);
	make_end(m, res);
}

/* Write the table from byte `from` on. */
static void make_write(struct l2_make *m, uint32_t from)
{
	struct qcow2 *q = m->q;

	m->iov = (struct iovec){ m->buf + from, q->cluster_bytes - from };
	m->io.done = make_written;
	io_write(&m->io, q->base.loop, q->base.fd, &m->iov, 1, (m->cluster << q->cluster_bits) + from,
		q->cluster_bytes - from);
}

static void make_old_read(struct io *io, int res)
{
	struct l2_make *m = container_of(io, struct l2_make, io);
	struct qcow2 *q = m->q;

	if (res < 0) {
		cluster_free_later(q, m->cluster, 1);
		make_end(m, res);
		return;
	}
	/* Cached slices are newer than the file. */
	for (uint32_t o = 0; o < q->cluster_bytes; o += q->slice_bytes) {
		struct slice *s = cache_peek(&q->l2, m->old_offset + o);

		if (s)
			memcpy(m->buf + o, s->data, q->slice_bytes);
	}
	/* The table is shared, so its clusters are shared as well: clear COPIED. Clusters of a data
	 * file are never shared. */
	for (uint32_t o = 0; !q->external && o < q->cluster_bytes; o += q->l2_entry_bytes)
		store_be64(m->buf + o, load_be64(m->buf + o) & ~QCOW2_COPIED);
	make_write(m, 0);
}

static int make_start(struct qcow2 *q, struct map *map, uint32_t index, struct wait *w)
{
	uint64_t old = map->l1.entries[index] & QCOW2_OFFSET_MASK;
	struct l2_make *m = calloc(1, sizeof(*m));
	uint8_t *buf = io_buffer_new(q->cluster_bytes);
	struct cluster_run run;
	int r = m && buf ? cluster_alloc(q, 1, w, &run) : -ENOMEM;

	if (r < 0) {
		free(m);
		free(buf);
		return r;
	}
	*m = (struct l2_make){ .q = q, .map = map, .l1_index = index, .cluster = run.first, .old_offset = old,
		.buf = buf, .iov = { buf, q->cluster_bytes }, .next = map->l2_makes };
	wait_list_init(&m->waiters);
	map->l2_makes = m;
	q->internal++;
	/* A new table in a fresh cluster needs no write: the cluster reads as zeros. But if the
	 * cluster ends beyond the end of the file, write the table's last slice, so that the L1
	 * never names a table beyond the end of the file. */
	if (!old && run.fresh && (run.first + 1) << q->cluster_bits <= q->tail.file_bytes) {
		r = make_publish(m);
		make_end(m, r);
		return r;
	}
	wait_list_add(&m->waiters, w);
	memset(buf, 0, q->cluster_bytes);
	m->io.done = make_old_read;
	if (old)
		io_read(&m->io, q->base.loop, q->base.fd, &m->iov, 1, old, q->cluster_bytes);
	else
		make_write(m, run.fresh ? q->cluster_bytes - q->slice_bytes : 0);
	return -EINPROGRESS;
}

bool table_made(struct map *map, uint32_t index, struct wait *w)
{
	for (struct l2_make *m = map->l2_makes; m; m = m->next)
		if (m->l1_index == index) {
			wait_list_add(&m->waiters, w);
			return true;
		}
	return false;
}

/* Make sure that only the L1 of this map uses table `index`: create or copy the table if needed. */
static int table_own(struct qcow2 *q, struct map *map, uint32_t index, struct wait *w)
{
	uint64_t e1 = map->l1.entries[index], table = e1 & QCOW2_OFFSET_MASK;

	if (l1_check(q, e1) < 0)
		return qcow2_corrupt(q, "L1 entry %u is invalid (0x%016llx)", index,
			(unsigned long long)e1);
	if (table && (e1 & QCOW2_COPIED)) {
		if (meta_find(&q->meta, table >> q->cluster_bits) != META_L2)
			return qcow2_corrupt(q, "the L2 table at 0x%llx overlaps other metadata",
				(unsigned long long)table);
		return 0;
	}
	if (table_made(map, index, w))
		return -EINPROGRESS;
	if (map == &q->disk && q->before_own && table) {
		int r = q->before_own(q, index, w);

		if (r < 0)
			return r;
	}
	return make_start(q, map, index, w);
}

int map_get_writable(struct qcow2 *q, struct map *m, uint64_t off, struct wait *w,
	struct slice **ret_s)
{
	struct slice *s;
	int r = q->corrupt ? -EIO : table_own(q, m, l1_index(q, off), w);

	if (!r)
		r = cache_get(&q->l2, slice_offset(q,
			m->l1.entries[l1_index(q, off)] & QCOW2_OFFSET_MASK, off), w, &s);
	if (r < 0)
		return r;
	slice_pin(s);
	*ret_s = s;
	return 0;
}
