#include "vmm/kvm/host_files.h"
#include "base/cleanup.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

static int file_open(const char *path, int flags)
{
	int fd = open(path, flags | O_CLOEXEC);

	return fd < 0 ? -errno : fd;
}

/* Only one of the two modules is loaded, if any. */
static bool nested_paging_is_off(void)
{
	static const char *const paths[] = { "/sys/module/kvm_intel/parameters/ept", "/sys/module/kvm_amd/parameters/npt" };
	char c = 'Y';

	for (unsigned i = 0; i < 2; i++) {
		CLEANUP_CLOSE int fd = open(paths[i], O_RDONLY | O_CLOEXEC);

		if (fd >= 0 && read(fd, &c, 1) < 1)
			c = 'Y';
	}
	return c == 'N' || c == '0';
}

void host_files_open(struct host_files *h)
{
	*h = (struct host_files){ .kvm_fd = file_open("/dev/kvm", O_RDWR), .nested_paging_off = nested_paging_is_off(),
		.self_fd = file_open("/proc/self", O_PATH | O_DIRECTORY), .pagemap_fd = -1 };
	uffd_open(&h->uffd);
}

void host_files_open_pagemap(struct host_files *h)
{
	h->pagemap_fd = h->self_fd < 0 ? h->self_fd : openat(h->self_fd, "pagemap", O_RDONLY | O_CLOEXEC);
	if (h->self_fd < 0)
		return;
	h->pagemap_fd = h->pagemap_fd < 0 ? -errno : h->pagemap_fd;
	close(h->self_fd);
	h->self_fd = -1;
}

void host_files_done(struct host_files *h)
{
	if (h->kvm_fd >= 0)
		close(h->kvm_fd);
	if (h->pagemap_fd >= 0)
		close(h->pagemap_fd);
	if (h->vm_fd)
		close(h->vm_fd);
	h->kvm_fd = h->pagemap_fd = -1;
	h->vm_fd = 0;
	uffd_close(&h->uffd);
}
