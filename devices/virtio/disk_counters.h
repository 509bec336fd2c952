/* disk_counters: counters of a disk's requests, in a struct of the device.
 * Threading: the device's lock is held; disk_counters_get() anywhere. */
#ifndef CAIRN_DEVICES_VIRTIO_DISK_COUNTERS_H
#define CAIRN_DEVICES_VIRTIO_DISK_COUNTERS_H

#include "base/figures.h"
#include "block/block.h"

struct virtio_blk_stats;

struct disk_counters {
	_Atomic uint64_t n[DISK_FIGURES];
	_Atomic uint64_t *shown; /* on the page; borrowed; NULL: none */
	_Atomic int failed; /* errno of the error that stopped the VM; reset to 0 on resume */
};

/* Count a request that is complete. op: anything but a read and a flush counts as a write. */
void disk_counters_add(struct disk_counters *c, enum block_op op, uint64_t bytes, uint64_t ns);
/* Note the number of requests that the block layer has. */
static inline void disk_counters_in_flight(struct disk_counters *c, unsigned n)
{
	figure_set(c->n, c->shown, DISK_IN_FLIGHT, n);
}
static inline void disk_counters_error(struct disk_counters *c)
{
	figure_add(c->n, c->shown, DISK_ERRORS, 1);
}
/* Show the counters on the page from now on. shown: an array of DISK_FIGURES; borrowed; NULL: no longer. */
void disk_counters_show(struct disk_counters *c, _Atomic uint64_t *shown);
void disk_counters_get(const struct disk_counters *c, struct virtio_blk_stats *ret);
/* Add the counts of the VM's earlier process. */
void disk_counters_carry(struct disk_counters *c, const struct virtio_blk_stats *before);

#endif
