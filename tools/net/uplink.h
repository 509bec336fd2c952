/* uplink: the host's links to other networks: those by which routes of any table lead, or the one that the definition
 * names. Packets of the guests go wherever the host's routes lead, as by a VPN or a second NIC, and answers come back
 * by these links.
 *
 * Links of containers and of other VMs are none. Such links have routes without a gateway only: a bridge without a port
 * to a network outside of the host, or a veth with a route to a single address. */
#ifndef CAIRN_TOOLS_NET_UPLINK_H
#define CAIRN_TOOLS_NET_UPLINK_H

#include "tools/net/link.h"
#include "tools/net/request.h"

#define UPLINKS_MAX 64

struct names {
	char list[UPLINKS_MAX][IFNAMSIZ];
	size_t n;
};

struct uplinks {
	struct names ipv4, ipv6; /* each empty if the network has no such part, or is not forwarded */
	bool has_default; /* a default route of IPv4 (of IPv6, if the network has no IPv4), or the definition's link */
};

/* Returns 0; -errno with a sentence. */
int uplinks_find(struct links *l, const struct network *n, struct uplinks *ret, struct err *e);

bool names_have(const struct names *list, const char *name);
/* Add a name that is not in the list yet. A full list stays as it is. */
void names_add(struct names *list, const char *name);

#endif
