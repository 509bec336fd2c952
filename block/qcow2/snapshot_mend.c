/* Mend: an image whose last user died while a snapshot came, went or was applied is marked dirty. Its refcounts
 * are too high here and there; before anything is written they are lowered, what is free goes back to the
 * file system, and the mark goes. QEMU does the same when it opens such an image. */
#include "base/err.h"
#include "base/log.h"
#include "block/qcow2/impl.h"

#include <errno.h>
#include <fcntl.h>

/* Up to 12 bytes of memory for each cluster of the file; what is larger is for `cairn-img check`. */
#define MEND_CLUSTERS_MAX (64ULL << 20)

static int mend(int fd, const char *name, struct qcow2_header *h, struct err *e)
{
	struct qcow2_check c = { 0 };
	struct err ignored;
	int r = qcow2_repair(fd, h, QCOW2_REPAIR_LEAKS, &c, e);

	if (r < 0 || (h->incompatible & QCOW2_INCOMPAT_DIRTY))
		return r; /* who asks whether it is supported says what to do */
	log_info(name, "%llu clusters that an interrupted snapshot operation had left are free now",
		(unsigned long long)c.leaks_fixed);
	(void)qcow2_trim(fd, h, &ignored); /* space only */
	return 0;
}

int qcow2_mend(const struct block_format_open *o, struct qcow2_header *h, struct err *e)
{
	int flags = fcntl(o->fd, F_GETFL), r;

	if (o->read_only || !(h->incompatible & QCOW2_INCOMPAT_DIRTY) ||
		(h->incompatible & QCOW2_INCOMPAT_CORRUPT) ||
		o->file->size_bytes >> h->cluster_bits > MEND_CLUSTERS_MAX)
		return 0;
	/* It reads and writes in pieces that direct I/O does not take. */
	if (flags < 0 || ((flags & O_DIRECT) && fcntl(o->fd, F_SETFL, flags & ~O_DIRECT) < 0))
		return err_set_errno(e, -errno, "%s", o->name);
	r = mend(o->fd, o->name, h, e);
	if (r < 0)
		err_prefix(e, "%s", o->name);
	if ((flags & O_DIRECT) && fcntl(o->fd, F_SETFL, flags) < 0 && !r)
		r = err_set_errno(e, -errno, "%s", o->name);
	return r;
}
