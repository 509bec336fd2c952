/* clone_disk: makes a clone's disk from a disk of a VM that is off: an empty overlay on it, a copy
 * of its content, or a copy of its image file. Runs in the process that works on the source VM's
 * images and holds their locks. Several disks at a time, each with a thread.
 *
 * Threading: call all functions on the home loop's thread; done() and progress() run there, too. */
#ifndef CAIRN_VMM_SNAPSHOT_CLONE_DISK_H
#define CAIRN_VMM_SNAPSHOT_CLONE_DISK_H

#include "vmm/vm_msg.h"

#include <stdbool.h>

struct clone_disks;
struct err;
struct kvm;
struct loop;

struct clone_disks_ops {
	/* Called once for the request that was begun with seq, unless clone_disks_free() is called before. */
	void (*done)(void *opaque, uint64_t seq, int r, const struct err *e);
	/* Reports progress in bytes from time to time. key: as in the request. */
	void (*progress)(void *opaque, uint32_t key, uint64_t done, uint64_t total);
};

/* Create the set. Call before the sandbox is sealed.
 * kvm: borrowed; says whether threads install filters (vmm/kvm/thread_filter.h).
 * copiers: how many disks may be read through the block layer at a time (VM_CLONE_CONTENT).
 * Returns 0 or -errno. */
int clone_disks_new(struct loop *home, const struct kvm *kvm, unsigned copiers, const struct clone_disks_ops *ops, void *opaque,
	struct clone_disks **ret_c, struct err *e);
/* Begin to make a disk.
 * fds: taken; the empty file, then for each layer its file and, if it has one, its data file.
 * Returns 0; -errno, and done() is not called. */
int clone_disk_begin(struct clone_disks *c, const struct vm_clone_disk *what, const int *fds, unsigned nfds,
	uint64_t seq, struct err *e);
/* Cancel all requests in progress; they end with -ECANCELED. Returns whether there were any. */
bool clone_disks_cancel(struct clone_disks *c);
/* Cancel all requests, wait for them and free the set. NULL allowed. */
void clone_disks_free(struct clone_disks *c);

#endif
