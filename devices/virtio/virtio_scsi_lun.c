/* A unit of the SCSI controller: its commands on their way to the block layer and back. */
#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/log.h"
#include "base/util.h"
#include "block/zeroes.h"
#include "devices/dev_host.h"
#include "devices/virtio/virtio_scsi_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define RESPONSE_BYTES 108 /* struct virtio_scsi_cmd_resp with sense data of 96 bytes */
#define REQUEST_BYTES 51   /* struct virtio_scsi_cmd_req with a command of 32 bytes */
#define PHYSICAL_BYTES 4096u
#define REST_NS 1000000u /* least wait at a limit */
#define HOLD_NS 2000000000ULL

/* ---- completing commands ---- */

/* Return the command to the driver. moved: bytes of its data that were transferred, in whichever direction. */
static void request_finish(struct scsi_request *r, uint32_t sense, uint64_t moved)
{
	struct virtio_scsi *s = r->s;
	struct virtqueue_elem *el = &r->elem;
	uint64_t in = el->in_bytes - RESPONSE_BYTES, out = el->out_bytes - REQUEST_BYTES;
	uint8_t resp[RESPONSE_BYTES] = { 0 };

	if (sense) {
		store_le32(resp, SCSI_SENSE_BYTES);
		resp[10] = SCSI_CHECK_CONDITION;
		scsi_sense_put(sense, resp + 12);
	}
	store_le32(resp + 4, (uint32_t)((in ? in : out) - moved));
	resp[11] = SCSI_R_OK;
	iov_write(el->iov + el->nout, el->nin, 0, resp, sizeof(resp));
	virtqueue_push(&s->v.queues[r->queue].vq, el, (uint32_t)(RESPONSE_BYTES + (in ? moved : 0)));
	virtio_queue_interrupt(&s->v, r->queue);
	scsi_request_put(r);
}

/* Count and report an error. Returns true when it stops the VM. */
static bool unit_error(struct scsi_lun *l, int error, bool is_write, const char *why)
{
	struct virtio_scsi *s = l->s;
	struct dev_event ev = { .kind = DEV_EVENT_IO_ERROR, .device = l->unit.id, .value = -error, .is_write = is_write,
		.detail = why, .corrupt = is_write && block_is_corrupt(l->block) };

	if (ev.corrupt)
		ev.detail = block_corruption(l->block);
	ev.stop = ev.corrupt || l->errors == VIRTIO_BLK_ERRORS_STOP;
	ev.ignored = !ev.stop && l->errors == VIRTIO_BLK_ERRORS_IGNORE;
	disk_counters_error(&l->stats);
	if (ev.stop) {
		s->held_wait = true;
		atomic_store(&l->stats.failed, -error);
	}
	dev_event(s->v.host, &ev);
	return ev.stop;
}

static void unit_on_error(struct block_listener *listener, int error, const char *why)
{
	struct scsi_lun *l = container_of(listener, struct scsi_lun, listener);

	LOCK_GUARD(&l->s->v.lock);
	unit_error(l, error, true, why);
}

/* Put a command back at the head, to begin it again. */
static void waiting_prepend(struct scsi_lun *l, struct scsi_request *r)
{
	r->next = l->waiting;
	if (!r->next)
		l->waiting_end = &r->next;
	l->waiting = r;
}

/* Finish a command that failed, or keep it if the error stops the VM. */
static void request_failed(struct scsi_request *r, int error)
{
	struct scsi_lun *l = r->lun;

	if (unit_error(l, error, r->write, NULL))
		waiting_prepend(l, r);
	else if (l->errors == VIRTIO_BLK_ERRORS_IGNORE)
		request_finish(r, SENSE_NONE, r->transferred);
	else
		request_finish(r, scsi_sense_of(error, r->write), 0);
}

static void lun_run(struct scsi_lun *l);

static void request_done(struct block_req *req, int res)
{
	struct scsi_request *r = container_of(req, struct scsi_request, req);
	struct scsi_lun *l = r->lun;
	struct virtio_scsi *s = r->s;
	struct virtio_dev *v = &s->v;

	LOCK_GUARD(&v->lock);
	disk_counters_in_flight(&l->stats, --l->in_flight);
	r->in_flight = false;
	if (!v->queues[r->queue].vq.enabled || !v->status) {
		scsi_request_put(r); /* the device is being reset */
	} else if (res < 0) {
		request_failed(r, res);
	} else {
		disk_counters_add(&l->stats, r->req.op, r->req.len, loop_now_ns() - r->start_ns);
		if (s->polled && l->loop == v->loop && scsi_takes(s))
			virtio_doorbell_disable(v, r->queue);
		request_finish(r, SENSE_NONE, r->transferred);
	}
	if (!l->in_flight) {
		if (v->status)
			scsi_tmfs_finish(l);
		pthread_cond_broadcast(&s->idle);
		lun_run(l);
	}
}

/* ---- limits ---- */

/* Return the place in the list of the first command that the limits allow now; NULL: none. Commands
 * that a limit of reads or of writes holds back let those of the other kind pass. */
static struct scsi_request **allowed_find(struct scsi_lun *l)
{
	uint64_t wait_ns[DISK_LIMITS], now_ns, first_ns = UINT64_MAX;
	struct scsi_request **at = &l->waiting;

	if (!l->throttle.any)
		return at;
	now_ns = loop_now_ns();
	for (unsigned i = 0; i < DISK_LIMITS; i++)
		wait_ns[i] = MAX(disk_throttle_wait(&l->throttle, i, now_ns), i ? wait_ns[DISK_LIMIT_ALL] : 0);
	for (; *at; at = &(*at)->next) {
		uint64_t this_ns = wait_ns[scsi_limit_kind((*at)->cdb)];

		if (!this_ns)
			return at;
		first_ns = MIN(first_ns, this_ns);
	}
	l->resting = wait_ns[DISK_LIMIT_ALL]; /* otherwise a command of another kind may come, which passes */
	loop_timer_arm(l->rest, now_ns + MAX(first_ns, (uint64_t)REST_NS));
	return NULL;
}

static void rest_end(void *opaque)
{
	struct scsi_lun *l = opaque;

	LOCK_GUARD(&l->s->v.lock);
	l->resting = false;
	lun_run(l);
}

/* ---- beginning commands ---- */

/* Point the request's data at `len` bytes of the driver's buffers. */
static void data_point(struct scsi_request *r, uint64_t len)
{
	struct virtqueue_elem *el = &r->elem;
	struct iovec *iov = r->data;
	unsigned n = r->write ? el->nout : el->nin;
	uint64_t all = r->write ? el->out_bytes - REQUEST_BYTES : el->in_bytes - RESPONSE_BYTES;

	memcpy(iov, r->write ? el->iov : el->iov + el->nout, n * sizeof(*iov));
	iov_drop_front(&iov, &n, r->write ? REQUEST_BYTES : RESPONSE_BYTES);
	iov_drop_back(iov, &n, all - len);
	r->req.iov = iov;
	r->req.niov = n;
}

static void request_submit(struct scsi_request *r, const struct scsi_answer *a)
{
	struct scsi_lun *l = r->lun;
	struct dev_host *h = r->s->v.host;

	r->req = (struct block_req){ .op = a->op, .flags = a->flags, .offset = a->offset, .len = a->len, .done = request_done };
	r->write = a->op != BLOCK_READ;
	if (a->kind == SCSI_TRANSFER) {
		data_point(r, a->len);
		if (h->ops->ram_fetch)
			h->ops->ram_fetch(h, r->req.iov, r->req.niov, !r->write);
		r->transferred = a->len;
	} else {
		r->transferred = r->elem.out_bytes - REQUEST_BYTES;
	}
	block_detect_zeroes(&r->req, l->detect_zeroes);
	disk_throttle_take(&l->throttle, r->req.op, r->req.len);
	disk_counters_in_flight(&l->stats, ++l->in_flight);
	r->in_flight = true;
	r->start_ns = loop_now_ns();
	block_submit(l->block, &r->req);
}

static void request_answer(struct scsi_request *r, const struct scsi_answer *a)
{
	struct virtqueue_elem *el = &r->elem;
	uint64_t in = el->in_bytes - RESPONSE_BYTES;
	uint32_t n = (uint32_t)MIN(in, a->bytes);

	iov_write(el->iov + el->nout, el->nin, RESPONSE_BYTES, a->data, n);
	request_finish(r, a->sense, in || a->sense ? n : el->out_bytes - REQUEST_BYTES);
}

static void reservation_refused(struct scsi_lun *l)
{
	if (l->told_of_reservations)
		return;
	l->told_of_reservations = true;
	log_warn(l->unit.id, "the guest asked for a SCSI reservation, which Cairn refuses: an image has no second host to reserve it "
		"against; cluster software in the guest needs another way to fence");
}

static void tray_moved(struct scsi_lun *l)
{
	struct dev_event ev = { .kind = DEV_EVENT_TRAY, .device = l->unit.id, .value = l->unit.tray_open };

	dev_event(l->s->v.host, &ev);
}

/* Carry out or begin the command. Its data were checked to be in one direction only. */
static void request_begin(struct scsi_request *r)
{
	struct scsi_lun *l = r->lun;
	struct virtqueue_elem *el = &r->elem;
	struct scsi_out out = { .iov = r->data, .n = el->nout, .bytes = el->out_bytes - REQUEST_BYTES };
	struct iovec *iov = r->data;
	struct scsi_answer a;

	memcpy(iov, el->iov, el->nout * sizeof(*iov));
	iov_drop_front(&iov, &out.n, REQUEST_BYTES);
	out.iov = iov;
	scsi_command(&l->unit, r->cdb, &out, &a);
	if (a.tray_moved)
		tray_moved(l);
	if (a.reservation)
		reservation_refused(l);
	if (a.kind == SCSI_DONE)
		request_answer(r, &a);
	else if (a.kind == SCSI_TRANSFER && a.len > (a.op == BLOCK_WRITE ? out.bytes : el->in_bytes - RESPONSE_BYTES))
		scsi_request_respond(r, SCSI_R_OVERRUN);
	else
		request_submit(r, &a);
}

static bool request_has_room(struct scsi_request *r)
{
	struct dev_host *h = r->s->v.host;
	struct virtqueue_elem *el = &r->elem;

	return !h->ops->ram_make_room || h->ops->ram_make_room(h, el->iov + el->nout, el->nin, r->s->v.queues[r->queue].kick_fd);
}

/* Begin the commands that wait. On the unit's loop. */
static void lun_run(struct scsi_lun *l)
{
	struct virtio_scsi *s = l->s;

	while (l->waiting && virtio_is_running(&s->v) && !s->held_wait && !l->resting && !l->tmfs && !l->held) {
		struct scsi_request **at = allowed_find(l), *r;

		if (!at || !request_has_room(*at))
			return;
		r = *at;
		*at = r->next;
		if (!*at)
			l->waiting_end = at;
		request_begin(r);
	}
}

static void task_run(struct loop_task *t)
{
	struct scsi_lun *l = container_of(t, struct scsi_lun, task);

	LOCK_GUARD(&l->s->v.lock);
	l->posted = false;
	lun_run(l);
	if (l->held)
		pthread_cond_broadcast(&l->s->idle);
}

void scsi_lun_run(struct scsi_lun *l, bool here)
{
	if (!l->waiting || l->held)
		return;
	if (here && l->loop == l->s->v.loop) {
		lun_run(l);
	} else if (!l->posted) {
		l->posted = true;
		loop_post(l->loop, &l->task);
	}
}

void scsi_lun_append(struct scsi_lun *l, struct scsi_request *r)
{
	r->next = NULL;
	*l->waiting_end = r;
	l->waiting_end = &r->next;
	scsi_lun_run(l, true);
}

void scsi_lun_drop(struct scsi_lun *l)
{
	while (l->waiting) {
		struct scsi_request *r = l->waiting;

		l->waiting = r->next;
		scsi_request_put(r);
	}
	l->waiting_end = &l->waiting;
	scsi_tmfs_drop(l);
	l->resting = false;
}

/* ---- the unit ---- */

static int medium_take(struct scsi_lun *l, struct err *e)
{
	struct scsi_unit *u = &l->unit;
	struct block_info info;

	block_info(l->block, &info);
	u->block_bytes = u->cdrom ? SCSI_CD_BLOCK_BYTES : MAX(l->logical_bytes, info.logical_block_bytes);
	if (info.logical_block_bytes > u->block_bytes || u->block_bytes > PHYSICAL_BYTES || !is_power_of_two(u->block_bytes))
		return err_set(e, -EINVAL, ERR_INVALID, "%s: the image has blocks of %u bytes, which do not fit the disk's blocks of %u bytes",
			u->id, info.logical_block_bytes, u->block_bytes);
	u->physical_bytes = MAX(u->physical_bytes ? u->physical_bytes : PHYSICAL_BYTES, u->block_bytes);
	u->size_bytes = info.size_bytes;
	u->read_only = u->cdrom || info.read_only;
	u->discard_bytes = l->no_discard || u->read_only || !info.discard_granularity ? 0 :
		MAX(info.discard_granularity, u->block_bytes);
	return 0;
}

static int lun_init(struct scsi_lun *l, struct virtio_scsi *s, unsigned target, const struct virtio_scsi_disk *d, struct err *e)
{
	struct scsi_unit *u = &l->unit;
	int r;

	l->s = s;
	l->target = target;
	l->loop = d->loop;
	l->block = d->block;
	l->errors = d->errors;
	l->detect_zeroes = d->detect_zeroes;
	l->no_discard = d->no_discard;
	l->logical_bytes = d->logical_bytes;
	l->waiting_end = &l->waiting;
	l->task.run = task_run;
	l->listener.on_error = unit_on_error;
	u->cdrom = d->cdrom;
	u->physical_bytes = d->physical_bytes;
	u->wwn = d->wwn;
	u->medium = d->medium;
	memcpy(u->id, d->id, strnlen(d->id, sizeof(u->id) - 1));
	if (d->serial)
		memcpy(u->serial, d->serial, strnlen(d->serial, SCSI_SERIAL_BYTES));
	r = medium_take(l, e);
	if (r < 0)
		return r;
	scsi_unit_reset(u);
	r = loop_timer_new(d->loop, rest_end, l, &l->rest);
	if (r < 0)
		return err_set_errno(e, r, "%s", u->id);
	disk_throttle_set(&l->throttle, &d->limits, loop_now_ns());
	block_set_listener(l->block, &l->listener);
	return 0;
}

int scsi_lun_new(struct virtio_scsi *s, unsigned target, const struct virtio_scsi_disk *d, struct scsi_lun **ret_l, struct err *e)
{
	struct scsi_lun *l = calloc(1, sizeof(*l));
	int r = l ? lun_init(l, s, target, d, e) : err_set_errno(e, -ENOMEM, "%s", d->id);

	if (r < 0)
		scsi_lun_free(l);
	else
		*ret_l = l;
	return r;
}

void scsi_lun_free(struct scsi_lun *l)
{
	if (!l)
		return;
	if (l->rest)
		block_set_listener(l->block, NULL);
	scsi_tmfs_drop(l);
	loop_timer_free(l->rest);
	free(l);
}

static struct scsi_lun *lun_of(struct device *d, unsigned target)
{
	return container_of(d, struct virtio_scsi, v.dev)->luns[target];
}

void virtio_scsi_set_limits(struct device *d, unsigned target, const struct virtio_blk_limits *n)
{
	struct scsi_lun *l = lun_of(d, target);

	LOCK_GUARD(&l->s->v.lock);
	disk_throttle_set(&l->throttle, n, loop_now_ns());
	l->resting = false;
	if (virtio_is_running(&l->s->v))
		scsi_lun_run(l, false);
}

void virtio_scsi_stats(struct device *d, unsigned target, struct virtio_blk_stats *s)
{
	disk_counters_get(&lun_of(d, target)->stats, s);
}

void virtio_scsi_carry(struct device *d, unsigned target, const struct virtio_blk_stats *before)
{
	struct scsi_lun *l = lun_of(d, target);

	LOCK_GUARD(&l->s->v.lock);
	disk_counters_carry(&l->stats, before);
}

void virtio_scsi_show(struct device *d, unsigned target, _Atomic uint64_t *shown)
{
	struct scsi_lun *l = lun_of(d, target);

	LOCK_GUARD(&l->s->v.lock);
	disk_counters_show(&l->stats, shown);
}

bool virtio_scsi_tray_is_open(struct device *d, unsigned target)
{
	struct scsi_lun *l = lun_of(d, target);

	LOCK_GUARD(&l->s->v.lock);
	return l->unit.tray_open;
}

bool virtio_scsi_is_locked(struct device *d, unsigned target, bool ask)
{
	struct scsi_lun *l = lun_of(d, target);

	LOCK_GUARD(&l->s->v.lock);
	if (l->unit.locked && ask)
		l->unit.media_event = SCSI_MEDIA_EJECT_ASKED;
	return l->unit.locked;
}

int virtio_scsi_hold(struct device *d, unsigned target, bool patient)
{
	struct scsi_lun *l = lun_of(d, target);
	uint64_t end = patient ? UINT64_MAX : loop_now_ns() + HOLD_NS;
	struct timespec until = { .tv_sec = (time_t)(end / 1000000000), .tv_nsec = (long)(end % 1000000000) };

	LOCK_GUARD(&l->s->v.lock);
	l->held = true;
	while ((l->in_flight || l->posted) && !pthread_cond_timedwait(&l->s->idle, &l->s->v.lock, &until))
		;
	if (!l->in_flight && !l->posted)
		return 0;
	l->held = false;
	scsi_lun_run(l, false);
	return -EBUSY;
}

void virtio_scsi_release(struct device *d, unsigned target)
{
	struct scsi_lun *l = lun_of(d, target);

	LOCK_GUARD(&l->s->v.lock);
	l->held = false;
	scsi_lun_run(l, false);
}

int virtio_scsi_set_medium(struct device *d, unsigned target, struct block *block, uint64_t medium, struct err *e)
{
	struct scsi_lun *l = lun_of(d, target);
	struct virtio_scsi *s = l->s;
	struct block *old = l->block;
	int r;

	LOCK_GUARD(&s->v.lock);
	l->block = block;
	r = medium_take(l, e);
	if (r < 0) {
		l->block = old;
		medium_take(l, NULL);
	} else {
		if (l->unit.tray_open) {
			l->unit.tray_open = false;
			tray_moved(l);
		}
		block_set_listener(old, NULL);
		block_set_listener(block, &l->listener);
		l->unit.medium = medium;
		l->unit.locked = false;
		l->unit.media_event = l->unit.size_bytes ? SCSI_MEDIA_NEW : SCSI_MEDIA_GONE;
		l->unit.attention = SENSE_MEDIUM_CHANGED;
	}
	l->held = false;
	scsi_lun_run(l, false);
	return r;
}

void virtio_scsi_set_block(struct device *d, unsigned target, struct block *block)
{
	struct scsi_lun *l = lun_of(d, target);

	LOCK_GUARD(&l->s->v.lock); /* the controller may be on another loop */
	block_set_listener(l->block, NULL);
	l->block = block;
	block_set_listener(block, &l->listener);
}

void virtio_scsi_resized(struct device *d, unsigned target, uint64_t size_bytes)
{
	struct scsi_lun *l = lun_of(d, target);

	LOCK_GUARD(&l->s->v.lock);
	l->unit.size_bytes = size_bytes;
	l->unit.attention = SENSE_CAPACITY_CHANGED;
	scsi_event_send(l->s, target, SCSI_F_CHANGE, SCSI_EVENT_PARAM_CHANGE, 0x2a | 9 << 8);
}
