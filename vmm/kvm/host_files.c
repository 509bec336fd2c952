#include "vmm/kvm/host_files.h"
#include "base/cleanup.h"
#include "base/kvm_host.h"
#include "base/util.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mount.h>
#include <sys/utsname.h>
#include <unistd.h>

static int file_open(const char *path, int flags)
{
	int fd = open(path, flags | O_CLOEXEC);

	return fd < 0 ? -errno : fd;
}

/* Find out whether KVM's module has nested paging. Only one of the two modules is loaded, if any. */
static void nested_paging_read(struct host_files *h)
{
	static const char *const paths[] = { "/sys/module/kvm_intel/parameters/ept", "/sys/module/kvm_amd/parameters/npt" };
	char c = 0;

	for (unsigned i = 0; i < 2; i++) {
		CLEANUP_CLOSE int fd = open(paths[i], O_RDONLY | O_CLOEXEC);

		if (fd >= 0 && read(fd, &c, 1) < 1)
			c = 0;
	}
	h->nested_paging_on = c == 'Y' || c == '1';
	h->nested_paging_off = c == 'N' || c == '0';
}

void host_files_open(struct host_files *h)
{
	struct utsname name;

	*h = (struct host_files){ .kvm_fd = file_open("/dev/kvm", O_RDWR),
		.self_fd = file_open("/proc/self", O_PATH | O_DIRECTORY), .pagemap_fd = -1, .ram_fd = -1 };
	nested_paging_read(h);
	h->huge_pages_safe = !uname(&name) && kvm_host_huge_pages_safe(name.release);
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

void host_files_make_ram(struct host_files *h)
{
	static const char *const options[][2] = { { "huge", "advise" }, { "size", "0" /* no limit */ }, { "mode", "0700" } };
	CLEANUP_CLOSE int fs = h->nested_paging_on && h->huge_pages_safe ? fsopen("tmpfs", FSOPEN_CLOEXEC) : -1;
	CLEANUP_CLOSE int mount = -1;
	int r = fs < 0 ? -1 : 0;

	for (size_t i = 0; i < ARRAY_SIZE(options) && !r; i++)
		r = fsconfig(fs, FSCONFIG_SET_STRING, options[i][0], options[i][1], 0);
	if (!r)
		r = fsconfig(fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0);
	if (!r)
		r = mount = fsmount(fs, FSMOUNT_CLOEXEC, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC);
	h->ram_fd = r < 0 ? -1 : openat(mount, ".", O_TMPFILE | O_EXCL | O_RDWR | O_CLOEXEC, 0600);
}

void host_files_drop_vm(struct host_files *h)
{
	if (h->vcpu_fd > 0)
		close(h->vcpu_fd);
	if (h->vm_fd)
		close(h->vm_fd);
	h->vm_fd = h->vcpu_fd = 0;
	h->vm_has_filter = false;
}

void host_files_done(struct host_files *h)
{
	if (h->ram_fd >= 0)
		close(h->ram_fd);
	if (h->kvm_fd >= 0)
		close(h->kvm_fd);
	if (h->pagemap_fd >= 0)
		close(h->pagemap_fd);
	host_files_drop_vm(h);
	h->kvm_fd = h->pagemap_fd = h->ram_fd = -1;
	uffd_close(&h->uffd);
}
