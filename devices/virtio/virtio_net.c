#include "devices/virtio/virtio_net.h"
#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/util.h"
#include "devices/dev_host.h"
#include "devices/virtio/net_filter.h"
#include "devices/virtio/net_limit.h"
#include "devices/virtio/tcp_flows.h"
#include "devices/virtio/virtio_net_header.h"
#include "devices/virtio/virtio_net_state.h"
#include "devices/virtio/virtio_pci.h"
#include "snapshot/state.h"

#include <errno.h>
#include <linux/if_tun.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/uio.h>
#include <unistd.h>

#define QUEUE_SIZE 256
#define MTU_DEFAULT 1500
/* Largest frame: 64 KiB of IP that is not segmented, with Ethernet and VLAN headers. */
#define FRAME_MAX (65536 + 18)
/* Work per call, so that the loop's other work gets a turn: bytes, of which each frame costs FRAME_COST at least. */
#define RUN_BYTES_MAX (1u << 20)
#define FRAME_COST (RUN_BYTES_MAX / (2 * QUEUE_SIZE))

enum { RX = 0, TX = 1, DIRECTIONS = 2, CTRL = 2, QUEUES = 3 };

/* struct virtio_net_config, section 5.1.4. */
enum { CONFIG_MAC = 0, CONFIG_STATUS = 6, CONFIG_MTU = 10, CONFIG_BYTES = 12 };
enum { STATUS_LINK_UP = 1, STATUS_ANNOUNCE = 2 };

/* The control queue: a request has a class and a command, data, and one byte for the answer. */
enum { CTRL_HEADER_BYTES = 2, CTRL_OK = 0, CTRL_ERROR = 1, CTRL_ANNOUNCE_ACK = 0 };
#define CTRL_COMMANDS_MAX 64u /* per call */

/* Features of the control queue, which states of version 1 lack. */
#define F_CTRL (NET_F_CTRL_VQ | NET_F_CTRL_RX | NET_F_CTRL_VLAN | NET_F_GUEST_ANNOUNCE | NET_F_CTRL_MAC_ADDR)
#define F_ALWAYS (NET_F_MTU | NET_F_MAC | NET_F_MRG_RXBUF | NET_F_STATUS | F_CTRL)
/* Offloads that a tap supports. */
#define F_OFFLOADS                                                                                 \
	(NET_F_CSUM | NET_F_GUEST_CSUM | NET_F_GUEST_TSO4 | NET_F_GUEST_TSO6 | NET_F_GUEST_ECN |   \
		NET_F_HOST_TSO4 | NET_F_HOST_TSO6 | NET_F_HOST_ECN)
/* Offloads that a user network supports. */
#define F_OFFLOADS_USER (NET_F_CSUM | NET_F_GUEST_CSUM | NET_F_GUEST_TSO4 | NET_F_HOST_TSO4)

struct net_counters {
	_Atomic uint64_t bytes, packets, errors, drops;
};

struct virtio_net {
	struct virtio_dev v;
	struct virtio_pci pci;
	struct net_counters rx, tx;
	_Atomic bool link_up;
	bool user; /* tap_fd is a socket, not a tap */
	struct loop_timer *rests[DIRECTIONS]; /* armed: the limit lets no frame pass before */

	/* used on the loop only, with v.lock held (a reset clears tx_blocked on any thread): */
	int tap_fd; /* -1: none, or lost */
	struct loop_watch *watch; /* watch of the tap */
	bool rx_wanted;	 /* the guest has buffers, so wait for frames */
	bool tx_blocked; /* the socket is full; the frame stays in the ring until the socket's peer reads */
	bool quiet; /* the queues' doorbells stay disabled while the loop polls */
	struct loop_poller poller;
	bool polled; /* the loop calls poller */
	unsigned offload; /* TUN_F_* flags that were last set */
	struct virtqueue_elem elem, more; /* elem: first buffer of a frame; more: each further one */
	struct iovec out[VIRTQUEUE_SEGS_MAX + 1];

	/* protected by v.lock: */
	bool link_wanted;
	struct net_limit limits[DIRECTIONS];
	bool loaded; /* a state was loaded and the driver has not been told yet */
	bool announce; /* the driver is to announce its addresses to the network */
	uint8_t mac[VIRTIO_NET_MAC_BYTES]; /* of the definition */
	struct net_filter filter;
	struct tcp_flows *flows; /* NULL: nobody can revert to a moment of this process */
	uint32_t held; /* bytes of `packet`, which waits for buffers; 0: none */
	uint16_t too_few; /* number of buffers that were too few for `packet` */
	uint8_t packet[NET_HEADER_BYTES + FRAME_MAX];
};

static struct virtio_net *net_of(struct virtio_dev *v)
{
	return container_of(v, struct virtio_net, v);
}

static void counter_add(_Atomic uint64_t *counter, uint64_t n)
{
	atomic_fetch_add_explicit(counter, n, memory_order_relaxed);
}

static void count_frame(struct net_counters *c, uint64_t bytes)
{
	counter_add(&c->bytes, bytes);
	counter_add(&c->packets, 1);
}

/* ---- the tap and its offloads ---- */

static void link_update(struct virtio_net *n)
{
	bool up = n->link_wanted && n->tap_fd >= 0;

	atomic_store(&n->link_up, up);
	store_le16(n->v.config + CONFIG_STATUS, up ? STATUS_LINK_UP | (n->announce ? STATUS_ANNOUNCE : 0) : 0);
}

static void watch_update(struct virtio_net *n)
{
	if (n->watch)
		loop_watch_events(n->watch, (n->rx_wanted ? POLLIN : 0) | (n->tx_blocked ? POLLOUT : 0));
}

static void config_changed(struct virtio_net *n)
{
	n->v.generation++;
	if (n->v.status & VIRTIO_STATUS_DRIVER_OK)
		n->v.transport_ops->config_interrupt(n->v.transport);
}

/* Set the link down, because the tap was deleted on the host or the process of the user network
 * ended. */
static void tap_lost(struct virtio_net *n, int error)
{
	struct dev_event ev = { .kind = DEV_EVENT_LINK_LOST, .device = n->v.dev.name,
		.detail = n->user ? "the process of its network has ended" : "its tap device is gone" };

	log_warn(n->v.dev.name, "%s (%s): the link is down until the VM restarts", ev.detail, strerror(error));
	loop_unwatch(n->watch);
	n->watch = NULL;
	n->tap_fd = -1;
	n->held = 0;
	n->tx_blocked = false;
	virtio_queue_kick(&n->v, TX); /* drops the frames that wait in the ring */
	link_update(n);
	config_changed(n);
	dev_event(n->v.host, &ev);
}

/* Set the offloads. Returns false when a socket is full; the caller tries again later. */
static bool offload_tell(struct virtio_net *n, unsigned want)
{
	uint8_t flags[4];

	store_le32(flags, want);
	if (n->user)
		return write(n->tap_fd, flags, sizeof(flags)) >= 0 || errno != EAGAIN;
	if (ioctl(n->tap_fd, TUNSETOFFLOAD, (unsigned long)want) < 0)
		log_info(n->v.dev.name, "cannot set the tap device's offloads: %s", strerror(errno));
	return true;
}

/* Update the offloads. Runs on the loop, not in the driver's register write, because the kernel may
 * block changes of a network device. */
static void offload_update(struct virtio_net *n)
{
	unsigned want = net_header_offloads(n->v.features);

	if (want != n->offload && offload_tell(n, want))
		n->offload = want;
}

/* ---- limits ---- */

static void frame_charge(unsigned *budget, uint64_t bytes)
{
	uint64_t cost = MAX(bytes, (uint64_t)FRAME_COST);

	*budget -= (unsigned)MIN(cost, (uint64_t)*budget);
}

/* Whether the direction's limit lets a frame pass. If not, its queue is served again when it does. */
static bool frame_may_pass(struct virtio_net *n, unsigned direction)
{
	uint64_t now_ns, wait_ns;

	if (!net_limit_is_set(&n->limits[direction]) || !atomic_load(&n->link_up))
		return true;
	now_ns = loop_now_ns();
	wait_ns = net_limit_wait(&n->limits[direction], now_ns);
	if (wait_ns)
		loop_timer_arm(n->rests[direction], now_ns + wait_ns);
	return !wait_ns;
}

/* ---- TCP connections after a revert ---- */

static bool flows_begin(struct virtio_net *n)
{
	return n->flows || (n->tap_fd >= 0 && !tcp_flows_new(&n->flows));
}

/* Send the peers what is due to them. A full socket drops it; a later segment of the peer is answered again. */
static void peers_answer(struct virtio_net *n)
{
	uint8_t packet[NET_HEADER_BYTES + TCP_FLOWS_FRAME_BYTES] = { 0 };
	size_t bytes;

	while ((bytes = tcp_flows_next(n->flows, TCP_PEER, packet + NET_HEADER_BYTES)))
		if (n->tap_fd >= 0 && n->link_wanted && write(n->tap_fd, packet, NET_HEADER_BYTES + bytes) < 0)
			log_debug(n->v.dev.name, "cannot reset a connection: %s", strerror(errno));
}

/* Whether a frame of the host may pass. */
static bool flow_receives(struct virtio_net *n)
{
	size_t bytes = n->held - NET_HEADER_BYTES;
	bool passes = !n->flows || tcp_flows_note(n->flows, TCP_PEER, n->packet + NET_HEADER_BYTES, MIN(bytes, (size_t)TCP_FLOWS_HEAD_BYTES));

	if (!passes)
		peers_answer(n);
	return passes;
}

/* Whether a frame of the guest may pass. */
static bool flow_sends(struct virtio_net *n, const struct iovec *iov, unsigned niov)
{
	uint8_t head[TCP_FLOWS_HEAD_BYTES];

	if (!n->flows || tcp_flows_note(n->flows, TCP_GUEST, head, iov_read(iov, niov, 0, head, sizeof(head))))
		return true;
	peers_answer(n);
	virtio_queue_kick(&n->v, RX);
	return false;
}

/* Put into n->packet what is due to the guest. Returns whether there is something. */
static bool answer_take(struct virtio_net *n)
{
	size_t bytes = n->flows && n->link_wanted ? tcp_flows_next(n->flows, TCP_GUEST, n->packet + NET_HEADER_BYTES) : 0;

	memset(n->packet, 0, bytes ? NET_HEADER_BYTES : 0);
	n->held = bytes ? (uint32_t)bytes + NET_HEADER_BYTES : 0;
	return bytes;
}

/* ---- frames to the guest ---- */

/* Read a packet into n->packet, or drop it if it is malformed or the guest must not get it (n->held is 0 then).
 * Returns 1; 0 when there is none. */
static int packet_read(struct virtio_net *n)
{
	ssize_t got;

	do {
		got = read(n->tap_fd, n->packet, sizeof(n->packet));
	} while (got < 0 && errno == EINTR);
	if (got <= 0) {
		if (got == 0 || errno != EAGAIN)
			tap_lost(n, got ? errno : n->user ? EPIPE : ENODEV);
		return 0;
	}
	n->held = (uint32_t)got;
	if (!n->link_wanted || got < NET_HEADER_BYTES + NET_FRAME_MIN || !net_header_fit(n->packet, n->v.features)) {
		counter_add(&n->rx.drops, 1);
		n->held = 0;
	} else if (!net_filter_passes(&n->filter, n->v.features, n->packet + NET_HEADER_BYTES, (size_t)got - NET_HEADER_BYTES) || !flow_receives(n)) {
		n->held = 0;
	}
	return 1;
}

static int packet_unfit(struct virtio_net *n, unsigned buffers)
{
	while (buffers--)
		virtqueue_unpop(&n->v.queues[RX].vq);
	counter_add(&n->rx.drops, 1);
	n->held = 0;
	return 1;
}

/* Fill the next buffer. Returns 1; 0 when the guest has none; -EPROTO. */
static int buffer_fill(struct virtio_net *n, unsigned buffers, uint32_t *done)
{
	struct virtqueue *vq = &n->v.queues[RX].vq;
	struct virtqueue_elem *el = buffers ? &n->more : &n->elem;
	int got = virtqueue_pop(vq, el);
	uint32_t part;

	if (got <= 0)
		return got;
	if (el->in_bytes < (buffers ? 1 : NET_HEADER_BYTES)) {
		vq->fault = "a buffer for received frames has no room for a header";
		return -EPROTO;
	}
	part = (uint32_t)MIN(el->in_bytes, (uint64_t)(n->held - *done));
	iov_write(el->iov + el->nout, el->nin, 0, n->packet + *done, part);
	virtqueue_fill(vq, el, part, buffers);
	*done += part;
	return 1;
}

/* Deliver the held packet into as many buffers as it needs; if the guest has too few, use none. Returns 1 when the
 * packet was delivered or dropped; 0 when it waits for buffers; -EPROTO. */
static int packet_deliver(struct virtio_net *n)
{
	struct virtqueue *vq = &n->v.queues[RX].vq;
	unsigned buffers = 0, most = n->v.features & NET_F_MRG_RXBUF ? vq->size : 1;
	uint8_t number[2];
	uint32_t done = 0;

	while (done < n->held) {
		int got;

		if (buffers == most)
			return packet_unfit(n, buffers);
		got = buffer_fill(n, buffers, &done);
		if (got <= 0) {
			n->too_few = (uint16_t)buffers;
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
	count_frame(&n->rx, n->held - NET_HEADER_BYTES);
	net_limit_take(&n->limits[RX], n->held - NET_HEADER_BYTES);
	n->held = 0;
	return 1;
}

/* Deliver packets. Returns 1 when there may be more; 0 when the tap has none; -EAGAIN when the
 * guest has no buffers; -ETIME when the limit is reached; -EPROTO. */
static int rx_pump(struct virtio_net *n, unsigned *budget)
{
	while (*budget) {
		int r;

		if (!frame_may_pass(n, RX))
			return -ETIME;
		r = n->held || answer_take(n) ? 1 : packet_read(n);
		if (!r)
			return 0;
		frame_charge(budget, n->held);
		r = n->held ? packet_deliver(n) : 1;
		if (r <= 0)
			return r ? r : -EAGAIN;
	}
	return 1;
}

static void rx_run(struct virtio_net *n)
{
	struct virtqueue *vq = &n->v.queues[RX].vq;
	unsigned budget = RUN_BYTES_MAX;
	int r;

	if (n->tap_fd < 0)
		return;
	offload_update(n);
	do {
		virtqueue_notify_disable(vq);
		r = rx_pump(n, &budget);
	} while (r == -EAGAIN && virtqueue_notify_enable_beyond(vq, n->too_few));
	virtio_queue_interrupt(&n->v, RX);
	if (r == -EPROTO)
		virtio_fault(&n->v, vq->fault);
	/* Without buffers, wait for the driver's doorbell; at the limit, for the timer; with frames left, the loop
	 * calls again. */
	n->rx_wanted = r >= 0;
	watch_update(n);
}

static void tx_run(struct virtio_net *n);

static void tap_ready(void *opaque, unsigned revents)
{
	struct virtio_net *n = opaque;
	struct virtio_dev *v = &n->v;

	LOCK_GUARD(&v->lock);
	if (!virtio_is_running(v))
		n->rx_wanted = n->tx_blocked = false; /* wait for the driver; its start serves both queues */
	if (n->tx_blocked && (revents & (POLLOUT | POLLERR | POLLHUP)))
		tx_run(n);
	if (n->rx_wanted && v->queues[RX].vq.enabled)
		rx_run(n);
	else
		watch_update(n);
}

/* ---- frames from the guest ---- */

/* Write a frame. A tap drops frames that it cannot take; a full socket reports when it can take
 * more. Returns false when the frame has to wait for the socket. */
static bool frame_write(struct virtio_net *n, uint8_t *header, const struct iovec *iov, unsigned niov,
	uint64_t bytes)
{
	ssize_t done;

	n->out[0] = (struct iovec){ header, NET_HEADER_BYTES };
	memcpy(n->out + 1, iov, niov * sizeof(*iov));
	do {
		done = writev(n->tap_fd, n->out, (int)niov + 1);
	} while (done < 0 && errno == EINTR);
	if (done >= 0) {
		count_frame(&n->tx, bytes);
		net_limit_take(&n->limits[TX], bytes);
	} else if (errno == EBADFD || errno == EPIPE || errno == ECONNRESET) {
		tap_lost(n, errno);
	} else if (n->user && errno == EAGAIN) {
		return false;
	} else {
		counter_add(errno == EINVAL ? &n->tx.errors : &n->tx.drops, 1);
	}
	return true;
}

/* Send a frame. Returns 0; -EPROTO when the driver violated the protocol; -EAGAIN when the frame
 * has to wait. */
static int frame_send(struct virtio_net *n, struct virtqueue_elem *el)
{
	uint8_t raw[NET_HEADER_BYTES], header[NET_HEADER_BYTES];
	uint64_t bytes = el->out_bytes - NET_HEADER_BYTES;
	struct iovec *iov = el->iov;
	unsigned niov = el->nout;

	if (el->out_bytes < NET_HEADER_BYTES)
		return -EPROTO;
	iov_read(iov, niov, 0, raw, sizeof(raw));
	iov_drop_front(&iov, &niov, NET_HEADER_BYTES);
	if (!atomic_load(&n->link_up))
		counter_add(&n->tx.drops, 1);
	else if (bytes > FRAME_MAX || !net_header_parse(raw, bytes, n->v.features, header))
		counter_add(&n->tx.errors, 1);
	else if (!flow_sends(n, iov, niov))
		counter_add(&n->tx.drops, 1);
	else if (!frame_write(n, header, iov, niov, bytes))
		return -EAGAIN;
	return 0;
}

/* Send frames. Returns 1 when there may be more; 0 when there are none, or they have to wait for the socket; -ETIME
 * when the limit is reached; -EPROTO. */
static int tx_pump(struct virtio_net *n, unsigned *budget)
{
	struct virtqueue *vq = &n->v.queues[TX].vq;
	int got = 0;

	while (*budget) {
		int r;

		if (!frame_may_pass(n, TX))
			return -ETIME;
		got = virtqueue_pop(vq, &n->elem);
		if (got <= 0)
			break;
		r = frame_send(n, &n->elem);

		if (r == -EPROTO) {
			vq->fault = "a frame to be sent has no header";
			return r;
		}
		if (r == -EAGAIN) {
			virtqueue_unpop(vq);
			n->tx_blocked = true;
			return 0;
		}
		virtqueue_push(vq, &n->elem, 0);
		frame_charge(budget, n->elem.out_bytes);
	}
	return got;
}

/* Enable the doorbell of the queue that was just emptied, unless the loop is about to poll. Returns whether frames came
 * meanwhile. */
static bool doorbell_enable(struct virtio_net *n, struct virtqueue *vq)
{
	n->quiet = n->polled && loop_polls(n->v.loop);
	return !n->quiet && virtqueue_notify_enable(vq);
}

static void tx_run(struct virtio_net *n)
{
	struct virtqueue *vq = &n->v.queues[TX].vq;
	unsigned budget = RUN_BYTES_MAX;
	int r;

	n->tx_blocked = false;
	do {
		virtqueue_notify_disable(vq);
		r = tx_pump(n, &budget);
	} while (r >= 0 && budget && !n->tx_blocked && doorbell_enable(n, vq));
	watch_update(n);
	virtio_queue_interrupt(&n->v, TX);
	if (r == -EPROTO)
		virtio_fault(&n->v, vq->fault);
	else if (!budget)
		virtio_queue_kick(&n->v, TX);
}

/* ---- commands of the driver ---- */

static bool announce_acknowledge(struct virtio_net *n, uint8_t cmd, uint64_t bytes)
{
	if (!(n->v.features & NET_F_GUEST_ANNOUNCE) || cmd != CTRL_ANNOUNCE_ACK || bytes)
		return false;
	n->announce = false;
	link_update(n);
	return true;
}

static bool command_obey(struct virtio_net *n, const struct virtqueue_elem *el)
{
	uint64_t bytes = el->out_bytes - CTRL_HEADER_BYTES;
	uint8_t header[CTRL_HEADER_BYTES];

	iov_read(el->iov, el->nout, 0, header, sizeof(header));
	if (!(n->v.features & NET_F_CTRL_VQ))
		return false;
	if (header[0] == NET_CLASS_ANNOUNCE)
		return announce_acknowledge(n, header[1], bytes);
	if (!net_filter_command(&n->filter, n->v.features, header[0], header[1], el->iov, el->nout, sizeof(header), bytes))
		return false;
	if (header[0] == NET_CLASS_MAC && header[1] == NET_MAC_ADDR_SET)
		memcpy(n->v.config + CONFIG_MAC, n->filter.mac, sizeof(n->filter.mac));
	return true;
}

/* Obey a command. Returns 1; 0 when there is none; -EPROTO. */
static int ctrl_next(struct virtio_net *n, struct virtqueue *vq)
{
	int got = virtqueue_pop(vq, &n->elem);
	uint8_t answer;

	if (got <= 0)
		return got;
	if (n->elem.out_bytes < CTRL_HEADER_BYTES || !n->elem.in_bytes) {
		vq->fault = "a command has no header or no room for its answer";
		return -EPROTO;
	}
	answer = command_obey(n, &n->elem) ? CTRL_OK : CTRL_ERROR;
	iov_write(n->elem.iov + n->elem.nout, n->elem.nin, 0, &answer, 1);
	virtqueue_push(vq, &n->elem, 1);
	return 1;
}

static void ctrl_run(struct virtio_net *n)
{
	struct virtqueue *vq = &n->v.queues[CTRL].vq;
	unsigned left = CTRL_COMMANDS_MAX;
	int r;

	do {
		virtqueue_notify_disable(vq);
		do {
			r = ctrl_next(n, vq);
		} while (r > 0 && --left);
	} while (!r && virtqueue_notify_enable(vq));
	virtio_queue_interrupt(&n->v, CTRL);
	if (r == -EPROTO)
		virtio_fault(&n->v, vq->fault);
	else if (r > 0)
		virtio_queue_kick(&n->v, CTRL);
}

/* ---- polls ---- */

/* Serve both queues without a doorbell or an event of the tap. Returns whether a frame passed. */
static bool net_poll(void *opaque)
{
	struct virtio_net *n = opaque;
	struct virtqueue *rx = &n->v.queues[RX].vq, *tx = &n->v.queues[TX].vq;
	uint16_t rx_used, tx_used;

	LOCK_GUARD(&n->v.lock);
	if (!virtio_is_running(&n->v))
		return false;
	rx_used = rx->used_idx;
	tx_used = tx->used_idx;
	if (!n->tx_blocked && virtqueue_waiting(tx))
		tx_run(n);
	if (virtio_is_running(&n->v) && n->rx_wanted && rx->enabled)
		rx_run(n);
	return rx->used_idx != rx_used || tx->used_idx != tx_used;
}

static bool net_sleeps(void *opaque)
{
	struct virtio_net *n = opaque;
	struct virtqueue *tx = &n->v.queues[TX].vq;

	LOCK_GUARD(&n->v.lock);
	if (!n->quiet || !virtio_is_running(&n->v))
		return false;
	n->quiet = false;
	if (!virtqueue_notify_enable(tx))
		return false;
	virtio_queue_kick(&n->v, TX);
	return true;
}

/* ---- device ---- */

static void net_run(struct virtio_dev *v, unsigned qi)
{
	if (qi == RX)
		rx_run(net_of(v));
	else if (qi == TX)
		tx_run(net_of(v));
	else
		ctrl_run(net_of(v));
}

static void rest_end(struct virtio_net *n, unsigned q)
{
	LOCK_GUARD(&n->v.lock);
	if (virtio_is_running(&n->v) && n->v.queues[q].vq.enabled)
		net_run(&n->v, q);
}

static void rx_rest_end(void *opaque)
{
	rest_end(opaque, RX);
}

static void tx_rest_end(void *opaque)
{
	rest_end(opaque, TX);
}

static void net_forget(struct virtio_dev *v)
{
	struct virtio_net *n = net_of(v);

	n->held = 0;
	n->loaded = n->tx_blocked = n->announce = false;
	net_filter_reset(&n->filter, n->mac);
	memcpy(v->config + CONFIG_MAC, n->mac, sizeof(n->mac));
	link_update(n);
}

static void net_save(struct virtio_dev *v, struct state_writer *w)
{
	net_filter_save(&net_of(v)->filter, w);
	state_put_u8(w, net_of(v)->announce);
}

/* The filter keeps the address that the driver knows, though the definition may have another one by now. The driver may
 * read the definition's, unless it has chosen one itself. */
static int net_load(struct virtio_dev *v, struct state_reader *r, struct err *e)
{
	struct virtio_net *n = net_of(v);
	uint8_t announce;

	if (net_filter_load(&n->filter, r) || (announce = state_u8(r)) > 1 || r->failed)
		return err_set(e, -EINVAL, ERR_CORRUPT, "%s: malformed state (filter)", v->dev.name);
	memcpy(v->config + CONFIG_MAC, n->filter.mac_set ? n->filter.mac : n->mac, sizeof(n->mac));
	n->announce = announce;
	link_update(n);
	n->loaded = true;
	return 0;
}

static const struct virtio_ops net_virtio_ops = {
	.id = 1,
	.class_code = 0x020000, /* Ethernet */
	.features_newer = F_CTRL,
	.queue_run = net_run,
	.reset = net_forget,
	.save = net_save,
	.load = net_load,
};

/* An interface without a tap only drops frames, on the main loop. */
static const struct virtio_ops net_idle_ops = {
	.id = 1,
	.class_code = 0x020000,
	.cpu_percent = 25,
	.features_newer = F_CTRL,
	.queue_run = net_run,
	.reset = net_forget,
	.save = net_save,
	.load = net_load,
};

static struct virtio_net *net_of_device(struct device *d)
{
	return container_of(d, struct virtio_net, v.dev);
}

/* Tell the driver to read the link status again: it may have changed since the state was saved. The driver announces
 * its addresses then: the guest may be behind another port of the network's switches. */
static void net_dev_resume(struct device *d)
{
	struct virtio_net *n = net_of_device(d);

	pthread_mutex_lock(&n->v.lock);
	if (n->loaded) {
		n->announce = n->v.features & NET_F_GUEST_ANNOUNCE;
		link_update(n);
		config_changed(n);
	}
	n->loaded = false;
	pthread_mutex_unlock(&n->v.lock);
	virtio_resume(&n->v);
}

static void net_dev_free(struct device *d)
{
	struct virtio_net *n = net_of_device(d);

	loop_poll_end(n->v.loop, &n->poller);
	loop_unwatch(n->watch);
	for (unsigned i = 0; i < DIRECTIONS; i++)
		loop_timer_free(n->rests[i]);
	virtio_pci_done(&n->pci);
	virtio_done(&n->v);
	tcp_flows_free(n->flows);
	free(n);
}

static int net_dev_load(struct device *d, struct state_reader *r, uint16_t version, struct err *e)
{
	struct virtio_net *n = net_of_device(d);
	struct state_reader newer = { 0 };
	struct state_writer w;
	int ret;

	if (version == VIRTIO_NET_STATE_VERSION)
		return virtio_pci_device_load(d, r, version, e);
	state_writer_init(&w);
	ret = virtio_net_state_upgrade(&n->pci, r, &w);
	if (!ret && w.failed)
		ret = -ENOMEM;
	newer.buf = w.buf;
	newer.len = w.len;
	if (!ret)
		ret = virtio_pci_device_load(d, &newer, VIRTIO_NET_STATE_VERSION, e);
	else
		err_set(e, ret, ret == -ENOMEM ? ERR_HOST : ERR_CORRUPT, "%s: malformed state", d->name);
	state_writer_done(&w);
	return ret;
}

static const struct device_ops net_device_ops = {
	.type = "virtio-net",
	.state_version = VIRTIO_NET_STATE_VERSION,
	.reset = virtio_pci_device_reset,
	.pause = virtio_pci_device_pause,
	.resume = net_dev_resume,
	.save = virtio_pci_device_save,
	.load = net_dev_load,
	.free = net_dev_free,
};

/* Fill in the configuration. Interfaces with and without a tap have the same features, so that a
 * state fits both. */
static void net_fill_config(struct virtio_net *n, const struct virtio_net_config *c)
{
	n->v.config_bytes = CONFIG_BYTES;
	memcpy(n->v.config + CONFIG_MAC, c->mac, sizeof(c->mac));
	memcpy(n->mac, c->mac, sizeof(c->mac));
	net_filter_reset(&n->filter, n->mac);
	store_le16(n->v.config + CONFIG_MTU, c->mtu ? c->mtu : MTU_DEFAULT);
	n->v.features_offered |= F_ALWAYS | (c->user ? F_OFFLOADS_USER : F_OFFLOADS);
	n->user = c->user;
	n->tap_fd = c->tap_fd;
	n->link_wanted = !c->link_down;
	if (n->user)
		flows_begin(n); /* all are reset by a revert, so all have to be known */
	link_update(n);
}

static void limits_set(struct virtio_net *n, const struct virtio_net_limits *l)
{
	net_limit_set(&n->limits[RX], &l->in, loop_now_ns());
	net_limit_set(&n->limits[TX], &l->out, loop_now_ns());
}

static int net_init(struct virtio_net *n, struct dev_host *h, struct pci_host *p,
	const struct virtio_net_config *c, struct err *e)
{
	int r = virtio_init(&n->v, h, c->loop, c->name, &net_device_ops, c->tap_fd < 0 ? &net_idle_ops : &net_virtio_ops,
		QUEUES, QUEUE_SIZE, e);

	if (r)
		return r;
	net_fill_config(n, c);
	limits_set(n, &c->limits);
	r = loop_timer_new(c->loop, rx_rest_end, n, &n->rests[RX]);
	if (!r)
		r = loop_timer_new(c->loop, tx_rest_end, n, &n->rests[TX]);
	if (r)
		return err_set_errno(e, r, "%s", c->name);
	r = virtio_pci_init(&n->pci, &n->v, p, c->slot, e);
	if (!r && c->tap_fd >= 0) {
		r = loop_watch(c->loop, c->tap_fd, 0, tap_ready, n, &n->watch);
		if (r)
			err_set_errno(e, r, "%s", c->name);
		n->poller = (struct loop_poller){ .poll = net_poll, .sleeps = net_sleeps, .opaque = n };
		n->polled = loop_poll(c->loop, &n->poller) == 0; /* not if the loop has another interface */
	}
	return r;
}

int virtio_net_new(struct dev_host *h, struct pci_host *p, const struct virtio_net_config *c,
	struct device **ret_dev, struct err *e)
{
	struct virtio_net *n;
	int r;

	if (c->mtu && c->mtu < VIRTIO_NET_MTU_MIN)
		return err_set(e, -EINVAL, ERR_INVALID, "%s: MTU %u is out of range", c->name, c->mtu);
	n = calloc(1, sizeof(*n));
	if (!n)
		return err_set_errno(e, -ENOMEM, "%s", c->name);
	r = net_init(n, h, p, c, e);
	if (r) {
		net_dev_free(&n->v.dev);
		return r;
	}
	*ret_dev = &n->v.dev;
	return 0;
}

void virtio_net_set_limits(struct device *d, const struct virtio_net_limits *l)
{
	struct virtio_net *n = net_of_device(d);

	LOCK_GUARD(&n->v.lock);
	limits_set(n, l);
	virtio_kick_all(&n->v); /* what waits may pass now */
}

void virtio_net_set_link(struct device *d, bool up)
{
	struct virtio_net *n = net_of_device(d);
	bool was;

	LOCK_GUARD(&n->v.lock);
	was = atomic_load(&n->link_up);
	n->link_wanted = up;
	link_update(n);
	if (atomic_load(&n->link_up) == was)
		return;
	n->held = 0;
	config_changed(n);
	virtio_kick_all(&n->v);
}

void virtio_net_mark(struct device *d, uint64_t key)
{
	struct virtio_net *n = net_of_device(d);

	LOCK_GUARD(&n->v.lock);
	if (!flows_begin(n))
		return;
	tcp_flows_mark(n->flows, key);
	if (n->held) /* the guest gets this frame after the snapshot */
		flow_receives(n);
}

void virtio_net_revert(struct device *d, uint64_t key)
{
	struct virtio_net *n = net_of_device(d);

	LOCK_GUARD(&n->v.lock);
	if (!flows_begin(n))
		return;
	tcp_flows_revert(n->flows, n->user ? 0 : key);
	peers_answer(n);
	virtio_queue_kick(&n->v, RX);
}

static uint64_t counter_get(_Atomic uint64_t *counter)
{
	return atomic_load_explicit(counter, memory_order_relaxed);
}

void virtio_net_stats(struct device *d, struct virtio_net_stats *s)
{
	struct virtio_net *n = net_of_device(d);

	s->rx_bytes = counter_get(&n->rx.bytes);
	s->rx_packets = counter_get(&n->rx.packets);
	s->rx_errors = counter_get(&n->rx.errors);
	s->rx_drops = counter_get(&n->rx.drops);
	s->tx_bytes = counter_get(&n->tx.bytes);
	s->tx_packets = counter_get(&n->tx.packets);
	s->tx_errors = counter_get(&n->tx.errors);
	s->tx_drops = counter_get(&n->tx.drops);
	s->link_up = atomic_load(&n->link_up);
}
