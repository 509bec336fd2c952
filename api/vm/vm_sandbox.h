/* vm_sandbox: prepares the parts of the sandbox that all VM processes of the daemon share: a mount namespace whose root
 * is an empty, read-only file system, and a network namespace whose only interface is a loopback device that is down. A
 * process enters both, which costs a tenth of making its own, and makes its own IPC and UTS namespaces. Root's daemon
 * creates each process in a pid namespace of its own, too (child_spawn.h). A plain user's daemon and its processes do
 * all but this in a user namespace, in which only that user exists.
 * Threading: the daemon's loop. */
#ifndef CAIRN_API_VM_VM_SANDBOX_H
#define CAIRN_API_VM_VM_SANDBOX_H

#include "api/vm/cgroup_tree.h"

#include <stdbool.h>
#include <sys/types.h>

/* In the order in which a process enters them, but for the pid namespace, in which it is created. Root needs no user
 * namespace, and a plain user's daemon may make no pid namespace for a process that is to enter the user namespace
 * later. */
enum vm_sandbox_space { VM_SANDBOX_USER, VM_SANDBOX_MNT, VM_SANDBOX_NET, VM_SANDBOX_IPC, VM_SANDBOX_UTS, VM_SANDBOX_PID,
	VM_SANDBOX_SPACES };
#define VM_SANDBOX_SHARED (VM_SANDBOX_NET + 1) /* the number of those that the daemon prepares */

struct vm_sandbox {
	int fds[VM_SANDBOX_SHARED]; /* -1: the host lacks the namespace */
	int errors[VM_SANDBOX_SPACES]; /* why the host lacks it, as -errno; 0: it does not, or nobody needs it */
	uid_t uid_first, uid_last; /* the range of the VMs' user ids; 0: processes run as the daemon's user */
	int uid_error; /* why there is no such range, as -errno; 0: --uid-range none */
	struct cgroup_tree cgroups; /* of the VMs */
	struct child_files *numbers; /* with which processes are spawned; NULL: none */
	bool required; /* VMs do not run without a part of the sandbox */
};

struct child_files;
struct daemon_paths;
struct err;

/* The name of a namespace in /proc/PID/ns. */
const char *vm_sandbox_space_name(enum vm_sandbox_space space);

/* Return whether there is a namespace that processes can enter or make themselves. */
bool vm_sandbox_has_spaces(const struct vm_sandbox *s);

/* Return whether processes are created in pid namespaces of their own. */
bool vm_sandbox_makes_pids(const struct vm_sandbox *s);

/* Return whether the daemon's VMs have a namespace if the host does not lack it. */
bool vm_sandbox_space_is_needed(enum vm_sandbox_space space);

/* Why the host, or the daemon's rights, lack a namespace, or the user ids. NULL: they do not. */
const char *vm_sandbox_space_lack(const struct vm_sandbox *s, enum vm_sandbox_space space);
const char *vm_sandbox_uid_lack(const struct vm_sandbox *s);

/* Why VMs lack a control group, or a limit of it. NULL: they do not. */
const char *vm_sandbox_cgroup_lack(const struct vm_sandbox *s);

/* Prepare the namespaces and the control group, and try the user ids. The log names missing parts; processes start
 * without them, unless p has require_sandbox.
 * managed: a service manager has started the daemon.
 * ret: the caller passes it to vm_sandbox_done(). */
void vm_sandbox_prepare(const struct daemon_paths *p, bool managed, struct vm_sandbox *ret);
/* Returns 0; -EPERM with a sentence that names the missing part, if the sandbox is required. The VM's process checks
 * the parts that only it can know (--require-sandbox of cairn-vm). */
int vm_sandbox_check(const struct vm_sandbox *s, struct err *e);
/* Processes in the namespaces stay there. */
void vm_sandbox_done(struct vm_sandbox *s);

#endif
