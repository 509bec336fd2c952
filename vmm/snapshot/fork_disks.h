/* fork_disks: makes the disks of a VM's clones from the images of its writable disks, without the VM's snapshots.
 *
 * If the daemon asks for a pin and the image can have one, the disk is pinned: its content is frozen in the pause by a
 * hidden snapshot, a pin (block/qcow2/pin.h), and each clone gets an overlay that reads it. Nothing is
 * copied. The daemon deletes the pin by vm_pins_delete() when no overlay reads it any more. If the daemon names the pin
 * of an earlier fork and the disk has not changed since, the overlays read that pin, and none is made.
 *
 * Otherwise the disk is copied. The first copy is made in one of three ways, the further copies from the first:
 *   share   the file system shares blocks between files: clone the file in the pause, at no cost
 *   freeze  qcow2 on other file systems, and each flat copy (fork_disk.flat): freeze the content in the pause by an
 *           internal snapshot that users do not see; copy the snapshot while the guest runs, then delete it. After a
 *           crash, vmsnap_recover() deletes the snapshot
 *   stand   on other file systems, raw images, and qcow2 images that cannot hold a snapshot (narrow refcounts, an
 *           external data file): copy in the pause
 *
 * Threading: the worker's thread, except fork_disks_check() and fork_disks_done(), which run on the main thread. */
#ifndef CAIRN_VMM_SNAPSHOT_FORK_DISKS_H
#define CAIRN_VMM_SNAPSHOT_FORK_DISKS_H

#include "base/channel.h"
#include "block/block_snapshot.h"
#include "block/qcow2/pin.h"
#include "vmm/machine/disk_call.h"
#include "vmm/vm_msg.h"

#include <stdbool.h>
#include <stdint.h>

struct err;
struct machine;
struct machine_disk;
struct vm;

/* Progress of work that has several parts. */
struct fork_progress {
	struct vm *vm;
	uint64_t base, part, total; /* bytes: of the parts before, of the current part, of all parts */
};
/* Begin the next part, of `part` bytes. Counts the previous part as complete. */
void fork_progress_next(struct fork_progress *p, uint64_t part);
/* Report progress of the current part.
 * opaque: a struct fork_progress; done: bytes of this part.
 * Returns 0; non-zero when the work was cancelled. */
int fork_progress_step(void *opaque, uint64_t done, uint64_t total);

enum fork_disk_way { FORK_DISK_SHARE, FORK_DISK_FREEZE, FORK_DISK_STAND, FORK_DISK_PIN };

struct fork_disk {
	struct machine_disk *disk;
	int image, *copies; /* fds of the source image and of the copies; copies points into fork_disks.fds */
	bool is_qcow2;
	enum fork_disk_way way;
	uint64_t bytes; /* approximate number of bytes to write for one copy */
	struct block_snapshot *frozen;
	bool warming; /* between the start and the end of the write of warm tables */
	struct disk_warm warm;
	bool committing; /* a pin, between fork_disks_commit() and the end of its commit */
	struct disk_commit commit;
	struct block_snapshot_info info;
	char id[BLOCK_SNAPSHOT_ID_MAX + 1]; /* id of the snapshot to copy or of the pin; empty: none */
	bool flat; /* copy the content of the backing files, too (disk_flatten.h) */
	const struct vm_fork_pin *pin; /* the pin that the daemon asks for; its path is empty: copy the disk */
	const uint8_t *earlier; /* id of the pin that may be used instead; NULL: none */
	bool shares; /* the overlays read that pin: `shared` */
	struct qcow2_pin shared;
};

struct fork_disks {
	int fds[CHANNEL_FDS_MAX]; /* owned: for each disk the image, then the copies */
	unsigned nfds, copies;
	int state_fd; /* the clones' state file, which gets tables of the pinned disks (block/qcow2/warm.h); borrowed */
	struct vm_fork_pin pins[VM_DISKS_MAX]; /* the pins that the daemon asks for, one for each writable disk */
	uint8_t earlier[VM_DISKS_MAX][VM_PIN_ID_BYTES]; /* vm_fork.shared */
	uint32_t flatten; /* as in struct vm_fork */
	struct fork_disk list[VM_DISKS_MAX];
	unsigned n;
	struct fork_progress *progress;
};

/* Check that the fds belong to the machine's disks, and fill in the list. Returns 0 or -errno. */
int fork_disks_check(struct fork_disks *d, struct machine *m, struct err *e);
/* Choose how each disk is copied (enum fork_disk_way), open the snapshots that freeze disks, and add each disk's part
 * to d->progress. The guest runs. Returns 0 or -errno. */
int fork_disks_prepare(struct fork_disks *d, struct err *e);
/* Freeze or copy each disk's content. The guest is paused. Returns 0 or -errno. */
int fork_disks_freeze(struct fork_disks *d, struct err *e);
/* Start to commit the pins, so that the disks' threads write while the caller copies memory. The guest may run
 * again. */
void fork_disks_commit(struct fork_disks *d);
/* Make all copies and overlays, so that clones can start; their processes wait until the pins are in the images. The
 * guest may run again. Returns 0 or -errno. */
int fork_disks_make(struct fork_disks *d, struct machine *m, struct err *e);
/* Return whether each disk for which the daemon asks for a pin has one. */
bool fork_disks_are_as_asked(const struct fork_disks *d);
/* Flush the copies and overlays to stable storage, and wait until the pins are there, too. The guest may run again.
 * Returns 0 or -errno. */
int fork_disks_sync(struct fork_disks *d, struct err *e);
/* Return whether fork_disks_finish() has nothing to wait for: all overlays read an earlier pin. */
bool fork_disks_are_finished(const struct fork_disks *d);
/* Wait until the commits of the pins have cleared up, and delete the hidden snapshots; after an error, delete the pins,
 * too, unless clones already use them. The guest may run again. Call in every case, also after
 * an error of an earlier function.
 * used: the clones may run. r: the result so far. Returns r, or -errno. */
int fork_disks_finish(struct fork_disks *d, bool used, int r, struct err *e);
/* Fill in how each disk was made. made: enum vm_disk_made, VM_DISKS_MAX of them. */
void fork_disks_describe(const struct fork_disks *d, uint8_t *made);
/* Make the disks from existing snapshots, whose ids are in list[]: pin the snapshots, or copy them. Call these two
 * functions instead of fork_disks_prepare(), _freeze(), _commit(), _make() and _finish(). The guest may run. Each
 * returns 0 or -errno. */
int fork_disks_of_snapshot_prepare(struct fork_disks *d, struct err *e);
int fork_disks_of_snapshot(struct fork_disks *d, struct err *e);
void fork_disks_done(struct fork_disks *d);

#endif
