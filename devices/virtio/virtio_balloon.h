/* virtio_balloon: takes memory from the guest's use and gives it back to the host (virtio 1.2, section 5.5): inflate
 * and deflate, statistics, free page reporting. Runs on h->loop.
 *
 * Queues: inflate, deflate, then those of the features that the driver has accepted, in this order: statistics, (free
 * page hinting, which is not offered), reporting. The specification counts hinting's queue, Linux and QEMU do not, so
 * both queues that may be meant report free pages.
 *
 * A change of the balloon's size is a DEV_EVENT_BALLOON, at most one a second.
 * Pages that the guest returns read as zeros or as old content of the same guest, until it writes to them. The device
 * does not offer PAGE_POISON, so a guest that relies on the content of free pages reports none. */
#ifndef CAIRN_DEVICES_VIRTIO_VIRTIO_BALLOON_H
#define CAIRN_DEVICES_VIRTIO_VIRTIO_BALLOON_H

#include <stdbool.h>
#include <stdint.h>

struct dev_host;
struct device;
struct err;
struct pci_host;

/* Tags of the statistics (virtio 1.2, section 5.5.6.4). */
enum balloon_stat {
	BALLOON_SWAP_IN,
	BALLOON_SWAP_OUT,
	BALLOON_MAJOR_FAULTS,
	BALLOON_MINOR_FAULTS,
	BALLOON_FREE,
	BALLOON_TOTAL,
	BALLOON_AVAILABLE, /* memory that programs may take without swapping */
	BALLOON_CACHES,
	BALLOON_HTLB_ALLOCS,
	BALLOON_HTLB_FAILURES,
	BALLOON_STATS,
};

struct virtio_balloon_config {
	const char *name;      /* "balloon0"; copied */
	int slot;	       /* 0 or -1: first free */
	uint64_t ram_bytes;    /* all memory of the VM */
	uint64_t target_bytes; /* memory that the guest is to have */
	/* Called on the loop, with the device's lock, when the driver has sent statistics. NULL: not wanted. */
	void (*told)(void *opaque);
	void *opaque;
};

struct virtio_balloon_info {
	bool driver_ok;	       /* a driver serves the balloon */
	uint64_t target_bytes; /* as virtio_balloon_set_target() has set it */
	uint64_t guest_bytes;  /* memory that the guest has, as its driver says */
	uint64_t reported_bytes; /* given back by free page reporting so far */
	uint32_t period_s;     /* of the statistics; 0: only on request */
	uint32_t known;	       /* bit n: stats[n] is known */
	uint64_t stats_s;      /* realtime of the statistics, in seconds; 0: none yet */
	uint64_t stats[BALLOON_STATS];
};

/* Create the device. Free it through its ops. Returns 0 or -errno. */
int virtio_balloon_new(struct dev_host *h, struct pci_host *p, const struct virtio_balloon_config *c,
	struct device **ret_dev, struct err *e);
/* Set the memory that the guest is to have; rounded up to pages, and at most config.ram_bytes. On the loop. */
void virtio_balloon_set_target(struct device *d, uint64_t bytes);
/* Ask for statistics every so many seconds; 0: no longer. On the loop. */
void virtio_balloon_set_period(struct device *d, uint32_t seconds);
/* Ask the driver for new statistics; told() follows. On the loop. Returns whether the driver can answer. */
bool virtio_balloon_ask(struct device *d);
/* Any thread. */
void virtio_balloon_info(struct device *d, struct virtio_balloon_info *ret);
/* Write the figures to an array of BALLOON_FIGURES (base/figures.h), which must stay valid until the device ends or
 * this is called again. NULL: no longer. Any thread. */
void virtio_balloon_show(struct device *d, _Atomic uint64_t *shown);

#endif
