#include "vmm/fork_disks.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/file.h"
#include "base/util.h"
#include "snapshot/holes.h"
#include "vmm/disk_call.h"
#include "vmm/machine.h"

#include <errno.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#define PIECE_BYTES (1 * MIB)

static unsigned disks_written(const struct machine *m)
{
	unsigned n = 0;

	for (unsigned i = 0; i < m->ndisks; i++)
		n += !m->cfg.disks[i].read_only;
	return n;
}

/* Is it the image that this disk has open? The daemon knows its path only. */
static int image_check(const struct machine_disk *d, int fd, struct err *e)
{
	struct stat st;

	if (fstat(fd, &st) < 0)
		return err_set_errno(e, -errno, "disk %s", d->id);
	if (st.st_dev != d->image_dev || st.st_ino != d->image_ino)
		return err_set(e, -EINVAL, ERR_INVALID,
			"disk %s: the definition names another image than the VM runs with; define it as it was, "
			"or start the VM anew", d->id);
	return 0;
}

int fork_disks_check(const struct fork_disks *d, const struct machine *m, struct err *e)
{
	unsigned want = disks_written(m) * (1 + d->copies), at = 0;
	int r = 0;

	if (d->nfds != want || (want && !d->copies))
		return err_set(e, -EINVAL, ERR_INVALID,
			"the definition has other disks than the VM runs with; define it as it was, or start the VM "
			"anew");
	for (unsigned i = 0; i < m->ndisks && !r; i++) {
		if (m->cfg.disks[i].read_only)
			continue;
		r = image_check(&m->disks[i], d->fds[at], e);
		at += 1 + d->copies;
	}
	return r;
}

/* [from, to) in bytes. */
static int stretch_copy(struct fork_disks *d, int source, int copy, uint64_t from, uint64_t to, uint8_t *buf)
{
	int r = 0;

	while (from < to && !r) {
		size_t len = (size_t)MIN(PIECE_BYTES, to - from);

		r = pread_full(source, buf, len, (off_t)from);
		if (!r)
			r = pwrite_full(copy, buf, len, (off_t)from);
		if (!r && d->step(d->opaque, from, to))
			r = -ECANCELED;
		from += len;
	}
	return r;
}

static int content_copy(struct fork_disks *d, int source, int copy, uint64_t bytes)
{
	CLEANUP_FREE uint8_t *buf = malloc(PIECE_BYTES);
	struct holes h = { .fd = source, .bytes = bytes };
	int r = !buf ? -ENOMEM : ftruncate(copy, (off_t)bytes) < 0 ? -errno : 0;

	for (uint64_t at = 0; at < bytes && !r; at = h.data_to) {
		hole_at(&h, at, 1);
		r = stretch_copy(d, source, copy, MAX(at, MIN(h.data_from, h.data_to)), h.data_to, buf);
	}
	return r;
}

static int image_copy(struct fork_disks *d, int source, int copy, struct err *e)
{
	struct stat st;
	int r = 0;

	/* Whatever it fails for, and there are many errnos: copying tells what is really wrong. */
	if (ioctl(copy, FICLONE, source) == 0)
		return 0;
	r = fstat(source, &st) < 0 ? -errno : content_copy(d, source, copy, (uint64_t)st.st_size);
	if (r == -ECANCELED)
		return err_set(e, r, ERR_CANCELLED, "it was cancelled");
	return r < 0 ? err_set_errno(e, r, "cannot copy a disk's image") : 0;
}

int fork_disks_copy(struct fork_disks *d, struct machine *m, struct err *e)
{
	int r = 0;

	for (unsigned i = 0; i < m->ndisks && !r; i++)
		if (!m->cfg.disks[i].read_only)
			r = disk_flush(&m->disks[i], e);
	for (unsigned i = 0; i < d->nfds && !r; i += 1 + d->copies)
		r = image_copy(d, d->fds[i], d->fds[i + 1], e);
	return r;
}

int fork_disks_spread(struct fork_disks *d, struct err *e)
{
	int r = 0;

	for (unsigned i = 0; i < d->nfds; i += 1 + d->copies)
		for (unsigned k = 1; k <= d->copies && !r; k++) {
			if (k > 1)
				r = image_copy(d, d->fds[i + 1], d->fds[i + k], e);
			if (!r && fdatasync(d->fds[i + k]) < 0)
				r = err_set_errno(e, -errno, "cannot copy a disk's image");
		}
	return r;
}

void fork_disks_done(struct fork_disks *d)
{
	while (d->nfds)
		close(d->fds[--d->nfds]);
}
