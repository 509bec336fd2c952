/* fork_disks: the images of a VM's writable disks, copied for its clones. Where the file system can share
 * blocks between files a copy costs nothing; else all that is no hole is copied.
 *
 * On the worker. The first copy of each is made while the VM stands still, the others from that. */
#ifndef CAIRN_VMM_FORK_DISKS_H
#define CAIRN_VMM_FORK_DISKS_H

#include "base/channel.h"

#include <stdbool.h>
#include <stdint.h>

struct err;
struct machine;

struct fork_disks {
	int fds[CHANNEL_FDS_MAX]; /* owned: of each disk the image, then its copies */
	unsigned nfds, copies;
	/* After each piece; non-zero: stop with -ECANCELED. */
	int (*step)(void *opaque, uint64_t done, uint64_t total);
	void *opaque;
};

/* Does what came along fit the machine's disks? Main thread. */
int fork_disks_check(const struct fork_disks *d, const struct machine *m, struct err *e);
/* Standing still, and everything that the guest has written is in the images. */
int fork_disks_copy(struct fork_disks *d, struct machine *m, struct err *e);
/* The guest may run. On stable storage afterwards. */
int fork_disks_spread(struct fork_disks *d, struct err *e);
void fork_disks_done(struct fork_disks *d);

#endif
