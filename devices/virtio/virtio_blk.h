/* virtio_blk: a disk (virtio 1.2, section 5.2) over struct block.
 *
 * Threading: the disk's loop serves the rings. The struct block belongs to that loop, too: it submits requests,
 * receives their results and sends interrupts. Call virtio_blk_new() before that loop's thread starts and the
 * device's free() after it has ended. reset() and pause() wait for the loop to complete all requests in flight, so
 * call them from another thread. DEV_EVENT_IO_ERROR is sent from the loop's thread with the device locked, so its
 * receiver must not call back.
 *
 * A write error from a corrupt image keeps the request and stops the VM under every policy: neither guest nor user
 * may take the write for completed.
 *
 * A driver that does not accept VIRTIO_BLK_F_FLUSH, or turns the write cache off, gets writes that
 * complete only on stable storage, at the cost of speed.
 *
 * A request above a limit of all requests waits in its ring. A request above a limit of reads or of writes waits
 * outside the ring, so that requests of the other kind pass. */
#ifndef CAIRN_DEVICES_VIRTIO_VIRTIO_BLK_H
#define CAIRN_DEVICES_VIRTIO_VIRTIO_BLK_H

#include "block/zeroes.h"
#include "devices/virtio/disk_throttle.h"

#include <stdbool.h>
#include <stdint.h>

struct block;
struct dev_host;
struct device;
struct err;
struct loop;
struct pci_host;

#define VIRTIO_BLK_QUEUES_MAX 8
#define VIRTIO_BLK_QUEUE_SIZE_MAX 1024
#define VIRTIO_BLK_SERIAL_BYTES 20
#define VIRTIO_BLK_POLL_OFF UINT32_MAX

/* Values as enum vm_error_policy. */
enum virtio_blk_errors {
	VIRTIO_BLK_ERRORS_REPORT = 0, /* report the error to the guest */
	VIRTIO_BLK_ERRORS_STOP = 1,   /* keep the request, ask for a pause; redo on resume */
	VIRTIO_BLK_ERRORS_IGNORE = 2, /* report success to the guest */
};

struct virtio_blk_config {
	const char *name;    /* "vda"; copied */
	struct block *block; /* borrowed */
	struct loop *loop;   /* the disk's loop; borrowed */
	const char *serial;  /* NULL or at most 20 characters; copied */
	unsigned queues;     /* 1..8; 0: 1 */
	unsigned queue_size; /* power of two, 4..1024; 0: 256 */
	enum virtio_blk_errors errors;
	int slot;	     /* PCI slot, 0 or -1: first free */
	struct virtio_blk_limits limits;
	uint32_t logical_bytes, physical_bytes; /* blocks that the guest sees; 0: of the image; 4096 */
	bool no_discard; /* do not offer discards */
	enum block_zeroes detect_zeroes;
	uint32_t poll_max_ns; /* longest poll of the rings without work; 0: the usual length; VIRTIO_BLK_POLL_OFF: none */
};

struct virtio_blk_stats {
	uint64_t rd_reqs, rd_bytes, rd_ns;
	uint64_t wr_reqs, wr_bytes, wr_ns;
	uint64_t fl_reqs, fl_ns;
	uint64_t errors;
	int failed; /* errno of the error that stopped the VM; 0: none */
};

/* Create a disk. Free it through its ops. Returns 0; -EINVAL; -ENOSPC; -errno. */
int virtio_blk_new(struct dev_host *h, struct pci_host *p, const struct virtio_blk_config *c,
	struct device **ret_dev, struct err *e);
/* Change the limits. Any thread. */
void virtio_blk_set_limits(struct device *d, const struct virtio_blk_limits *l);
/* Switch to another disk of the same size, which gets all later requests. No request is in flight, and the loop's
 * thread does not run. block: borrowed. */
void virtio_blk_set_block(struct device *d, struct block *block);
/* Set the disk's size, and notify the guest. Any thread. */
void virtio_blk_resized(struct device *d, uint64_t size_bytes);
/* Read the statistics. Any thread. Each value is exact, but the values are read one after the other. */
void virtio_blk_stats(struct device *d, struct virtio_blk_stats *ret_s);
/* Add the counts of the VM's earlier process. Any thread. */
void virtio_blk_carry(struct device *d, const struct virtio_blk_stats *before);
/* Write the counters to an array of DISK_FIGURES (base/figures.h), which must stay valid until the device ends or
 * this is called again. NULL: no longer. Any thread. */
void virtio_blk_show(struct device *d, _Atomic uint64_t *shown);

#endif
