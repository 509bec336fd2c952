/* uplink: the host's links to other networks: those of the default routes, or the one that the definition names. */
#ifndef CAIRN_TOOLS_NET_UPLINK_H
#define CAIRN_TOOLS_NET_UPLINK_H

#include "tools/net/link.h"
#include "tools/net/request.h"

#define UPLINKS_MAX 16

struct names {
	char list[UPLINKS_MAX][IFNAMSIZ];
	size_t n;
};

struct uplinks {
	struct names ipv4, ipv6; /* each empty if the network has no such part, or is not forwarded */
};

/* Returns 0; -errno with a sentence. */
int uplinks_find(struct links *l, const struct network *n, struct uplinks *ret, struct err *e);

bool names_have(const struct names *list, const char *name);
/* Add a name that is not in the list yet. A full list stays as it is. */
void names_add(struct names *list, const char *name);

#endif
