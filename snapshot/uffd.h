/* uffd: a userfaultfd, opened and agreed upon before privileges are dropped. One serves a
 * VM's memory for its life; the tracker registers with it. */
#ifndef CAIRN_SNAPSHOT_UFFD_H
#define CAIRN_SNAPSHOT_UFFD_H

#include <stdbool.h>

struct uffd {
	int fd;		 /* -1: none */
	bool can_protect; /* write protection of shared memory, and the thread's id in faults */
};

/* Returns 0; -EPERM when this user may not (vm.unprivileged_userfaultfd), -ENOSYS, -errno:
 * then *u says "none", and what wants it does without. */
int uffd_open(struct uffd *u);
void uffd_close(struct uffd *u);

#endif
