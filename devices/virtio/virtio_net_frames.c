#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/util.h"
#include "devices/virtio/virtio_net_internal.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

/* Work per call, so that the loop's other work gets a turn: bytes, of which each frame costs FRAME_COST at least. */
#define RUN_BYTES_MAX (1u << 20)
#define FRAME_COST (RUN_BYTES_MAX / (2 * NET_QUEUE_SIZE))

/* first: NET_RX_BYTES or NET_TX_BYTES, behind which the number of frames is. */
static void frame_count(struct virtio_net *n, enum net_figure first, uint64_t bytes)
{
	net_count(n, first, bytes);
	net_count(n, first + 1, 1);
}

/* Whether frames go through the pair's own file. They do not if the kernel refused to attach its queue of the tap. */
static bool pair_is_attached(const struct net_pair *p)
{
	return !p->index || (net_pair_is_used(p) && p->attached == NET_ATTACHED);
}

/* ---- limits ---- */

static void frame_charge(unsigned *budget, uint64_t bytes)
{
	uint64_t cost = MAX(bytes, (uint64_t)FRAME_COST);

	*budget -= (unsigned)MIN(cost, (uint64_t)*budget);
}

/* Return whether the direction's limit lets a frame pass. If not, the pair's queue is served again when it does. */
static bool frame_may_pass(struct net_pair *p, unsigned direction)
{
	struct net_limit *limit = &p->n->limits[direction];
	uint64_t now_ns, wait_ns;

	if (!net_limit_is_set(limit) || !atomic_load(&p->n->link_up))
		return true;
	now_ns = loop_now_ns();
	wait_ns = net_limit_wait(limit, now_ns);
	if (wait_ns)
		loop_timer_arm(p->rests[direction], now_ns + wait_ns);
	return !wait_ns;
}

/* ---- frames to the guest ---- */

/* Read a packet into p->packet, or drop it if it is malformed or the guest must not get it (p->held is 0 then).
 * Returns 1; 0 when there is none. */
static int packet_read(struct net_pair *p)
{
	struct virtio_net *n = p->n;
	ssize_t got;

	do {
		got = read(p->tap_fd, p->packet, sizeof(p->packet));
	} while (got < 0 && errno == EINTR);
	if (got <= 0) {
		if (got == 0 || errno != EAGAIN)
			net_tap_lost(n, got ? errno : n->user ? EPIPE : ENODEV);
		return 0;
	}
	p->held = (uint32_t)got;
	if (!n->link_wanted || got < NET_HEADER_BYTES + NET_FRAME_MIN || !net_header_fit(p->packet, n->v.features)) {
		net_count(n, NET_RX_DROPS, 1);
		p->held = 0;
	} else if (!net_filter_passes(&n->filter, n->v.features, p->packet + NET_HEADER_BYTES, (size_t)got - NET_HEADER_BYTES) ||
		!net_flow_receives(p)) {
		p->held = 0;
	}
	return 1;
}

static int packet_unfit(struct net_pair *p, unsigned buffers)
{
	while (buffers--)
		virtqueue_unpop(net_queue(p, RX));
	net_count(p->n, NET_RX_DROPS, 1);
	p->held = 0;
	return 1;
}

/* Fill the next buffer. Returns 1; 0 when the guest has none; -EPROTO. */
static int buffer_fill(struct net_pair *p, unsigned buffers, uint32_t *done)
{
	struct virtqueue *vq = net_queue(p, RX);
	struct virtqueue_elem *el = buffers ? &p->n->more : &p->n->elem;
	int got = virtqueue_pop(vq, el);
	uint32_t part;

	if (got <= 0)
		return got;
	if (el->in_bytes < (buffers ? 1 : NET_HEADER_BYTES)) {
		vq->fault = "a buffer for received frames has no room for a header";
		return -EPROTO;
	}
	part = (uint32_t)MIN(el->in_bytes, (uint64_t)(p->held - *done));
	iov_write(el->iov + el->nout, el->nin, 0, p->packet + *done, part);
	virtqueue_fill(vq, el, part, buffers);
	*done += part;
	return 1;
}

/* Deliver the held packet into as many buffers as it needs; if the guest has too few, use none. Returns 1 when the
 * packet was delivered or dropped; 0 when it waits for buffers; -EPROTO. */
static int packet_deliver(struct net_pair *p)
{
	struct virtio_net *n = p->n;
	struct virtqueue *vq = net_queue(p, RX);
	unsigned buffers = 0, most = n->v.features & NET_F_MRG_RXBUF ? vq->size : 1;
	uint8_t number[2];
	uint32_t done = 0;

	while (done < p->held) {
		int got;

		if (buffers == most)
			return packet_unfit(p, buffers);
		got = buffer_fill(p, buffers, &done);
		if (got <= 0) {
			p->too_few = (uint16_t)buffers;
			while (buffers--)
				virtqueue_unpop(vq);
			return got;
		}
		buffers++;
	}
	store_le16(number, (uint16_t)buffers);
	iov_write(n->elem.iov + n->elem.nout, n->elem.nin, NET_HEADER_BUFFERS, number, sizeof(number));
	virtqueue_mark_dirty(vq, &n->elem);
	virtqueue_publish(vq, (uint16_t)buffers);
	frame_count(n, NET_RX_BYTES, p->held - NET_HEADER_BYTES);
	net_limit_take(&n->limits[RX], p->held - NET_HEADER_BYTES);
	p->held = 0;
	return 1;
}

/* Deliver packets. Returns 1 when there may be more; 0 when the tap has none; -EAGAIN when the
 * guest has no buffers; -ETIME when the limit is reached; -EPROTO. */
static int rx_pump(struct net_pair *p, unsigned *budget)
{
	while (*budget) {
		int r;

		if (!frame_may_pass(p, RX))
			return -ETIME;
		r = p->held || net_flow_answer_take(p) ? 1 : packet_read(p);
		if (!r)
			return 0;
		frame_charge(budget, p->held);
		r = p->held ? packet_deliver(p) : 1;
		if (r <= 0)
			return r ? r : -EAGAIN;
	}
	return 1;
}

static void rx_run(struct net_pair *p)
{
	struct virtio_net *n = p->n;
	struct virtqueue *vq = net_queue(p, RX);
	unsigned budget = RUN_BYTES_MAX;
	int r;

	if (p->tap_fd < 0)
		return;
	net_offload_update(n);
	net_queues_update(n);
	if (!pair_is_attached(p)) {
		net_pair_stop(p);
		return;
	}
	do {
		virtqueue_notify_disable(vq);
		r = rx_pump(p, &budget);
	} while (r == -EAGAIN && virtqueue_notify_enable_beyond(vq, p->too_few));
	virtio_queue_interrupt(&n->v, DIRECTIONS * p->index + RX);
	if (r == -EPROTO)
		virtio_fault(&n->v, vq->fault);
	/* Without buffers, wait for the driver's doorbell; at the limit, for the timer; with frames left, the loop
	 * calls again. */
	p->rx_wanted = r >= 0;
	net_watch_update(p);
}

static void tx_run(struct net_pair *p);

static void tap_ready(void *opaque, unsigned revents)
{
	struct net_pair *p = opaque;
	struct virtio_dev *v = &p->n->v;

	LOCK_GUARD(&v->lock);
	if (!virtio_is_running(v))
		p->rx_wanted = p->tx_blocked = false; /* wait for the driver; its start serves all queues */
	if (!net_queue(p, RX)->enabled)
		p->rx_wanted = false; /* nor does a driver without the queue read waiting frames */
	if (p->tx_blocked && (revents & (POLLOUT | POLLERR | POLLHUP)))
		tx_run(p);
	if (p->rx_wanted)
		rx_run(p);
	else
		net_watch_update(p);
}

/* ---- frames from the guest ---- */

/* Write a frame. A tap drops frames that it cannot take; a full socket reports when it can take
 * more. Returns false when the frame has to wait for the socket. */
static bool frame_write(struct net_pair *p, uint8_t *header, const struct iovec *iov, unsigned niov,
	uint64_t bytes)
{
	struct virtio_net *n = p->n;
	int fd = pair_is_attached(p) ? p->tap_fd : n->pairs[0].tap_fd;
	ssize_t done;

	n->out[0] = (struct iovec){ header, NET_HEADER_BYTES };
	memcpy(n->out + 1, iov, niov * sizeof(*iov));
	do {
		done = writev(fd, n->out, (int)niov + 1);
	} while (done < 0 && errno == EINTR);
	if (done >= 0) {
		frame_count(n, NET_TX_BYTES, bytes);
		net_limit_take(&n->limits[TX], bytes);
	} else if (errno == EBADFD || errno == EPIPE || errno == ECONNRESET) {
		net_tap_lost(n, errno);
	} else if (n->user && errno == EAGAIN) {
		return false;
	} else {
		net_count(n, errno == EINVAL ? NET_TX_ERRORS : NET_TX_DROPS, 1);
	}
	return true;
}

/* Send a frame. Returns 0; -EPROTO when the driver violated the protocol; -EAGAIN when the frame
 * has to wait. */
static int frame_send(struct net_pair *p, struct virtqueue_elem *el)
{
	uint8_t raw[NET_HEADER_BYTES], header[NET_HEADER_BYTES];
	uint64_t bytes = el->out_bytes - NET_HEADER_BYTES;
	struct virtio_net *n = p->n;
	struct iovec *iov = el->iov;
	unsigned niov = el->nout;

	if (el->out_bytes < NET_HEADER_BYTES)
		return -EPROTO;
	iov_read(iov, niov, 0, raw, sizeof(raw));
	iov_drop_front(&iov, &niov, NET_HEADER_BYTES);
	if (!atomic_load(&n->link_up))
		net_count(n, NET_TX_DROPS, 1);
	else if (bytes > NET_FRAME_MAX || !net_header_parse(raw, bytes, n->v.features, header))
		net_count(n, NET_TX_ERRORS, 1);
	else if (!net_flow_sends(n, iov, niov))
		net_count(n, NET_TX_DROPS, 1);
	else if (!frame_write(p, header, iov, niov, bytes))
		return -EAGAIN;
	return 0;
}

/* Send frames. Returns 1 when there may be more; 0 when there are none, or they have to wait for the socket; -ETIME
 * when the limit is reached; -EPROTO. */
static int tx_pump(struct net_pair *p, unsigned *budget)
{
	struct virtqueue_elem *el = &p->n->elem;
	struct virtqueue *vq = net_queue(p, TX);
	int got = 0;

	while (*budget) {
		int r;

		if (!frame_may_pass(p, TX))
			return -ETIME;
		got = virtqueue_pop(vq, el);
		if (got <= 0)
			break;
		r = frame_send(p, el);

		if (r == -EPROTO) {
			vq->fault = "a frame to be sent has no header";
			return r;
		}
		if (r == -EAGAIN) {
			virtqueue_unpop(vq);
			p->tx_blocked = true;
			return 0;
		}
		virtqueue_push(vq, el, 0);
		frame_charge(budget, el->out_bytes);
	}
	return got;
}

/* Serve the pair also if the driver does not use it: frames from before the driver changed the number of pairs go
 * out by the first pair's file. */
static void tx_run(struct net_pair *p)
{
	unsigned budget = RUN_BYTES_MAX, q = DIRECTIONS * p->index + TX;
	struct virtio_dev *v = &p->n->v;
	struct virtqueue *vq = net_queue(p, TX);
	int r;

	p->tx_blocked = false;
	do {
		virtqueue_notify_disable(vq);
		r = tx_pump(p, &budget);
	} while (r >= 0 && budget && !p->tx_blocked && virtio_doorbell_enable(v, q, p->n->polled));
	net_watch_update(p);
	virtio_queue_interrupt(v, q);
	if (r == -EPROTO)
		virtio_fault(v, vq->fault);
	else if (!budget)
		virtio_queue_kick(v, q);
}

/* ---- polls ---- */

/* Serve a pair's queues without a doorbell or an event of the tap. Returns whether a frame passed. */
static bool pair_poll(struct net_pair *p)
{
	struct virtqueue *rx = net_queue(p, RX), *tx = net_queue(p, TX);
	uint16_t rx_used = rx->used_idx, tx_used = tx->used_idx;

	if (net_vhost_is_on(p))
		return false;
	if (!p->tx_blocked && virtqueue_waiting(tx))
		tx_run(p);
	if (virtio_is_running(&p->n->v) && p->rx_wanted && rx->enabled)
		rx_run(p);
	return rx->used_idx != rx_used || tx->used_idx != tx_used;
}

bool net_poll(void *opaque)
{
	struct virtio_net *n = opaque;
	bool passed = false;

	LOCK_GUARD(&n->v.lock);
	for (unsigned i = 0; i < net_pairs_known(n) && virtio_is_running(&n->v); i++)
		passed |= pair_poll(&n->pairs[i]);
	return passed;
}

static bool pair_sleeps(struct net_pair *p)
{
	return !net_vhost_is_on(p) && virtio_doorbell_wake(&p->n->v, DIRECTIONS * p->index + TX);
}

bool net_sleeps(void *opaque)
{
	struct virtio_net *n = opaque;
	bool found = false;

	if (n->has_thread)
		batch_sched_update(&n->batch, loop_now_ns(),
			figure_get(n->counters, NET_RX_BYTES) + figure_get(n->counters, NET_TX_BYTES));
	LOCK_GUARD(&n->v.lock);
	for (unsigned i = 0; i < net_pairs_known(n) && virtio_is_running(&n->v); i++)
		found |= pair_sleeps(&n->pairs[i]);
	return found;
}

/* ---- pairs ---- */

void net_pair_run(struct net_pair *p, unsigned direction)
{
	if (net_vhost_serves(p))
		return;
	if (direction == RX)
		rx_run(p);
	else
		tx_run(p);
}

void net_pair_stop(struct net_pair *p)
{
	p->held = 0;
	p->rx_wanted = false;
	net_watch_update(p);
}

static void rest_end(struct net_pair *p, unsigned direction)
{
	LOCK_GUARD(&p->n->v.lock);
	if (virtio_is_running(&p->n->v) && net_queue(p, direction)->enabled)
		net_pair_run(p, direction);
}

static void rx_rest_end(void *opaque)
{
	rest_end(opaque, RX);
}

static void tx_rest_end(void *opaque)
{
	rest_end(opaque, TX);
}

int net_pair_init(struct net_pair *p)
{
	struct loop *l = p->n->v.loop;
	int r = loop_timer_new(l, rx_rest_end, p, &p->rests[RX]);

	if (!r)
		r = loop_timer_new(l, tx_rest_end, p, &p->rests[TX]);
	if (!r && p->tap_fd >= 0)
		r = loop_watch(l, p->tap_fd, 0, tap_ready, p, &p->watch);
	return r;
}

void net_pair_done(struct net_pair *p)
{
	net_vhost_free(p);
	loop_unwatch(p->watch);
	for (unsigned i = 0; i < DIRECTIONS; i++)
		loop_timer_free(p->rests[i]);
}
