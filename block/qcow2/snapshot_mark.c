/* The mark: while a snapshot comes, goes or is applied, the image says that it is dirty. Who opens it after a
 * crash lowers the refcounts that are too high then (snapshot_mend.c). Images of version 2 have no such bit. */
#include "block/qcow2/snapshot_impl.h"

#include <errno.h>

int snap_mark_put(struct snap_mark *m, struct task *t, bool dirty)
{
	struct qcow2 *q = t->q;
	int r;

	if (m->writing) {
		m->writing = false;
		header_release(q);
		return 0;
	}
	if (q->h.version < 3)
		return 0;
	if (q->corrupt)
		return -EIO;
	r = header_hold(q, &t->wait);
	if (r < 0)
		return r;
	qcow2_mark_dirty(q, dirty);
	m->writing = true;
	return header_put(q, &m->header, &t->wait);
}

void snap_mark_failed(struct snap_mark *m, struct qcow2 *q)
{
	qcow2_mark_dirty(q, true);
	m->writing = false;
	header_release(q);
}
