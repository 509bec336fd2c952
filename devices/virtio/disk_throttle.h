/* disk_throttle: limits of a disk's requests and bytes, of all together, of reads and of writes, with bursts.
 *
 * Each limit is a token bucket (base/token_bucket.h). One without a burst lets the requests of a tenth of a second pass
 * at once. One with a burst has a second bucket: after a rest, `max` a second pass for max_s seconds, then `rate`. The
 * burst comes back while the disk uses less than `rate`.
 * Reads count for reads, writes, zeroes and discards for writes, and flushes for all together only. Discards and
 * flushes have no bytes.
 * Threading: the owner's lock. */
#ifndef CAIRN_DEVICES_VIRTIO_DISK_THROTTLE_H
#define CAIRN_DEVICES_VIRTIO_DISK_THROTTLE_H

#include "base/token_bucket.h"
#include "block/block.h"

#include <stdbool.h>
#include <stdint.h>

enum disk_limit { DISK_LIMIT_ALL, DISK_LIMIT_READ, DISK_LIMIT_WRITE, DISK_LIMITS };

struct disk_rate {
	uint64_t rate;	/* a second; 0: no limit, and the other fields are ignored */
	uint64_t max;	/* a second, in a burst; more than rate; 0: no burst */
	uint32_t max_s; /* seconds of a burst; 0: 1 */
};

struct virtio_blk_limits {
	struct disk_rate iops[DISK_LIMITS], bps[DISK_LIMITS];
	uint64_t iops_bytes; /* a larger request counts as several for iops, each of this size; 0: as one */
};

struct disk_bucket {
	struct token_bucket average, burst;
};

struct disk_throttle {
	struct disk_bucket iops[DISK_LIMITS], bps[DISK_LIMITS];
	uint64_t iops_bytes;
	bool any, any_one_way; /* there is a limit; one of reads or of writes */
};

/* Change the limits. A limit that existed before gives no new burst. */
void disk_throttle_set(struct disk_throttle *t, const struct virtio_blk_limits *l, uint64_t now_ns);
/* Returns 0 if a request for which this limit counts may pass now as far as this limit goes; otherwise for how many ns
 * it has to wait. */
uint64_t disk_throttle_wait(struct disk_throttle *t, enum disk_limit of, uint64_t now_ns);
/* Return the limit that applies to a request besides DISK_LIMIT_ALL; DISK_LIMIT_ALL: only that one. */
enum disk_limit disk_throttle_kind(enum block_op op);
/* Count a request that passes now. */
void disk_throttle_take(struct disk_throttle *t, enum block_op op, uint64_t len);

#endif
