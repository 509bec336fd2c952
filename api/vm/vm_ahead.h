/* vm_ahead: spawns the process of a VM with its first files, also before the VM's start.
 * Threading: the daemon's loop. */
#ifndef CAIRN_API_VM_VM_AHEAD_H
#define CAIRN_API_VM_VM_AHEAD_H

#include <stdbool.h>

struct err;
struct loop_timer;
struct loop_watch;
struct vm;
struct vm_process;
struct vm_process_ops;
struct vm_spare_process;

/* A process that waits for its configuration, and the files that it is to receive. */
struct start_process {
	struct vm_process *proc;
	int log_fd, end_fd; /* owned; -1: none */
	/* For a process that was a spare (api/vm/vm_spare.h): its socket, owned, -1: it was none; whether it has
	 * answered; and the start that waits for the answer, NULL: none does. */
	int spare_fd;
	bool answered;
	void (*ready)(struct vm *vm, int r, const struct err *e);
	struct vm *vm;
	struct loop_watch *watch;
	struct loop_timer *timer;
};

/* Spawn the process. limits_memory: as for vm_cgroup_place(). Returns 0, and *ret is the caller's; -errno. */
int start_process_spawn(struct vm *vm, bool limits_memory, const struct vm_process_ops *ops, struct start_process **ret, struct err *e);
/* Take the process that vm_start_ahead() has spawned, with other callbacks. Returns NULL: there is none, or it was a
 * spare and has not answered; then the caller spawns one. */
struct start_process *start_process_ahead(struct vm *vm, const struct vm_process_ops *ops);
/* Free the object. The process ends by itself, because its channel closes, unless the caller has taken s->proc. NULL
 * allowed. */
void start_process_free(struct start_process *s);

#endif
