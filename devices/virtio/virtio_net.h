/* virtio_net: a network interface (virtio 1.2, section 5.1) over a tap device, one pair of queues.
 *
 * The tap has IFF_VNET_HDR and headers of NET_HEADER_BYTES: checksums and segments go through as they
 * are. A socket (SOCK_SEQPACKET) with the same in each packet will do: whoever is behind it finishes checksums, and
 * TCP's segments of IPv4. What it may leave to the guest it is told in a packet of 4 bytes, the flags of TUNSETOFFLOAD;
 * nothing before. Without either the link is down: what the guest sends is taken and dropped.
 *
 * Threading: rings and tap are served on the interface's loop. virtio_net_new() is called before that
 * loop's thread starts, the device's free() after it has ended. */
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
#define VIRTIO_NET_MTU_MIN 68 /* what IPv4 asks of a link (RFC 791) */

struct virtio_net_config {
	const char *name;  /* "net0"; copied */
	struct loop *loop; /* borrowed */
	int tap_fd;	   /* does not block; borrowed; -1: none, the link is down */
	uint8_t mac[VIRTIO_NET_MAC_BYTES];
	uint16_t mtu; /* of what the tap is plugged into; 0: 1500 */
	bool user;    /* tap_fd is, or with another start would be, a socket */
	int slot;     /* PCI slot, 0 or -1: first free */
};

/* As the guest sees it: rx is what it receives. Bytes are those of frames. */
struct virtio_net_stats {
	uint64_t rx_bytes, rx_packets, rx_errors, rx_drops;
	uint64_t tx_bytes, tx_packets, tx_errors, tx_drops;
	bool link_up;
};

/* Freed through the device's ops. Returns 0; -EINVAL; -ENOSPC; -errno. */
int virtio_net_new(struct dev_host *h, struct pci_host *p, const struct virtio_net_config *c,
	struct device **ret_dev, struct err *e);
/* Any thread; figures of one moment only each by itself. */
void virtio_net_stats(struct device *d, struct virtio_net_stats *ret_s);

#endif
