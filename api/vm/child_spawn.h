/* child_spawn: creates processes in a control group and in a pid namespace of their own, which posix_spawn() cannot. A
 * process that is moved into a group after it was created waits for a grace period of the kernel (about 10 ms), and
 * only a new process can be in another pid namespace than its parent. Any thread. */
#ifndef CAIRN_API_VM_CHILD_SPAWN_H
#define CAIRN_API_VM_CHILD_SPAWN_H

#include <stdbool.h>
#include <sys/types.h>

/* Numbers of files that the caller keeps for children. Otherwise a child begins with a copy of the caller's table of
 * files, and closes them: 20,000 files took 4 ms. With such numbers, which are low because they were taken early, it
 * copies the table only as far as they reach. */
struct child_files;

struct child_spawn {
	int cgroup; /* the group's folder; borrowed; -1: the caller's group */
	/* In a pid namespace of its own, whose init it is: signals without a handler do not end it, except SIGKILL from
	 * outside and those of faults. */
	bool own_pids;
	const char *program; /* looked for in PATH unless it has a slash */
	char *const *argv;
	/* files[i] becomes fd i; all other fds are closed. -1: /dev/null. Borrowed. None is below the number that it
	 * becomes. */
	const int *files;
	unsigned nfiles;
	struct child_files *numbers; /* borrowed; NULL: the child copies the table */
};

/* Keep numbers. Returns NULL if no files are left, or so few are allowed that the copy takes no time. */
struct child_files *child_files_new(void);
void child_files_free(struct child_files *f);

/* Spawn a program as the leader of a session, without blocked signals and signal handlers.
 * *ret_pid: a child, which the caller reaps.
 * Returns 0; -ENOSYS: the kernel, or a build with sanitizers, cannot do it; -EACCES: the caller may not put processes
 * there; -EBUSY: the group has groups with controllers; -EPERM: the caller may make no namespaces; -ENOSPC: the limit
 * of pid namespaces is reached; -errno of execve(). */
int child_spawn(const struct child_spawn *s, pid_t *ret_pid);
/* Try it with a process that ends at once. Returns as child_spawn(). */
int child_spawn_try(int cgroup, bool own_pids);

#endif
