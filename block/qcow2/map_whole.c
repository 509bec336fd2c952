/* Changes of the whole map. Preallocation allocates a host cluster for every guest cluster
 * before the guest writes to it. Emptying unmaps all clusters, so that the disk reads from the backing file. */
#include "base/err.h"
#include "base/util.h"
#include "block/qcow2/sync.h"

#include <errno.h>

static bool has_cluster(const struct qcow2 *q, struct l2_entry v)
{
	return (v.e & QCOW2_COMPRESSED) || l2_has_host(q, v);
}

/* Map one run of clusters from guest cluster c on. ret_n: its length. */
static int run_map(struct qcow2 *q, uint64_t c, uint64_t end, struct wait *w, uint32_t *ret_n)
{
	uint64_t off = c << q->cluster_bits, left = q->slice_entries - c % q->slice_entries;
	struct cluster_run run;
	uint64_t flag = 0;
	struct slice *s;
	int r = commit_throttle(q, w) ? -EINPROGRESS : map_get_writable(q, &q->disk, off, w, &s);

	if (r < 0)
		return r;
	left = MIN(left, end - c);
	*ret_n = 1;
	if (has_cluster(q, l2_get(q, s, off))) {
		slice_unpin(s);
		return 0;
	}
	r = data_alloc(q, c, (uint32_t)left, w, &run);
	if (!r && !q->external) {
		r = tail_extend(q, run.first + run.n); /* before an entry names the clusters */
		if (r < 0)
			data_release(q, run.first, run.n);
	}
	/* The old content of a reused cluster must not become readable. */
	if (!r && !run.fresh && !q->ext && !q->data.raw) {
		flag = QCOW2_ZERO;
		if (q->h.version < 3) {
			data_release(q, run.first, run.n);
			r = -EOPNOTSUPP;
		}
	}
	for (uint32_t i = 0; !r && i < run.n; i++) {
		uint64_t at = (c + i) << q->cluster_bits;
		struct l2_entry v = l2_get(q, s, at);

		/* Zeros stay zeros, because they may hide a backing file. */
		if (has_cluster(q, v))
			data_release(q, run.first + i, 1);
		else
			l2_put(q, s, at, (struct l2_entry){ (run.first + i) << q->cluster_bits | QCOW2_COPIED | flag |
				(v.e & QCOW2_ZERO), v.bitmap });
	}
	slice_unpin(s);
	if (!r) {
		q->need_barrier = true;
		*ret_n = run.n;
	}
	return r;
}

int qcow2_preallocate(struct block *b, uint64_t from, struct err *e)
{
	struct qcow2 *q = qcow2_of(b);
	uint64_t end = DIV_ROUND_UP(b->info.size_bytes, (uint64_t)q->cluster_bytes);
	int r = qcow2_sync_gate(q);

	for (uint64_t c = DIV_ROUND_UP(from, (uint64_t)q->cluster_bytes); c < end && !r;) {
		uint32_t n = 0;

		r = QCOW2_SYNC(q, run_map(q, c, end, &sync.wait, &n));
		c += n;
	}
	if (!r)
		r = qcow2_sync_flush(q);
	if (!r)
		r = tail_extend(q, q->fresh_from); /* so that the file's length shows that it is complete */
	if (!r)
		r = data_extend(q, b->info.size_bytes);
	if (r == -EOPNOTSUPP && q->h.version < 3)
		return err_set(e, r, ERR_UNSUPPORTED, "%s: compat 0.10 cannot preallocate clusters that held other data before; omit "
			"--preallocation, or use `cairn-img amend -o compat=1.1` first", b->name);
	return r < 0 ? err_set_errno(e, r, "%s: cannot allocate", b->name) : 0;
}

/* ---- unmapping all clusters ---- */

static int slice_empty(struct qcow2 *q, uint64_t off, uint64_t end, struct wait *w)
{
	struct slice *s;
	int r = commit_throttle(q, w) ? -EINPROGRESS : map_get_writable(q, &q->disk, off, w, &s);

	if (r < 0)
		return r;
	for (; off < end && !r; off += q->cluster_bytes) {
		struct l2_entry v = l2_get(q, s, off);

		if (!v.e && !v.bitmap)
			continue;
		r = l2_check_at(q, v, off);
		if (r < 0)
			break;
		l2_put(q, s, off, (struct l2_entry){ 0, 0 });
		l2_release(q, v);
	}
	slice_unpin(s);
	return r;
}

int qcow2_make_empty(struct block *b, struct err *e)
{
	struct qcow2 *q = qcow2_of(b);
	uint64_t reach = (uint64_t)q->slice_entries << q->cluster_bits, size = b->info.size_bytes;
	int r = qcow2_sync_gate(q);

	for (uint64_t off = 0; off < size && !r; off += reach) {
		if (!(q->disk.l1.entries[l1_index(q, off)] & QCOW2_OFFSET_MASK))
			continue;
		r = QCOW2_SYNC(q, slice_empty(q, off, MIN(off + reach, size), &sync.wait));
	}
	if (!r)
		r = qcow2_sync_flush(q);
	if (!r)
		r = qcow2_tables_cut(q, 0, size);
	if (!r)
		data_empty(q);
	return r < 0 ? err_set_errno(e, r, "%s: cannot empty the image", b->name) : 0;
}
