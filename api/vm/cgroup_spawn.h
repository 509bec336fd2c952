/* cgroup_spawn: creates processes in a control group. A process that is moved into a group after it was created waits
 * for a grace period of the kernel (about 10 ms), and posix_spawn() knows no groups. Any thread. */
#ifndef CAIRN_API_VM_CGROUP_SPAWN_H
#define CAIRN_API_VM_CGROUP_SPAWN_H

#include <sys/types.h>

struct cgroup_spawn {
	int cgroup; /* the group's folder; borrowed */
	const char *program; /* looked for in PATH unless it has a slash */
	char *const *argv;
	/* files[i] becomes fd i; all other fds are closed. -1: /dev/null. Borrowed. None is below the number that it
	 * becomes. */
	const int *files;
	unsigned nfiles;
};

/* Spawn a program as the leader of a session, without blocked signals and signal handlers.
 * *ret_pid: a child, which the caller reaps.
 * Returns 0; -ENOSYS: the kernel, or a build with sanitizers, cannot do it; -EACCES: the caller may not put processes
 * there; -EBUSY: the group has groups with controllers; -errno of execve(). */
int cgroup_spawn(const struct cgroup_spawn *s, pid_t *ret_pid);
/* Try it with a process that ends at once. Returns as cgroup_spawn(). */
int cgroup_spawn_try(int cgroup);

#endif
