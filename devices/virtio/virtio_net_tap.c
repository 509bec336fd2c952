#include "base/bytes.h"
#include "base/log.h"
#include "devices/dev_host.h"
#include "devices/virtio/virtio_net_internal.h"

#include <errno.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <unistd.h>

void net_link_update(struct virtio_net *n)
{
	bool up = n->link_wanted && n->pairs[0].tap_fd >= 0;

	atomic_store(&n->link_up, up);
	store_le16(n->v.config + VIRTIO_NET_CONFIG_STATUS,
		up ? VIRTIO_NET_STATUS_LINK_UP | (n->announce ? VIRTIO_NET_STATUS_ANNOUNCE : 0) : 0);
}

void net_watch_update(struct net_pair *p)
{
	if (p->watch)
		loop_watch_events(p->watch, (p->rx_wanted ? POLLIN : 0) | (p->tx_blocked ? POLLOUT : 0));
}

void net_tap_lost(struct virtio_net *n, int error)
{
	struct dev_event ev = { .kind = DEV_EVENT_LINK_LOST, .device = n->v.dev.name,
		.detail = n->user ? "the process of its network has ended" : "its tap device is gone" };

	log_warn(n->v.dev.name, "%s (%s): the link is down until the VM restarts", ev.detail, strerror(error));
	for (unsigned i = 0; i < n->npairs; i++) {
		struct net_pair *p = &n->pairs[i];

		net_vhost_stop(p);
		loop_unwatch(p->watch);
		p->watch = NULL;
		p->tap_fd = -1;
		p->held = 0;
		p->tx_blocked = false;
		virtio_queue_kick(&n->v, DIRECTIONS * i + TX); /* drops the frames that wait in the ring */
	}
	net_link_update(n);
	virtio_config_changed(&n->v);
	dev_event(n->v.host, &ev);
}

/* ---- offloads ---- */

/* Set the offloads. Returns false when a socket is full; the caller tries again later. */
static bool offload_set(struct virtio_net *n, unsigned want)
{
	int fd = n->pairs[0].tap_fd;
	uint8_t flags[4];

	store_le32(flags, want);
	if (n->user)
		return write(fd, flags, sizeof(flags)) >= 0 || errno != EAGAIN;
	if (ioctl(fd, TUNSETOFFLOAD, (unsigned long)want) < 0)
		log_info(n->v.dev.name, "cannot set the tap device's offloads: %s", strerror(errno));
	return true;
}

void net_offload_update(struct virtio_net *n)
{
	unsigned want = net_header_offloads(n->v.features);

	if (want != n->offload && offload_set(n, want))
		n->offload = want;
}

/* ---- queues ---- */

/* Attach or detach a pair's queue. EINVAL means that the queue already is in that state: before a handover, another
 * process may have changed it. Returns 0; -errno. */
static int attached_set(struct net_pair *p, enum net_attached want)
{
	struct ifreq r = { .ifr_flags = want == NET_ATTACHED ? IFF_ATTACH_QUEUE : IFF_DETACH_QUEUE };

	if (p->attached == want || p->tap_fd < 0)
		return 0;
	if (ioctl(p->tap_fd, TUNSETQUEUE, &r) < 0 && errno != EINVAL) {
		int error = errno;

		log_info(p->n->v.dev.name, "cannot %s queue %u of the tap device: %s",
			want == NET_ATTACHED ? "attach" : "detach", p->index, strerror(error));
		return -error;
	}
	p->attached = want;
	return 0;
}

int net_queues_update(struct virtio_net *n)
{
	int ret = 0;

	for (unsigned i = 1; i < n->npairs; i++) {
		int r = attached_set(&n->pairs[i], net_pair_is_used(&n->pairs[i]) ? NET_ATTACHED : NET_DETACHED);

		ret = ret ? ret : r;
	}
	return ret;
}
