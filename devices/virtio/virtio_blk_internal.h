/* virtio_blk_internal: structures of the disk device. */
#ifndef CAIRN_DEVICES_VIRTIO_VIRTIO_BLK_INTERNAL_H
#define CAIRN_DEVICES_VIRTIO_VIRTIO_BLK_INTERNAL_H

#include "base/loop.h"
#include "block/block.h"
#include "devices/virtio/disk_counters.h"
#include "devices/virtio/virtio_blk.h"
#include "devices/virtio/virtio_pci.h"

struct loop_timer;
struct state_reader;
struct state_writer;
struct virtio_blk;

/* A request of the guest, from the ring to the block layer and back. Allocated on demand and kept
 * for reuse.
 *
 * Drivers of virtio-win before 2022 send up to 515 descriptors in a request, whatever seg_max is. A request of more
 * than VIRTQUEUE_SEGS_MAX has an array of 16 KiB until it ends: 4 MiB for a ring of 256 requests, 128 MiB for 8 rings
 * of 1024. This memory is part of the VM process's, which its control group limits. */
struct blk_request {
	struct virtio_blk *blk;
	struct blk_request *next; /* next in `free`, `held` or `waiting` */
	unsigned queue;
	uint32_t type;
	uint64_t start_ns;
	uint8_t *status;      /* address in guest RAM */
	struct iovec last_in; /* the segment that ended with the status byte */
	struct block_req req;
	struct virtqueue_elem elem;
};

/* A request that was held back when the state was saved. */
struct blk_loaded {
	uint16_t queue, head;
};

struct virtio_blk {
	struct virtio_dev v;
	struct virtio_pci pci;
	struct block *block;
	struct block_listener listener;
	struct block_info info;
	enum virtio_blk_errors errors;
	uint32_t logical_bytes, physical_bytes;
	bool no_discard;
	enum block_zeroes detect_zeroes;
	char serial[VIRTIO_BLK_SERIAL_BYTES]; /* padded with NULs */
	struct disk_counters stats;

	/* protected by v.lock: */
	bool write_through; /* complete writes only when they are on stable storage */
	bool starved;	    /* requests wait in a ring for a free blk_request */
	unsigned in_flight;
	pthread_cond_t idle; /* signalled when in_flight drops to 0 */
	unsigned nrequests, requests_max;
	struct blk_request *free;
	bool held_wait;		  /* take nothing from the rings until resume */
	struct blk_request *held; /* requests whose error stopped the VM; oldest first */
	bool no_room;		  /* a request in `loaded` waits for room to save the memory that it will write */
	struct blk_loaded *loaded; /* newest first */
	unsigned nloaded;
	struct disk_throttle throttle;
	bool resting; /* a limit of all requests is reached: take nothing from the rings until the timer `rest` */
	/* [DISK_LIMIT_READ] and [_WRITE]: requests that such a limit holds back, oldest first */
	struct blk_request *waiting[DISK_LIMITS], **waiting_end[DISK_LIMITS];
	unsigned turn; /* the ring that is served first after the rest */
	struct loop_poller poller;
	bool polled; /* constant */
	struct loop_timer *rest;
};

/* Serve a ring. v->lock is held. */
void virtio_blk_run(struct virtio_dev *v, unsigned qi);

/* virtio_blk_poll.c */
/* Let the loop poll the rings, if it polls for no other device. */
void virtio_blk_poll_begin(struct virtio_blk *b, uint32_t max_ns);
/* Returns whether the device takes requests from the rings. */
bool virtio_blk_takes(const struct virtio_blk *b);

/* virtio_blk_state.c */
/* Save held and waiting requests by their descriptor index. All other requests that the guest waits for are still in
 * the ring. */
void virtio_blk_save(struct virtio_dev *v, struct state_writer *w);
/* Returns 0; -EINVAL with a sentence. */
int virtio_blk_load(struct virtio_blk *b, struct state_reader *r, struct err *e);

#endif
