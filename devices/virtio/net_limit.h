/* net_limit: the limits of one direction of an interface, with libvirt's words: the average rate, the peak rate of a
 * burst, the size of a burst, and the number of frames a second. Frames over a limit wait. Threading: the owner's. */
#ifndef CAIRN_DEVICES_VIRTIO_NET_LIMIT_H
#define CAIRN_DEVICES_VIRTIO_NET_LIMIT_H

#include "base/token_bucket.h"

#include <stdbool.h>
#include <stdint.h>

struct virtio_net_limit;

/* All zeros: no limit. */
struct net_limit {
	struct token_bucket average, peak, frames;
};

/* Change the limits. Limits that remain keep their tokens. */
void net_limit_set(struct net_limit *l, const struct virtio_net_limit *want, uint64_t now_ns);
/* Returns 0 if a frame may pass now; otherwise for how many ns frames have to wait. If the bucket is deep enough, that
 * is at least 1 ms, so that a wake-up serves many frames. */
uint64_t net_limit_wait(struct net_limit *l, uint64_t now_ns);
/* Charge a frame that passes. */
void net_limit_take(struct net_limit *l, uint64_t bytes);

static inline bool net_limit_is_set(const struct net_limit *l)
{
	return l->average.rate || l->peak.rate || l->frames.rate;
}

#endif
