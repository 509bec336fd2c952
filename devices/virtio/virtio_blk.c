#include "devices/virtio/virtio_blk.h"
#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/loop.h"
#include "base/util.h"
#include "block/block.h"
#include "devices/dev_host.h"
#include "devices/virtio/virtio_blk_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define QUEUE_SIZE_DEFAULT 256
#define HEADER_BYTES 16
#define SEGMENT_BYTES 16 /* segment of a discard or write-zeroes request */
#define DISCARD_SECTORS_MAX (1u << 22) /* 2 GiB per request */
#define WRITE_ZEROES_UNMAP 1u
#define PHYSICAL_BYTES 4096u

#define F_SEG_MAX (1ULL << 2)
#define F_RO (1ULL << 5)
#define F_BLK_SIZE (1ULL << 6)
#define F_FLUSH (1ULL << 9)
#define F_TOPOLOGY (1ULL << 10)
#define F_CONFIG_WCE (1ULL << 11)
#define F_MQ (1ULL << 12)
#define F_DISCARD (1ULL << 13)
#define F_WRITE_ZEROES (1ULL << 14)

#define ZEROES_A_SECOND 10 /* a request may zero the bytes that the limit allows in 1/10 s */
#define REST_NS 1000000u   /* least wait at a limit, so that a wake-up serves several requests */

enum { T_IN = 0, T_OUT = 1, T_FLUSH = 4, T_GET_ID = 8, T_DISCARD = 11, T_WRITE_ZEROES = 13 };
enum { S_OK = 0, S_IOERR = 1, S_UNSUPP = 2 };
/* Results of request_parse() and request_begin() besides a status. */
enum { TO_BLOCK_LAYER = -1, NO_REQUEST = -2 };

/* struct virtio_blk_config, section 5.2.4. */
enum {
	CONFIG_CAPACITY = 0,
	CONFIG_SEG_MAX = 12,
	CONFIG_BLK_SIZE = 20,
	CONFIG_PHYSICAL_EXP = 24,
	CONFIG_MIN_IO = 26,
	CONFIG_OPT_IO = 28,
	CONFIG_WRITEBACK = 32,
	CONFIG_NUM_QUEUES = 34,
	CONFIG_MAX_DISCARD_SECTORS = 36,
	CONFIG_MAX_DISCARD_SEG = 40,
	CONFIG_DISCARD_ALIGNMENT = 44,
	CONFIG_MAX_ZEROES_SECTORS = 48,
	CONFIG_MAX_ZEROES_SEG = 52,
	CONFIG_ZEROES_MAY_UNMAP = 56,
	CONFIG_BYTES = 60,
};

/* ---- the pool of requests ---- */

static struct blk_request *request_get(struct virtio_blk *b)
{
	struct blk_request *r = b->free;

	if (r) {
		b->free = r->next;
		return r;
	}
	if (b->nrequests == b->requests_max)
		return NULL;
	r = malloc(sizeof(*r));
	if (r) {
		b->nrequests++;
		r->blk = b;
		virtqueue_elem_init(&r->elem);
	}
	return r;
}

static void request_put(struct blk_request *r)
{
	virtqueue_elem_done(&r->elem);
	r->next = r->blk->free;
	r->blk->free = r;
}

static void held_append(struct virtio_blk *b, struct blk_request *r)
{
	struct blk_request **p = &b->held;

	while (*p)
		p = &(*p)->next;
	r->next = NULL;
	*p = r;
}

/* ---- completing requests ---- */

/* Return the request to the driver. */
static void request_finish(struct blk_request *r, uint8_t status)
{
	struct virtio_blk *b = r->blk;
	struct virtio_queue *q = &b->v.queues[r->queue];
	bool all = r->type == T_IN || r->type == T_GET_ID;

	*r->status = status;
	r->elem.iov[r->elem.nout + r->elem.nin - 1] = r->last_in;
	virtqueue_push(&q->vq, &r->elem, all ? (uint32_t)r->elem.in_bytes : 1);
	request_put(r);
}

/* Count and report an error. Returns true when it stops the VM; then nothing more is taken from the
 * rings. */
static bool disk_error(struct virtio_blk *b, int error, bool is_write, const char *why)
{
	struct dev_event ev = { .kind = DEV_EVENT_IO_ERROR, .device = b->v.dev.name,
		.value = -error, .is_write = is_write, .detail = why,
		.corrupt = is_write && block_is_corrupt(b->block) };

	if (ev.corrupt)
		ev.detail = block_corruption(b->block);
	ev.stop = ev.corrupt || b->errors == VIRTIO_BLK_ERRORS_STOP;
	ev.ignored = !ev.stop && b->errors == VIRTIO_BLK_ERRORS_IGNORE;
	disk_counters_error(&b->stats);
	if (ev.stop) {
		b->held_wait = true;
		atomic_store(&b->stats.failed, -error);
	}
	dev_event(b->v.host, &ev);
	return ev.stop;
}

/* Handle a request's error. Returns true when the device keeps the request. */
static bool request_error(struct blk_request *r, int error, uint8_t *ret_status)
{
	struct virtio_blk *b = r->blk;

	*ret_status = b->errors == VIRTIO_BLK_ERRORS_IGNORE ? S_OK : S_IOERR;
	if (!disk_error(b, error, r->type != T_IN, NULL))
		return false;
	held_append(b, r);
	return true;
}

/* Report an error that the block layer reports in addition to the results of requests. */
static void disk_on_error(struct block_listener *l, int error, const char *why)
{
	struct virtio_blk *b = container_of(l, struct virtio_blk, listener);

	LOCK_GUARD(&b->v.lock);
	disk_error(b, error, true, why);
}

static void request_done(struct block_req *req, int res)
{
	struct blk_request *r = container_of(req, struct blk_request, req);
	struct virtio_blk *b = r->blk;
	struct virtio_dev *v = &b->v;
	unsigned q = r->queue;
	uint8_t status = S_OK;

	LOCK_GUARD(&v->lock);
	disk_counters_in_flight(&b->stats, --b->in_flight);
	if (!v->queues[q].vq.enabled || !v->status) {
		request_put(r); /* the device is being reset */
	} else if (res >= 0 || !request_error(r, res, &status)) {
		if (res >= 0)
			disk_counters_add(&b->stats, r->req.op, r->req.len, loop_now_ns() - r->start_ns);
		if (b->polled && virtio_blk_takes(b))
			virtio_doorbell_disable(v, q);
		request_finish(r, status);
		virtio_queue_interrupt(v, q);
	}
	if (!b->in_flight)
		pthread_cond_broadcast(&b->idle);
	if (b->starved && virtio_is_running(v)) {
		b->starved = false;
		virtio_kick_all(v);
	}
}

/* ---- starting requests ---- */

static void request_submit(struct blk_request *r)
{
	struct dev_host *h = r->blk->v.host;

	if (h->ops->ram_fetch && r->req.niov)
		h->ops->ram_fetch(h, r->req.iov, r->req.niov, r->req.op == BLOCK_READ);
	block_detect_zeroes(&r->req, r->blk->detect_zeroes);
	disk_counters_in_flight(&r->blk->stats, ++r->blk->in_flight);
	r->start_ns = loop_now_ns();
	r->req.done = request_done;
	block_submit(r->blk->block, &r->req);
}

/* Returns whether the memory that the request writes to may be written now. Otherwise the ring's doorbell is rung when
 * it is time to ask again. */
static bool request_has_room(struct blk_request *r)
{
	struct dev_host *h = r->blk->v.host;
	struct virtqueue_elem *el = &r->elem;
	int wake_fd = r->blk->v.queues[r->queue].kick_fd;

	return !h->ops->ram_make_room || (h->ops->ram_make_room(h, el->iov + el->nout, el->nin - 1, wake_fd) &&
		h->ops->ram_make_room(h, &r->last_in, 1, wake_fd));
}

static bool range_is_valid(const struct virtio_blk *b, uint64_t sector, uint64_t bytes)
{
	uint64_t size = b->info.size_bytes, align = b->logical_bytes;

	if (sector > size / BLOCK_SECTOR_BYTES || bytes % align)
		return false;
	return sector * BLOCK_SECTOR_BYTES % align == 0 &&
		range_inside(sector * BLOCK_SECTOR_BYTES, bytes, size);
}

static int begin_transfer(struct blk_request *r, uint64_t sector, struct iovec *iov, unsigned n,
	uint64_t bytes)
{
	struct virtio_blk *b = r->blk;
	bool write = r->type == T_OUT;

	if (write && b->info.read_only)
		return S_IOERR;
	if (bytes > BLOCK_REQ_BYTES_MAX || !range_is_valid(b, sector, bytes))
		return S_IOERR;
	if (!bytes)
		return S_OK;
	r->req = (struct block_req){ .op = write ? BLOCK_WRITE : BLOCK_READ,
		.flags = write && b->write_through ? BLOCK_REQ_FUA : 0,
		.offset = sector * BLOCK_SECTOR_BYTES, .len = bytes, .iov = iov, .niov = n };
	return TO_BLOCK_LAYER;
}

/* Begin a discard or write-zeroes request; each has one segment, as the configuration says. */
static int begin_range(struct blk_request *r, const struct iovec *iov, unsigned n, uint64_t bytes)
{
	struct virtio_blk *b = r->blk;
	bool zeroes = r->type == T_WRITE_ZEROES;
	uint8_t seg[SEGMENT_BYTES];
	uint64_t sector, nsectors;
	uint32_t flags;

	if (b->info.read_only || bytes != SEGMENT_BYTES)
		return S_IOERR;
	iov_read(iov, n, 0, seg, sizeof(seg));
	sector = load_le64(seg);
	nsectors = load_le32(seg + 8);
	flags = load_le32(seg + 12);
	if (flags & ~(zeroes ? WRITE_ZEROES_UNMAP : 0u) || (b->no_discard && !zeroes))
		return S_UNSUPP;
	if (nsectors > DISCARD_SECTORS_MAX ||
		!range_is_valid(b, sector, nsectors * BLOCK_SECTOR_BYTES))
		return S_IOERR;
	if (!nsectors)
		return S_OK;
	r->req = (struct block_req){ .op = zeroes ? BLOCK_WRITE_ZEROES : BLOCK_DISCARD,
		.flags = flags & WRITE_ZEROES_UNMAP && !b->no_discard ? BLOCK_REQ_MAY_UNMAP : 0,
		.offset = sector * BLOCK_SECTOR_BYTES, .len = nsectors * BLOCK_SECTOR_BYTES };
	if (zeroes && b->write_through)
		r->req.flags |= BLOCK_REQ_FUA;
	return TO_BLOCK_LAYER;
}

static int begin_get_id(struct blk_request *r, const struct iovec *iov, unsigned n, uint64_t bytes)
{
	if (bytes < VIRTIO_BLK_SERIAL_BYTES)
		return S_IOERR;
	iov_write(iov, n, 0, r->blk->serial, VIRTIO_BLK_SERIAL_BYTES);
	return S_OK;
}

static int request_begin(struct blk_request *r, const uint8_t *header)
{
	struct virtqueue_elem *el = &r->elem;
	struct iovec *out = el->iov, *in = el->iov + el->nout;
	unsigned nout = el->nout, nin = el->nin;
	uint64_t sector = load_le64(header + 8);

	iov_drop_front(&out, &nout, HEADER_BYTES);
	iov_drop_back(in, &nin, 1);
	r->type = load_le32(header);
	switch (r->type) {
	case T_IN:
		return begin_transfer(r, sector, in, nin, el->in_bytes - 1);
	case T_OUT:
		return begin_transfer(r, sector, out, nout, el->out_bytes - HEADER_BYTES);
	case T_FLUSH:
		r->req = (struct block_req){ .op = BLOCK_FLUSH };
		return TO_BLOCK_LAYER;
	case T_GET_ID:
		return begin_get_id(r, in, nin, el->in_bytes - 1);
	case T_DISCARD:
	case T_WRITE_ZEROES:
		return begin_range(r, out, nout, el->out_bytes - HEADER_BYTES);
	default:
		return S_UNSUPP;
	}
}

/* Parse a request. Returns TO_BLOCK_LAYER with r->req filled in; a status when the request is
 * already complete; NO_REQUEST when it has no header or status byte. */
static int request_parse(struct blk_request *r)
{
	struct virtqueue_elem *el = &r->elem;
	uint8_t header[HEADER_BYTES];
	struct iovec *last;

	if (el->out_bytes < HEADER_BYTES || !el->nin)
		return NO_REQUEST;
	last = &el->iov[el->nout + el->nin - 1];
	r->last_in = *last;
	r->status = (uint8_t *)last->iov_base + last->iov_len - 1;
	iov_read(el->iov, el->nout, 0, header, sizeof(header));
	return request_begin(r, header);
}

/* ---- limits ---- */

/* Return whether the limit of all requests is reached. If so, arm the timer, which serves the rings again. */
static bool limit_is_reached(struct virtio_blk *b)
{
	uint64_t now_ns, wait_ns;

	if (!b->throttle.any)
		return false;
	now_ns = loop_now_ns();
	wait_ns = disk_throttle_wait(&b->throttle, DISK_LIMIT_ALL, now_ns);
	if (wait_ns) {
		b->resting = true;
		loop_timer_arm(b->rest, now_ns + MAX(wait_ns, (uint64_t)REST_NS));
	}
	return wait_ns;
}

/* Arm the timer for the first request that may leave `waiting`. */
static void waiting_arm(struct virtio_blk *b)
{
	uint64_t now_ns, first_ns = UINT64_MAX;

	if (!b->waiting[DISK_LIMIT_READ] && !b->waiting[DISK_LIMIT_WRITE])
		return;
	now_ns = loop_now_ns();
	for (unsigned i = DISK_LIMIT_READ; i < DISK_LIMITS; i++)
		if (b->waiting[i])
			first_ns = MIN(first_ns, disk_throttle_wait(&b->throttle, i, now_ns));
	loop_timer_arm(b->rest, now_ns + MAX(first_ns, (uint64_t)REST_NS));
}

/* Put the request into `waiting` if a limit of reads or of writes holds it back. Returns whether it does. */
static bool request_waits(struct blk_request *r)
{
	struct virtio_blk *b = r->blk;
	enum disk_limit kind = disk_throttle_kind(r->req.op);

	if (!b->throttle.any_one_way || kind == DISK_LIMIT_ALL ||
		(!b->waiting[kind] && !disk_throttle_wait(&b->throttle, kind, loop_now_ns())))
		return false;
	r->next = NULL;
	if (!b->waiting[kind])
		b->waiting_end[kind] = &b->waiting[kind];
	*b->waiting_end[kind] = r;
	b->waiting_end[kind] = &r->next;
	waiting_arm(b);
	return true;
}


/* Serve all rings. Begin with another ring each time, so that each ring gets its share of the limit. */
static void rest_end(void *opaque)
{
	struct virtio_blk *b = opaque;
	struct virtio_dev *v = &b->v;

	LOCK_GUARD(&v->lock);
	b->resting = false;
	if (limit_is_reached(b))
		return; /* the timer was early */
	b->turn++;
	for (unsigned i = 0; i < v->nqueues && virtio_is_running(v); i++) {
		unsigned q = (b->turn + i) % v->nqueues;

		if (v->queues[q].vq.enabled)
			virtio_blk_run(v, q);
	}
}

/* Start a request. Returns false when the driver violated the protocol, or when the request has to wait for room; it
 * then starts again from its descriptors, as a request from a saved state. */
static bool request_start(struct blk_request *r)
{
	int s = request_parse(r);

	if (s == NO_REQUEST) {
		virtio_fault(&r->blk->v, "a disk request has no header or no status byte");
		request_put(r);
		return false;
	}
	if (s == TO_BLOCK_LAYER && request_waits(r))
		return true;
	if (!request_has_room(r)) {
		r->blk->loaded[r->blk->nloaded++] = (struct blk_loaded){ (uint16_t)r->queue, r->elem.head };
		r->blk->no_room = true;
		request_put(r);
		return false;
	}
	if (s == TO_BLOCK_LAYER) {
		disk_throttle_take(&r->blk->throttle, r->req.op, r->req.len);
		request_submit(r);
	} else {
		request_finish(r, (uint8_t)s);
	}
	return true;
}

/* Start the requests that a limit of reads or of writes held back, as far as it allows. Returns false if the disk
 * rests, or a request waits for room. */
static bool redo_waiting(struct virtio_blk *b)
{
	for (unsigned i = 0; i < DISK_LIMITS - 1; i++) {
		unsigned kind = DISK_LIMIT_READ + (b->turn + i) % (DISK_LIMITS - 1);

		while (b->waiting[kind] && !disk_throttle_wait(&b->throttle, kind, loop_now_ns())) {
			struct blk_request *r = b->waiting[kind];

			if (limit_is_reached(b))
				return false;
			if (!request_has_room(r)) {
				b->no_room = true;
				return false;
			}
			b->waiting[kind] = r->next;
			disk_throttle_take(&b->throttle, r->req.op, r->req.len);
			request_submit(r);
		}
	}
	waiting_arm(b);
	return true;
}

/* Resubmit the requests that an error held back, in their original order. */
static bool redo_held(struct virtio_blk *b)
{
	while (b->held) {
		struct blk_request *r = b->held;

		if (!request_has_room(r)) {
			b->no_room = true;
			return false;
		}
		b->held = r->next;
		request_submit(r);
	}
	return true;
}

/* Restart the requests that were held back when the state was saved, or that waited for room. */
static bool redo_loaded(struct virtio_blk *b)
{
	struct virtio_dev *v = &b->v;

	while (b->nloaded) {
		struct blk_loaded l = b->loaded[b->nloaded - 1];
		struct blk_request *r = request_get(b);

		if (!r) {
			b->starved = true;
			return false;
		}
		b->nloaded--;
		r->queue = l.queue;
		if (virtqueue_parse(&v->queues[l.queue].vq, l.head, &r->elem)) {
			request_put(r);
			virtio_fault(v, v->queues[l.queue].vq.fault);
			return false;
		}
		if (!request_start(r))
			return false;
		virtio_queue_interrupt(v, l.queue); /* if it was refused */
	}
	return true;
}

static void blk_pop_all(struct virtio_blk *b, unsigned qi, unsigned *budget)
{
	struct virtqueue *vq = &b->v.queues[qi].vq;

	while (*budget) {
		struct blk_request *r = limit_is_reached(b) ? NULL : request_get(b);
		int got;

		if (b->resting)
			return;

		if (!r) {
			b->starved = true; /* the next completion serves the rings again */
			return;
		}
		r->queue = qi;
		got = virtqueue_pop(vq, &r->elem);
		if (got <= 0)
			request_put(r);
		if (got < 0)
			virtio_fault(&b->v, vq->fault);
		if (got <= 0 || !request_start(r))
			return;
		--*budget;
	}
}

void virtio_blk_run(struct virtio_dev *v, unsigned qi)
{
	struct virtio_blk *b = container_of(v, struct virtio_blk, v);
	struct virtqueue *vq = &v->queues[qi].vq;
	unsigned budget = 2u * vq->size;
	bool waited = b->no_room;

	if (b->held_wait || b->resting)
		return; /* wait for the resume (the machine is about to pause), or for the timer */
	b->no_room = false;
	if (!redo_held(b) || !redo_loaded(b) || !redo_waiting(b))
		return;
	if (waited)
		virtio_kick_all(v); /* doorbells that were rung meanwhile had no effect */
	do {
		virtqueue_notify_disable(vq);
		blk_pop_all(b, qi, &budget);
	} while (virtio_is_running(v) && !b->starved && !b->no_room && !b->resting && budget && virtio_doorbell_enable(v, qi, b->polled));
	/* Interrupt for requests that completed at once (refused, GET_ID). */
	virtio_queue_interrupt(v, qi);
	if (!budget)
		virtio_queue_kick(v, qi);
}

/* ---- device ---- */

static void blk_quiesce(struct virtio_dev *v)
{
	struct virtio_blk *b = container_of(v, struct virtio_blk, v);

	while (b->in_flight)
		pthread_cond_wait(&b->idle, &v->lock);
}

static void blk_update_write_through(struct virtio_blk *b)
{
	struct virtio_dev *v = &b->v;

	if (v->features & F_CONFIG_WCE)
		b->write_through = !(v->config[CONFIG_WRITEBACK] & 1);
	else
		b->write_through = !(v->features & F_FLUSH);
}

static void list_drop(struct blk_request **list)
{
	while (*list) {
		struct blk_request *r = *list;

		*list = r->next;
		request_put(r);
	}
}

static void blk_drop(struct virtio_dev *v)
{
	struct virtio_blk *b = container_of(v, struct virtio_blk, v);

	list_drop(&b->held);
	for (unsigned i = 0; i < DISK_LIMITS; i++)
		list_drop(&b->waiting[i]);
	b->nloaded = 0;
	b->no_room = false;
	b->held_wait = false;
	b->starved = false;
	b->resting = false;
	v->config[CONFIG_WRITEBACK] = 1;
}

static void blk_config_written(struct virtio_dev *v, unsigned off, unsigned len)
{
	(void)off;
	(void)len;
	v->config[CONFIG_WRITEBACK] &= 1;
	blk_update_write_through(container_of(v, struct virtio_blk, v));
}

static void blk_features_set(struct virtio_dev *v)
{
	blk_update_write_through(container_of(v, struct virtio_blk, v));
}

static int blk_load(struct virtio_dev *v, struct state_reader *r, struct err *e)
{
	struct virtio_blk *b = container_of(v, struct virtio_blk, v);
	int res = virtio_blk_load(b, r, e);

	if (!res)
		blk_update_write_through(b);
	return res;
}

static const struct virtio_ops blk_virtio_ops = {
	.id = 2,
	.class_code = 0x018000, /* mass storage, other */
	.queue_run = virtio_blk_run,
	.quiesce = blk_quiesce,
	.reset = blk_drop,
	.features_set = blk_features_set,
	.config_written = blk_config_written,
	.save = virtio_blk_save,
	.load = blk_load,
};

static struct virtio_blk *blk_of(struct device *d)
{
	return container_of(d, struct virtio_blk, v.dev);
}

static void capacity_set(struct virtio_blk *b)
{
	store_le64(b->v.config + CONFIG_CAPACITY, b->info.size_bytes / BLOCK_SECTOR_BYTES);
}

static void blk_dev_reset(struct device *d)
{
	struct virtio_blk *b = blk_of(d);
	struct block_info info;

	/* A revert may have changed the disk's size. */
	block_info(b->block, &info);
	b->info.size_bytes = info.size_bytes;
	capacity_set(b);
	virtio_pci_device_reset(d);
}

/* Refuse an intact state of a disk with another number of queues. */
static int blk_dev_check(struct device *d, const struct state_reader *r, uint16_t version, struct err *e)
{
	unsigned queues = virtio_pci_state_queues(r), ours = blk_of(d)->v.nqueues;

	(void)version;
	if (!queues || queues == ours || queues > VIRTIO_BLK_QUEUES_MAX)
		return 0;
	return err_set(e, -EINVAL, ERR_INVALID, "%s: the state has %u queues and the definition %u; set \"queues\" of the disk to %u, "
		"or drop the state with cairn start --force-boot", d->name, queues, ours, queues);
}

static void blk_dev_resume(struct device *d)
{
	struct virtio_blk *b = blk_of(d);

	pthread_mutex_lock(&b->v.lock);
	b->held_wait = false;
	atomic_store(&b->stats.failed, 0);
	pthread_mutex_unlock(&b->v.lock);
	virtio_resume(&b->v);
}

static void blk_dev_free(struct device *d)
{
	struct virtio_blk *b = blk_of(d);

	block_set_listener(b->block, NULL);
	loop_poll_end(b->v.loop, &b->poller);
	virtio_pci_done(&b->pci);
	virtio_done(&b->v);
	list_drop(&b->held);
	for (unsigned i = 0; i < DISK_LIMITS; i++)
		list_drop(&b->waiting[i]);
	for (struct blk_request *r = b->free, *next; r; r = next) {
		next = r->next;
		free(r);
	}
	pthread_cond_destroy(&b->idle);
	loop_timer_free(b->rest);
	free(b->loaded);
	free(b);
}

static const struct device_ops blk_device_ops = {
	.type = "virtio-blk",
	.state_version = 1,
	.reset = blk_dev_reset,
	.pause = virtio_pci_device_pause,
	.resume = blk_dev_resume,
	.save = virtio_pci_device_save,
	.check = blk_dev_check,
	.load = virtio_pci_device_load,
	.free = blk_dev_free,
};

/* With a limit of bytes, one request of the driver zeroes at most the bytes that a tenth of a second allows. A host
 * that cannot zero in another way writes the zeros, so they count, and other requests wait until that debt is paid. */
static uint32_t zeroes_sectors_max(uint64_t bps)
{
	uint64_t sectors = bps / ZEROES_A_SECOND / PHYSICAL_BYTES * (PHYSICAL_BYTES / BLOCK_SECTOR_BYTES);

	return bps ? (uint32_t)MIN(MAX(sectors, PHYSICAL_BYTES / BLOCK_SECTOR_BYTES), DISCARD_SECTORS_MAX) : DISCARD_SECTORS_MAX;
}

/* Return the limit of written bytes a second; 0: none. */
static uint64_t write_rate(const struct virtio_blk_limits *l)
{
	uint64_t all = l->bps[DISK_LIMIT_ALL].rate, writes = l->bps[DISK_LIMIT_WRITE].rate;

	return all && writes ? MIN(all, writes) : MAX(all, writes);
}

static void blk_fill_config(struct virtio_blk *b, unsigned queue_size, uint64_t bps)
{
	struct virtio_dev *v = &b->v;
	uint8_t *c = v->config;
	uint32_t granularity = b->no_discard ? 0 : b->info.discard_granularity;

	v->config_bytes = CONFIG_BYTES;
	capacity_set(b);
	store_le32(c + CONFIG_SEG_MAX, MIN(queue_size, VIRTQUEUE_SEGS_MAX) - 2);
	store_le32(c + CONFIG_BLK_SIZE, b->logical_bytes);
	/* By default, announce physical blocks of 4 KiB, so that guests align their writes. */
	c[CONFIG_PHYSICAL_EXP] = (uint8_t)__builtin_ctz(b->physical_bytes / b->logical_bytes);
	store_le16(c + CONFIG_MIN_IO, (uint16_t)(1u << c[CONFIG_PHYSICAL_EXP]));
	c[CONFIG_WRITEBACK] = 1;
	store_le16(c + CONFIG_NUM_QUEUES, (uint16_t)v->nqueues);
	store_le32(c + CONFIG_MAX_DISCARD_SECTORS, DISCARD_SECTORS_MAX);
	store_le32(c + CONFIG_MAX_DISCARD_SEG, 1);
	store_le32(c + CONFIG_DISCARD_ALIGNMENT, MAX(granularity / BLOCK_SECTOR_BYTES, 1u));
	store_le32(c + CONFIG_MAX_ZEROES_SECTORS, zeroes_sectors_max(bps));
	store_le32(c + CONFIG_MAX_ZEROES_SEG, 1);
	c[CONFIG_ZEROES_MAY_UNMAP] = granularity != 0;
	v->config_writable[CONFIG_WRITEBACK] = 0xff;
	v->features_offered |= F_SEG_MAX | F_BLK_SIZE | F_FLUSH | F_TOPOLOGY | F_CONFIG_WCE;
	if (v->nqueues > 1)
		v->features_offered |= F_MQ;
	if (b->info.read_only)
		v->features_offered |= F_RO;
	else
		v->features_offered |= F_WRITE_ZEROES | (granularity ? F_DISCARD : 0);
}

static int blk_check(const struct virtio_blk_config *c, const struct block_info *info,
	struct err *e)
{
	unsigned size = c->queue_size ? c->queue_size : QUEUE_SIZE_DEFAULT;

	if (c->queues > VIRTIO_BLK_QUEUES_MAX || !is_power_of_two(size) || size < 4 ||
		size > VIRTIO_BLK_QUEUE_SIZE_MAX)
		return err_set(e, -EINVAL, ERR_INVALID,
			"%s: %u queues of %u entries; at most %u of %u",
			c->name, c->queues, size, VIRTIO_BLK_QUEUES_MAX, VIRTIO_BLK_QUEUE_SIZE_MAX);
	if (!is_power_of_two(info->logical_block_bytes) || info->logical_block_bytes < 512 ||
		info->logical_block_bytes > 4096)
		return err_set(e, -EINVAL, ERR_INVALID, "%s: a block size of %u bytes is not supported", c->name,
			info->logical_block_bytes);
	return 0;
}

static int blk_init(struct virtio_blk *b, struct dev_host *h, struct pci_host *p,
	const struct virtio_blk_config *c, struct err *e)
{
	unsigned size = c->queue_size ? c->queue_size : QUEUE_SIZE_DEFAULT;
	unsigned queues = c->queues ? c->queues : 1;
	int r = virtio_init(&b->v, h, c->loop, c->name, &blk_device_ops, &blk_virtio_ops, queues,
		size, e);

	if (r)
		return r;
	for (unsigned i = 0; i < queues; i++)
		b->v.queues[i].vq.large = true;
	b->requests_max = queues * size;
	b->loaded = calloc(b->requests_max, sizeof(*b->loaded));
	if (!b->loaded)
		return err_set_errno(e, -ENOMEM, "%s", c->name);
	r = loop_timer_new(c->loop, rest_end, b, &b->rest);
	if (r)
		return err_set_errno(e, r, "%s", c->name);
	disk_throttle_set(&b->throttle, &c->limits, loop_now_ns());
	blk_fill_config(b, size, write_rate(&c->limits));
	r = virtio_pci_init(&b->pci, &b->v, p, c->slot, e);
	if (!r)
		virtio_blk_poll_begin(b, c->poll_max_ns);
	return r;
}

int virtio_blk_new(struct dev_host *h, struct pci_host *p, const struct virtio_blk_config *c,
	struct device **ret_dev, struct err *e)
{
	struct virtio_blk *b;
	struct block_info info;
	int r;

	block_info(c->block, &info);
	r = blk_check(c, &info, e);
	if (r)
		return r;
	b = calloc(1, sizeof(*b));
	if (!b)
		return err_set_errno(e, -ENOMEM, "%s", c->name);
	b->block = c->block;
	b->info = info;
	b->errors = c->errors;
	b->logical_bytes = MAX(c->logical_bytes, info.logical_block_bytes);
	b->physical_bytes = MAX(c->physical_bytes ? c->physical_bytes : PHYSICAL_BYTES, b->logical_bytes);
	b->no_discard = c->no_discard;
	b->detect_zeroes = c->detect_zeroes;
	if (c->serial)
		memcpy(b->serial, c->serial, strnlen(c->serial, sizeof(b->serial)));
	pthread_cond_init(&b->idle, NULL);
	r = blk_init(b, h, p, c, e);
	if (r) {
		blk_dev_free(&b->v.dev);
		return r;
	}
	b->listener.on_error = disk_on_error;
	block_set_listener(b->block, &b->listener);
	*ret_dev = &b->v.dev;
	return 0;
}

void virtio_blk_set_limits(struct device *d, const struct virtio_blk_limits *l)
{
	struct virtio_blk *b = blk_of(d);

	LOCK_GUARD(&b->v.lock);
	disk_throttle_set(&b->throttle, l, loop_now_ns());
	b->resting = false;
	if (virtio_is_running(&b->v))
		virtio_kick_all(&b->v);
}

void virtio_blk_set_block(struct device *d, struct block *block)
{
	struct virtio_blk *b = blk_of(d);

	block_set_listener(b->block, NULL);
	b->block = block;
	block_set_listener(block, &b->listener);
}

void virtio_blk_resized(struct device *d, uint64_t size_bytes)
{
	struct virtio_blk *b = blk_of(d);

	LOCK_GUARD(&b->v.lock);
	b->info.size_bytes = size_bytes;
	capacity_set(b);
	virtio_config_changed(&b->v);
}

void virtio_blk_stats(struct device *d, struct virtio_blk_stats *s)
{
	disk_counters_get(&blk_of(d)->stats, s);
}

void virtio_blk_carry(struct device *d, const struct virtio_blk_stats *before)
{
	LOCK_GUARD(&blk_of(d)->v.lock);
	disk_counters_carry(&blk_of(d)->stats, before);
}

void virtio_blk_show(struct device *d, _Atomic uint64_t *shown)
{
	LOCK_GUARD(&blk_of(d)->v.lock);
	disk_counters_show(&blk_of(d)->stats, shown);
}
