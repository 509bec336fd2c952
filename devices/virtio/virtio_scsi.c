#include "devices/virtio/virtio_scsi.h"
#include "base/bytes.h"
#include "base/err.h"
#include "base/log.h"
#include "base/util.h"
#include "devices/dev_host.h"
#include "devices/virtio/virtio_scsi_internal.h"
#include "snapshot/state.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define QUEUE_SIZE_DEFAULT 256
#define REQUEST_BYTES 51   /* unit 8, tag 8, 3 of priority, command 32 */
#define RESPONSE_BYTES 108 /* 12, sense data 96 */
#define SENSE_BYTES 96
#define RESPONSE_AT 11 /* offset of the response byte */
#define EVENT_INFO_BYTES 16

/* struct virtio_scsi_config, section 5.6.4. */
enum {
	CONFIG_NUM_QUEUES = 0, CONFIG_SEG_MAX = 4, CONFIG_MAX_SECTORS = 8, CONFIG_CMD_PER_LUN = 12, CONFIG_EVENT_BYTES = 16,
	CONFIG_SENSE_BYTES = 20, CONFIG_CDB_BYTES = 24, CONFIG_MAX_CHANNEL = 28, CONFIG_MAX_TARGET = 30, CONFIG_MAX_LUN = 32,
	CONFIG_BYTES = 36,
};
/* Virtio-win's driver makes requests of this size in pages, whatever seg_max is; with the header,
 * VIRTQUEUE_SEGS_MAX. */
#define MAX_SECTORS 2032
/* Virtio-win and others take the greatest target and unit for their numbers, and find nothing at 0. QEMU's value. */
#define MAX_LUN 16383

/* ---- the pool of requests ---- */

static struct scsi_request *request_get(struct virtio_scsi *s)
{
	struct scsi_request *r = s->free;

	if (r) {
		s->free = r->next;
		return r;
	}
	if (s->nrequests == s->requests_max)
		return NULL;
	r = malloc(sizeof(*r));
	if (!r)
		return NULL;
	s->nrequests++;
	r->s = s;
	r->lun = NULL;
	r->in_flight = false;
	r->all = s->all;
	s->all = r;
	return r;
}

void scsi_request_put(struct scsi_request *r)
{
	struct virtio_scsi *s = r->s;

	r->lun = NULL;
	r->next = s->free;
	s->free = r;
	if (s->starved && virtio_is_running(&s->v)) {
		s->starved = false;
		virtio_kick_all(&s->v);
	}
}

void scsi_request_respond(struct scsi_request *r, enum scsi_response response)
{
	struct virtio_scsi *s = r->s;
	uint8_t resp[RESPONSE_BYTES] = { [RESPONSE_AT] = (uint8_t)response };

	iov_write(r->elem.iov + r->elem.nout, r->elem.nin, 0, resp, sizeof(resp));
	virtqueue_push(&s->v.queues[r->queue].vq, &r->elem, sizeof(resp));
	virtio_queue_interrupt(&s->v, r->queue);
	scsi_request_put(r);
}

/* ---- rings ---- */

/* The address of a unit (5.6.6.1): 1, the target, and the unit in two bytes of SAM's flat format. */
struct scsi_lun *scsi_lun_find(struct virtio_scsi *s, const uint8_t lun[8], bool *ret_unit_0)
{
	if (lun[0] != 1 || lun[1] >= VIRTIO_SCSI_TARGETS_MAX)
		return NULL;
	*ret_unit_0 = !(load_be16(lun + 2) & 0x3fff) && !load_be32(lun + 4);
	return s->luns[lun[1]];
}

/* Answer a command for a unit that a target does not have. */
static void no_unit_answer(struct scsi_request *r)
{
	struct virtqueue_elem *el = &r->elem;
	uint8_t resp[RESPONSE_BYTES] = { 0 };
	struct scsi_answer a;
	uint32_t n;

	scsi_command_no_unit(r->cdb, &a);
	n = (uint32_t)MIN(el->in_bytes - RESPONSE_BYTES, a.bytes);
	if (a.sense) {
		store_le32(resp, SCSI_SENSE_BYTES);
		resp[10] = SCSI_CHECK_CONDITION;
		scsi_sense_put(a.sense, resp + 12);
	}
	store_le32(resp + 4, (uint32_t)(el->in_bytes - RESPONSE_BYTES - n));
	iov_write(el->iov + el->nout, el->nin, 0, resp, sizeof(resp));
	iov_write(el->iov + el->nout, el->nin, sizeof(resp), a.data, n);
	virtqueue_push(&r->s->v.queues[r->queue].vq, el, RESPONSE_BYTES + n);
	virtio_queue_interrupt(&r->s->v, r->queue);
	scsi_request_put(r);
}

/* Give a request to its unit. Returns false when the driver violated the protocol. */
static bool request_accept(struct scsi_request *r)
{
	struct virtqueue_elem *el = &r->elem;
	uint8_t m[REQUEST_BYTES];
	struct scsi_lun *l;
	bool unit_0;

	if (el->out_bytes < REQUEST_BYTES || el->in_bytes < RESPONSE_BYTES) {
		virtio_fault(&r->s->v, "a request to a SCSI controller is too short");
		scsi_request_put(r);
		return false;
	}
	iov_read(el->iov, el->nout, 0, m, sizeof(m));
	r->tag = load_le64(m + 8);
	memcpy(r->cdb, m + 19, sizeof(r->cdb));
	r->write = false;
	l = scsi_lun_find(r->s, m, &unit_0);
	r->lun = l;
	if (!l)
		scsi_request_respond(r, SCSI_R_BAD_TARGET);
	else if (el->out_bytes > REQUEST_BYTES && el->in_bytes > RESPONSE_BYTES)
		scsi_request_respond(r, SCSI_R_FAILURE); /* data in both directions: not offered */
	else if (!unit_0)
		no_unit_answer(r);
	else
		scsi_lun_append(l, r);
	return true;
}

/* Accept the commands that had not begun when the state was saved. */
static bool redo_loaded(struct virtio_scsi *s)
{
	struct virtio_dev *v = &s->v;

	while (s->nloaded) {
		struct scsi_loaded n = s->loaded[s->nloaded - 1];
		struct scsi_request *r = request_get(s);

		if (!r) {
			s->starved = true;
			return false;
		}
		s->nloaded--;
		r->queue = n.queue;
		if (virtqueue_parse(&v->queues[n.queue].vq, n.head, &r->elem)) {
			scsi_request_put(r);
			virtio_fault(v, v->queues[n.queue].vq.fault);
			return false;
		}
		if (!request_accept(r))
			return false;
	}
	return true;
}

/* Returns whether memory may be written now; refused requests are answered at once. */
static bool ring_has_room(struct virtio_scsi *s, unsigned qi, struct virtqueue_elem *el)
{
	struct dev_host *h = s->v.host;

	return !h->ops->ram_make_room || h->ops->ram_make_room(h, el->iov + el->nout, el->nin, s->v.queues[qi].kick_fd);
}

/* Returns false if the ring has to wait for something else than its doorbell. */
static bool ring_pop_all(struct virtio_scsi *s, unsigned qi, unsigned *budget)
{
	struct virtqueue *vq = &s->v.queues[qi].vq;

	while (*budget && virtio_is_running(&s->v) && !s->held_wait) {
		struct scsi_request *r = request_get(s);
		int got;

		if (!r) {
			s->starved = true; /* the next request that ends serves the rings again */
			return false;
		}
		r->queue = qi;
		got = virtqueue_pop(vq, &r->elem);
		if (got > 0 && !ring_has_room(s, qi, &r->elem)) {
			virtqueue_unpop(vq);
			scsi_request_put(r);
			return false;
		}
		if (got > 0) {
			--*budget;
			if (!request_accept(r))
				return false;
			continue;
		}
		scsi_request_put(r);
		if (got < 0)
			virtio_fault(&s->v, vq->fault);
		return !got;
	}
	return !s->held_wait;
}

void scsi_run(struct virtio_dev *v, unsigned qi)
{
	struct virtio_scsi *s = container_of(v, struct virtio_scsi, v);
	struct virtqueue *vq = &v->queues[qi].vq;
	unsigned budget = 2u * vq->size;
	bool more;

	if (qi == SCSI_QUEUE_EVENT) {
		scsi_events_run(s);
		return;
	}
	if (qi == SCSI_QUEUE_CONTROL) {
		scsi_control_run(s);
		return;
	}
	if (s->held_wait)
		return;
	SCSI_EACH_LUN(s, l)
		scsi_lun_run(l, true);
	if (!redo_loaded(s))
		return;
	do {
		virtqueue_notify_disable(vq);
		more = ring_pop_all(s, qi, &budget);
	} while (more && virtio_is_running(v) && budget && virtio_doorbell_enable(v, qi, s->polled));
	if (!budget)
		virtio_queue_kick(v, qi);
}

/* ---- device ---- */

static void scsi_quiesce(struct virtio_dev *v)
{
	struct virtio_scsi *s = container_of(v, struct virtio_scsi, v);

	for (unsigned i = 0; i < VIRTIO_SCSI_TARGETS_MAX; i++)
		while (s->luns[i] && s->luns[i]->in_flight)
			pthread_cond_wait(&s->idle, &v->lock);
}

/* The driver's reset of the controller: trays and the write cache stay as they are. */
static void scsi_drop(struct virtio_dev *v)
{
	struct virtio_scsi *s = container_of(v, struct virtio_scsi, v);

	SCSI_EACH_LUN(s, l)
	{
		scsi_lun_drop(l);
		l->unit.locked = false;
		l->unit.write_cache = !l->unit.cdrom;
		l->unit.attention = SENSE_RESET;
	}
	s->nloaded = 0;
	s->held_wait = false;
	s->starved = false;
	s->events_missed = false;
}

/* The device's own part of the state:
 * u8 events missed, u32 units; of each unit: u8 1 for a CD drive, u8 flags (UNIT_*), u8 media event, u32 attention,
 * u64 size, u64 medium; u32 commands that have not begun; of each: u16 ring, u16 descriptor. */
enum { UNIT_TRAY_OPEN = 1, UNIT_LOCKED = 2, UNIT_WRITE_CACHE = 4, UNIT_FLAGS = 7 };

static void unit_save(const struct scsi_unit *u, struct state_writer *w)
{
	state_put_u8(w, u->cdrom);
	state_put_u8(w, (uint8_t)((u->tray_open ? UNIT_TRAY_OPEN : 0) | (u->locked ? UNIT_LOCKED : 0) |
		(u->write_cache ? UNIT_WRITE_CACHE : 0)));
	state_put_u8(w, u->media_event);
	state_put_u32(w, u->attention);
	state_put_u64(w, u->size_bytes);
	state_put_u64(w, u->medium);
}

static unsigned units_count(const struct virtio_scsi *s)
{
	unsigned n = 0;

	SCSI_EACH_LUN(s, l)
		n++;
	return n;
}

static uint32_t waiting_count(const struct virtio_scsi *s)
{
	uint32_t n = s->nloaded;

	SCSI_EACH_LUN(s, l)
		for (const struct scsi_request *r = l->waiting; r; r = r->next)
			n++;
	return n;
}

static void scsi_save(struct virtio_dev *v, struct state_writer *w)
{
	struct virtio_scsi *s = container_of(v, struct virtio_scsi, v);

	state_put_u8(w, s->events_missed);
	state_put_u32(w, units_count(s));
	SCSI_EACH_LUN(s, l)
		unit_save(&l->unit, w);
	state_put_u32(w, waiting_count(s));
	SCSI_EACH_LUN(s, l)
		for (struct scsi_request *r = l->waiting; r; r = r->next) {
			state_put_u16(w, (uint16_t)r->queue);
			state_put_u16(w, r->elem.head);
		}
	for (uint32_t i = s->nloaded; i--;) {
		state_put_u16(w, s->loaded[i].queue);
		state_put_u16(w, s->loaded[i].head);
	}
}

static int unit_load(struct scsi_unit *u, struct state_reader *r, struct err *e)
{
	uint8_t cdrom = state_u8(r), flags = state_u8(r), event = state_u8(r);
	uint32_t attention = state_u32(r);
	uint64_t size = state_u64(r), medium = state_u64(r);

	if (r->failed || cdrom > 1 || flags & ~UNIT_FLAGS || event > SCSI_MEDIA_GONE || attention > 0xffffff)
		return err_set(e, -EINVAL, ERR_CORRUPT, "%s: the state of the unit is malformed", u->id);
	if (cdrom != u->cdrom)
		return err_set(e, -EINVAL, ERR_INVALID, "%s: the state has a %s in its place; give the definition's disks with bus scsi the order "
			"that they had, or drop the state with cairn start --force-boot", u->id, cdrom ? "CD drive" : "disk");
	u->tray_open = cdrom && (flags & UNIT_TRAY_OPEN);
	u->locked = cdrom && (flags & UNIT_LOCKED);
	u->write_cache = !cdrom && (flags & UNIT_WRITE_CACHE);
	u->media_event = event;
	u->attention = attention;
	if (cdrom && (size != u->size_bytes || (size && medium != u->medium))) {
		log_warn(u->id, "the drive had another medium when this state was saved, and the guest is told that the medium was changed; "
			"to give it back its medium: cairn change-media");
		u->attention = SENSE_MEDIUM_CHANGED;
		u->media_event = u->size_bytes ? SCSI_MEDIA_NEW : SCSI_MEDIA_GONE;
	}
	return 0;
}

static int waiting_load(struct virtio_scsi *s, struct state_reader *r, struct err *e)
{
	struct virtio_dev *v = &s->v;
	uint32_t n = state_u32(r);

	if (r->failed || n > s->requests_max)
		return err_set(e, -EINVAL, ERR_CORRUPT, "%s: %u commands held back", v->dev.name, n);
	for (uint32_t i = n; i--;) {
		struct scsi_loaded l = { state_u16(r), state_u16(r) };

		if (r->failed || l.queue < SCSI_QUEUE_FIRST || l.queue >= v->nqueues || !v->queues[l.queue].vq.enabled ||
			l.head >= v->queues[l.queue].vq.size)
			return err_set(e, -EINVAL, ERR_CORRUPT, "%s: a command that was held back is malformed", v->dev.name);
		s->loaded[i] = l;
	}
	s->nloaded = n;
	return 0;
}

static int scsi_load(struct virtio_dev *v, struct state_reader *r, struct err *e)
{
	struct virtio_scsi *s = container_of(v, struct virtio_scsi, v);
	uint8_t missed = state_u8(r);
	uint32_t n = state_u32(r);
	int res = 0;

	if (r->failed || missed > 1)
		return err_set(e, -EINVAL, ERR_CORRUPT, "%s: the state is malformed", v->dev.name);
	if (n != units_count(s)) /* scsi_targets_load() has compared them */
		return err_set(e, -EINVAL, ERR_CORRUPT, "%s: the state is malformed", v->dev.name);
	s->events_missed = missed;
	SCSI_EACH_LUN(s, l)
		res = res ? res : unit_load(&l->unit, r, e);
	return res ? res : waiting_load(s, r, e);
}

static const struct virtio_ops scsi_virtio_ops = {
	.id = 8,
	.class_code = 0x010000, /* SCSI controller */
	.queue_run = scsi_run,
	.quiesce = scsi_quiesce,
	.reset = scsi_drop,
	.save = scsi_save,
	.load = scsi_load,
};

static struct virtio_scsi *scsi_of(struct device *d)
{
	return container_of(d, struct virtio_scsi, v.dev);
}

static void scsi_dev_reset(struct device *d)
{
	struct virtio_scsi *s = scsi_of(d);

	SCSI_EACH_LUN(s, l)
	{
		struct block_info info;

		block_info(l->block, &info); /* a revert may have changed the size */
		pthread_mutex_lock(&s->v.lock);
		l->unit.size_bytes = info.size_bytes;
		scsi_unit_reset(&l->unit);
		pthread_mutex_unlock(&s->v.lock);
	}
	virtio_pci_device_reset(d);
}

/* The state: in version 2, u8 targets; of each, in ascending order: u8 target, 16 bytes id. Then
 * virtio_pci_device_save(). In version 1, the targets are 0, 1, ... in the order of the definition. */
static void scsi_dev_save(struct device *d, struct state_writer *w)
{
	scsi_targets_save(scsi_of(d), w);
	virtio_pci_device_save(d, w);
}

static int scsi_dev_load(struct device *d, struct state_reader *r, uint16_t version, struct err *e)
{
	int ret = scsi_targets_load(scsi_of(d), r, version, e);

	if (!ret)
		return virtio_pci_device_load(d, r, version, e);
	virtio_pci_device_reset(d);
	return ret;
}

static int scsi_dev_check(struct device *d, const struct state_reader *r, uint16_t version, struct err *e)
{
	unsigned queues, ours = scsi_of(d)->v.nqueues;
	struct state_reader rest;
	uint32_t lacks;
	int ret = virtio_scsi_state_compare(d, r, version, &lacks, &rest, e);

	if (ret < 0)
		return ret;
	queues = virtio_pci_state_queues(&rest);
	if (!queues || queues == ours || queues > SCSI_QUEUE_FIRST + VIRTIO_SCSI_QUEUES_MAX)
		return 0;
	return err_set(e, -EINVAL, ERR_INVALID, "%s: the state has %u rings and the definition makes %u; give the VM the number of vCPUs that it "
		"had, or drop the state with cairn start --force-boot", d->name, queues, ours);
}

static void scsi_dev_resume(struct device *d)
{
	struct virtio_scsi *s = scsi_of(d);

	pthread_mutex_lock(&s->v.lock);
	s->held_wait = false;
	SCSI_EACH_LUN(s, l)
		atomic_store(&l->stats.failed, 0);
	pthread_mutex_unlock(&s->v.lock);
	virtio_resume(&s->v);
}

static void scsi_dev_free(struct device *d)
{
	struct virtio_scsi *s = scsi_of(d);

	SCSI_EACH_LUN(s, l)
		scsi_lun_free(l);
	loop_poll_end(s->v.loop, &s->poller);
	virtio_pci_done(&s->pci);
	virtio_done(&s->v);
	for (struct scsi_request *r = s->all, *next; r; r = next) {
		next = r->all;
		free(r);
	}
	pthread_cond_destroy(&s->idle);
	free(s->loaded);
	free(s);
}

static const struct device_ops scsi_device_ops = {
	.type = "virtio-scsi",
	.state_version = 2,
	.reset = scsi_dev_reset,
	.pause = virtio_pci_device_pause,
	.resume = scsi_dev_resume,
	.save = scsi_dev_save,
	.check = scsi_dev_check,
	.load = scsi_dev_load,
	.free = scsi_dev_free,
};

static void config_fill(struct virtio_scsi *s, unsigned queue_size)
{
	uint8_t *c = s->v.config;

	s->v.config_bytes = CONFIG_BYTES;
	store_le32(c + CONFIG_NUM_QUEUES, s->v.nqueues - SCSI_QUEUE_FIRST);
	store_le32(c + CONFIG_SEG_MAX, MIN(queue_size, VIRTQUEUE_SEGS_MAX) - 2);
	store_le32(c + CONFIG_MAX_SECTORS, MAX_SECTORS);
	store_le32(c + CONFIG_CMD_PER_LUN, MIN(queue_size, 128u));
	store_le32(c + CONFIG_EVENT_BYTES, EVENT_INFO_BYTES);
	store_le32(c + CONFIG_SENSE_BYTES, SENSE_BYTES);
	store_le32(c + CONFIG_CDB_BYTES, SCSI_CDB_BYTES);
	store_le16(c + CONFIG_MAX_TARGET, VIRTIO_SCSI_TARGETS_MAX);
	store_le32(c + CONFIG_MAX_LUN, MAX_LUN);
	s->v.features_offered |= SCSI_F_HOTPLUG | SCSI_F_CHANGE;
}

static int scsi_init(struct virtio_scsi *s, struct dev_host *h, struct pci_host *p, const struct virtio_scsi_config *c,
	struct err *e)
{
	unsigned size = c->queue_size ? c->queue_size : QUEUE_SIZE_DEFAULT, queues = c->queues ? c->queues : 1;
	int r = virtio_init(&s->v, h, c->disks[0].loop, c->name, &scsi_device_ops, &scsi_virtio_ops, SCSI_QUEUE_FIRST + queues,
		size, e);

	if (r)
		return r;
	s->requests_max = queues * size;
	s->loaded = calloc(s->requests_max, sizeof(*s->loaded));
	if (!s->loaded)
		return err_set_errno(e, -ENOMEM, "%s", c->name);
	for (unsigned i = 0; i < c->ndisks && !r; i++)
		r = scsi_lun_new(s, i, &c->disks[i], &s->luns[i], e);
	if (r)
		return r;
	s->next_target = c->ndisks % VIRTIO_SCSI_TARGETS_MAX;
	config_fill(s, size);
	r = virtio_pci_init(&s->pci, &s->v, p, c->slot, e);
	if (!r)
		scsi_poll_begin(s, c->disks[0].poll_max_ns);
	return r;
}

int virtio_scsi_new(struct dev_host *h, struct pci_host *p, const struct virtio_scsi_config *c, struct device **ret_dev,
	struct err *e)
{
	unsigned size = c->queue_size ? c->queue_size : QUEUE_SIZE_DEFAULT;
	pthread_condattr_t monotonic;
	struct virtio_scsi *s;
	int r;

	if (!c->ndisks || c->ndisks > VIRTIO_SCSI_TARGETS_MAX || c->queues > VIRTIO_SCSI_QUEUES_MAX || !is_power_of_two(size) ||
		size < 4 || size > VIRTIO_BLK_QUEUE_SIZE_MAX)
		return err_set(e, -EINVAL, ERR_INVALID, "%s: %u disks, %u queues of %u entries", c->name, c->ndisks, c->queues, size);
	s = calloc(1, sizeof(*s));
	if (!s)
		return err_set_errno(e, -ENOMEM, "%s", c->name);
	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_cond_init(&s->idle, &monotonic);
	r = scsi_init(s, h, p, c, e);
	if (r) {
		scsi_dev_free(&s->v.dev);
		return r;
	}
	*ret_dev = &s->v.dev;
	return 0;
}

unsigned virtio_scsi_slot(const struct device *d)
{
	return container_of(d, const struct virtio_scsi, v.dev)->pci.fn.slot;
}
