/* fork_disks: the images of a VM's writable disks, copied for its clones; without its snapshots, which are its own.
 *
 * The first copy of each is made in one of three ways, the others from that:
 *   share   the file system shares blocks between files: in the pause, and it costs nothing
 *   freeze  qcow2 elsewhere: in the pause the content is frozen as for a snapshot, one that nobody sees and that
 *           goes again; it is copied when the guest runs. A crash leaves what vmsnap_recover() takes away
 *   stand   raw, and qcow2 whose refcounts have no room for that: copied in the pause
 *
 * On the worker, but for the check. */
#ifndef CAIRN_VMM_SNAPSHOT_FORK_DISKS_H
#define CAIRN_VMM_SNAPSHOT_FORK_DISKS_H

#include "base/channel.h"
#include "block/block_snapshot.h"
#include "vmm/vm_msg.h"

#include <stdbool.h>
#include <stdint.h>

struct err;
struct machine;
struct machine_disk;
struct vm;

/* What is told of a work that has several parts. */
struct fork_progress {
	struct vm *vm;
	uint64_t base, part, total; /* bytes: of parts before this one, of this one, of all */
};
/* The part before is over, whatever was told of it. */
void fork_progress_next(struct fork_progress *p, uint64_t part);
/* opaque: a struct fork_progress; done: of this part. Non-zero: it is cancelled. */
int fork_progress_step(void *opaque, uint64_t done, uint64_t total);

enum fork_disk_way { FORK_DISK_SHARE, FORK_DISK_FREEZE, FORK_DISK_STAND };

struct fork_disk {
	struct machine_disk *disk;
	int image, *copies; /* in fds below */
	bool is_qcow2;
	enum fork_disk_way way;
	uint64_t bytes; /* that a copy takes to make, about */
	struct block_snapshot *frozen;
	char id[BLOCK_SNAPSHOT_ID_MAX + 1]; /* of the snapshot that is copied; empty: none */
};

struct fork_disks {
	int fds[CHANNEL_FDS_MAX]; /* owned: of each disk the image, then its copies */
	unsigned nfds, copies;
	struct fork_disk list[VM_DISKS_MAX];
	unsigned n;
	struct fork_progress *progress;
};

/* Does what came along fit the machine's disks? Main thread. */
int fork_disks_check(struct fork_disks *d, struct machine *m, struct err *e);
/* The guest runs: which way each goes, and its part of the work into d->progress. */
int fork_disks_prepare(struct fork_disks *d, struct err *e);
/* The guest stands still. */
int fork_disks_freeze(struct fork_disks *d, struct err *e);
/* It runs again: copies are whole and on stable storage afterwards. After fork_disks_freeze(), whatever it
 * returned (r: that), and what came between. */
int fork_disks_finish(struct fork_disks *d, struct machine *m, int r, struct err *e);
/* In place of these three: of existing snapshots, by their ids in list[]. The guest may run all the time. */
int fork_disks_of_snapshot(struct fork_disks *d, struct err *e);
void fork_disks_done(struct fork_disks *d);

#endif
