/* Writes compressed clusters to an existing image. Each guest cluster becomes one compressed stream;
 * streams are packed into a host cluster one after another. If a stream does not fit into the rest of
 * the host cluster, another host cluster is allocated. If that one is adjacent, the stream begins in
 * the rest and continues there; otherwise the stream begins in the new host cluster. */
#include "base/err.h"
#include "base/file.h"
#include "base/util.h"
#include "block/qcow2/pack.h"
#include "block/qcow2/bitmap_impl.h"
#include "block/qcow2/snapshot_impl.h"
#include "block/qcow2/sync.h"

#include <errno.h>
#include <stdlib.h>

struct qcow2_streams {
	struct qcow2 *q;
	uint64_t end;  /* end of the last stream, in the file */
	uint32_t left; /* bytes left in the last stream's cluster */
};

int qcow2_streams_new(struct block *b, struct qcow2_streams **ret_s, struct qcow2_create *ret_like, struct err *e)
{
	struct qcow2 *q = qcow2_of(b);
	struct qcow2_streams *s;
	int r = qcow2_sync_gate(q);

	if (q->external)
		return err_set(e, -ENOTSUP, ERR_UNSUPPORTED, "%s keeps its data in another file, which has no "
			"compressed clusters; convert without -c", b->name);
	if (r < 0)
		return err_set_errno(e, r, "%s", b->name);
	s = calloc(1, sizeof(*s));
	if (!s)
		return err_set_errno(e, -ENOMEM, "%s", b->name);
	s->q = q;
	*ret_like = (struct qcow2_create){ .cluster_bits = q->cluster_bits, .compression = q->h.compression };
	*ret_s = s;
	return 0;
}

static int cluster_take(struct qcow2 *q, struct wait *w, struct cluster_run *ret)
{
	return commit_throttle(q, w) ? -EINPROGRESS : cluster_alloc(q, 1, w, ret);
}

/* Increment the refcount of the cluster in which the last stream ended. -ERANGE: the refcount is at its
 * maximum. */
static int cluster_share(struct qcow2_streams *s)
{
	uint32_t done;

	return QCOW2_SYNC(s->q, refcount_add(s->q, s->end >> s->q->cluster_bits, 1, &sync.wait, &done));
}

/* Find a place for len bytes, and count a reference to each cluster that the stream touches. */
static int stream_place(struct qcow2_streams *s, size_t len, uint64_t *ret_at)
{
	struct qcow2 *q = s->q;
	struct cluster_run run;
	int r = s->left >= len ? cluster_share(s) : -ERANGE;

	*ret_at = s->end;
	if (r != -ERANGE)
		return r;
	r = QCOW2_SYNC(q, cluster_take(q, &sync.wait, &run));
	if (r < 0)
		return r;
	*ret_at = run.first << q->cluster_bits;
	if (s->left && s->left < len && *ret_at == s->end + s->left)
		r = cluster_share(s);
	else
		return 0;
	if (!r)
		*ret_at = s->end;
	else if (r != -ERANGE)
		cluster_free_later(q, run.first, 1);
	return r == -ERANGE ? 0 : r;
}

/* Map the cluster at `off` to the stream, and release the entry's previous cluster. */
static int cluster_map(struct qcow2 *q, uint64_t off, uint64_t at, size_t len, struct wait *w)
{
	uint32_t x = 62 - (q->cluster_bits - 8);
	uint64_t sectors = (at + len - 1) / 512 - at / 512;
	struct l2_entry old;
	struct slice *s;
	int r = map_get_writable(q, &q->disk, off, w, &s);

	if (r < 0)
		return r;
	old = l2_get(q, s, off);
	if (l2_check_at(q, old, off) < 0) {
		slice_unpin(s);
		return qcow2_corrupt(q, "the L2 entry of offset 0x%llx is invalid (0x%016llx)",
			(unsigned long long)off, (unsigned long long)old.e);
	}
	l2_put(q, s, off, (struct l2_entry){ QCOW2_COMPRESSED | at | sectors << x, 0 });
	l2_release(q, old);
	slice_unpin(s);
	q->unpacked_host = 0;
	q->need_barrier = true;
	return 0;
}

int qcow2_streams_add(struct qcow2_streams *s, uint64_t off, const void *data, size_t len)
{
	struct qcow2 *q = s->q;
	uint64_t at = 0, end;
	int r;

	if (!len || len >= q->cluster_bytes || off >= q->base.info.size_bytes || (off & (q->cluster_bytes - 1)))
		return -EINVAL;
	r = stream_place(s, len, &at);
	if (r < 0)
		return r;
	end = at + len;
	r = pwrite_full(q->base.fd, data, len, (off_t)at);
	if (!r)
		r = QCOW2_SYNC(q, cluster_map(q, off, at, len, &sync.wait));
	if (r < 0) {
		cluster_free_later(q, at >> q->cluster_bits,
			(uint32_t)(((end - 1) >> q->cluster_bits) - (at >> q->cluster_bits) + 1));
		s->left = 0;
		return r;
	}
	bitmaps_record(q, off, q->cluster_bytes);
	s->end = end;
	s->left = (uint32_t)(ROUND_UP(end, (uint64_t)q->cluster_bytes) - end);
	return 0;
}

int qcow2_streams_free(struct qcow2_streams *s)
{
	struct qcow2 *q = s->q;
	int r = qcow2_sync_flush(q);

	free(s);
	return r ? r : tail_extend(q, q->fresh_from); /* readers read whole sectors */
}
