#include "snapshot/uffd_open.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef UFFD_FEATURE_WP_HUGETLBFS_SHMEM
#define UFFD_FEATURE_WP_HUGETLBFS_SHMEM (1 << 12) /* since Linux 5.19 */
#endif

/* A failed handshake leaves the fd unchanged. */
static int uffd_handshake(int fd, unsigned long long features)
{
	struct uffdio_api api = { .api = UFFD_API, .features = features };

	return ioctl(fd, UFFDIO_API, &api) < 0 ? -errno : 0;
}

int uffd_open(struct uffd *u)
{
	long fd = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);

	*u = (struct uffd){ .fd = -1 };
	if (fd < 0)
		return -errno;
	u->can_protect = !uffd_handshake((int)fd,
		UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_THREAD_ID | UFFD_FEATURE_WP_HUGETLBFS_SHMEM);
	if (!u->can_protect && uffd_handshake((int)fd, 0) < 0) {
		int r = -errno;

		close((int)fd);
		return r;
	}
	u->fd = (int)fd;
	return 0;
}

void uffd_close(struct uffd *u)
{
	if (u->fd >= 0)
		close(u->fd);
	u->fd = -1;
}
