/* virtio_net: a network interface (virtio 1.2, section 5.1) over a tap device, with one or several
 * pairs of queues.
 *
 * The tap has IFF_VNET_HDR and headers of NET_HEADER_BYTES, so checksum and segmentation requests pass through
 * unchanged. For several pairs it has IFF_MULTI_QUEUE, and each pair has a file of its own. A SOCK_SEQPACKET socket
 * with the same header in each packet may replace the tap; the process at its other end then completes checksums and
 * accepts unsegmented TCP over IPv4. The device sends that process packets of 4 bytes with the flags of
 * TUNSETOFFLOAD: the offloads that the process may leave to the guest in the frames that it sends (none before the
 * first such packet). With vhost-net, a thread of the kernel moves the frames between the rings and the tap. It does
 * so while the link is up, there are no limits, and no snapshot was taken. It neither counts frames nor filters them
 * by the guest's modes and addresses. Without tap or socket the link is down, and frames from the guest are dropped.
 *
 * Threading: the interface's loop serves rings and tap. Call virtio_net_new() before that loop's
 * thread starts and the device's free() after it has ended. */
#ifndef CAIRN_DEVICES_VIRTIO_VIRTIO_NET_H
#define CAIRN_DEVICES_VIRTIO_VIRTIO_NET_H

#include <stdbool.h>
#include <stdint.h>

struct dev_host;
struct device;
struct err;
struct loop;
struct pci_host;

#define VIRTIO_NET_MAC_BYTES 6
#define VIRTIO_NET_MTU_MIN 68 /* minimum MTU of a link for IPv4 (RFC 791) */
#define VIRTIO_NET_PAIRS_MAX 8

/* Limits of one direction; 0: none. */
struct virtio_net_limit {
	uint64_t average; /* bytes a second */
	uint64_t peak;	  /* bytes a second, within a burst */
	uint64_t burst;	  /* bytes that may pass faster than the average; 0: those of 100 ms */
	uint64_t packets; /* frames a second */
};

struct virtio_net_limits {
	struct virtio_net_limit in, out; /* in: to the guest */
};

struct virtio_net_config {
	const char *name;  /* "net0"; copied */
	struct loop *loop; /* borrowed */
	int tap_fd;	   /* non-blocking; borrowed; -1: none, the link is down */
	unsigned pairs;	   /* pairs of queues; 0 counts as 1. With more than 1, the device offers VIRTIO_NET_F_MQ */
	int more_fds[VIRTIO_NET_PAIRS_MAX - 1]; /* as tap_fd: the tap's further queues, one for each pair after the first */
	bool vhost; /* vhost-net of the kernel serves the queues; only with a tap, and a loop of the interface's own */
	int vhost_fds[VIRTIO_NET_PAIRS_MAX]; /* with vhost: /dev/vhost-net, opened once for each pair; borrowed */
	uint8_t mac[VIRTIO_NET_MAC_BYTES];
	uint16_t mtu; /* MTU of the network behind the tap; 0: 1500 */
	bool user;    /* a user network: tap_fd, if any, is a socket */
	bool link_down; /* the link is down, also with a tap */
	struct virtio_net_limits limits;
	int slot;     /* PCI slot, 0 or -1: first free */
};

/* Statistics from the guest's point of view: rx counts received frames. Bytes are those of
 * frames. */
struct virtio_net_stats {
	uint64_t rx_bytes, rx_packets, rx_errors, rx_drops;
	uint64_t tx_bytes, tx_packets, tx_errors, tx_drops;
	bool link_up;
};

/* Create an interface. Free it through its ops. Returns 0; -EINVAL; -ENOSPC; -errno. */
int virtio_net_new(struct dev_host *h, struct pci_host *p, const struct virtio_net_config *c,
	struct device **ret_dev, struct err *e);
/* Change the limits. Any thread. */
void virtio_net_set_limits(struct device *d, const struct virtio_net_limits *l);
/* Set the link up or down, as far as there is a tap. While it is down, frames of both directions are dropped.
 * Any thread. */
void virtio_net_set_link(struct device *d, bool up);
/* Let the interface's loop serve its queues, and not vhost-net, or no longer: vhost's writes to memory escape the dirty
 * log, and may wait for a copy of memory. Any thread. */
void virtio_net_hold_vhost(struct device *d, bool hold);
/* Record that a snapshot of the paused VM is taken. key: identifies it; not 0. */
void virtio_net_mark(struct device *d, uint64_t key);
/* Reset the TCP connections that have moved since a snapshot (tcp_flows.h); of a user network, all. Call after the load
 * of the snapshot's state, before the resume. key: from virtio_net_mark(); an unknown key resets all. */
void virtio_net_revert(struct device *d, uint64_t key);
/* Read the statistics. Any thread. Each value is exact, but the values are read one after the other. */
void virtio_net_stats(struct device *d, struct virtio_net_stats *ret_s);
/* Add the counts of the VM's earlier process. Any thread. */
void virtio_net_carry(struct device *d, const struct virtio_net_stats *before);
/* Write the counters to an array of NET_FIGURES (base/figures.h), which must stay valid until the device ends or this
 * is called again. NULL: no longer. Any thread. */
void virtio_net_show(struct device *d, _Atomic uint64_t *shown);

#endif
