/* The device and its queues. The connections are in vsock_conn.c. */
#include "devices/virtio/virtio_vsock.h"
#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/util.h"
#include "devices/dev_host.h"
#include "devices/virtio/virtio_vsock_internal.h"
#include "snapshot/state.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>

#define QUEUE_SIZE 128
#define RUN_BYTES_MAX (1u << 20) /* bytes of one call, so that the loop's other work gets a turn */
#define PUMP_PACKETS 32
/* A driver handles TRANSPORT_RESET at once. If it does not confirm that, the device continues after this time. */
#define HOLD_NS 1000000000ULL
#define CLOSE_NS (8 * 1000000000ULL) /* for the answer to a SHUTDOWN of both directions, as Linux waits */
#define EVENT_TRANSPORT_RESET 0

enum { RX = 0, TX = 1, EVENT = 2, QUEUES = 3 };

/* struct virtio_vsock_config: u64 guest_cid. */
#define CONFIG_BYTES 8

static struct virtio_vsock *vsock_of(struct virtio_dev *v)
{
	return container_of(v, struct virtio_vsock, v);
}

/* ---- packets to the guest ---- */

/* Take a buffer of the driver. Returns 1; 0: there is none, and `starved` is set; -EPROTO. */
static int rx_pop(struct virtio_vsock *s)
{
	struct virtqueue *vq = &s->v.queues[RX].vq;
	int got = 0;

	if (virtio_is_running(&s->v) && vq->enabled && !s->hold_until_ns) {
		got = virtqueue_pop(vq, &s->elem);
		if (!got && virtqueue_notify_enable(vq))
			got = virtqueue_pop(vq, &s->elem);
		/* Without room for data, a socket that has some would wake the loop all the time. */
		if (got > 0 && s->elem.in_bytes <= VSOCK_HEADER_BYTES) {
			vq->fault = "a buffer for received packets has no room for data";
			got = -EPROTO;
		}
		if (got < 0)
			virtio_fault(&s->v, vq->fault);
	}
	s->starved = got <= 0;
	return got;
}

static void rx_push(struct virtio_vsock *s, const struct vsock_header *h)
{
	const struct virtqueue_elem *el = &s->elem;
	uint8_t raw[VSOCK_HEADER_BYTES];

	vsock_header_print(h, raw);
	iov_write(el->iov + el->nout, el->nin, 0, raw, sizeof(raw));
	virtqueue_push(&s->v.queues[RX].vq, el, VSOCK_HEADER_BYTES + h->len);
}

static void conn_header(struct vsock_conn *c, enum vsock_op op, struct vsock_header *ret)
{
	*ret = (struct vsock_header){ .src_cid = VSOCK_CID_HOST, .dst_cid = c->s->cid, .src_port = c->host_port,
		.dst_port = c->guest_port, .type = VSOCK_TYPE_STREAM, .op = op, .buf_alloc = VSOCK_BUFFER_BYTES,
		.fwd_cnt = c->credit.forwarded };
	c->credit.told = c->credit.forwarded;
}

/* Send the connection's pending packet with the lowest bit. Returns 1; 0: the driver has no buffer; -EPROTO. */
static int owed_send(struct vsock_conn *c)
{
	static const enum vsock_op ops[] = { VSOCK_OP_REQUEST, VSOCK_OP_RESPONSE, VSOCK_OP_CREDIT_UPDATE,
		VSOCK_OP_CREDIT_REQUEST, VSOCK_OP_SHUTDOWN, VSOCK_OP_RST };
	unsigned bit = (unsigned)__builtin_ctz(c->owes);
	struct vsock_header h;
	int got = rx_pop(c->s);

	if (got <= 0)
		return got;
	conn_header(c, ops[bit], &h);
	if (ops[bit] == VSOCK_OP_SHUTDOWN)
		h.flags = c->host_shut;
	rx_push(c->s, &h);
	c->owes &= (uint8_t)~(1u << bit);
	if (ops[bit] == VSOCK_OP_SHUTDOWN && h.flags == VSOCK_SHUTDOWN_BOTH)
		conn_deadline(c, CLOSE_NS);
	if (ops[bit] == VSOCK_OP_RST)
		conn_leave_guest(c);
	return 1;
}

static bool conn_is_with_guest(const struct vsock_conn *c)
{
	return c->state == CONN_ASKING || c->state == CONN_DIALING || c->state == CONN_OPEN;
}

bool vsock_send_pending(struct vsock_conn *c)
{
	while (conn_is_with_guest(c) && c->owes && owed_send(c) > 0)
		;
	virtio_queue_interrupt(&c->s->v, RX);
	return conn_is_with_guest(c);
}

/* Returns false if an RST has to wait for a buffer. */
static bool rsts_send(struct virtio_vsock *s)
{
	while (s->nrsts) {
		const struct vsock_rst *r = &s->rsts[s->rst_first];
		struct vsock_header h = { .src_cid = r->cid, .dst_cid = s->cid, .src_port = r->host_port,
			.dst_port = r->guest_port, .type = r->type, .op = VSOCK_OP_RST };

		if (rx_pop(s) <= 0)
			return false;
		rx_push(s, &h);
		s->rst_first = (s->rst_first + 1) % VSOCK_RSTS_MAX;
		s->nrsts--;
	}
	if (s->tx_stopped)
		virtio_queue_kick(&s->v, TX);
	s->tx_stopped = false;
	return true;
}

/* Answer a packet that belongs to no connection. */
static void vsock_refuse(struct virtio_vsock *s, const struct vsock_header *h)
{
	if (h->op == VSOCK_OP_RST || s->nrsts == VSOCK_RSTS_MAX)
		return;
	s->rsts[(s->rst_first + s->nrsts++) % VSOCK_RSTS_MAX] = (struct vsock_rst){ h->dst_cid, h->src_port, h->dst_port,
		h->type };
}

/* Send all pending packets while the driver has buffers. Data follows when the sockets' watches report it. */
static void rx_run(struct virtio_vsock *s)
{
	struct vsock_conn *next;

	s->starved = false;
	virtqueue_notify_disable(&s->v.queues[RX].vq);
	if (s->hold_until_ns || !rsts_send(s))
		s->starved = true;
	for (struct vsock_conn *c = s->conns; c; c = next) {
		next = c->next;
		while (!s->starved && conn_is_with_guest(c) && c->owes && owed_send(c) > 0)
			;
		if (c->state != CONN_CLOSED)
			conn_watch(c);
	}
	virtio_queue_interrupt(&s->v, RX);
}

/* Read once into the driver's next buffer. Returns the number of bytes; 0: nothing was moved; -EPROTO. */
static ssize_t data_move(struct vsock_conn *c)
{
	struct virtio_vsock *s = c->s;
	struct iovec *iov = s->iov;
	struct vsock_header h;
	struct msghdr m = { 0 };
	size_t room, had;
	unsigned niov;
	ssize_t n;

	if (rx_pop(s) <= 0)
		return 0;
	niov = s->elem.nin;
	memcpy(iov, s->elem.iov + s->elem.nout, niov * sizeof(*iov));
	had = (size_t)s->elem.in_bytes - VSOCK_HEADER_BYTES;
	room = MIN(had, (size_t)vsock_credit_room(&c->credit));
	iov_drop_front(&iov, &niov, VSOCK_HEADER_BYTES);
	iov_drop_back(iov, &niov, had - room);
	m.msg_iov = iov;
	m.msg_iovlen = niov;
	n = room ? recvmsg(c->fd, &m, MSG_DONTWAIT) : -1;
	if (n <= 0) {
		virtqueue_unpop(&s->v.queues[RX].vq);
		if (room && (!n || (errno != EAGAIN && errno != EINTR))) {
			c->hung |= n < 0;
			conn_eof(c);
		}
		return 0;
	}
	c->credit.sent += (uint32_t)n;
	conn_header(c, VSOCK_OP_RW, &h);
	h.len = (uint32_t)n;
	rx_push(s, &h);
	return n;
}

void vsock_pump(struct vsock_conn *c)
{
	for (unsigned i = 0; i < PUMP_PACKETS && conn_wants_input(c); i++)
		if (data_move(c) <= 0)
			break;
	if (c->state == CONN_OPEN && !c->eof && !vsock_credit_room(&c->credit) && !c->credit_asked) {
		c->owes |= OWES_CREDIT_REQUEST;
		c->credit_asked = true;
	}
	virtio_queue_interrupt(&c->s->v, RX);
}

/* ---- packets from the guest ---- */

static void conn_packet(struct vsock_conn *c, const struct vsock_header *h, struct iovec *iov, unsigned niov)
{
	c->credit.peer_alloc = h->buf_alloc;
	c->credit.peer_forwarded = h->fwd_cnt;
	c->credit_asked = c->credit_asked && !vsock_credit_room(&c->credit);
	switch (h->op) {
	case VSOCK_OP_RESPONSE:
		conn_accepted(c);
		if (c->says_ok && conn_wants_input(c))
			vsock_pump(c); /* the client may have sent data behind its CONNECT line */
		break;
	case VSOCK_OP_RST:
		conn_reset_by_guest(c);
		break;
	case VSOCK_OP_SHUTDOWN:
		conn_shut(c, h->flags);
		break;
	case VSOCK_OP_RW:
		conn_receive(c, iov, niov, h->len);
		break;
	case VSOCK_OP_CREDIT_UPDATE:
		break;
	case VSOCK_OP_CREDIT_REQUEST:
		c->owes |= OWES_CREDIT_UPDATE;
		break;
	default: /* also a second REQUEST */
		conn_abort(c);
	}
	if (vsock_send_pending(c))
		conn_watch(c);
}

/* Handle a packet. Packets of another sender are dropped, and those to another receiver or of another type are
 * refused. */
static void packet_handle(struct virtio_vsock *s, const struct vsock_header *h, struct iovec *iov, unsigned niov)
{
	struct vsock_conn *c;

	if (h->src_cid != s->cid)
		return;
	if (h->dst_cid != VSOCK_CID_HOST || h->type != VSOCK_TYPE_STREAM) {
		vsock_refuse(s, h);
		return;
	}
	c = conn_find(s, h->dst_port, h->src_port);
	if (c)
		conn_packet(c, h, iov, niov);
	else if (h->op != VSOCK_OP_REQUEST || !conn_dial(s, h))
		vsock_refuse(s, h);
}

/* Returns 0; -EPROTO. *cost: at least the number of bytes. */
static int packet_take(struct virtio_vsock *s, size_t *cost)
{
	const struct virtqueue_elem *el = &s->sent;
	struct iovec *iov = s->iov;
	uint8_t raw[VSOCK_HEADER_BYTES];
	struct vsock_header h;
	unsigned niov = el->nout;
	uint64_t data;

	if (iov_read(el->iov, niov, 0, raw, sizeof(raw)) < sizeof(raw))
		return -EPROTO;
	vsock_header_parse(raw, &h);
	data = el->out_bytes - VSOCK_HEADER_BYTES;
	if (h.len > data)
		return -EPROTO;
	memcpy(iov, el->iov, niov * sizeof(*iov));
	iov_drop_front(&iov, &niov, VSOCK_HEADER_BYTES);
	iov_drop_back(iov, &niov, (size_t)(data - h.len));
	packet_handle(s, &h, iov, niov);
	virtqueue_push(&s->v.queues[TX].vq, el, 0);
	*cost = 256 + MIN(h.len, VSOCK_BUFFER_BYTES);
	return 0;
}

static int tx_pump(struct virtio_vsock *s, size_t *budget)
{
	struct virtqueue *vq = &s->v.queues[TX].vq;
	int got = 0;

	while (*budget && !s->tx_stopped && (got = virtqueue_pop(vq, &s->sent)) > 0) {
		size_t cost;

		got = packet_take(s, &cost);
		if (got < 0) {
			vq->fault = "a packet is shorter than its header says";
			return got;
		}
		*budget -= MIN(*budget, cost);
		s->tx_stopped = s->nrsts == VSOCK_RSTS_MAX && !rsts_send(s);
	}
	return got;
}

static void tx_run(struct virtio_vsock *s)
{
	struct virtqueue *vq = &s->v.queues[TX].vq;
	size_t budget = RUN_BYTES_MAX;
	int got;

	if (s->tx_stopped)
		return; /* rsts_send() rings the doorbell */
	do {
		virtqueue_notify_disable(vq);
		got = tx_pump(s, &budget);
	} while (got >= 0 && budget && !s->tx_stopped && virtqueue_notify_enable(vq));
	virtio_queue_interrupt(&s->v, TX);
	if (got < 0) {
		virtio_fault(&s->v, vq->fault);
		return;
	}
	rsts_send(s);
	virtio_queue_interrupt(&s->v, RX);
	if (!budget)
		virtio_queue_kick(&s->v, TX);
}

/* ---- events ---- */

static void hold_end(struct virtio_vsock *s)
{
	if (!s->hold_until_ns)
		return;
	s->hold_until_ns = 0;
	if (virtio_is_running(&s->v) && s->v.queues[RX].vq.enabled)
		rx_run(s);
}

/* Send the event. Linux's driver gives the buffer back when it has reset its connections; a packet of a new connection
 * before that would be lost with them. */
static void event_run(struct virtio_vsock *s)
{
	struct virtqueue *vq = &s->v.queues[EVENT].vq;
	uint8_t event[4];
	int got;

	if (!s->event_due) {
		if (s->hold_until_ns && virtqueue_notify_enable_beyond(vq, s->event_known))
			hold_end(s);
		return;
	}
	got = virtqueue_pop(vq, &s->elem);
	if (!got && virtqueue_notify_enable(vq))
		got = virtqueue_pop(vq, &s->elem);
	if (got < 0)
		virtio_fault(&s->v, vq->fault);
	if (got <= 0)
		return;
	store_le32(event, EVENT_TRANSPORT_RESET);
	s->event_due = false;
	s->event_known = virtqueue_waiting(vq);
	virtqueue_push(vq, &s->elem, (uint32_t)iov_write(s->elem.iov + s->elem.nout, s->elem.nin, 0, event, sizeof(event)));
	if (virtqueue_notify_enable_beyond(vq, s->event_known))
		hold_end(s);
	virtio_queue_interrupt(&s->v, EVENT);
}

static void timer_fire(void *opaque)
{
	struct virtio_vsock *s = opaque;
	uint64_t now_ns = loop_now_ns(), next_ns;
	struct vsock_conn *c, *next;

	LOCK_GUARD(&s->v.lock);
	if (s->hold_until_ns && s->hold_until_ns <= now_ns)
		hold_end(s);
	next_ns = conns_expire(s, now_ns);
	for (c = s->conns; c; c = next) {
		next = c->next;
		if (conn_is_with_guest(c) && c->owes && vsock_send_pending(c))
			conn_watch(c);
	}
	vsock_timer_arm(s, next_ns);
}

/* ---- device ---- */

static void vsock_run(struct virtio_dev *v, unsigned q)
{
	if (q == RX)
		rx_run(vsock_of(v));
	else if (q == TX)
		tx_run(vsock_of(v));
	else
		event_run(vsock_of(v));
}

static void vsock_drop(struct virtio_dev *v)
{
	struct virtio_vsock *s = vsock_of(v);

	conn_free_all_later(s);
	s->nrsts = 0;
	s->starved = s->tx_stopped = s->loaded = s->event_due = false;
	s->hold_until_ns = 0;
}

static int vsock_load(struct virtio_dev *v, struct state_reader *r, struct err *e)
{
	(void)r;
	(void)e;
	vsock_of(v)->loaded = true;
	return 0;
}

static const struct virtio_ops vsock_virtio_ops = {
	.id = 19,
	.class_code = 0x078000, /* communication, other */
	.cpu_percent = 50,
	.queue_run = vsock_run,
	.reset = vsock_drop,
	.load = vsock_load,
};

static struct virtio_vsock *vsock_of_device(struct device *d)
{
	return container_of(d, struct virtio_vsock, v.dev);
}

static void vsock_dev_resume(struct device *d)
{
	struct virtio_vsock *s = vsock_of_device(d);

	pthread_mutex_lock(&s->v.lock);
	if (s->loaded && (s->v.status & VIRTIO_STATUS_DRIVER_OK)) {
		s->event_due = true;
		s->hold_until_ns = loop_now_ns() + HOLD_NS;
		vsock_timer_arm(s, s->hold_until_ns);
	}
	s->loaded = false;
	pthread_mutex_unlock(&s->v.lock);
	virtio_resume(&s->v);
}

static void vsock_dev_free(struct device *d)
{
	struct virtio_vsock *s = vsock_of_device(d);

	loop_unwatch(s->listen_watch);
	loop_unwatch(s->dial_watch);
	loop_timer_free(s->timer);
	conns_free(s);
	virtio_pci_done(&s->pci);
	virtio_done(&s->v);
	free(s);
}

static const struct device_ops vsock_device_ops = {
	.type = "virtio-vsock",
	.state_version = 1,
	.reset = virtio_pci_device_reset,
	.pause = virtio_pci_device_pause,
	.resume = vsock_dev_resume,
	.save = virtio_pci_device_save,
	.load = virtio_pci_device_load,
	.free = vsock_dev_free,
};

static int vsock_init(struct virtio_vsock *s, struct dev_host *h, struct pci_host *p,
	const struct virtio_vsock_config *c, struct err *e)
{
	int r = virtio_init(&s->v, h, h->loop, c->name, &vsock_device_ops, &vsock_virtio_ops, QUEUES, QUEUE_SIZE, e);

	if (r)
		return r;
	s->cid = c->cid;
	s->listen_fd = c->listen_fd;
	s->dial_fd = c->dial_fd;
	/* cairn-dial may still answer requests of this VM's former process on the same socket. */
	if (getrandom(&s->next_dial, sizeof(s->next_dial), 0) != (ssize_t)sizeof(s->next_dial))
		return err_set_errno(e, -errno, "%s", c->name);
	s->task.run = vsock_task_run;
	s->v.config_bytes = CONFIG_BYTES;
	store_le64(s->v.config, c->cid);
	r = virtio_pci_init(&s->pci, &s->v, p, c->slot, e);
	if (r)
		return r;
	r = loop_timer_new(h->loop, timer_fire, s, &s->timer);
	if (!r && s->listen_fd >= 0)
		r = loop_watch(h->loop, s->listen_fd, POLLIN, vsock_listen_ready, s, &s->listen_watch);
	if (!r && s->dial_fd >= 0)
		r = loop_watch(h->loop, s->dial_fd, POLLIN, vsock_dial_ready, s, &s->dial_watch);
	return r ? err_set_errno(e, r, "%s", c->name) : 0;
}

int virtio_vsock_new(struct dev_host *h, struct pci_host *p, const struct virtio_vsock_config *c,
	struct device **ret_dev, struct err *e)
{
	struct virtio_vsock *s = calloc(1, sizeof(*s));
	int r;

	if (!s)
		return err_set_errno(e, -ENOMEM, "%s", c->name);
	r = vsock_init(s, h, p, c, e);
	if (r) {
		vsock_dev_free(&s->v.dev);
		return r;
	}
	*ret_dev = &s->v.dev;
	return 0;
}

/* ---- connections of the daemon's clients ---- */

int virtio_vsock_connect(struct device *d, uint32_t port, int fd, const struct console_user *who,
	void (*done)(void *opaque, int r, const struct err *e), void *opaque, struct err *e)
{
	struct virtio_vsock *s = vsock_of_device(d);
	struct vsock_conn *c;

	LOCK_GUARD(&s->v.lock);
	if (!(s->v.status & VIRTIO_STATUS_DRIVER_OK))
		return err_set(e, -ENOTCONN, ERR_NOT_FOUND,
			"the guest has no driver for its vsock device, or has not started it yet");
	if (port == UINT32_MAX)
		return err_set(e, -EINVAL, ERR_INVALID, "%u is no vsock port", port);
	if (s->nconns == VSOCK_CONNS_MAX)
		greeter_evict(s);
	c = conn_new(s, CONN_ASKING, fd);
	if (!c)
		return err_set(e, -EMFILE, ERR_BUSY, "the VM has %u vsock connections, the limit; close one first", s->nconns);
	c->by_user = true;
	c->who = *who;
	c->done = done;
	c->opaque = opaque;
	conn_ask(c, port);
	return 0;
}

void virtio_vsock_end(struct device *d, bool (*stays)(const void *opaque, struct console_user who), const void *opaque)
{
	struct virtio_vsock *s = vsock_of_device(d);
	struct vsock_conn *next;

	LOCK_GUARD(&s->v.lock);
	for (struct vsock_conn *c = s->conns; c; c = next) {
		next = c->next;
		if (!c->by_user || stays(opaque, c->who))
			continue;
		/* The guest learns it when its driver has a buffer; the client's socket is closed now. */
		if (conn_is_with_guest(c) && !(c->owes & OWES_REQUEST))
			vsock_refuse(s, &(struct vsock_header){ .dst_cid = VSOCK_CID_HOST, .src_port = c->guest_port,
				.dst_port = c->host_port, .type = VSOCK_TYPE_STREAM, .op = VSOCK_OP_RW });
		conn_free_later(c, -EPERM, ERR_PERMISSION, "the role was revoked");
	}
	rsts_send(s);
	virtio_queue_interrupt(&s->v, RX);
}

unsigned virtio_vsock_users(struct device *d)
{
	struct virtio_vsock *s = vsock_of_device(d);
	unsigned n = 0;

	LOCK_GUARD(&s->v.lock);
	for (const struct vsock_conn *c = s->conns; c; c = c->next)
		n += c->by_user;
	return n;
}
