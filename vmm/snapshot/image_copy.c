/* Up to two threads write pieces directly from a mapping of the source: direct I/O then needs no copy by
 * the CPU, buffered I/O one. Only the kernel reads the mapping, so a source that shrinks or has a
 * read error yields an errno, not a signal. */
#include "vmm/snapshot/image_copy.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/file.h"
#include "base/util.h"
#include "snapshot/holes.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#define PIECE_BYTES (4 * MIB)
/* Shorter pieces go through the page cache, which merges them. */
#define DIRECT_BYTES (256 * KIB)
/* Preallocate this much at a time, so that the blocks are contiguous. */
#define ROOM_BYTES (1 * GIB)
/* Alignment that direct I/O and mappings need on every file system. */
#define ALIGN_BYTES 4096u

struct copy {
	int source, copy;
	uint64_t bytes;
	pthread_mutex_t lock; /* protects all fields below */
	struct holes holes;
	uint64_t at, room_to;
	bool direct, never_direct;
	int r; /* error of the first piece that failed */
};

/* ---- functions that hold the lock ---- */

/* Switch O_DIRECT on or off. A write of the other thread that is in progress may or may not bypass the page cache
 * then, which is harmless. */
static void direct_set(struct copy *c, bool on)
{
	int flags = fcntl(c->copy, F_GETFL);

	if (c->never_direct || on == c->direct)
		return;
	if (flags < 0 || fcntl(c->copy, F_SETFL, on ? flags | O_DIRECT : flags & ~O_DIRECT) < 0)
		c->never_direct = true;
	else
		c->direct = on;
}

/* Preallocate the next range. Ignores file systems without fallocate(), but reports a full disk
 * early. */
static void room_make(struct copy *c, uint64_t from, uint64_t to)
{
	if (from < c->room_to)
		return;
	c->room_to = MIN(to, from + ROOM_BYTES);
	if (fallocate(c->copy, 0, (off_t)from, (off_t)(c->room_to - from)) < 0 && errno == ENOSPC)
		c->r = -ENOSPC;
}

/* Return the length of the next piece of data; 0: none is left, or the copy has failed. */
static size_t piece_next(struct copy *c, uint64_t *ret_from)
{
	struct holes *h = &c->holes;
	uint64_t from, to;

	if (c->r || c->at >= c->bytes)
		return 0;
	hole_at(h, c->at, 1);
	from = ROUND_DOWN(MAX(c->at, MIN(h->data_from, h->data_to)), ALIGN_BYTES);
	to = ROUND_UP(h->data_to, ALIGN_BYTES);
	c->at = MIN(to, from + PIECE_BYTES);
	if (h->data_from >= c->bytes)
		return 0;
	if (to - from >= DIRECT_BYTES)
		room_make(c, from, to);
	direct_set(c, c->at - from >= DIRECT_BYTES);
	*ret_from = from;
	return c->r ? 0 : (size_t)(c->at - from);
}

/* ---- functions that run in both threads ---- */

static size_t piece_take(struct copy *c, uint64_t *ret_from)
{
	LOCK_GUARD(&c->lock);
	return piece_next(c, ret_from);
}

static void copy_failed(struct copy *c, int r)
{
	LOCK_GUARD(&c->lock);
	if (!c->r)
		c->r = r;
}

static int mapped_copy(const struct copy *c, uint64_t from, size_t len)
{
	void *p = mmap(NULL, len, PROT_READ, MAP_PRIVATE, c->source, (off_t)from);
	int r;

	if (p == MAP_FAILED)
		return -errno;
	madvise(p, len, MADV_WILLNEED); /* start reading the whole piece at once */
	r = pwrite_full(c->copy, p, len, (off_t)from);
	munmap(p, len);
	return r;
}

/* Copy a piece through the page cache. Works on every file and yields the errno of a failing source
 * or target. */
static int buffered_copy(struct copy *c, uint64_t from, size_t len)
{
	CLEANUP_FREE uint8_t *buf = malloc(PIECE_BYTES);
	int r = buf ? 0 : -ENOMEM;

	pthread_mutex_lock(&c->lock);
	direct_set(c, false);
	c->never_direct = true;
	pthread_mutex_unlock(&c->lock);
	len = (size_t)MIN(len, c->bytes - from);
	if (!r)
		r = pread_full(c->source, buf, len, (off_t)from);
	return r ? r : pwrite_full(c->copy, buf, len, (off_t)from);
}

/* Copy the next piece. Returns false when none is left. */
static bool piece_copy(struct copy *c)
{
	uint64_t from;
	size_t len = piece_take(c, &from);
	int r;

	if (!len)
		return false;
	r = mapped_copy(c, from, len);
	if (r < 0)
		r = buffered_copy(c, from, len);
	if (r < 0)
		copy_failed(c, r);
	return true;
}

static void *helper_main(void *opaque)
{
	while (piece_copy(opaque))
		;
	return NULL;
}

/* ---- copying the whole file ---- */

static uint64_t file_position(struct copy *c)
{
	uint64_t at;

	LOCK_GUARD(&c->lock);
	at = MIN(c->at, c->bytes);
	return at;
}

static int content_copy(struct copy *c, int (*step)(void *opaque, uint64_t done, uint64_t total), void *opaque)
{
	pthread_t helper;
	bool helped = c->bytes > PIECE_BYTES && pthread_create(&helper, NULL, helper_main, c) == 0;

	/* Call step() before the first piece, too: the helper may copy all pieces of a short file. */
	do {
		if (step(opaque, file_position(c), c->bytes))
			copy_failed(c, -ECANCELED);
	} while (piece_copy(c));
	if (helped)
		pthread_join(helper, NULL);
	direct_set(c, false); /* the next user of the file may write less than a sector */
	if (!c->r && lseek(c->source, 0, SEEK_END) < (off_t)c->bytes)
		c->r = -EIO; /* the range past the source's new end looked like a hole */
	/* The last piece was written to the end of its page. */
	if (!c->r && ftruncate(c->copy, (off_t)c->bytes) < 0)
		c->r = -errno;
	return c->r;
}

/* Note the source's size, and empty the copy and give it that size. lseek() also works on block devices. */
static int copy_prepare(struct copy *c)
{
	off_t end = lseek(c->source, 0, SEEK_END);

	if (end < 0 || ftruncate(c->copy, 0) < 0 || ftruncate(c->copy, end) < 0)
		return -errno;
	c->bytes = (uint64_t)end;
	c->holes = (struct holes){ .fd = c->source, .bytes = c->bytes };
	return 0;
}

int image_copy(int source, int copy, int (*step)(void *opaque, uint64_t done, uint64_t total), void *opaque,
	struct err *e)
{
	struct copy c = { .source = source, .copy = copy, .lock = PTHREAD_MUTEX_INITIALIZER };
	int r;

	/* Ignore why cloning fails, since the errnos vary between file systems: the copy reports
	 * the real error. */
	if (ioctl(copy, FICLONE, source) == 0)
		return 0;
	r = copy_prepare(&c);
	if (!r)
		r = content_copy(&c, step, opaque);
	if (r == -ECANCELED)
		return err_set(e, r, ERR_CANCELLED, "the copy was cancelled");
	return r < 0 ? err_set_errno(e, r, "cannot copy a disk's image") : 0;
}
