#include "vmm/image_copy.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/file.h"
#include "base/util.h"
#include "snapshot/holes.h"

#include <errno.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#define PIECE_BYTES (1 * MIB)

struct copy {
	int source, copy;
	uint64_t bytes;
	int (*step)(void *opaque, uint64_t done, uint64_t total);
	void *opaque;
};

/* [from, to) in bytes. */
static int stretch_copy(const struct copy *c, uint64_t from, uint64_t to, uint8_t *buf)
{
	int r = 0;

	while (from < to && !r) {
		size_t len = (size_t)MIN(PIECE_BYTES, to - from);

		r = pread_full(c->source, buf, len, (off_t)from);
		if (!r)
			r = pwrite_full(c->copy, buf, len, (off_t)from);
		from += len;
		if (!r && c->step(c->opaque, from, c->bytes))
			r = -ECANCELED;
	}
	return r;
}

static int content_copy(const struct copy *c)
{
	CLEANUP_FREE uint8_t *buf = malloc(PIECE_BYTES);
	struct holes h = { .fd = c->source, .bytes = c->bytes };
	int r = !buf ? -ENOMEM : ftruncate(c->copy, (off_t)c->bytes) < 0 ? -errno : 0;

	for (uint64_t at = 0; at < c->bytes && !r; at = h.data_to) {
		hole_at(&h, at, 1);
		r = stretch_copy(c, MAX(at, MIN(h.data_from, h.data_to)), h.data_to, buf);
	}
	return r;
}

int image_copy(int source, int copy, int (*step)(void *opaque, uint64_t done, uint64_t total), void *opaque,
	struct err *e)
{
	struct copy c = { .source = source, .copy = copy, .step = step, .opaque = opaque };
	struct stat st;
	int r;

	/* Whatever it fails for, and there are many errnos: copying tells what is really wrong. */
	if (ioctl(copy, FICLONE, source) == 0)
		return 0;
	r = fstat(source, &st) < 0 ? -errno : 0;
	c.bytes = r ? 0 : (uint64_t)st.st_size;
	if (!r)
		r = content_copy(&c);
	if (r == -ECANCELED)
		return err_set(e, r, ERR_CANCELLED, "it was cancelled");
	return r < 0 ? err_set_errno(e, r, "cannot copy a disk's image") : 0;
}
