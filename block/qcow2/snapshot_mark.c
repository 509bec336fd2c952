/* The mark: the dirty bit is set while a snapshot is created, changed, deleted or applied. Opening a marked
 * image for writing after a crash repairs it before anything else is written, if it has only leaks: refcounts that are
 * too high are lowered, and the bit is cleared. QEMU repairs it, too. Images of version 2 have no dirty bit. */
#include "base/err.h"
#include "base/log.h"
#include "base/util.h"
#include "block/qcow2/snapshot_impl.h"

#include <errno.h>
#include <fcntl.h>

int snapshot_mark_put(struct snapshot_mark *m, struct task *t, bool dirty)
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

void snapshot_mark_failed(struct snapshot_mark *m, struct qcow2 *q)
{
	qcow2_mark_dirty(q, true);
	m->writing = false;
	header_release(q);
}

/* ---- on open: repair a marked image ---- */

/* Memory that a repair needs for each cluster of the file: three counts and three bits. */
#define REPAIR_CLUSTER_BYTES 13
#define REPAIR_MEMORY_MAX (768 * MIB)

/* Preallocated metadata takes 10 bytes of the file for each cluster, so an image with whole metadata needs less than
 * twice its space, even if the disk is empty. */
static uint64_t repair_memory_max(int fd, const struct qcow2_header *h)
{
	return MIN(qcow2_memory_max(fd, h) + 2 * qcow2_allocated_bytes(fd), REPAIR_MEMORY_MAX);
}

static int leaks_repair(int fd, const char *name, struct qcow2_header *h, struct err *e)
{
	struct qcow2_check c = { 0 };
	struct err ignored;
	int r = qcow2_repair(fd, h, QCOW2_REPAIR_LEAKS, &c, e);

	if (r < 0 || (h->incompatible & QCOW2_INCOMPAT_DIRTY))
		return r; /* qcow2_header_supported() reports the remedy */
	log_info(name, "freed %llu clusters that an interrupted snapshot operation had leaked",
		(unsigned long long)c.leaks_fixed);
	(void)qcow2_trim(fd, h, &ignored); /* an error only wastes space */
	return 0;
}

int qcow2_repair_leaks(const struct block_format_open *o, struct qcow2_header *h, struct err *e)
{
	int flags = fcntl(o->fd, F_GETFL), r;

	if (o->read_only || o->no_repair || !(h->incompatible & QCOW2_INCOMPAT_DIRTY) ||
		(h->incompatible & QCOW2_INCOMPAT_CORRUPT) ||
		(o->file->size_bytes >> h->cluster_bits) * REPAIR_CLUSTER_BYTES > repair_memory_max(o->fd, h))
		return 0;
	/* The repair reads and writes pieces that direct I/O does not accept. */
	if (flags < 0 || ((flags & O_DIRECT) && fcntl(o->fd, F_SETFL, flags & ~O_DIRECT) < 0))
		return err_set_errno(e, -errno, "%s", o->name);
	r = leaks_repair(o->fd, o->name, h, e);
	if (r < 0)
		err_prefix(e, "%s", o->name);
	if ((flags & O_DIRECT) && fcntl(o->fd, F_SETFL, flags) < 0 && !r)
		r = err_set_errno(e, -errno, "%s", o->name);
	return r;
}
