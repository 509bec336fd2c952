/* clone_disk: a disk of a VM that is off becomes another's: an empty overlay above it, its content, or its
 * image as it is. In a process for the images of the VM that is copied, which has them locked meanwhile; several
 * at a time, a thread each.
 *
 * Threading: all of this on the home loop's thread, where done() and progress() are called, too. */
#ifndef CAIRN_VMM_SNAPSHOT_CLONE_DISK_H
#define CAIRN_VMM_SNAPSHOT_CLONE_DISK_H

#include "vmm/vm_msg.h"

#include <stdbool.h>

struct clone_disks;
struct err;
struct loop;

struct clone_disks_ops {
	/* Of the one that was begun with that seq. */
	void (*done)(void *opaque, uint64_t seq, int r, const struct err *e);
	/* In bytes, now and then; key: as in the request. */
	void (*progress)(void *opaque, uint32_t key, uint64_t done, uint64_t total);
};

/* copiers: how many at a time may have to be read through the block layer; before the sandbox is sealed. */
int clone_disks_new(struct loop *home, unsigned copiers, const struct clone_disks_ops *ops, void *opaque,
	struct clone_disks **ret_c, struct err *e);
/* fds: taken; the empty file, then of each layer its file and, where it has one, its data file.
 * Returns 0; -errno, and done() is not called. */
int clone_disk_begin(struct clone_disks *c, const struct vm_clone_disk *what, const int *fds, unsigned nfds,
	uint64_t seq, struct err *e);
/* True: something was under way, and will end with -ECANCELED. */
bool clone_disks_cancel(struct clone_disks *c);
/* Cancels and waits. NULL allowed. */
void clone_disks_free(struct clone_disks *c);

#endif
