/* link: links, addresses and routes of a network namespace, by rtnetlink. A struct links is a socket of the namespace
 * in which it was opened. */
#ifndef CAIRN_TOOLS_NET_LINK_H
#define CAIRN_TOOLS_NET_LINK_H

#include "tools/net/address.h"

#include <net/if.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct err;
struct links;

/* Open a socket in the calling thread's network namespace. The caller closes it with links_close().
 * Returns 0; -errno. */
int links_open(struct links **ret, struct err *e);
void links_close(struct links *l);

static inline void links_close_p(struct links **l)
{
	links_close(*l);
}
#define CLEANUP_LINKS __attribute__((cleanup(links_close_p)))

#define LINK_ALIAS_MAX 64

struct link {
	int index; /* 0: there is no such link */
	const char *name; /* link_find(): as it got it; borrowed */
	int master; /* index of the bridge that it is a port of; 0: none */
	bool is_up;
	unsigned mtu;
	char kind[16]; /* "bridge", "veth", "tun"; "" for hardware */
	uint8_t mac[MAC_BYTES];
	char alias[LINK_ALIAS_MAX]; /* its beginning; "": none */
};

/* Find a link. Returns 0 with ret->index 0 if there is none; -errno with a sentence. */
int link_find(struct links *l, const char *name, struct link *ret, struct err *e);
/* Call found() for each link, whose name lasts until found() returns. found() makes no request with `l`.
 * Returns 0; -errno with a sentence. */
int links_each(struct links *l, void (*found)(const struct link *, void *), void *arg, struct err *e);

struct bridge_config {
	const char *name;
	const uint8_t *mac;
	unsigned mtu; /* 0: default */
	bool stp;
};

/* Make a bridge, down. Return 0; -errno with a sentence. */
int link_make_bridge(struct links *l, const struct bridge_config *c, struct err *e);
/* Have the bridge learn no MAC address from frames to link-local groups (01:80:c2:00:00:0X). No rule sees such a frame
 * before the bridge learns from it, so a guest could take another's traffic. Returns 0; -errno. */
int link_protect_bridge(struct links *l, int index, struct err *e);
/* Make a veth: `name` here, a port of the bridge and up; `peer` in the network namespace of the process, down. */
int link_make_veth(struct links *l, const char *name, int bridge, unsigned mtu, const char *peer, const uint8_t peer_mac[MAC_BYTES],
	pid_t pid, struct err *e);
struct macvtap_config {
	const char *name;
	const uint8_t *mac; /* NULL: the kernel's choice */
	int dev;	    /* index of the link below */
	unsigned mode;	    /* MACVLAN_MODE_BRIDGE, ... */
};

/* Make a macvtap link, down. Returns 0; -errno without a sentence. */
int link_make_macvtap(struct links *l, const struct macvtap_config *c);
/* Delete all macvtap links with this alias, and call deleted() with the name of each. Returns 0; -errno. */
int links_delete_alias(struct links *l, const char *alias, void (*deleted)(void *opaque, const char *name), void *opaque, struct err *e);
/* Call found() with the name of each macvtap link with this alias. Returns 0; -errno. */
int links_list_alias(struct links *l, const char *alias, void (*found)(void *opaque, const char *name), void *opaque, struct err *e);
/* Count the macvtap links on link `dev` with this alias. Returns 0; -errno. */
int links_count_alias(struct links *l, const char *alias, int dev, unsigned *ret, struct err *e);
/* Find a link whose alias has the first `len` bytes of this one, but is not the same. ret: its name; "" if there is
 * none. Returns 0; -errno. */
int links_find_other_alias(struct links *l, const char *alias, size_t len, char ret[IFNAMSIZ], struct err *e);
int link_set_mac(struct links *l, int index, const uint8_t mac[MAC_BYTES], struct err *e);
/* The kernel takes no alias when it makes a link. Returns 0; -errno. */
int link_set_alias(struct links *l, int index, const char *alias, struct err *e);
int link_set_up(struct links *l, int index, struct err *e);
/* Delete it. Returns 1; 0: there is no such link; -errno. */
int link_delete(struct links *l, int index, struct err *e);
/* Set flags of a bridge's port. isolated: the bridge keeps isolated ports from each other. root_block: the bridge's
 * spanning tree never has its root behind the port. Returns 0; -errno. */
int link_set_port(struct links *l, int index, bool isolated, bool root_block, struct err *e);

/* Add an address without duplicate address detection. An address that is there is no error. */
int link_add_address(struct links *l, int index, const struct address *a, unsigned prefix, struct err *e);
/* Whether the link has the address with this prefix. Returns 1, 0; -errno. */
int link_has_address(struct links *l, int index, const struct address *a, unsigned prefix, struct err *e);
/* Enter a guest's MAC address as if the bridge had learnt it at its port, and as if the host had asked by ARP for the
 * guest's address: the first packet then needs no broadcast. Both entries age; the host asks again after 5 s of use. */
int link_add_neighbour(struct links *l, int bridge, int port, const uint8_t mac[MAC_BYTES], const struct address *a, struct err *e);
/* Add a default route by a gateway. */
int link_add_default_route(struct links *l, int index, const struct address *gateway, struct err *e);

/* A VPN's 0.0.0.0/1 and the like stand for a default route. */
#define PREFIX_DEFAULT_MAX 7

struct route {
	struct address to; /* family of the dump; all zero for a default route */
	unsigned prefix, table;
	int link; /* index; 0: none */
	bool gateway;
};

/* Call found() for each unicast route of all tables but the local one; for a route by several links, once for each of
 * them. found() returns true to end the search, and makes no request with `l`.
 * Returns 1 if it ended so; 0; -errno with a sentence. */
int routes_each(struct links *l, int family, bool (*found)(const struct route *, void *), void *arg, struct err *e);

#endif
