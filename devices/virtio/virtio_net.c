#include "devices/virtio/virtio_net.h"
#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/util.h"
#include "devices/dev_host.h"
#include "devices/virtio/tcp_flows.h"
#include "devices/virtio/virtio_net_internal.h"
#include "devices/virtio/virtio_net_state.h"
#include "snapshot/state.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define MTU_DEFAULT 1500

/* struct virtio_net_config, section 5.1.4. */
enum { CONFIG_MAC = 0, CONFIG_PAIRS = 8, CONFIG_MTU = 10, CONFIG_BYTES = 12 };

/* The control queue: a request has a class and a command, data, and one byte for the answer. */
enum { CTRL_HEADER_BYTES = 2, CTRL_OK = 0, CTRL_ERROR = 1, CTRL_ANNOUNCE_ACK = 0, CTRL_PAIRS_SET = 0 };
#define CTRL_COMMANDS_MAX 64u /* per call */
/* Between two changes of the number of pairs: each takes a lock that all network devices of the host share. */
#define PAIRS_CHANGE_NS 100000000ULL

/* Features of the control queue, which states of version 1 lack. */
#define F_CTRL (NET_F_CTRL_VQ | NET_F_CTRL_RX | NET_F_CTRL_VLAN | NET_F_GUEST_ANNOUNCE | NET_F_CTRL_MAC_ADDR)
#define F_ALWAYS (NET_F_MTU | NET_F_MAC | NET_F_MRG_RXBUF | NET_F_STATUS | F_CTRL)
/* Offloads that a tap supports. */
#define F_OFFLOADS                                                                                 \
	(NET_F_CSUM | NET_F_GUEST_CSUM | NET_F_GUEST_TSO4 | NET_F_GUEST_TSO6 | NET_F_GUEST_ECN |   \
		NET_F_HOST_TSO4 | NET_F_HOST_TSO6 | NET_F_HOST_ECN)
/* Offloads that a user network supports. */
#define F_OFFLOADS_USER (NET_F_CSUM | NET_F_GUEST_CSUM | NET_F_GUEST_TSO4 | NET_F_HOST_TSO4)

static struct virtio_net *net_of(struct virtio_dev *v)
{
	return container_of(v, struct virtio_net, v);
}

/* ---- commands of the driver ---- */

static bool announce_acknowledge(struct virtio_net *n, uint8_t cmd, uint64_t bytes)
{
	if (!(n->v.features & NET_F_GUEST_ANNOUNCE) || cmd != CTRL_ANNOUNCE_ACK || bytes)
		return false;
	n->announce = false;
	net_link_update(n);
	return true;
}

static unsigned ctrl_index(const struct virtio_net *n)
{
	return DIRECTIONS * net_pairs_known(n);
}

/* Returns 0; -errno: the kernel refused some queue of the tap. */
static int pairs_use(struct virtio_net *n, unsigned pairs)
{
	unsigned before = n->pairs_used;
	int r;

	net_vhost_stop_all(n);
	n->pairs_used = pairs;
	for (unsigned i = pairs; i < n->npairs; i++)
		net_pair_stop(&n->pairs[i]);
	r = net_queues_update(n);
	for (unsigned i = n->pairs[0].vhost ? 0 : before; i < pairs; i++)
		virtio_queue_kick(&n->v, DIRECTIONS * i + RX);
	return r;
}

/* Obey the command for another number of pairs. If the kernel refuses some queue of the tap, the number stays. Returns
 * whether the command succeeded. */
static bool pairs_set(struct virtio_net *n, uint8_t cmd, const struct virtqueue_elem *el, uint64_t bytes)
{
	unsigned pairs, before = n->pairs_used;
	uint8_t raw[2];

	if (!(n->v.features & NET_F_MQ) || cmd != CTRL_PAIRS_SET || bytes != sizeof(raw))
		return false;
	iov_read(el->iov, el->nout, CTRL_HEADER_BYTES, raw, sizeof(raw));
	pairs = load_le16(raw);
	if (!pairs || pairs > n->npairs)
		return false;
	if (pairs == before)
		return true;
	n->pairs_changed_ns = loop_now_ns();
	if (!pairs_use(n, pairs))
		return true;
	pairs_use(n, before);
	return false;
}

static bool command_execute(struct virtio_net *n, const struct virtqueue_elem *el)
{
	uint64_t bytes = el->out_bytes - CTRL_HEADER_BYTES;
	uint8_t header[CTRL_HEADER_BYTES];

	iov_read(el->iov, el->nout, 0, header, sizeof(header));
	if (!(n->v.features & NET_F_CTRL_VQ))
		return false;
	if (header[0] == NET_CLASS_ANNOUNCE)
		return announce_acknowledge(n, header[1], bytes);
	if (header[0] == NET_CLASS_MQ)
		return pairs_set(n, header[1], el, bytes);
	if (!net_filter_command(&n->filter, n->v.features, header[0], header[1], el->iov, el->nout, sizeof(header), bytes))
		return false;
	if (header[0] == NET_CLASS_MAC && header[1] == NET_MAC_ADDR_SET)
		memcpy(n->v.config + CONFIG_MAC, n->filter.mac, sizeof(n->filter.mac));
	return true;
}

/* Return whether the command has to wait, because the number of pairs has just been changed. */
static bool command_waits(struct virtio_net *n, const struct virtqueue_elem *el)
{
	uint64_t now_ns = loop_now_ns(), may_ns = n->pairs_changed_ns + PAIRS_CHANGE_NS;
	uint8_t class;

	iov_read(el->iov, el->nout, 0, &class, 1);
	if (class != NET_CLASS_MQ || n->user || !n->pairs_changed_ns || now_ns >= may_ns)
		return false;
	loop_timer_arm(n->pairs_rest, may_ns);
	return true;
}

/* Obey a command. Returns 1; 0 when there is none; -ETIME when it has to wait; -EPROTO. */
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
	if (command_waits(n, &n->elem)) {
		virtqueue_unpop(vq);
		return -ETIME;
	}
	answer = command_execute(n, &n->elem) ? CTRL_OK : CTRL_ERROR;
	iov_write(n->elem.iov + n->elem.nout, n->elem.nin, 0, &answer, 1);
	virtqueue_push(vq, &n->elem, 1);
	return 1;
}

static void ctrl_run(struct virtio_net *n)
{
	unsigned left = CTRL_COMMANDS_MAX, q = ctrl_index(n);
	struct virtqueue *vq = &n->v.queues[q].vq;
	int r;

	do {
		virtqueue_notify_disable(vq);
		do {
			r = ctrl_next(n, vq);
		} while (r > 0 && --left);
	} while (!r && virtqueue_notify_enable(vq));
	virtio_queue_interrupt(&n->v, q);
	if (r == -EPROTO)
		virtio_fault(&n->v, vq->fault);
	else if (r > 0)
		virtio_queue_kick(&n->v, q);
}

/* ---- device ---- */

static void net_run(struct virtio_dev *v, unsigned qi)
{
	struct virtio_net *n = net_of(v);

	if (qi == ctrl_index(n))
		ctrl_run(n);
	else if (qi < ctrl_index(n))
		net_pair_run(&n->pairs[qi / DIRECTIONS], qi % DIRECTIONS);
}

static void pairs_rest_end(void *opaque)
{
	struct virtio_net *n = opaque;

	LOCK_GUARD(&n->v.lock);
	if (virtio_is_running(&n->v) && n->v.queues[ctrl_index(n)].vq.enabled)
		ctrl_run(n);
}

static void net_quiesce(struct virtio_dev *v)
{
	net_vhost_stop_all(net_of(v));
}

static void net_drop(struct virtio_dev *v)
{
	struct virtio_net *n = net_of(v);

	for (unsigned i = 0; i < n->npairs; i++) {
		n->pairs[i].held = 0;
		n->pairs[i].tx_blocked = false;
	}
	n->pairs_used = 1;
	n->loaded = n->announce = false;
	net_filter_reset(&n->filter, n->mac);
	memcpy(v->config + CONFIG_MAC, n->mac, sizeof(n->mac));
	net_link_update(n);
}

static void net_save(struct virtio_dev *v, struct state_writer *w)
{
	struct virtio_net *n = net_of(v);

	net_filter_save(&n->filter, w);
	state_put_u8(w, n->announce);
	if (n->npairs > 1)
		state_put_u16(w, (uint16_t)n->pairs_used);
}

/* Returns 0 or -EINVAL. A state of one pair has no number of pairs: older versions of Cairn load it. */
static int pairs_load(struct virtio_net *n, struct state_reader *r)
{
	unsigned pairs = n->npairs > 1 ? state_u16(r) : 1;

	if (!pairs || pairs > net_pairs_known(n))
		return -EINVAL;
	n->pairs_used = pairs;
	return 0;
}

/* The filter keeps the address that the driver knows, though the definition may have another one by now. The driver may
 * read the definition's, unless it has chosen one itself. */
static int net_load(struct virtio_dev *v, struct state_reader *r, struct err *e)
{
	struct virtio_net *n = net_of(v);
	uint8_t announce;

	if (net_filter_load(&n->filter, r) || (announce = state_u8(r)) > 1 || pairs_load(n, r) || r->failed)
		return err_set(e, -EINVAL, ERR_CORRUPT, "%s: malformed state (filter)", v->dev.name);
	memcpy(v->config + CONFIG_MAC, n->filter.mac_set ? n->filter.mac : n->mac, sizeof(n->mac));
	n->announce = announce;
	net_link_update(n);
	n->loaded = true;
	return 0;
}

static const struct virtio_ops net_virtio_ops = {
	.id = 1,
	.class_code = 0x020000, /* Ethernet */
	.features_newer = F_CTRL,
	.queue_run = net_run,
	.quiesce = net_quiesce,
	.reset = net_drop,
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
	.reset = net_drop,
	.save = net_save,
	.load = net_load,
};

/* Tell the driver to read the link status again: it may have changed since the state was saved. The driver announces
 * its addresses then: the guest may be behind another port of the network's switches. */
static void net_dev_resume(struct device *d)
{
	struct virtio_net *n = net_of_device(d);

	pthread_mutex_lock(&n->v.lock);
	if (n->loaded) {
		n->announce = n->v.features & NET_F_GUEST_ANNOUNCE;
		net_link_update(n);
		virtio_config_changed(&n->v);
	}
	n->loaded = false;
	pthread_mutex_unlock(&n->v.lock);
	virtio_resume(&n->v);
}

static void net_dev_free(struct device *d)
{
	struct virtio_net *n = net_of_device(d);

	loop_poll_end(n->v.loop, &n->poller);
	for (unsigned i = 0; i < n->npairs; i++)
		net_pair_done(&n->pairs[i]);
	loop_timer_free(n->pairs_rest);
	virtio_pci_done(&n->pci);
	virtio_done(&n->v);
	free(n->pairs);
	tcp_flows_free(n->flows);
	free(n);
}

/* Refuse an intact state of an interface with another number of pairs. */
static int net_dev_check(struct device *d, const struct state_reader *r, uint16_t version, struct err *e)
{
	unsigned queues = virtio_pci_state_queues(r), pairs = queues / DIRECTIONS, ours = net_of_device(d)->npairs;

	if (version != VIRTIO_NET_STATE_VERSION || queues != DIRECTIONS * pairs + 1 || !pairs || pairs == ours || pairs > VIRTIO_NET_PAIRS_MAX)
		return 0;
	return err_set(e, -EINVAL, ERR_INVALID, "%s: the state has %u pairs of queues and the definition %u; set \"queues\" of the "
		"interface to %u, or drop the state with cairn start --force-boot", d->name, pairs, ours, pairs);
}

static int net_dev_load(struct device *d, struct state_reader *r, uint16_t version, struct err *e)
{
	struct virtio_net *n = net_of_device(d);
	struct state_reader newer = { 0 };
	struct state_writer w;
	int ret;

	if (version == VIRTIO_NET_STATE_VERSION) {
		ret = net_dev_check(d, r, version, e);
		return ret < 0 ? ret : virtio_pci_device_load(d, r, version, e);
	}
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
	.check = net_dev_check,
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
	if (n->npairs > 1) {
		n->v.features_offered |= NET_F_MQ;
		store_le16(n->v.config + CONFIG_PAIRS, (uint16_t)n->npairs);
	}
	n->user = c->user;
	n->link_wanted = !c->link_down;
	if (n->user)
		net_flows_begin(n); /* all are reset by a revert, so all have to be known */
	net_link_update(n);
}

static void limits_set(struct virtio_net *n, const struct virtio_net_limits *l)
{
	net_limit_set(&n->limits[RX], &l->in, loop_now_ns());
	net_limit_set(&n->limits[TX], &l->out, loop_now_ns());
}

static void pairs_make(struct virtio_net *n, const struct virtio_net_config *c)
{
	n->pairs_used = 1;
	for (unsigned i = 0; i < n->npairs; i++) {
		n->pairs[i].n = n;
		n->pairs[i].index = i;
		n->pairs[i].tap_fd = i ? c->more_fds[i - 1] : c->tap_fd;
	}
}

static int net_init(struct virtio_net *n, struct dev_host *h, struct pci_host *p,
	const struct virtio_net_config *c, struct err *e)
{
	int r = virtio_init(&n->v, h, c->loop, c->name, &net_device_ops, c->tap_fd < 0 ? &net_idle_ops : &net_virtio_ops,
		DIRECTIONS * n->npairs + 1, NET_QUEUE_SIZE, e);

	if (r)
		return r;
	pairs_make(n, c);
	net_fill_config(n, c);
	limits_set(n, &c->limits);
	r = loop_timer_new(c->loop, pairs_rest_end, n, &n->pairs_rest);
	for (unsigned i = 0; i < n->npairs && !r; i++)
		r = net_pair_init(&n->pairs[i]);
	for (unsigned i = 0; i < n->npairs && c->vhost && !r; i++)
		r = net_vhost_new(&n->pairs[i], c->vhost_fds[i]);
	if (r)
		return err_set_errno(e, r, "%s", c->name);
	r = virtio_pci_init(&n->pci, &n->v, p, c->slot, e);
	if (!r && c->tap_fd >= 0) {
		n->poller = (struct loop_poller){ .poll = net_poll, .sleeps = net_sleeps, .opaque = n };
		n->polled = loop_poll(c->loop, &n->poller) == 0; /* not if the loop has another interface */
		n->has_thread = c->loop != h->loop;
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
	if (c->pairs > VIRTIO_NET_PAIRS_MAX)
		return err_set(e, -EINVAL, ERR_INVALID, "%s: %u pairs of queues", c->name, c->pairs);
	n = calloc(1, sizeof(*n));
	if (!n)
		return err_set_errno(e, -ENOMEM, "%s", c->name);
	n->npairs = MAX(c->pairs, 1u);
	n->pairs = calloc(n->npairs, sizeof(*n->pairs));
	if (!n->pairs) {
		free(n);
		return err_set_errno(e, -ENOMEM, "%s", c->name);
	}
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
	net_vhost_stop_all(n);
	limits_set(n, l);
	virtio_kick_all(&n->v); /* frames that wait may pass now */
}

void virtio_net_set_link(struct device *d, bool up)
{
	struct virtio_net *n = net_of_device(d);
	bool was;

	LOCK_GUARD(&n->v.lock);
	was = atomic_load(&n->link_up);
	net_vhost_stop_all(n);
	n->link_wanted = up;
	net_link_update(n);
	if (atomic_load(&n->link_up) != was) {
		for (unsigned i = 0; i < n->npairs; i++)
			n->pairs[i].held = 0;
		virtio_config_changed(&n->v);
	}
	virtio_kick_all(&n->v);
}

void virtio_net_stats(struct device *d, struct virtio_net_stats *s)
{
	const struct virtio_net *n = net_of_device(d);

	s->rx_bytes = figure_get(n->counters, NET_RX_BYTES);
	s->rx_packets = figure_get(n->counters, NET_RX_PACKETS);
	s->rx_errors = figure_get(n->counters, NET_RX_ERRORS);
	s->rx_drops = figure_get(n->counters, NET_RX_DROPS);
	s->tx_bytes = figure_get(n->counters, NET_TX_BYTES);
	s->tx_packets = figure_get(n->counters, NET_TX_PACKETS);
	s->tx_errors = figure_get(n->counters, NET_TX_ERRORS);
	s->tx_drops = figure_get(n->counters, NET_TX_DROPS);
	s->link_up = atomic_load(&n->link_up);
}

void virtio_net_carry(struct device *d, const struct virtio_net_stats *before)
{
	const uint64_t from[NET_FIGURES] = { before->rx_bytes, before->rx_packets, before->rx_errors, before->rx_drops,
		before->tx_bytes, before->tx_packets, before->tx_errors, before->tx_drops };
	struct virtio_net *n = net_of_device(d);

	LOCK_GUARD(&n->v.lock);
	for (unsigned i = 0; i < NET_FIGURES; i++)
		net_count(n, i, from[i]);
}

void virtio_net_show(struct device *d, _Atomic uint64_t *shown)
{
	struct virtio_net *n = net_of_device(d);

	LOCK_GUARD(&n->v.lock);
	n->shown = shown;
	figures_show(n->counters, shown, NET_FIGURES);
}
