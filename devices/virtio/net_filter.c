#include "devices/virtio/net_filter.h"
#include "base/bytes.h"
#include "devices/virtio/virtio_net_header.h"
#include "devices/virtio/virtqueue.h"
#include "snapshot/state.h"

#include <errno.h>
#include <string.h>

#define ETHERTYPE_AT 12
#define ETHERTYPE_VLAN 0x8100
#define VLAN_MASK (NET_VLANS - 1)

enum { SAVED_PROMISC = 1, SAVED_ALLMULTI = 2, SAVED_ALL_UNICAST = 4, SAVED_ALL_MULTICAST = 8, SAVED_MAC_SET = 16, SAVED_KNOWN = 31 };

void net_filter_reset(struct net_filter *f, const uint8_t mac[NET_MAC_BYTES])
{
	memset(f, 0, sizeof(*f));
	f->promisc = true;
	memcpy(f->mac, mac, NET_MAC_BYTES);
}

/* ---- commands ---- */

struct data {
	const struct iovec *iov;
	unsigned niov;
	size_t at;
	uint64_t bytes; /* bytes from `at` on */
};

/* Take n bytes from the front. Returns whether there were as many. */
static bool data_take(struct data *d, void *dst, size_t n)
{
	if (d->bytes < n || iov_read(d->iov, d->niov, d->at, dst, n) != n)
		return false;
	d->at += n;
	d->bytes -= n;
	return true;
}

static bool mode_set(struct net_filter *f, uint8_t cmd, struct data *d)
{
	uint8_t on;

	if (d->bytes != 1 || cmd > NET_RX_ALLMULTI || !data_take(d, &on, 1) || on > 1)
		return false;
	*(cmd == NET_RX_PROMISC ? &f->promisc : &f->allmulti) = on;
	return true;
}

/* Take a table of addresses into f->macs from `first` on. Returns whether it is complete; *ret_n: its length;
 * *ret_all: it is too long for f. */
static bool table_take(struct net_filter *f, unsigned first, struct data *d, uint8_t *ret_n, bool *ret_all)
{
	uint8_t raw[4];
	uint64_t n;

	if (!data_take(d, raw, sizeof(raw)))
		return false;
	n = load_le32(raw);
	if (n * NET_MAC_BYTES > d->bytes)
		return false;
	*ret_all = n > NET_FILTER_MACS - first;
	*ret_n = *ret_all ? 0 : (uint8_t)n;
	if (!*ret_all)
		return data_take(d, f->macs[first], (size_t)n * NET_MAC_BYTES);
	d->at += (size_t)n * NET_MAC_BYTES;
	d->bytes -= n * NET_MAC_BYTES;
	return true;
}

static bool tables_set(struct net_filter *f, struct data *d)
{
	struct net_filter new = *f;

	if (!table_take(&new, 0, d, &new.nunicast, &new.all_unicast) ||
		!table_take(&new, new.nunicast, d, &new.nmulticast, &new.all_multicast) || d->bytes)
		return false;
	*f = new;
	return true;
}

static bool address_set(struct net_filter *f, struct data *d)
{
	uint8_t mac[NET_MAC_BYTES];

	if (d->bytes != sizeof(mac) || !data_take(d, mac, sizeof(mac)) || (mac[0] & 1))
		return false;
	memcpy(f->mac, mac, sizeof(mac));
	f->mac_set = true;
	return true;
}

static bool vlan_set(struct net_filter *f, uint8_t cmd, struct data *d)
{
	uint8_t raw[2], bit;
	unsigned vlan;

	if (d->bytes != sizeof(raw) || cmd > NET_VLAN_DEL || !data_take(d, raw, sizeof(raw)))
		return false;
	vlan = load_le16(raw);
	if (vlan >= NET_VLANS)
		return false;
	bit = (uint8_t)(1u << (vlan % 8));
	if (cmd == NET_VLAN_ADD)
		f->vlans[vlan / 8] |= bit;
	else
		f->vlans[vlan / 8] &= (uint8_t)~bit;
	return true;
}

bool net_filter_command(struct net_filter *f, uint64_t features, uint8_t class, uint8_t cmd, const struct iovec *iov,
	unsigned niov, size_t at, uint64_t bytes)
{
	struct data d = { iov, niov, at, bytes };

	switch (class) {
	case NET_CLASS_RX:
		return (features & NET_F_CTRL_RX) && mode_set(f, cmd, &d);
	case NET_CLASS_MAC:
		if (cmd == NET_MAC_TABLE_SET)
			return (features & NET_F_CTRL_RX) && tables_set(f, &d);
		return cmd == NET_MAC_ADDR_SET && (features & NET_F_CTRL_MAC_ADDR) && address_set(f, &d);
	case NET_CLASS_VLAN:
		return (features & NET_F_CTRL_VLAN) && vlan_set(f, cmd, &d);
	default:
		return false;
	}
}

/* ---- frames ---- */

static bool vlan_passes(const struct net_filter *f, const uint8_t *frame, size_t bytes)
{
	unsigned vlan;

	if (bytes < ETHERTYPE_AT + 4 || load_be16(frame + ETHERTYPE_AT) != ETHERTYPE_VLAN)
		return true;
	vlan = load_be16(frame + ETHERTYPE_AT + 2) & VLAN_MASK;
	return f->vlans[vlan / 8] & 1u << (vlan % 8);
}

static bool table_has(const uint8_t (*macs)[NET_MAC_BYTES], unsigned n, const uint8_t *mac)
{
	for (unsigned i = 0; i < n; i++)
		if (!memcmp(macs[i], mac, NET_MAC_BYTES))
			return true;
	return false;
}

bool net_filter_is_own(const struct net_filter *f, const uint8_t *frame)
{
	return !memcmp(frame, f->mac, sizeof(f->mac)) || table_has(f->macs, f->nunicast, frame);
}

static bool address_passes(const struct net_filter *f, const uint8_t *mac)
{
	static const uint8_t broadcast[NET_MAC_BYTES] = { 0xff, 0xff, 0xff, 0xff, 0xff, 0xff };

	if (mac[0] & 1)
		return f->allmulti || f->all_multicast || !memcmp(mac, broadcast, sizeof(broadcast)) ||
			table_has(f->macs + f->nunicast, f->nmulticast, mac);
	return f->all_unicast || net_filter_is_own(f, mac);
}

bool net_filter_passes(const struct net_filter *f, uint64_t features, const uint8_t *frame, size_t bytes)
{
	if (f->promisc)
		return true;
	return address_passes(f, frame) && (!(features & NET_F_CTRL_VLAN) || vlan_passes(f, frame, bytes));
}

/* ---- state ---- */

void net_filter_save(const struct net_filter *f, struct state_writer *w)
{
	state_put_u8(w, (uint8_t)((f->promisc ? SAVED_PROMISC : 0) | (f->allmulti ? SAVED_ALLMULTI : 0) |
		(f->all_unicast ? SAVED_ALL_UNICAST : 0) | (f->all_multicast ? SAVED_ALL_MULTICAST : 0) |
		(f->mac_set ? SAVED_MAC_SET : 0)));
	state_put_bytes(w, f->mac, sizeof(f->mac));
	state_put_u8(w, f->nunicast);
	state_put_u8(w, f->nmulticast);
	state_put_bytes(w, f->macs, (size_t)(f->nunicast + f->nmulticast) * NET_MAC_BYTES);
	state_put_bytes(w, f->vlans, sizeof(f->vlans));
}

int net_filter_load(struct net_filter *f, struct state_reader *r)
{
	struct net_filter new = { 0 };
	uint8_t flags = state_u8(r);

	state_bytes(r, new.mac, sizeof(new.mac));
	new.nunicast = state_u8(r);
	new.nmulticast = state_u8(r);
	if (r->failed || (flags & ~SAVED_KNOWN) || new.nunicast + new.nmulticast > NET_FILTER_MACS)
		return -EINVAL;
	state_bytes(r, new.macs, (size_t)(new.nunicast + new.nmulticast) * NET_MAC_BYTES);
	state_bytes(r, new.vlans, sizeof(new.vlans));
	new.promisc = flags & SAVED_PROMISC;
	new.allmulti = flags & SAVED_ALLMULTI;
	new.all_unicast = flags & SAVED_ALL_UNICAST;
	new.all_multicast = flags & SAVED_ALL_MULTICAST;
	new.mac_set = flags & SAVED_MAC_SET;
	if (r->failed)
		return -EINVAL;
	*f = new;
	return 0;
}
