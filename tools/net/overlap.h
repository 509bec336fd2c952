/* overlap: networks and the routes that the host has. */
#ifndef CAIRN_TOOLS_NET_OVERLAP_H
#define CAIRN_TOOLS_NET_OVERLAP_H

#include "tools/net/link.h"
#include "tools/net/request.h"

/* Check that no route of the host but the network's own overlaps it. Returns 0; -EBUSY with a sentence that names a
 * free network; -errno. */
int overlap_check(struct links *l, const struct network *n, struct err *e);
/* Find the first of 192.168.122.0/24 to 192.168.254.0/24 that overlaps no route and none of the ranges.
 * ret: the address of its bridge. Returns 0; -ENOSPC with a sentence; -errno. */
int overlap_find_free(struct links *l, const struct range *used, size_t nused, struct address *ret, struct err *e);

#endif
