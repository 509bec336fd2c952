/* vm_spawn: spawns a VM process on a thread of its own. posix_spawn() returns when the new process has called execve(),
 * which takes 0.3 ms on an idle host and over 5 ms on a busy one; the daemon's loop continues meanwhile.
 *
 * Threading: the daemon's loop. */
#ifndef CAIRN_API_VM_VM_SPAWN_H
#define CAIRN_API_VM_VM_SPAWN_H

#include <sys/types.h>

struct err;
struct vm_process_paths;
struct vm_spawn;

/* Begin to spawn a process, as vm_process_spawn() does. Without memory for a thread, the process is spawned at once.
 * paths: the program and the sandbox are borrowed until vm_spawn_end().
 * sock: taken.
 * Returns 0, and the caller passes *ret to vm_spawn_end(); -errno. */
int vm_spawn_begin(const struct vm_process_paths *paths, const char *option, int sock, struct vm_spawn **ret, struct err *e);
/* An fd that becomes readable when vm_spawn_end() need not wait; borrowed. */
int vm_spawn_fd(const struct vm_spawn *s);
/* Wait for the thread, and free s. *ret_pid: a child of the daemon, which the caller reaps.
 * Returns 0; -errno: there is no process. */
int vm_spawn_end(struct vm_spawn *s, pid_t *ret_pid, struct err *e);

#endif
