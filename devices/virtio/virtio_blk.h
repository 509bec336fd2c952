/* virtio_blk: a disk (virtio 1.2, section 5.2) over struct block.
 *
 * Threading: rings are served on the disk's loop, where the struct block lives: requests
 * go in and come back there, interrupts are sent from there. virtio_blk_new() is called
 * before that loop's thread starts, the device's free() after it has ended. reset() and
 * pause() wait for the loop to finish what is in flight, so call them from another thread;
 * a DEV_EVENT_IO_ERROR comes from the loop's thread with the device locked: do not call
 * back from it.
 *
 * What a corrupt image refuses is kept and stops the VM whatever the policy: neither the
 * guest nor the user may take a write for done that was not.
 *
 * A driver that does not take VIRTIO_BLK_F_FLUSH, or turns the write cache off, gets writes
 * that are on stable storage when they are done, and pays for it. */
#ifndef CAIRN_DEVICES_VIRTIO_VIRTIO_BLK_H
#define CAIRN_DEVICES_VIRTIO_VIRTIO_BLK_H

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

/* Values as enum vm_error_policy. */
enum virtio_blk_errors {
	VIRTIO_BLK_ERRORS_REPORT = 0, /* to the guest */
	VIRTIO_BLK_ERRORS_STOP = 1,   /* keep the request, ask for a pause; redo on resume */
	VIRTIO_BLK_ERRORS_IGNORE = 2, /* tell the guest that all is well */
};

struct virtio_blk_config {
	const char *name;    /* "vda"; copied */
	struct block *block; /* borrowed */
	struct loop *loop;   /* the disk's; borrowed */
	const char *serial;  /* NULL or at most 20 characters; copied */
	unsigned queues;     /* 1..8; 0: 1 */
	unsigned queue_size; /* power of two, 4..1024; 0: 256 */
	enum virtio_blk_errors errors;
	int slot;	     /* PCI slot, 0 or -1: first free */
};

struct virtio_blk_stats {
	uint64_t rd_reqs, rd_bytes, rd_ns;
	uint64_t wr_reqs, wr_bytes, wr_ns;
	uint64_t fl_reqs, fl_ns;
	uint64_t errors;
	int failed; /* errno of what has stopped the VM; 0: nothing */
};

/* Freed through the device's ops. Returns 0; -EINVAL; -ENOSPC; -errno. */
int virtio_blk_new(struct dev_host *h, struct pci_host *p, const struct virtio_blk_config *c,
	struct device **ret_dev, struct err *e);
/* Any thread; figures of one moment only each by itself. */
void virtio_blk_stats(struct device *d, struct virtio_blk_stats *ret_s);

#endif
