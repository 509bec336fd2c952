/* The controller's control and event rings: task management, asynchronous notifications, events. */
#include "base/bytes.h"
#include "devices/dev_host.h"
#include "devices/virtio/virtio_scsi_internal.h"

#include <stdlib.h>
#include <string.h>

enum { CONTROL_TMF = 0, CONTROL_AN_QUERY = 1, CONTROL_AN_SUBSCRIBE = 2 };
enum {
	TMF_ABORT_TASK = 0, TMF_ABORT_TASK_SET = 1, TMF_CLEAR_ACA = 2, TMF_CLEAR_TASK_SET = 3, TMF_I_T_NEXUS_RESET = 4,
	TMF_UNIT_RESET = 5, TMF_QUERY_TASK = 6, TMF_QUERY_TASK_SET = 7,
};
#define TMF_BYTES 24 /* type, subtype, unit, tag */
#define AN_BYTES 16
#define AN_ANSWER_BYTES 5
#define EVENT_BYTES 16
#define EVENTS_MISSED 0x80000000u

static struct virtqueue *control_ring(struct virtio_scsi *s)
{
	return &s->v.queues[SCSI_QUEUE_CONTROL].vq;
}

static void control_answer(struct virtio_scsi *s, struct virtqueue_elem *el, const void *answer, uint32_t bytes)
{
	iov_write(el->iov + el->nout, el->nin, 0, answer, bytes);
	virtqueue_push(control_ring(s), el, bytes);
	virtio_queue_interrupt(&s->v, SCSI_QUEUE_CONTROL);
}

static void tmf_answer(struct virtio_scsi *s, struct virtqueue_elem *el, enum scsi_response response)
{
	uint8_t r = (uint8_t)response;

	control_answer(s, el, &r, 1);
}

static bool is_one_task(uint32_t subtype)
{
	return subtype == TMF_ABORT_TASK || subtype == TMF_QUERY_TASK;
}

/* End the commands that wait, and that the function is about. */
static void waiting_abort(struct scsi_lun *l, const struct scsi_tmf *t)
{
	struct scsi_request **at = &l->waiting, *r;
	bool reset = t->subtype == TMF_UNIT_RESET || t->subtype == TMF_I_T_NEXUS_RESET;

	while ((r = *at)) {
		if (is_one_task(t->subtype) && r->tag != t->tag) {
			at = &r->next;
			continue;
		}
		*at = r->next;
		scsi_request_respond(r, reset ? SCSI_R_RESET : SCSI_R_ABORTED);
	}
	l->waiting_end = at;
}

static void tmf_free(struct virtio_scsi *s, struct scsi_tmf *t)
{
	s->ntmfs--;
	free(t);
}

void scsi_tmfs_finish(struct scsi_lun *l)
{
	while (l->tmfs) {
		struct scsi_tmf *t = l->tmfs;

		l->tmfs = t->next;
		waiting_abort(l, t);
		if (t->subtype == TMF_UNIT_RESET || t->subtype == TMF_I_T_NEXUS_RESET) {
			l->unit.locked = false;
			l->unit.write_cache = !l->unit.cdrom;
			l->unit.attention = SENSE_RESET;
		}
		tmf_answer(l->s, &t->elem, SCSI_R_OK);
		tmf_free(l->s, t);
	}
}

void scsi_tmfs_drop(struct scsi_lun *l)
{
	while (l->tmfs) {
		struct scsi_tmf *t = l->tmfs;

		l->tmfs = t->next;
		tmf_free(l->s, t);
	}
}

static bool task_exists(const struct scsi_lun *l, bool one, uint64_t tag)
{
	for (const struct scsi_request *r = l->s->all; r; r = r->all)
		if (r->lun == l && (!one || r->tag == tag))
			return true;
	return false;
}

/* Keep a function until no command of its unit is in flight: the block layer cannot cancel. A driver may add a chain of
 * descriptors again before it was used, so the ring does not limit how many functions wait. */
static void tmf_begin(struct scsi_lun *l, uint32_t subtype, uint64_t tag, struct virtqueue_elem *el)
{
	struct scsi_tmf *t = l->s->ntmfs < control_ring(l->s)->size ? malloc(sizeof(*t)) : NULL, **end = &l->tmfs;

	if (!t) {
		tmf_answer(l->s, el, SCSI_R_FAILURE);
		return;
	}
	t->next = NULL;
	t->subtype = subtype;
	t->tag = tag;
	t->elem = *el;
	virtqueue_elem_init(&t->elem);
	while (*end)
		end = &(*end)->next;
	*end = t;
	l->s->ntmfs++;
	if (!l->in_flight)
		scsi_tmfs_finish(l);
}

static void tmf_run(struct virtio_scsi *s, struct virtqueue_elem *el)
{
	uint8_t m[TMF_BYTES];
	uint32_t subtype;
	uint64_t tag;
	bool unit_0;
	struct scsi_lun *l;

	iov_read(el->iov, el->nout, 0, m, sizeof(m));
	subtype = load_le32(m + 4);
	tag = load_le64(m + 16);
	l = scsi_lun_find(s, m + 8, &unit_0);
	if (!l || !unit_0) {
		tmf_answer(s, el, l ? SCSI_R_INCORRECT_LUN : SCSI_R_BAD_TARGET);
		return;
	}
	switch (subtype) {
	case TMF_ABORT_TASK:
	case TMF_ABORT_TASK_SET:
	case TMF_CLEAR_TASK_SET:
	case TMF_I_T_NEXUS_RESET:
	case TMF_UNIT_RESET:
		tmf_begin(l, subtype, tag, el);
		return;
	case TMF_QUERY_TASK:
	case TMF_QUERY_TASK_SET:
		tmf_answer(s, el, task_exists(l, subtype == TMF_QUERY_TASK, tag) ? SCSI_R_SUCCEEDED : SCSI_R_OK);
		return;
	default:
		tmf_answer(s, el, SCSI_R_REJECTED);
	}
}

/* Returns false if the driver violated the protocol. */
static bool control_serve(struct virtio_scsi *s, struct virtqueue_elem *el)
{
	uint8_t answer[AN_ANSWER_BYTES] = { 0 };
	uint32_t type;

	if (el->out_bytes < 4 || !el->in_bytes)
		return false;
	iov_read(el->iov, el->nout, 0, answer, 4);
	type = load_le32(answer);
	memset(answer, 0, sizeof(answer));
	if (type == CONTROL_TMF) {
		if (el->out_bytes < TMF_BYTES)
			return false;
		tmf_run(s, el);
		return true;
	}
	if ((type != CONTROL_AN_QUERY && type != CONTROL_AN_SUBSCRIBE) || el->out_bytes < AN_BYTES ||
		el->in_bytes < AN_ANSWER_BYTES)
		return false;
	control_answer(s, el, answer, sizeof(answer)); /* no asynchronous notifications */
	return true;
}

static bool has_room(struct virtio_scsi *s, unsigned queue, struct virtqueue_elem *el)
{
	struct dev_host *h = s->v.host;

	return !h->ops->ram_make_room || h->ops->ram_make_room(h, el->iov + el->nout, el->nin,
		s->v.queues[queue].kick_fd);
}

void scsi_control_run(struct virtio_scsi *s)
{
	struct virtqueue *vq = control_ring(s);
	struct virtqueue_elem el;
	unsigned budget = vq->size;
	int got = 0;

	virtqueue_notify_disable(vq);
	do {
		while (virtio_is_running(&s->v) && budget && (got = virtqueue_pop(vq, &el)) > 0) {
			budget--;
			if (!has_room(s, SCSI_QUEUE_CONTROL, &el)) {
				virtqueue_unpop(vq); /* the doorbell rings when it is time to ask again */
				return;
			}
			if (!control_serve(s, &el)) {
				virtio_fault(&s->v, "a request in the control ring of a SCSI controller is malformed");
				return;
			}
		}
		if (got < 0)
			virtio_fault(&s->v, vq->fault);
	} while (virtio_is_running(&s->v) && budget && virtqueue_notify_enable(vq));
	if (!budget)
		virtio_queue_kick(&s->v, SCSI_QUEUE_CONTROL);
}

/* Give the driver an event. Without a buffer for it, the driver is to know that it has missed one. */
static void event_push(struct virtio_scsi *s, uint8_t m[EVENT_BYTES])
{
	struct virtqueue *vq = &s->v.queues[SCSI_QUEUE_EVENT].vq;
	struct virtqueue_elem el;
	int got = virtio_is_running(&s->v) ? virtqueue_pop(vq, &el) : 0;

	if (got > 0 && el.in_bytes >= EVENT_BYTES && !has_room(s, SCSI_QUEUE_EVENT, &el)) {
		virtqueue_unpop(vq); /* the doorbell rings when it is time to ask again */
		s->events_missed = true;
		return;
	}
	if (got <= 0 || el.in_bytes < EVENT_BYTES) {
		s->events_missed = true;
		if (got)
			virtio_fault(&s->v, got < 0 ? vq->fault : "a buffer for events of a SCSI controller is too short");
		else if (virtio_is_running(&s->v) && virtqueue_notify_enable(vq))
			virtio_queue_kick(&s->v, SCSI_QUEUE_EVENT);
		return;
	}
	store_le32(m, load_le32(m) | (s->events_missed ? EVENTS_MISSED : 0));
	s->events_missed = false;
	iov_write(el.iov + el.nout, el.nin, 0, m, EVENT_BYTES);
	virtqueue_push(vq, &el, EVENT_BYTES);
	virtio_queue_interrupt(&s->v, SCSI_QUEUE_EVENT);
}

void scsi_event_send(struct virtio_scsi *s, unsigned target, uint64_t feature, uint32_t event, uint32_t reason)
{
	uint8_t m[EVENT_BYTES] = { [4] = 1, [5] = (uint8_t)target };

	if (!(s->v.features & feature) || !s->v.queues[SCSI_QUEUE_EVENT].vq.enabled)
		return;
	store_le32(m, event);
	store_le32(m + 12, reason);
	event_push(s, m);
}

void scsi_events_run(struct virtio_scsi *s)
{
	uint8_t m[EVENT_BYTES] = { SCSI_EVENT_NONE };

	if (s->events_missed)
		event_push(s, m);
}
