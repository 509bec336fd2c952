/* The kernel's vhost-net serves the queues of a pair, instead of the interface's loop. */
#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "base/util.h"
#include "devices/dev_host.h"
#include "devices/virtio/virtio_net_internal.h"

#include <errno.h>
#include <linux/vhost.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <unistd.h>

struct net_vhost {
	struct net_pair *p;
	int fd; /* /dev/vhost-net; borrowed */
	/* eventfds that vhost signals: for an interrupt of each queue, and when a ring is malformed; owned */
	int call_fds[DIRECTIONS], error_fd;
	struct loop_watch *call_watches[DIRECTIONS], *error_watch;
	struct loop_task watch_again; /* watches the doorbells again after a stop on another thread */
	bool posted;  /* watch_again is queued */
	bool owned;   /* the kernel's thread exists */
	bool on;      /* vhost serves the queues */
	unsigned begun; /* the queues of the first `begun` directions have a backend */
	bool refused; /* vhost failed; it is not tried again */
};

static int call(const struct net_vhost *x, unsigned long request, void *arg)
{
	int error;

	if (ioctl(x->fd, request, arg) >= 0)
		return 0;
	error = errno;
	log_debug(x->p->n->v.dev.name, "vhost-net refuses ioctl 0x%lx: %s", request, strerror(error));
	return -error;
}

static unsigned queue_index(const struct net_vhost *x, unsigned direction)
{
	return DIRECTIONS * x->p->index + direction;
}

static struct virtio_queue *queue_of(const struct net_vhost *x, unsigned direction)
{
	return &x->p->n->v.queues[queue_index(x, direction)];
}

/* ---- interrupts and faults ---- */

/* Send the interrupt that vhost has asked for and that KVM has not sent, if any. v.lock is held until the interrupt is
 * sent: after a pause, none is on its way. */
static void interrupt_relay(struct net_vhost *x, unsigned direction)
{
	struct virtio_dev *v = &x->p->n->v;
	uint64_t n;

	if (read(x->call_fds[direction], &n, sizeof(n)) == sizeof(n))
		v->transport_ops->queue_interrupt(v->transport, queue_index(x, direction));
}

/* Let KVM send vhost's interrupts, or no more. Then those that vhost has asked for are sent, or relayed next. */
static void interrupts_wire(struct net_vhost *x, bool on)
{
	struct virtio_dev *v = &x->p->n->v;

	for (unsigned d = 0; d < DIRECTIONS; d++)
		v->transport_ops->queue_wire(v->transport, queue_index(x, d), on ? x->call_fds[d] : -1);
}

static void rx_called(void *opaque, unsigned revents)
{
	struct net_vhost *x = opaque;

	(void)revents;
	LOCK_GUARD(&x->p->n->v.lock);
	interrupt_relay(x, RX);
}

static void tx_called(void *opaque, unsigned revents)
{
	struct net_vhost *x = opaque;

	(void)revents;
	LOCK_GUARD(&x->p->n->v.lock);
	interrupt_relay(x, TX);
}

/* A ring is malformed, or a buffer is not in RAM: the interface's loop reads it again, and reports the fault. */
static void fault_found(void *opaque, unsigned revents)
{
	struct net_vhost *x = opaque;
	uint64_t n;

	(void)revents;
	LOCK_GUARD(&x->p->n->v.lock);
	if (read(x->error_fd, &n, sizeof(n)) != sizeof(n) || !x->on)
		return;
	x->refused = true;
	net_vhost_stop(x->p);
	virtio_kick_all(&x->p->n->v);
}

/* ---- start and stop ---- */

static int memory_set(const struct net_vhost *x)
{
	const struct dev_host *h = x->p->n->v.host;
	struct {
		struct vhost_memory head;
		struct vhost_memory_region regions[ARRAY_SIZE(h->ram)];
	} m = { .head.nregions = 0 };

	for (unsigned i = 0; i < ARRAY_SIZE(h->ram); i++)
		if (h->ram[i].bytes)
			m.regions[m.head.nregions++] = (struct vhost_memory_region){ .guest_phys_addr = h->ram[i].gpa,
				.memory_size = h->ram[i].bytes, .userspace_addr = (uintptr_t)h->ram[i].host };
	return call(x, VHOST_SET_MEM_TABLE, &m);
}

static int features_set(const struct net_vhost *x)
{
	uint64_t known = 0, wanted = net_ring_features(x->p->n);
	int r = call(x, VHOST_GET_FEATURES, &known);

	if (!r && (wanted & ~known))
		r = -ENOTSUP;
	return r ? r : call(x, VHOST_SET_FEATURES, &wanted);
}

static int queue_set(const struct net_vhost *x, unsigned direction)
{
	struct virtio_queue *q = queue_of(x, direction);
	struct vhost_vring_state size = { direction, q->vq.size }, base = { direction, q->vq.last_avail };
	struct vhost_vring_addr at = { .index = direction, .desc_user_addr = (uintptr_t)q->vq.desc,
		.avail_user_addr = (uintptr_t)q->vq.avail, .used_user_addr = (uintptr_t)q->vq.used };
	struct vhost_vring_file kick = { direction, q->kick_fd }, interrupt = { direction, x->call_fds[direction] },
		error = { direction, x->error_fd };
	int r = call(x, VHOST_SET_VRING_NUM, &size);

	if (!r)
		r = call(x, VHOST_SET_VRING_BASE, &base);
	if (!r)
		r = call(x, VHOST_SET_VRING_ADDR, &at);
	if (!r)
		r = call(x, VHOST_SET_VRING_KICK, &kick);
	if (!r)
		r = call(x, VHOST_SET_VRING_CALL, &interrupt);
	return r ? r : call(x, VHOST_SET_VRING_ERR, &error);
}

/* The kernel needs no doorbell for frames that are in the ring already. It handles them at once if the tap can take a
 * frame or has one; otherwise it waits for the tap. */
static int backend_set(const struct net_vhost *x, unsigned direction, int fd)
{
	struct vhost_vring_file tap = { direction, fd };

	return call(x, VHOST_NET_SET_BACKEND, &tap);
}

static int kernel_start(struct net_vhost *x)
{
	int r = x->owned ? 0 : call(x, VHOST_SET_OWNER, NULL);

	x->owned = !r;
	if (!r)
		r = features_set(x);
	if (!r)
		r = memory_set(x);
	for (unsigned d = 0; d < DIRECTIONS && !r; d++)
		r = queue_set(x, d);
	for (x->begun = 0; x->begun < DIRECTIONS && !r; x->begun += !r)
		r = backend_set(x, x->begun, x->p->tap_fd);
	return r;
}

/* Take a queue back: from the return on, the kernel uses neither the ring nor guest memory. */
static void queue_take_back(struct net_vhost *x, unsigned direction)
{
	struct virtqueue *vq = &queue_of(x, direction)->vq;
	struct vhost_vring_state base = { .index = direction };
	struct vhost_vring_file none = { direction, -1 };

	if (direction < x->begun)
		backend_set(x, direction, -1);
	call(x, VHOST_SET_VRING_KICK, &none);
	if (direction >= x->begun || call(x, VHOST_GET_VRING_BASE, &base))
		return;
	vq->last_avail = (uint16_t)base.num;
	vq->used_idx = vq->signalled = load_le16(vq->used + 2);
}

static void doorbells_watch(struct net_vhost *x, unsigned events)
{
	for (unsigned d = 0; d < DIRECTIONS; d++)
		loop_watch_events(queue_of(x, d)->watch, events);
}

static void watch_again(struct loop_task *t)
{
	struct net_vhost *x = container_of(t, struct net_vhost, watch_again);

	LOCK_GUARD(&x->p->n->v.lock);
	x->posted = false;
	doorbells_watch(x, x->on ? 0 : POLLIN);
}

static void kernel_stop(struct net_vhost *x)
{
	for (unsigned d = 0; d < DIRECTIONS; d++)
		queue_take_back(x, d);
	interrupts_wire(x, false);
	for (unsigned d = 0; d < DIRECTIONS; d++)
		interrupt_relay(x, d);
	x->on = false;
}

void net_vhost_stop(struct net_pair *p)
{
	struct net_vhost *x = p->vhost;

	if (!x || !x->on)
		return;
	kernel_stop(x);
	log_debug(p->n->v.dev.name, "vhost-net gives pair %u back", p->index);
	if (!x->posted)
		loop_post(p->n->v.loop, &x->watch_again);
	x->posted = true;
}

void net_vhost_stop_all(struct virtio_net *n)
{
	for (unsigned i = 0; i < n->npairs; i++)
		net_vhost_stop(&n->pairs[i]);
}

/* The loop keeps the work that the kernel cannot do: limits, and notes of TCP connections for a revert. */
static bool may_start(const struct net_pair *p)
{
	const struct virtio_net *n = p->n;

	return p->vhost && !p->vhost->refused && !n->vhost_held && !n->flows && atomic_load(&n->link_up) && p->tap_fd >= 0 &&
		net_pair_is_used(p) && (!p->index || p->attached == NET_ATTACHED) && !p->held && !net_limit_is_set(&n->limits[RX]) &&
		!net_limit_is_set(&n->limits[TX]) && n->v.queues[DIRECTIONS * p->index + RX].vq.enabled &&
		n->v.queues[DIRECTIONS * p->index + TX].vq.enabled;
}

bool net_vhost_is_on(const struct net_pair *p)
{
	return p->vhost && p->vhost->on;
}

bool net_vhost_serves(struct net_pair *p)
{
	struct virtio_dev *v = &p->n->v;
	int r;

	if (net_vhost_is_on(p))
		return true;
	if (p->vhost)
		net_queues_update(p->n);
	if (!may_start(p))
		return false;
	net_offload_update(p->n);
	p->rx_wanted = v->queues[DIRECTIONS * p->index + TX].quiet = false;
	net_watch_update(p);
	doorbells_watch(p->vhost, 0);
	r = kernel_start(p->vhost);
	p->vhost->on = !r;
	if (r < 0) {
		log_warn(v->dev.name, "vhost-net: %s; the VM's process serves the interface instead", strerror(-r));
		p->vhost->refused = true;
		kernel_stop(p->vhost);
		doorbells_watch(p->vhost, POLLIN);
		return false;
	}
	interrupts_wire(p->vhost, true);
	log_debug(v->dev.name, "vhost-net serves pair %u", p->index);
	return true;
}

void virtio_net_hold_vhost(struct device *d, bool hold)
{
	struct virtio_net *n = net_of_device(d);

	LOCK_GUARD(&n->v.lock);
	n->vhost_held = hold;
	if (hold)
		net_vhost_stop_all(n);
	virtio_kick_all(&n->v);
}

/* ---- making ---- */

static int event_new(struct net_vhost *x, void (*ready)(void *opaque, unsigned revents), int *ret_fd, struct loop_watch **ret_w)
{
	*ret_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	return *ret_fd < 0 ? -errno : loop_watch(x->p->n->v.loop, *ret_fd, POLLIN, ready, x, ret_w);
}

int net_vhost_new(struct net_pair *p, int fd)
{
	struct net_vhost *x = p->vhost = calloc(1, sizeof(*x));
	int r;

	if (!x)
		return -ENOMEM;
	*x = (struct net_vhost){ .p = p, .fd = fd, .call_fds = { -1, -1 }, .error_fd = -1, .watch_again.run = watch_again };
	r = event_new(x, rx_called, &x->call_fds[RX], &x->call_watches[RX]);
	if (!r)
		r = event_new(x, tx_called, &x->call_fds[TX], &x->call_watches[TX]);
	return r ? r : event_new(x, fault_found, &x->error_fd, &x->error_watch);
}

static void event_free(int fd, struct loop_watch *w)
{
	loop_unwatch(w);
	if (fd >= 0)
		close(fd);
}

void net_vhost_free(struct net_pair *p)
{
	struct net_vhost *x = p->vhost;

	if (!x)
		return;
	if (x->on)
		kernel_stop(x);
	for (unsigned d = 0; d < DIRECTIONS; d++)
		event_free(x->call_fds[d], x->call_watches[d]);
	event_free(x->error_fd, x->error_watch);
	free(x);
	p->vhost = NULL;
}
