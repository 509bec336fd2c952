/* net_filter: filters frames as the driver requests through the control queue of a network interface (virtio 1.2,
 * section 5.1.6.5): its address, promiscuous modes, tables of addresses, VLANs. Each field of a command is checked.
 * Threading: the owner's. */
#ifndef CAIRN_DEVICES_VIRTIO_NET_FILTER_H
#define CAIRN_DEVICES_VIRTIO_NET_FILTER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct iovec;
struct state_reader;
struct state_writer;

#define NET_MAC_BYTES 6
/* Addresses of both tables together. Of a longer table, all addresses of its kind pass. */
#define NET_FILTER_MACS 64
#define NET_VLANS 4096

enum net_class { NET_CLASS_RX = 0, NET_CLASS_MAC = 1, NET_CLASS_VLAN = 2, NET_CLASS_ANNOUNCE = 3, NET_CLASS_MQ = 4 };
enum { NET_RX_PROMISC = 0, NET_RX_ALLMULTI = 1 };
enum { NET_MAC_TABLE_SET = 0, NET_MAC_ADDR_SET = 1 };
enum { NET_VLAN_ADD = 0, NET_VLAN_DEL = 1 };

struct net_filter {
	bool promisc, allmulti;
	bool all_unicast, all_multicast; /* a table was too long */
	bool mac_set; /* the driver has chosen mac */
	uint8_t mac[NET_MAC_BYTES];
	uint8_t nunicast, nmulticast;
	uint8_t macs[NET_FILTER_MACS][NET_MAC_BYTES]; /* unicast, then multicast */
	uint8_t vlans[NET_VLANS / 8];
};

/* Set the state after a reset of the device: all frames pass. */
void net_filter_reset(struct net_filter *f, const uint8_t mac[NET_MAC_BYTES]);
/* Obey a command of one of the first three classes. iov: the request's readable part; its data begins at `at` and has
 * `bytes` bytes. features: the negotiated ones. Returns whether the command is known, negotiated and valid; otherwise f
 * is unchanged. */
bool net_filter_command(struct net_filter *f, uint64_t features, uint8_t class, uint8_t cmd, const struct iovec *iov,
	unsigned niov, size_t at, uint64_t bytes);
/* Returns whether the driver wants the frame, which has an Ethernet header at least. */
bool net_filter_passes(const struct net_filter *f, uint64_t features, const uint8_t *frame, size_t bytes);
/* Returns whether the frame, of which 6 bytes count, is to an address of the driver's own. */
bool net_filter_is_own(const struct net_filter *f, const uint8_t *frame);

void net_filter_save(const struct net_filter *f, struct state_writer *w);
/* Returns 0 or -EINVAL. */
int net_filter_load(struct net_filter *f, struct state_reader *r);

#endif
