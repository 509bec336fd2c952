/* nbd_disk: an NBD export as a raw disk. libnbd sends and receives when the loop says that the socket is ready. libnbd
 * calls back with its lock held, so the callbacks only note results, and disk_turn() acts on them. */
#include "nbd.h"
#include "img.h"

#include "base/util.h"
#include "block/block_impl.h"
#include "block/io.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* Limits of one command. A server that states no limit takes at least 32 MiB of data. */
#define DATA_BYTES_MAX (32 * MIB)
#define BOUNCE_BYTES_MAX (2 * MIB)
#define RANGE_BYTES_MAX (1ULL << 30)
#define STATUS_BYTES_MAX (4 * GIB - 64 * KIB)
#define EXTENTS_MAX 1024u
/* QEMU's context whose flags are a number of layers, not bits. QEMU's clients show 2 and more as 2. */
#define DEPTH_CONTEXT "qemu:allocation-depth"

struct extent {
	uint64_t end;
	uint32_t flags;
};

struct nbd_disk {
	struct block base;
	struct nbd_calls c;
	struct nbd_handle *h;
	char *url;
	char *context;	   /* the metadata context of the extents */
	int fd;		   /* a duplicate of the socket for the loop, because libnbd closes its own when the connection ends */
	struct loop_watch *watch, *stop_watch;
	bool dead, stopped, told;
	char why[256];	   /* the error that ended the connection */
	uint64_t bytes;	   /* size of the export; not rounded */
	uint64_t data_max; /* bytes of data in one command */
	bool can_flush, can_fua, can_trim, can_zero, can_status;
	bool shows_context; /* the user has chosen the context */
	struct nbd_cmd *finished, **finished_tail;
	/* The server's last answer about holes, valid until the next write: ascending, from seen_from on. */
	uint64_t seen_from;
	struct extent seen[EXTENTS_MAX];
	unsigned nseen;
	bool asking, status_over; /* inside status_ask(); its answer is complete */
	int status_res;
};

/* A request of the block layer, sent as one command after the other. */
struct nbd_cmd {
	struct nbd_cmd *next; /* in `finished` */
	struct nbd_disk *d;
	struct block_req *r;
	uint64_t done, now; /* bytes that are transferred; bytes of the present command */
	uint8_t *bounce;    /* NULL: none */
	bool flushing;	    /* the last command, a flush for a request with FUA */
	int res;
};

/* ---- results of commands ---- */

static void cmd_next(struct nbd_cmd *q);

static void finished_add(struct nbd_cmd *q, int res)
{
	q->res = res;
	q->next = NULL;
	*q->d->finished_tail = q;
	q->d->finished_tail = &q->next;
}

static int cmd_over(void *opaque, int *error)
{
	finished_add(opaque, *error ? -*error : 0);
	return 1; /* libnbd forgets the command */
}

/* Returns the result of a request that failed with `error`. */
static int disk_error(const struct nbd_disk *d, int error)
{
	return d->stopped ? -ECANCELED : error;
}

/* Returns the result of a function of libnbd that failed. */
static int call_error(const struct nbd_disk *d)
{
	int error = d->c.get_errno();

	return error ? -error : -EIO;
}

static void cmd_end(struct nbd_cmd *q, int res)
{
	struct block_req *r = q->r;

	free(q->bounce);
	free(q);
	block_complete(r, res);
}

static void cmd_finished(struct nbd_cmd *q)
{
	struct block_req *r = q->r;

	if (q->res == -ENOTSUP && r->op == BLOCK_WRITE_ZEROES && q->d->can_zero) {
		q->d->can_zero = false; /* write the zeros instead */
	} else if (q->res < 0) {
		cmd_end(q, disk_error(q->d, q->res));
		return;
	} else {
		if (q->bounce && r->op == BLOCK_READ)
			iov_from_buf(r->iov, r->niov, q->done, q->bounce, q->now);
		q->done += q->now;
	}
	cmd_next(q);
}

/* ---- the connection ---- */

/* Tell why requests fail. A connection that ends while nobody uses it is no error. */
static void disk_report(struct nbd_disk *d)
{
	if (!d->told && !d->stopped)
		img_connection_ended(d->url, *d->why ? d->why : "the server closed it");
	d->told = true;
}

static void disk_died(struct nbd_disk *d)
{
	d->dead = true;
	loop_unwatch(d->watch);
	d->watch = NULL;
	if (d->base.in_flight || d->asking)
		disk_report(d);
}

/* Watch the socket for the events that libnbd waits for. */
static void socket_watch(struct nbd_disk *d)
{
	unsigned dir, events = 0;

	if (!d->dead && (d->c.aio_is_dead(d->h) || d->c.aio_is_closed(d->h)))
		disk_died(d);
	if (d->dead)
		return;
	dir = d->c.aio_get_direction(d->h);
	if (dir & LIBNBD_AIO_DIRECTION_READ)
		events |= POLLIN;
	if (dir & LIBNBD_AIO_DIRECTION_WRITE)
		events |= POLLOUT;
	loop_watch_events(d->watch, events);
}

static void commands_finished(struct nbd_disk *d)
{
	while (d->finished) {
		struct nbd_cmd *q = d->finished;

		d->finished = q->next;
		if (!d->finished)
			d->finished_tail = &d->finished;
		cmd_finished(q);
	}
}

/* Handle the results of libnbd's work. Call this after each of its functions that may send or receive. */
static void disk_turn(struct nbd_disk *d)
{
	socket_watch(d);
	while (d->finished) {
		commands_finished(d);
		socket_watch(d); /* again, because this has sent the next commands */
	}
}

static void socket_ready(void *opaque, unsigned revents)
{
	struct nbd_disk *d = opaque;
	unsigned dir = d->c.aio_get_direction(d->h);
	int r;

	if (revents & ~(unsigned)POLLOUT && dir & LIBNBD_AIO_DIRECTION_READ)
		r = d->c.aio_notify_read(d->h);
	else
		r = d->c.aio_notify_write(d->h);
	if (r < 0 && !*d->why)
		snprintf(d->why, sizeof(d->why), "%s", nbd_reason(&d->c));
	disk_turn(d);
}

/* A signal has come. The server may be stalled, so let all commands fail. */
static void interrupted(void *opaque, unsigned revents)
{
	struct nbd_disk *d = opaque;

	(void)revents;
	loop_unwatch(d->stop_watch);
	d->stop_watch = NULL;
	d->stopped = true;
	shutdown(d->fd, SHUT_RDWR);
}

/* ---- requests ---- */

/* Returns the memory for the present command: a bounce buffer if the request has several pieces of memory. NULL: out of
 * memory. */
static uint8_t *cmd_data(struct nbd_cmd *q)
{
	struct block_req *r = q->r;

	q->now = MIN(q->now, q->d->data_max);
	if (r->op != BLOCK_WRITE_ZEROES && r->niov == 1)
		return (uint8_t *)r->iov->iov_base + q->done;
	q->now = MIN(q->now, BOUNCE_BYTES_MAX);
	if (!q->bounce)
		q->bounce = r->op == BLOCK_WRITE_ZEROES ? calloc(1, MIN(r->len, BOUNCE_BYTES_MAX)) : malloc(MIN(r->len, BOUNCE_BYTES_MAX));
	if (q->bounce && r->op == BLOCK_WRITE)
		iov_to_buf(r->iov, r->niov, q->done, q->bounce, q->now);
	return q->bounce;
}

/* Send the next command of the request. Returns -1 if libnbd refused it; -2 if out of memory; else 0 or more. */
static int64_t cmd_send(struct nbd_cmd *q)
{
	const struct nbd_calls *c = &q->d->c;
	struct nbd_handle *h = q->d->h;
	struct block_req *r = q->r;
	nbd_completion_callback over = { .callback = cmd_over, .user_data = q };
	uint32_t flags = r->flags & BLOCK_REQ_FUA && q->d->can_fua ? LIBNBD_CMD_FLAG_FUA : 0;
	uint64_t off = r->offset + q->done;
	uint8_t *data;

	q->now = r->len - q->done;
	if (r->op == BLOCK_FLUSH || q->flushing)
		return c->aio_flush(h, over, 0);
	if (r->op == BLOCK_DISCARD || (r->op == BLOCK_WRITE_ZEROES && q->d->can_zero)) {
		q->now = MIN(q->now, RANGE_BYTES_MAX);
		if (r->op == BLOCK_DISCARD)
			return c->aio_trim(h, q->now, off, over, flags);
		return c->aio_zero(h, q->now, off, over, flags | (r->flags & BLOCK_REQ_MAY_UNMAP ? 0 : LIBNBD_CMD_FLAG_NO_HOLE));
	}
	if (r->op == BLOCK_READ)
		q->now = MIN(q->now, q->d->bytes - off);
	data = cmd_data(q);
	if (!data)
		return -2;
	return r->op == BLOCK_READ ? c->aio_pread(h, data, q->now, off, over, 0) : c->aio_pwrite(h, data, q->now, off, over, flags);
}

/* Does the rest of the request need no command to the server? */
static bool cmd_is_complete(struct nbd_cmd *q)
{
	const struct nbd_disk *d = q->d;
	struct block_req *r = q->r;

	switch (r->op) {
	case BLOCK_FLUSH:
		return q->flushing || !d->can_flush;
	case BLOCK_DISCARD:
		if (!d->can_trim)
			return true; /* a discard is a hint */
		break;
	case BLOCK_READ:
		if (q->done < r->len && r->offset + q->done >= d->bytes) { /* the part of a sector behind the export's end */
			iov_zero(r->iov, r->niov, q->done, r->len - q->done);
			return true;
		}
		return q->done == r->len;
	default:
		break;
	}
	if (q->done < r->len)
		return false;
	return q->flushing || !(r->flags & BLOCK_REQ_FUA) || d->can_fua || !d->can_flush;
}

static void cmd_next(struct nbd_cmd *q)
{
	int64_t sent;

	if (q->d->dead || cmd_is_complete(q)) {
		cmd_end(q, q->d->dead ? disk_error(q->d, -ENOTCONN) : 0);
		return;
	}
	q->flushing = q->r->op == BLOCK_FLUSH || q->done == q->r->len;
	sent = cmd_send(q);
	if (sent < 0)
		finished_add(q, sent == -2 ? -ENOMEM : call_error(q->d));
}

static void disk_submit(struct block *b, struct block_req *r)
{
	struct nbd_disk *d = container_of(b, struct nbd_disk, base);
	struct nbd_cmd *q = calloc(1, sizeof(*q));

	if (!q) {
		block_complete(r, -ENOMEM);
		return;
	}
	q->d = d;
	q->r = r;
	if (r->op != BLOCK_READ && r->op != BLOCK_FLUSH)
		d->nseen = 0;
	if (d->dead)
		disk_report(d);
	cmd_next(q);
	disk_turn(d);
}

/* ---- holes ---- */

/* Note the answer up to an extent without a length. Its extents need not end at blocks: a block of which only a part is
 * zeros counts as data. */
static int status_note(void *opaque, const char *context, uint64_t offset, uint32_t *entries, size_t n, int *error)
{
	struct nbd_disk *d = opaque;
	uint64_t block = d->base.info.logical_block_bytes, end = offset, from = d->seen_from;

	(void)error; /* libnbd 1.18 and later set it if the extents go past the end of the export */
	if (strcmp(context, d->context) || offset != from)
		return 0;
	d->nseen = 0;
	for (size_t i = 0; i + 1 < n && entries[i] && d->nseen < EXTENTS_MAX && end < d->bytes; i += 2) {
		struct extent *x = &d->seen[d->nseen];

		end += MIN((uint64_t)entries[i], d->bytes - end);
		x->flags = entries[i + 1];
		x->end = x->flags & LIBNBD_STATE_ZERO && end < d->bytes ? ROUND_DOWN(end, block) : ROUND_UP(end, block);
		if (x->end <= from)
			continue;
		from = x->end;
		d->nseen++;
	}
	if (!d->nseen && end > offset)
		d->seen[d->nseen++] = (struct extent){ .end = offset + block };
	return 0;
}

static int status_over(void *opaque, int *error)
{
	struct nbd_disk *d = opaque;

	d->status_res = *error ? -*error : 0;
	d->status_over = true;
	return 1;
}

/* Ask the server for the extents from off on. Runs the loop. */
static int status_ask(struct nbd_disk *d, uint64_t off)
{
	nbd_extent_callback note = { .callback = status_note, .user_data = d };
	nbd_completion_callback over = { .callback = status_over, .user_data = d };

	if (d->dead) {
		disk_report(d);
		return disk_error(d, -ENOTCONN);
	}
	d->seen_from = off;
	d->nseen = 0;
	d->status_over = false;
	if (d->c.aio_block_status(d->h, MIN(d->bytes - off, STATUS_BYTES_MAX), off, note, over, 0) < 0)
		return call_error(d);
	d->asking = true;
	disk_turn(d);
	while (!d->status_over)
		loop_run_once(d->base.loop, UINT64_MAX);
	d->asking = false;
	if (d->nseen)
		return 0;
	return d->status_res ? disk_error(d, d->status_res) : -EPROTO;
}

static int disk_extent(struct block *b, uint64_t off, uint64_t len, struct block_extent *ret)
{
	struct nbd_disk *d = container_of(b, struct nbd_disk, base);
	uint32_t flags;
	unsigned i = 0;
	int r;

	*ret = (struct block_extent){ .len = len, .present = true, .has_host = true, .host = off };
	if (!d->can_status || off >= d->bytes)
		return 0;
	if (!d->nseen || off < d->seen_from || off >= d->seen[d->nseen - 1].end) {
		r = status_ask(d, off);
		if (r < 0)
			return r;
	}
	while (off >= d->seen[i].end)
		i++;
	flags = d->seen[i].flags;
	if (!strcmp(d->context, DEPTH_CONTEXT))
		flags = MIN(flags, 2u);
	ret->zero = flags & LIBNBD_STATE_ZERO;
	ret->preallocated = ret->zero && !(flags & LIBNBD_STATE_HOLE);
	/* A hole whose content is not known to be zeros is read, but another context only marks ranges. */
	if (d->shows_context && !ret->zero && flags & LIBNBD_STATE_HOLE)
		ret->present = ret->has_host = false;
	ret->len = MIN(len, d->seen[i].end - off);
	return 0;
}

/* ---- open and close ---- */

static int disk_flush_all(struct block *b)
{
	struct block_req r = { .op = BLOCK_FLUSH };

	return block_run(b, &r);
}

static int disk_resize(struct block *b, uint64_t size_bytes, const struct block_fill *fill, struct err *e)
{
	(void)size_bytes;
	(void)fill;
	return err_set(e, -ENOTSUP, ERR_UNSUPPORTED, "%s: the size of an NBD export cannot be changed; resize it on the server", b->name);
}

static void disk_free(struct block *b)
{
	struct nbd_disk *d = container_of(b, struct nbd_disk, base);

	loop_unwatch(d->watch);
	loop_unwatch(d->stop_watch);
	if (d->h && d->c.aio_is_ready(d->h) > 0)
		d->c.aio_disconnect(d->h, 0);
	if (d->h)
		d->c.close(d->h);
	if (d->fd >= 0)
		close(d->fd);
	free(d->url);
	free(d->context);
	free(d);
}

static const struct block_ops disk_ops = { .submit = disk_submit, .extent = disk_extent, .flush_all = disk_flush_all,
	.resize = disk_resize, .free = disk_free };

/* Check the server's description of the export. */
static int export_read(struct nbd_disk *d, bool writable, struct err *e)
{
	const struct nbd_calls *c = &d->c;
	int64_t bytes = c->get_size(d->h), least = c->get_block_size(d->h, LIBNBD_SIZE_MINIMUM);
	int64_t most = c->get_block_size(d->h, LIBNBD_SIZE_MAXIMUM);
	uint32_t block = (uint32_t)MAX(least, (int64_t)BLOCK_SECTOR_BYTES);

	if (bytes < 0 || bytes > INT64_MAX - 4096)
		return err_set(e, -EINVAL, ERR_INVALID, "%s: the server gives no valid size of the disk", d->url);
	if (least > 4096 || !is_power_of_two(block) || (least > 1 && bytes % least))
		return err_set(e, -ENOTSUP, ERR_UNSUPPORTED, "%s: the server takes only requests of multiples of %lld bytes; blocks of "
			"up to 4096 bytes are supported; copy the disk with `nbdcopy`", d->url, (long long)least);
	if (writable && c->is_read_only(d->h))
		return err_set(e, -EROFS, ERR_PERMISSION, "%s: the server lets clients only read this export", d->url);
	d->bytes = (uint64_t)bytes;
	d->data_max = most > 0 ? MIN(ROUND_DOWN((uint64_t)most, block), DATA_BYTES_MAX) : DATA_BYTES_MAX;
	if (!d->data_max)
		return err_set(e, -ENOTSUP, ERR_UNSUPPORTED, "%s: the server takes at most %lld bytes in a request, less than a block",
			d->url, (long long)most);
	d->can_flush = c->can_flush(d->h) > 0;
	d->can_fua = c->can_fua(d->h) > 0;
	d->can_trim = c->can_trim(d->h) > 0;
	d->can_zero = c->can_zero(d->h) > 0;
	d->can_status = c->can_meta_context(d->h, d->context) > 0;
	if (d->shows_context && !d->can_status)
		return err_set(e, -ENOENT, ERR_NOT_FOUND, "%s: the server has no '%s' of this export", d->url, d->context);
	d->base.info = (struct block_info){ .format = BLOCK_FORMAT_RAW, .logical_block_bytes = block, .buffer_align = 1,
		.discard_granularity = block, .read_only = !writable };
	/* The last bytes of an odd size are read with zeros behind them, and are not written. */
	d->base.info.size_bytes = writable ? ROUND_DOWN(d->bytes, block) : ROUND_UP(d->bytes, block);
	return 0;
}

static int disk_watch(struct nbd_disk *d, struct err *e)
{
	int stop = img_interrupt_fd(), r;

	d->fd = fcntl(d->c.aio_get_fd(d->h), F_DUPFD_CLOEXEC, 3);
	r = d->fd < 0 ? -errno : loop_watch(d->base.loop, d->fd, POLLIN, socket_ready, d, &d->watch);
	if (!r && stop >= 0)
		r = loop_watch(d->base.loop, stop, POLLIN, interrupted, d, &d->stop_watch);
	return r < 0 ? err_set_errno(e, r, "%s", d->url) : 0;
}

int nbd_disk_new(struct loop *l, const struct nbd_calls *c, struct nbd_handle *h, const char *url, const char *context,
	bool writable, struct block **ret_b, struct err *e)
{
	struct block_format_open o = { .loop = l, .name = url };
	struct nbd_disk *d = calloc(1, sizeof(*d));
	int r;

	if (!d)
		return err_set_errno(e, -ENOMEM, "%s", url);
	block_init(&d->base, &disk_ops, &o);
	d->c = *c;
	d->h = h;
	d->url = strdup(url);
	d->context = strdup(context ? context : LIBNBD_CONTEXT_BASE_ALLOCATION);
	d->shows_context = context;
	d->fd = -1;
	d->finished_tail = &d->finished;
	r = d->url && d->context ? export_read(d, writable, e) : err_set_errno(e, -ENOMEM, "%s", url);
	if (!r)
		r = disk_watch(d, e);
	if (r < 0) {
		d->h = NULL; /* the caller closes it */
		disk_free(&d->base);
		return r;
	}
	*ret_b = &d->base;
	return 0;
}
