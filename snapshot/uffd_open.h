/* uffd: a userfaultfd that is opened before privileges are dropped. One instance serves a VM's
 * memory for the process's life; the tracker registers memory with it. */
#ifndef CAIRN_SNAPSHOT_UFFD_OPEN_H
#define CAIRN_SNAPSHOT_UFFD_OPEN_H

#include <stdbool.h>

struct uffd {
	int fd;		 /* -1: none */
	bool can_protect; /* supports write protection of shared memory, and the thread id in faults */
};

/* Open a userfaultfd.
 * Returns 0; -EPERM if this user may not (vm.unprivileged_userfaultfd); -ENOSYS; -errno. On error,
 * u->fd is -1 and the users of *u do without. */
int uffd_open(struct uffd *u);
void uffd_close(struct uffd *u);

#endif
