/* virtio_scsi: a SCSI controller (virtio 1.2, section 5.6) with a target for each disk or CD drive. Each target has one
 * logical unit, 0. Targets come and go while the guest runs, so their numbers need not be in a row.
 *
 * Threading: the controller's loop serves the rings. A request continues on the loop of its disk, to which the struct
 * block belongs; if both loops are the same, it continues at once. Call virtio_scsi_new() before the loops' threads
 * start and the device's free() after they have ended. reset() and pause() wait for the requests in flight, so call
 * them from another thread. DEV_EVENT_IO_ERROR and DEV_EVENT_TRAY are sent with the device locked: from a loop's
 * thread, DEV_EVENT_TRAY also from the caller of virtio_scsi_set_medium().
 *
 * Errors of the block layer, limits and write errors of a corrupt image: as virtio_blk.h. */
#ifndef CAIRN_DEVICES_VIRTIO_VIRTIO_SCSI_H
#define CAIRN_DEVICES_VIRTIO_VIRTIO_SCSI_H

#include "block/zeroes.h"
#include "devices/virtio/virtio_blk.h"

#include <stdbool.h>
#include <stdint.h>

struct block;
struct dev_host;
struct device;
struct err;
struct loop;
struct pci_host;
struct state_reader;

#define VIRTIO_SCSI_TARGETS_MAX 24
#define VIRTIO_SCSI_QUEUES_MAX 8

struct virtio_scsi_disk {
	const char *id;	     /* "sda"; copied */
	struct block *block; /* borrowed */
	struct loop *loop;   /* the disk's loop; borrowed */
	const char *serial;  /* NULL or a text; copied */
	uint64_t wwn;	     /* 0: none */
	uint32_t logical_bytes, physical_bytes; /* 0: of the image; 4096 */
	bool cdrom;
	uint64_t medium; /* of a CD drive: a number that identifies the medium */
	bool no_discard;
	enum block_zeroes detect_zeroes;
	enum virtio_blk_errors errors;
	struct virtio_blk_limits limits;
	uint32_t poll_max_ns; /* as in struct virtio_blk_config; disk 0's value counts, because the controller is on that disk's loop */
};

struct virtio_scsi_config {
	const char *name; /* "scsi0"; copied */
	const struct virtio_scsi_disk *disks; /* disk n is target n; borrowed during the call */
	unsigned ndisks;     /* 1..VIRTIO_SCSI_TARGETS_MAX */
	unsigned queues;     /* request queues, 1..8; 0: 1 */
	unsigned queue_size; /* power of two, 4..1024; 0: 256 */
	int slot;	     /* PCI slot, 0 or -1: first free */
};

/* Create a controller. Free it through its ops. Returns 0; -EINVAL; -ENOSPC; -errno. */
int virtio_scsi_new(struct dev_host *h, struct pci_host *p, const struct virtio_scsi_config *c, struct device **ret_dev,
	struct err *e);
/* Return the controller's PCI slot. Any thread. */
unsigned virtio_scsi_slot(const struct device *d);
/* Change a disk's limits. Any thread. */
void virtio_scsi_set_limits(struct device *d, unsigned target, const struct virtio_blk_limits *l);
/* Read a disk's statistics. Any thread. */
void virtio_scsi_stats(struct device *d, unsigned target, struct virtio_blk_stats *ret_s);
/* As virtio_blk_carry() and virtio_blk_show(). */
void virtio_scsi_carry(struct device *d, unsigned target, const struct virtio_blk_stats *before);
void virtio_scsi_show(struct device *d, unsigned target, _Atomic uint64_t *shown);
/* Return whether the guest, or a user, has opened a CD drive's tray. Any thread. */
bool virtio_scsi_tray_is_open(struct device *d, unsigned target);
/* Return whether the guest keeps a CD drive's medium locked; if so, and ask is set, tell the guest that somebody wants
 * to have it ejected. Any thread. */
bool virtio_scsi_is_locked(struct device *d, unsigned target, bool ask);
/* Let no command of a target begin until virtio_scsi_set_medium(), virtio_scsi_release() or virtio_scsi_unplug(), and
 * wait for those in flight, at most 2 s. patient: wait as long as it takes. Call from no thread of a disk's loop.
 * Returns 0; -EBUSY: some are in flight, and the target is not held. */
int virtio_scsi_hold(struct device *d, unsigned target, bool patient);
void virtio_scsi_release(struct device *d, unsigned target);
/* Replace the medium of a CD drive that is held, close its tray and release the drive.
 * block: borrowed; a block device of 0 bytes is an empty drive. After success, the caller closes the block device that
 * the drive had; after an error, it closes `block`.
 * medium: as in virtio_scsi_disk.
 * Returns 0; -EINVAL. */
int virtio_scsi_set_medium(struct device *d, unsigned target, struct block *block, uint64_t medium, struct err *e);
/* Add a target, and tell the guest. The loop's thread does not run. Returns 0; -EINVAL; -ENOSPC; -errno. */
int virtio_scsi_plug(struct device *d, const struct virtio_scsi_disk *disk, unsigned *ret_target, struct err *e);
/* Remove a target that is held, and tell the guest: commands that wait, and later ones, get the response that there is
 * no such target. The loop's thread does not run. The controller may be left without targets, but cannot be saved
 * then. */
void virtio_scsi_unplug(struct device *d, unsigned target);
/* Return the target of a disk, which a load may have changed; -ENOENT. Any thread. */
int virtio_scsi_find(struct device *d, const char *id);
/* Compare the targets of a saved state with those of d. content: of the state's section, from its begin on.
 * ret_lacks: gets a bit for each target of d that the state lacks; version 1 cannot lack one.
 * ret_rest: what follows the targets; NULL allowed.
 * Returns 0; -EINVAL: it is malformed (ERR_CORRUPT), or has a disk that d lacks (ERR_INVALID). Any thread. */
int virtio_scsi_state_compare(struct device *d, const struct state_reader *content, uint16_t version, uint32_t *ret_lacks,
	struct state_reader *ret_rest, struct err *e);
/* As virtio_blk_set_block(), for a target that is no CD drive: its loop's thread does not run. */
void virtio_scsi_set_block(struct device *d, unsigned target, struct block *block);
/* Tell the guest that the size of a disk has changed. Any thread. */
void virtio_scsi_resized(struct device *d, unsigned target, uint64_t size_bytes);

#endif
