/* Empty: nothing is mapped any more, so that the backing layer shows everywhere. */
#include "base/err.h"
#include "base/util.h"
#include "block/qcow2/sync.h"

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
		data_empty(q);
	return r < 0 ? err_set_errno(e, r, "%s: cannot empty the image", b->name) : 0;
}
