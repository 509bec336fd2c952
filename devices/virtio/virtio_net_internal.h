/* virtio_net_internal: the parts of a network interface that its files share. virtio_net_tap.c: the tap, its queues
 * and offloads. virtio_net_frames.c: frames in both directions. virtio_net_flows.c: TCP after a revert.
 * virtio_net_vhost.c: pairs that the kernel serves.
 * virtio_net.c: commands of the driver, and the device.
 *
 * A pair of queues has a file of its own, which is one queue of the tap. Pair i has the virtqueues 2i (frames to the
 * guest) and 2i + 1. */
#ifndef CAIRN_DEVICES_VIRTIO_VIRTIO_NET_INTERNAL_H
#define CAIRN_DEVICES_VIRTIO_VIRTIO_NET_INTERNAL_H

#include "base/batch_sched.h"
#include "base/figures.h"
#include "base/loop.h"
#include "base/util.h"
#include "devices/virtio/net_filter.h"
#include "devices/virtio/net_limit.h"
#include "devices/virtio/virtio_net.h"
#include "devices/virtio/virtio_net_header.h"
#include "devices/virtio/virtio_pci.h"

#include <stdatomic.h>

/* Largest frame: 64 KiB of IP that is not segmented, with Ethernet and VLAN headers. */
#define NET_FRAME_MAX (65536 + 18)
#define NET_QUEUE_SIZE 256

enum { RX = 0, TX = 1, DIRECTIONS = 2 };
/* Of struct virtio_net_config, section 5.1.4. */
enum { VIRTIO_NET_CONFIG_STATUS = 6 };
enum { VIRTIO_NET_STATUS_LINK_UP = 1, VIRTIO_NET_STATUS_ANNOUNCE = 2 };

/* Whether the kernel spreads frames to a pair's queue of the tap. */
enum net_attached { NET_ATTACHED_UNKNOWN = 0, NET_ATTACHED, NET_DETACHED };

/* A pair of queues. Used on the loop only, with v.lock held (a reset clears tx_blocked and held on any thread). */
struct net_pair {
	struct virtio_net *n;
	unsigned index;
	int tap_fd; /* -1: none, or lost */
	enum net_attached attached; /* of the first pair: always */
	struct loop_watch *watch; /* watch of tap_fd */
	struct net_vhost *vhost; /* owned; NULL: the interface is without vhost-net */
	struct loop_timer *rests[DIRECTIONS]; /* armed: the limit lets no frame pass before */
	bool rx_wanted;	 /* the guest has buffers, so wait for frames */
	bool tx_blocked; /* the socket is full; the frame stays in the ring until the socket's peer reads */
	uint32_t held; /* bytes of `packet`, which waits for buffers; 0: none */
	uint16_t too_few; /* number of buffers that were too few for `packet` */
	uint8_t packet[NET_HEADER_BYTES + NET_FRAME_MAX];
};

struct virtio_net {
	struct virtio_dev v;
	struct virtio_pci pci;
	_Atomic uint64_t counters[NET_FIGURES];
	_Atomic uint64_t *shown; /* the counters on the page; borrowed; NULL: none; protected by v.lock, as changes of them */
	_Atomic bool link_up;
	bool user; /* the file is a socket, not a tap */
	unsigned npairs;
	struct net_pair *pairs; /* owned */

	/* used on the loop only, with v.lock held: */
	struct loop_poller poller;
	bool polled; /* the loop calls poller */
	bool has_thread; /* the loop is the interface's own, and so is its thread */
	struct batch_sched batch;
	unsigned offload; /* TUN_F_* flags that were last set */
	struct loop_timer *pairs_rest; /* armed: a command waits, because the number of pairs has just been changed */
	uint64_t pairs_changed_ns; /* 0: never */
	struct virtqueue_elem elem, more; /* elem: first buffer of a frame; more: each further one */
	struct iovec out[VIRTQUEUE_SEGS_MAX + 1];

	/* protected by v.lock: */
	unsigned pairs_used; /* the driver uses the first pairs_used pairs */
	bool link_wanted;
	bool vhost_held; /* the loop serves all pairs, because memory is being copied */
	struct net_limit limits[DIRECTIONS];
	bool loaded; /* a state was loaded, and the driver is not notified yet */
	bool announce; /* the driver is to announce its addresses to the network */
	uint8_t mac[VIRTIO_NET_MAC_BYTES]; /* of the definition */
	struct net_filter filter;
	struct tcp_flows *flows; /* NULL: no snapshot so far; a user network notes flows from the begin on */
};

static inline struct virtio_net *net_of_device(struct device *d)
{
	return container_of(d, struct virtio_net, v.dev);
}

static inline struct virtqueue *net_queue(struct net_pair *p, unsigned direction)
{
	return &p->n->v.queues[DIRECTIONS * p->index + direction].vq;
}

/* The number of pairs that the driver knows of. Without NET_F_MQ, the third virtqueue is the control queue. */
static inline unsigned net_pairs_known(const struct virtio_net *n)
{
	return n->v.features & NET_F_MQ ? n->npairs : 1;
}

/* The negotiated features of the rings, which vhost-net has to know; all others concern the tap. Not in the file that
 * includes linux/vhost.h, which has bit numbers by these names. */
static inline uint64_t net_ring_features(const struct virtio_net *n)
{
	return n->v.features & (VIRTIO_F_VERSION_1 | VIRTIO_F_EVENT_IDX | VIRTIO_F_INDIRECT_DESC | NET_F_MRG_RXBUF);
}

/* Return whether the driver uses the pair. */
static inline bool net_pair_is_used(const struct net_pair *p)
{
	return p->index < p->n->pairs_used;
}

static inline void net_count(struct virtio_net *n, enum net_figure what, uint64_t more)
{
	figure_add(n->counters, n->shown, what, more);
}

/* All functions below: v.lock is held. */

/* Write the link's state to the configuration that the driver reads. */
void net_link_update(struct virtio_net *n);
/* Watch the pair's file for frames if rx_wanted, and for room if tx_blocked. On the loop. */
void net_watch_update(struct net_pair *p);
/* Set the link down, because the tap was deleted on the host or the process of the user network ended. On the loop. */
void net_tap_lost(struct virtio_net *n, int error);
/* Set the tap's offloads to those that the driver accepts. On the loop, not in the driver's register write, because the
 * kernel may block changes of a network device. */
void net_offload_update(struct virtio_net *n);
/* Let the kernel spread frames over the queues of the tap that the driver uses, and over no others. On the loop.
 * Returns 0; -errno: the kernel refused some queue. */
int net_queues_update(struct virtio_net *n);

/* Serve a pair's queue. Do nothing for received frames of a pair that the driver does not use. On the loop. */
void net_pair_run(struct net_pair *p, unsigned direction);
/* Drop the packet that the pair holds, and wait for no further one: the driver does not use the pair. On the loop. */
void net_pair_stop(struct net_pair *p);
/* Create the pair's timers and its watch, if it has a file. Returns 0 or -errno. The device is not in use yet. */
int net_pair_init(struct net_pair *p);
void net_pair_done(struct net_pair *p);

/* TCP connections after a revert (tcp_flows.h). */

/* Begin to note them. Returns false without a file or memory. */
bool net_flows_begin(struct virtio_net *n);
/* Return whether the frame that the pair holds may pass. If not, its sender has been answered. */
bool net_flow_receives(struct net_pair *p);
/* Return whether a frame of the guest may pass. */
bool net_flow_sends(struct virtio_net *n, const struct iovec *iov, unsigned niov);
/* Let the pair, which holds nothing, hold the next frame that is due to the guest. Returns false if there is none. */
bool net_flow_answer_take(struct net_pair *p);

/* Pairs that vhost-net serves. */

/* Let vhost serve the pair when it can. fd: an open /dev/vhost-net; borrowed. Returns 0; -errno, and the caller calls
 * net_vhost_free(). The device is not in use yet. */
int net_vhost_new(struct net_pair *p, int fd);
/* The loop's thread has ended. */
void net_vhost_free(struct net_pair *p);
/* Return whether vhost serves the pair; if it can, it begins to. On the loop. */
bool net_vhost_serves(struct net_pair *p);
bool net_vhost_is_on(const struct net_pair *p);
/* Take the pair's queues, or those of all pairs, back from vhost. Afterwards the kernel uses no guest memory. The
 * caller kicks the queues. */
void net_vhost_stop(struct net_pair *p);
void net_vhost_stop_all(struct virtio_net *n);

/* Functions of n->poller, which take the lock. opaque: the interface. */
bool net_poll(void *opaque);
bool net_sleeps(void *opaque);

#endif
