/* network_retry: after a failed check or repair of an active network, has the network checked again: after 1, 2, 4 … 60
 * s, until a check finds it complete. Threading: the daemon's loop. */
#ifndef CAIRN_API_NET_NETWORK_RETRY_H
#define CAIRN_API_NET_NETWORK_RETRY_H

#include <stdbool.h>

struct network;
struct network_retry;

/* Have the network checked again after the next delay.
 * check: called from the loop to have the network checked. Returns false: ask again later.
 * Returns whether this is the first failure since the network was complete. */
bool network_retry_later(struct network *n, bool (*check)(struct network *n));
/* Return whether a retry is scheduled; other callers then do not try now. */
bool network_retry_waits(const struct network *n);
/* Retry no more, and begin with the shortest delay next time. Returns whether a check or repair had failed. */
bool network_retry_end(struct network *n);
/* NULL allowed. */
void network_retry_free(struct network_retry *r);

#endif
