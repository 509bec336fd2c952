/* uffd_open: opens a userfaultfd before privileges are dropped. One instance serves a VM's
 * memory for the process's life; the tracker registers memory with it. */
#ifndef CAIRN_SNAPSHOT_UFFD_OPEN_H
#define CAIRN_SNAPSHOT_UFFD_OPEN_H

#include <stdbool.h>

#define UFFD_DEVICE "/dev/userfaultfd"
#define UFFD_REASON_MAX 160

enum uffd_source { UFFD_FROM_NOTHING = 0, UFFD_FROM_DEVICE, UFFD_FROM_SYSTEM_CALL };

struct uffd {
	int fd;		 /* -1: none */
	bool can_protect; /* supports write protection of shared memory, and the thread id in faults */
	enum uffd_source source;
	int device_error, call_error; /* -errno of the device and of the system call; 0: succeeded or not tried */
	bool refused;		      /* CAIRN_USERFAULTFD=refuse, for tests */
	bool sysctl_denies;	      /* the system call failed because vm.unprivileged_userfaultfd is 0 */
};

/* Open a userfaultfd: by the device (Linux 6.1), whose file mode decides who may open it, or else by
 * the system call, which needs CAP_SYS_PTRACE if vm.unprivileged_userfaultfd is 0.
 * CAIRN_USERFAULTFD=refuse in the environment makes it fail, for tests.
 * Returns 0; -errno of the last attempt. On error, u->fd is -1, and KVM's dirty log tracks the VM's memory. */
int uffd_open(struct uffd *u);
/* The same with another path in place of UFFD_DEVICE. */
int uffd_open_device(const char *path, struct uffd *u);
void uffd_close(struct uffd *u);

/* Write why *u cannot write-protect memory, for example "/dev/userfaultfd: Permission denied;
 * vm.unprivileged_userfaultfd is 0". Empty if it can. Valid after uffd_close(), too. */
void uffd_reason(const struct uffd *u, char buf[UFFD_REASON_MAX]);
/* Returns "/dev/userfaultfd", "the system call" or "nothing": how the userfaultfd was opened. */
const char *uffd_source_name(enum uffd_source source);

#endif
