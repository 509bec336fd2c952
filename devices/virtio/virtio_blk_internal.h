/* virtio_blk_internal: the disk device's own structures. */
#ifndef CAIRN_DEVICES_VIRTIO_VIRTIO_BLK_INTERNAL_H
#define CAIRN_DEVICES_VIRTIO_VIRTIO_BLK_INTERNAL_H

#include "block/block.h"
#include "devices/virtio/virtio_blk.h"
#include "devices/virtio/virtio_pci.h"

#include <stdatomic.h>

struct virtio_blk;

/* One request of the guest, from the ring to the block layer and back. Made when first
 * needed, kept for reuse: as many as were ever in flight at a time. */
struct blk_request {
	struct virtio_blk *blk;
	struct blk_request *next; /* in `free` or `held` */
	unsigned queue;
	uint32_t type;
	uint64_t start_ns;
	uint8_t *status;      /* guest RAM */
	struct iovec last_in; /* the segment that the status byte was cut from */
	struct block_req req;
	struct virtqueue_elem elem;
};

/* A request that was held back when the state was saved. */
struct blk_loaded {
	uint16_t queue, head;
};

struct blk_counters {
	_Atomic uint64_t rd_reqs, rd_bytes, rd_ns;
	_Atomic uint64_t wr_reqs, wr_bytes, wr_ns;
	_Atomic uint64_t fl_reqs, fl_ns;
	_Atomic uint64_t errors;
	_Atomic int failed; /* errno of what stopped the VM; 0 again when it goes on */
};

struct virtio_blk {
	struct virtio_dev v;
	struct virtio_pci pci;
	struct block *block;
	struct block_watch watch;
	struct block_info info;
	enum virtio_blk_errors errors;
	char serial[VIRTIO_BLK_SERIAL_BYTES]; /* padded with NULs */
	struct blk_counters stats;

	/* v.lock: */
	bool write_through; /* writes are stable before they are done */
	bool starved;	    /* requests wait in a ring for a free blk_request */
	unsigned in_flight;
	pthread_cond_t idle; /* in_flight fell to 0 */
	unsigned nrequests, requests_max;
	struct blk_request *free;
	bool held_wait;		  /* nothing is taken from the rings until resume */
	struct blk_request *held; /* failed, and stopped the VM; oldest first */
	struct blk_loaded *loaded; /* newest first */
	unsigned nloaded;
};

#endif
