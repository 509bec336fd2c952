#include "block/block.h"
#include "base/err.h"
#include "base/log.h"
#include "base/util.h"
#include "block/block_impl.h"
#include "block/io.h"
#include "block/lock.h"
#include "block/mirror.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

/* Limits on a disk's bounce buffers: in total, and for one request, which larger requests use several times. */
#define BOUNCE_BYTES_MAX (32 * MIB)
#define BOUNCE_PIECE_BYTES (1 * MIB)

static const char *const format_names[] = { [BLOCK_FORMAT_RAW] = "raw",
	[BLOCK_FORMAT_QCOW2] = "qcow2" };

const char *block_format_name(enum block_format f)
{
	return (unsigned)f < ARRAY_SIZE(format_names) ? format_names[f] : NULL;
}

int block_format_from_name(const char *name)
{
	for (size_t i = 0; i < ARRAY_SIZE(format_names); i++)
		if (format_names[i] && !strcmp(format_names[i], name))
			return (int)i;
	return -1;
}

/* ---- requests ---- */

static void bounce_done(struct block_req *r, int res);

/* Log a line about a request that is submitted or complete. The callers do so only with --log-level trace. */
static void __attribute__((noinline, cold)) req_trace(const struct block_req *r, bool submitted, int res)
{
	static const char *const names[] = { [BLOCK_READ] = "read", [BLOCK_WRITE] = "write",
		[BLOCK_FLUSH] = "flush", [BLOCK_DISCARD] = "discard", [BLOCK_WRITE_ZEROES] = "zero" };
	const char *name = (unsigned)r->op < ARRAY_SIZE(names) ? names[r->op] : "unknown request";
	char end[32] = "";

	if (!submitted)
		snprintf(end, sizeof(end), " done=%d", res);
	log_trace(r->block->name, "%s offset=%" PRIu64 " bytes=%" PRIu64 " layer=%u%s%s%s", name, r->offset, r->len,
		r->block->layer, r->flags & BLOCK_REQ_FUA ? " fua" : "",
		r->flags & BLOCK_REQ_MAY_UNMAP ? " may-unmap" : "", end);
}

void block_req_end(struct block_req *r, int res)
{
	struct block *b = r->block;

	b->in_flight--;
	b->changing -= r->op != BLOCK_READ && r->done != bounce_done;
	r->done(r, res);
	if (b->mirror)
		block_mirror_request_ended(b->mirror);
}

static struct block_req *req_outer(struct block_req *r);

static void req_done(struct block_req *r, int res)
{
	if (log_traces() && r->done != bounce_done)
		req_trace(r, false, res);
	if (r->block->mirror && r->op != BLOCK_READ && !(r->flags & BLOCK_REQ_OWN) &&
		block_mirror_forwards(r->block->mirror, req_outer(r), r, res))
		return;
	block_req_end(r, res);
}

static void deferred_run(struct loop_op *op, int res)
{
	struct block *b = container_of(op, struct block, defer_op);
	struct block_req *r = b->deferred, *next;

	(void)res;
	b->defer_armed = false;
	b->deferred = NULL;
	b->deferred_tail = &b->deferred;
	for (; r; r = next) {
		next = r->next;
		req_done(r, r->res);
	}
}

void block_complete_later(struct block_req *r, int res)
{
	struct block *b = r->block;

	r->res = res;
	r->next = NULL;
	*b->deferred_tail = r;
	b->deferred_tail = &r->next;
	if (!b->defer_armed) {
		b->defer_armed = true;
		loop_nop(b->loop, &b->defer_op);
	}
}

void block_complete(struct block_req *r, int res)
{
	if (r->block->submitting) {
		block_complete_later(r, res);
		return;
	}
	req_done(r, res);
}

static void error_report(struct loop_op *op, int res)
{
	struct block *b = container_of(op, struct block, error_op);

	(void)res;
	b->error_armed = false;
	if (b->listener)
		b->listener->on_error(b->listener, b->error_code, b->error_why);
}

/* The listener gets at most one error in each round of the loop: the first corruption, or else the last error. */
void block_report_error(struct block *b, int error, bool corrupt, const char *why)
{
	if (block_is_corrupt(b))
		return;
	if (corrupt)
		atomic_store(&b->corrupt, true);
	b->error_code = error;
	snprintf(b->error_why, sizeof(b->error_why), "%s", why);
	if (b->error_armed)
		return;
	b->error_armed = true;
	loop_nop(b->loop, &b->error_op);
}

void block_note_damage(struct block *image, uint64_t off, uint64_t len, const char *what)
{
	image->damage = (struct block_damage){ .what = what, .image = image, .off = off, .len = len, .image_off = off };
}

const struct block_damage *block_damage_find(const struct block *b, uint64_t off, uint64_t len)
{
	for (; b; b = b->backing)
		if (b->damage.what && b->damage.off < off + len && off < b->damage.off + b->damage.len)
			return &b->damage;
	return NULL;
}

int block_read_error(const struct block *b, uint64_t off, uint64_t len, int res, struct err *e)
{
	const struct block_damage *d = block_damage_find(b, off, len);
	char layer[32] = "";

	if (!d)
		return err_set_errno(e, res, "%s: cannot read at offset %" PRIu64, b->name, off);
	if (d->image->layer && !strcmp(d->image->name, b->name)) /* the layer has no name of its own */
		snprintf(layer, sizeof(layer), ": backing layer %u", d->image->layer);
	return err_set(e, res, ERR_CORRUPT, "%s%s: %s of guest offset %" PRIu64 " is damaged; `cairn-img convert --salvage` copies the rest "
		"of the disk, with zeros in its place", d->image->name, layer, d->what, d->image_off);
}

int block_synced(struct block *b, int fd, int res)
{
	if (res < 0 && !b->sync_error && !(fcntl(fd, F_GETFL) & O_DIRECT)) {
		b->sync_error = res;
		log_error(b->name, "cannot sync the disk (%s), and the host may have dropped what was written last; all "
			"flushes fail until the disk is opened anew", strerror(-res));
	}
	return b->sync_error ? b->sync_error : MIN(res, 0);
}

int block_sync(struct block *b, int fd)
{
	return block_synced(b, fd, !b->no_flush && fdatasync(fd) < 0 ? -errno : 0);
}

void block_fdatasync(struct block *b, struct loop_op *op, int fd)
{
	if (b->no_flush)
		loop_nop(b->loop, op);
	else
		loop_fdatasync(b->loop, op, fd);
}

void block_set_listener(struct block *b, struct block_listener *l)
{
	b->listener = l;
}

bool block_is_corrupt(const struct block *b)
{
	return atomic_load(&b->corrupt);
}

const char *block_corruption(const struct block *b)
{
	return block_is_corrupt(b) ? b->error_why : NULL;
}

/* The node of a block device may be removed while its content stays. */
static bool file_is_removed(int fd)
{
	struct stat st;

	return !fstat(fd, &st) && S_ISREG(st.st_mode) && !st.st_nlink;
}

void block_init(struct block *b, const struct block_ops *ops, const struct block_format_open *o)
{
	b->ops = ops;
	b->loop = o->loop;
	b->fd = -1;
	b->named = !file_is_removed(o->fd);
	snprintf(b->name, sizeof(b->name), "%s", o->name ? o->name : "disk");
	b->deferred_tail = &b->deferred;
	b->bounce.max_bytes = BOUNCE_BYTES_MAX;
	b->bounce_piece = BOUNCE_PIECE_BYTES;
	b->bounce_tail = &b->bounce_first;
	b->buffered = o->buffered;
	b->no_flush = o->no_flush;
	b->defer_op.done = deferred_run;
	b->error_op.done = error_report;
}

/* A request whose memory is not aligned for O_DIRECT goes through a bounce buffer, one piece after the other. Each
 * piece of a FUA write is durable by itself. */
struct bounce {
	struct block_req inner;
	struct block_req *outer;
	struct iovec iov;
	uint64_t done, room; /* bytes of `outer` that are transferred; size of the buffer */
	uint64_t charged;
};

/* Returns the request that r is a piece of, or r itself. */
static struct block_req *req_outer(struct block_req *r)
{
	return r->done == bounce_done ? container_of(r, struct bounce, inner)->outer : r;
}

/* Start the next piece. A piece ends at a multiple of the buffer's size, so that few pieces share a cluster. */
static void bounce_next(struct bounce *n)
{
	struct block_req *r = n->outer;
	struct block *b = r->block;
	uint64_t at = r->offset + n->done, left = r->len - n->done;
	bool outer = !b->submitting;

	n->iov.iov_len = left <= n->room ? left : ROUND_DOWN(at, n->room) + n->room - at;
	n->inner = (struct block_req){ .op = r->op, .flags = r->flags, .offset = at, .len = n->iov.iov_len, .iov = &n->iov,
		.niov = 1, .done = bounce_done, .block = b };
	if (r->op == BLOCK_WRITE)
		iov_to_buf(r->iov, r->niov, n->done, n->iov.iov_base, n->iov.iov_len);
	b->in_flight++;
	b->submitting = true;
	b->ops->submit(b, &n->inner);
	if (outer)
		b->submitting = false;
}

/* Get a request's buffer and start its first piece. Returns 0; -EAGAIN: there is no room; -ENOMEM. */
static int bounce_begin(struct block *b, struct block_req *r)
{
	/* Do not split a write to unallocated clusters: the first piece would allocate a cluster that the next must
	 * find unallocated. */
	uint64_t room = r->flags & BLOCK_REQ_UNALLOCATED ? r->len : MIN(r->len, b->bounce_piece);
	uint64_t charged = MIN(room, b->bounce.max_bytes);
	struct bounce *n;

	if (!budget_take(&b->bounce, charged))
		return -EAGAIN;
	n = calloc(1, sizeof(*n));
	if (n)
		n->iov.iov_base = io_buffer_new(room);
	if (!n || !n->iov.iov_base) {
		free(n);
		budget_give(&b->bounce, charged);
		return -ENOMEM;
	}
	n->outer = r;
	n->room = room;
	n->charged = charged;
	bounce_next(n);
	return 0;
}

static void bounce_start(struct block *b, struct block_req *r)
{
	int res = b->bounce_first ? -EAGAIN : bounce_begin(b, r);

	if (res == -EAGAIN) {
		r->next = NULL;
		*b->bounce_tail = r;
		b->bounce_tail = &r->next;
	} else if (res < 0) {
		block_complete_later(r, res);
	}
}

/* Return the buffer's room, and start the requests that waited for it. */
static void bounce_end(struct bounce *n)
{
	struct block *b = n->outer->block;

	budget_give(&b->bounce, n->charged);
	free(n->iov.iov_base);
	free(n);
	for (struct block_req *r; (r = b->bounce_first);) {
		struct block_req *next = r->next; /* a request that begins uses the field */
		int res = bounce_begin(b, r);

		if (res == -EAGAIN)
			return;
		b->bounce_first = next;
		if (!next)
			b->bounce_tail = &b->bounce_first;
		if (res < 0)
			block_complete_later(r, res);
	}
}

static void bounce_done(struct block_req *r, int res)
{
	struct bounce *n = container_of(r, struct bounce, inner);
	struct block_req *outer = n->outer;

	if (!res && outer->op == BLOCK_READ)
		iov_from_buf(outer->iov, outer->niov, n->done, n->iov.iov_base, n->iov.iov_len);
	n->done += n->iov.iov_len;
	if (!res && n->done < outer->len) {
		bounce_next(n);
		return;
	}
	bounce_end(n);
	block_complete(outer, res);
}

static bool req_needs_bounce(const struct block *b, const struct block_req *r)
{
	/* The guest may change its memory between two reads of it. */
	if (r->op == BLOCK_WRITE && b->mirror && block_mirror_writes_through(b->mirror))
		return true;
	if (!b->info.direct)
		return false;
	for (unsigned i = 0; i < r->niov; i++)
		if (((uintptr_t)r->iov[i].iov_base & (b->info.buffer_align - 1)) ||
			(r->iov[i].iov_len & (b->info.logical_block_bytes - 1)))
			return true;
	return false;
}

static int req_check_data(const struct block_req *r)
{
	if (r->len > BLOCK_REQ_BYTES_MAX || !r->iov || iov_bytes(r->iov, r->niov) != r->len)
		return -EINVAL;
	return 0;
}

static int req_check(const struct block *b, const struct block_req *r)
{
	unsigned mask = b->info.logical_block_bytes - 1;

	if ((unsigned)r->op > BLOCK_WRITE_ZEROES)
		return -EINVAL;
	if (r->op != BLOCK_READ && r->op != BLOCK_FLUSH && b->info.read_only)
		return -EROFS;
	if (r->op == BLOCK_FLUSH)
		return 0;
	if ((r->offset & mask) || (r->len & mask) ||
		!range_inside(r->offset, r->len, b->info.size_bytes))
		return -EINVAL;
	return r->op == BLOCK_READ || r->op == BLOCK_WRITE ? req_check_data(r) : 0;
}

void block_submit(struct block *b, struct block_req *r)
{
	bool outer = !b->submitting, data = r->op == BLOCK_READ || r->op == BLOCK_WRITE;
	int res;

	if (b->mirror && !(r->flags & BLOCK_REQ_OWN) && block_mirror_takes(b->mirror, r))
		return;
	r->block = b;
	r->engine = NULL;
	if (log_traces())
		req_trace(r, true, 0);
	b->in_flight++;
	b->changing += r->op != BLOCK_READ;
	b->submitting = true;
	res = req_check(b, r);
	if (!res && !r->len && r->op != BLOCK_FLUSH)
		block_complete_later(r, 0);
	else if (!res && data && req_needs_bounce(b, r))
		bounce_start(b, r);
	else if (!res)
		b->ops->submit(b, r);
	if (res < 0)
		block_complete_later(r, res);
	if (outer)
		b->submitting = false;
}

unsigned block_in_flight(const struct block *b)
{
	return b->in_flight;
}

void block_info(const struct block *b, struct block_info *ret_info)
{
	*ret_info = b->info;
}

int block_extent(struct block *b, uint64_t off, uint64_t len, struct block_extent *ret)
{
	if (!len || !range_inside(off, len, b->info.size_bytes))
		return -EINVAL;
	return b->ops->extent(b, off, len, ret);
}

static int content_fd(const struct block *b)
{
	return b->data_fd ? b->data_fd : b->fd;
}

int block_extent_fd(const struct block *b, const struct block_extent *x)
{
	for (unsigned i = 0; i < x->layer; i++)
		b = b->backing;
	return content_fd(b);
}

int block_reserve(struct block *b, uint64_t host, uint64_t len)
{
	int fd = content_fd(b);
	struct stat st;

	if (fstat(fd, &st) < 0)
		return -errno;
	if (!S_ISREG(st.st_mode))
		return 0; /* a block device has all its space from the start */
	if (len == UINT64_MAX)
		len = (uint64_t)st.st_size - MIN(host, (uint64_t)st.st_size);
	return len && fallocate(fd, 0, (off_t)host, (off_t)len) < 0 ? -errno : 0;
}

static int disk_resize(struct block *b, uint64_t size_bytes, const struct block_fill *fill, struct err *e)
{
	if (b->info.read_only)
		return err_set(e, -EROFS, ERR_PERMISSION, "%s is open for reading only", b->name);
	if (size_bytes % b->info.logical_block_bytes)
		return err_set(e, -EINVAL, ERR_INVALID, "%s: the size must be a multiple of %u bytes",
			b->name, b->info.logical_block_bytes);
	if (b->in_flight)
		return err_set(e, -EBUSY, ERR_BUSY, "%s: requests are in flight", b->name);
	return size_bytes == b->info.size_bytes ? 0 : b->ops->resize(b, size_bytes, fill, e);
}

int block_resize(struct block *b, uint64_t size_bytes, struct err *e)
{
	return disk_resize(b, size_bytes, NULL, e);
}

int block_grow_filled(struct block *b, uint64_t size_bytes, const struct block_fill *fill, struct err *e)
{
	return disk_resize(b, size_bytes, fill, e);
}

int block_device_bytes(const struct block *b, uint64_t *ret_bytes)
{
	struct stat st;

	if (b->info.format != BLOCK_FORMAT_RAW)
		return -ENOTSUP;
	if (fstat(b->fd, &st) < 0)
		return -errno;
	if (!S_ISBLK(st.st_mode))
		return -ENOTSUP;
	return ioctl(b->fd, BLKGETSIZE64, ret_bytes) < 0 ? -errno : 0;
}

static void run_done(struct block_req *r, int res)
{
	r->engine = NULL;
	r->res = res;
	r->next = r; /* tells block_run() that the request is complete */
}

int block_run(struct block *b, struct block_req *r)
{
	r->done = run_done;
	r->next = NULL;
	block_submit(b, r);
	while (r->next != r)
		loop_run_once(b->loop, UINT64_MAX);
	return r->res;
}

/* ---- closing ---- */

static void file_done(struct loop *l, int fd, bool close_fd)
{
	loop_file_in_memory(l, fd, false);
	if (close_fd)
		close(fd);
}

void block_chain_free(struct block *b, bool close_fds, const struct block *keep)
{
	while (b && b != keep) {
		struct block *backing = b->backing;

		if (b->locked)
			lock_release(b->fd);
		if (b->data_locked)
			lock_release(b->data_fd);
		if (b->fd >= 0)
			file_done(b->loop, b->fd, close_fds);
		if (b->data_fd)
			file_done(b->loop, b->data_fd, close_fds);
		b->ops->free(b);
		b = backing;
	}
}

void block_space(int fd, struct block_space *ret)
{
	struct statfs fs;
	struct stat st;
	uint64_t unit;
	off_t end;

	*ret = (struct block_space){ 0 };
	if (fstat(fd, &st) < 0)
		return;
	if (S_ISBLK(st.st_mode)) {
		/* No I/O depends on the position, which the duplicates of the fd share. */
		end = lseek(fd, 0, SEEK_END);
		ret->allocation_bytes = ret->physical_bytes = end < 0 ? 0 : (uint64_t)end;
	}
	if (!S_ISREG(st.st_mode))
		return;
	ret->allocation_bytes = (uint64_t)st.st_blocks * 512;
	ret->physical_bytes = (uint64_t)st.st_size;
	ret->dev = st.st_dev;
	if (fstatfs(fd, &fs) < 0)
		return;
	unit = (uint64_t)(fs.f_frsize ? fs.f_frsize : fs.f_bsize);
	ret->free_bytes = fs.f_bavail * unit;
	ret->total_bytes = fs.f_blocks * unit;
}

unsigned block_layers(const struct block *b, struct block_layer *layers)
{
	unsigned n = 0;

	for (; b; b = b->backing)
		layers[n++] = (struct block_layer){ .fd = b->fd, .format = b->info.format, .data_fd = b->data_fd };
	return n;
}

int block_removed_layer(const struct block *b)
{
	for (int n = 0; b; b = b->backing, n++)
		if (b->named && (file_is_removed(b->fd) || (b->data_fd && file_is_removed(b->data_fd))))
			return n;
	return -1;
}

int block_flush_all_beside_reads(struct block *b)
{
	int r = 0;

	assert(!b->changing);
	if (b->ops->flush_all && !b->info.read_only)
		r = b->ops->flush_all(b);
	while (b->error_armed)
		loop_run_once(b->loop, UINT64_MAX);
	return r;
}

int block_flush_all(struct block *b)
{
	assert(!b->in_flight);
	return block_flush_all_beside_reads(b);
}

int block_close_but_files(struct block *b)
{
	int r = block_flush_all(b);

	block_chain_free(b, false, NULL);
	return r;
}

int block_close(struct block *b)
{
	int r;

	if (!b)
		return 0;
	r = block_flush_all(b);
	block_chain_free(b, true, NULL);
	return r;
}
