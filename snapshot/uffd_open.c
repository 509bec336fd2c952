#include "snapshot/uffd_open.h"
#include "base/cleanup.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#define FLAGS (O_CLOEXEC | O_NONBLOCK)
#define SYSCTL "/proc/sys/vm/unprivileged_userfaultfd"

#ifndef UFFD_FEATURE_WP_HUGETLBFS_SHMEM
#define UFFD_FEATURE_WP_HUGETLBFS_SHMEM (1 << 12) /* since Linux 5.19 */
#endif
#ifndef USERFAULTFD_IOC_NEW
#define USERFAULTFD_IOC_NEW _IO(0xAA, 0x00) /* since Linux 6.1 */
#endif

/* Enable the userfaultfd with these features. A failure leaves the fd unchanged, so the caller may try fewer. */
static int uffd_handshake(int fd, unsigned long long features)
{
	struct uffdio_api api = { .api = UFFD_API, .features = features };

	return ioctl(fd, UFFDIO_API, &api) < 0 ? -errno : 0;
}

/* Returns an owned fd or -errno. */
static int open_by_device(const char *path)
{
	CLEANUP_CLOSE int device = open(path, O_RDWR | O_CLOEXEC);
	int fd = device < 0 ? -1 : ioctl(device, USERFAULTFD_IOC_NEW, FLAGS);

	return fd < 0 ? -errno : fd;
}

/* Open a userfaultfd by the system call, without UFFD_USER_MODE_ONLY. Every user may have an fd with that flag. But
 * KVM accesses guest memory in kernel mode, and with such an fd these accesses fail instead of causing a fault
 * message.
 * Returns an owned fd or -errno. */
static int open_by_call(void)
{
	long fd = syscall(SYS_userfaultfd, FLAGS);

	return fd < 0 ? -errno : (int)fd;
}

/* Returns true if vm.unprivileged_userfaultfd is 0. The system call may fail with EPERM for that reason, or
 * because of a container's seccomp filter. */
static bool sysctl_is_zero(void)
{
	CLEANUP_CLOSE int fd = open(SYSCTL, O_RDONLY | O_CLOEXEC);
	char c = 0;

	return fd >= 0 && read(fd, &c, 1) == 1 && c == '0';
}

static int uffd_get(const char *path, struct uffd *u)
{
	int fd = open_by_device(path);

	u->source = UFFD_FROM_DEVICE;
	if (fd >= 0)
		return fd;
	u->device_error = fd;
	fd = open_by_call();
	u->source = fd < 0 ? UFFD_FROM_NOTHING : UFFD_FROM_SYSTEM_CALL;
	u->call_error = fd < 0 ? fd : 0;
	u->sysctl_denies = fd == -EPERM && sysctl_is_zero();
	return fd;
}

int uffd_open_device(const char *path, struct uffd *u)
{
	int fd;

	*u = (struct uffd){ .fd = -1 };
	fd = uffd_get(path, u);
	if (fd < 0)
		return fd;
	u->can_protect = !uffd_handshake(fd,
		UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_THREAD_ID | UFFD_FEATURE_WP_HUGETLBFS_SHMEM);
	if (!u->can_protect) {
		int r = uffd_handshake(fd, 0);

		if (r < 0) {
			close(fd);
			u->source = UFFD_FROM_NOTHING;
			u->device_error = u->device_error ? u->device_error : r;
			u->call_error = r;
			return r;
		}
	}
	u->fd = fd;
	return 0;
}

int uffd_open(struct uffd *u)
{
	const char *how = getenv("CAIRN_USERFAULTFD");

	if (!how || strcmp(how, "refuse"))
		return uffd_open_device(UFFD_DEVICE, u);
	*u = (struct uffd){ .fd = -1, .device_error = -EPERM, .call_error = -EPERM, .refused = true };
	return -EPERM;
}

void uffd_close(struct uffd *u)
{
	if (u->fd >= 0)
		close(u->fd);
	u->fd = -1;
}

void uffd_reason(const struct uffd *u, char buf[UFFD_REASON_MAX])
{
	buf[0] = 0;
	if (u->can_protect)
		return;
	if (u->source != UFFD_FROM_NOTHING)
		snprintf(buf, UFFD_REASON_MAX, "the kernel cannot write-protect shared memory (Linux 5.19 can)");
	else if (u->refused)
		snprintf(buf, UFFD_REASON_MAX, "CAIRN_USERFAULTFD is refuse");
	else if (u->sysctl_denies)
		snprintf(buf, UFFD_REASON_MAX, "%s: %s; vm.unprivileged_userfaultfd is 0", UFFD_DEVICE,
			strerror(-u->device_error));
	else
		snprintf(buf, UFFD_REASON_MAX, "%s: %s; system call userfaultfd: %s", UFFD_DEVICE,
			strerror(-u->device_error), strerror(-u->call_error));
}

const char *uffd_source_name(enum uffd_source source)
{
	static const char *const names[] = { "nothing", UFFD_DEVICE, "the system call" };

	return names[source];
}
