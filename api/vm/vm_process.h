/* vm_process: starts or adopts one cairn-vm process, exchanges messages with it and reports its end.
 *
 * The module knows neither VM states nor JSON. Threading: the daemon's loop; callbacks come from the loop, never from
 * inside the call that caused them. Freeing the object does not end the process, so VMs keep running when the daemon
 * ends. */
#ifndef CAIRN_API_VM_VM_PROCESS_H
#define CAIRN_API_VM_VM_PROCESS_H

#include "api/vm/cgroup_tree.h"
#include "vmm/vm_msg.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct client_file;
struct closer;
struct config;
struct err;
struct loop;
struct vm_process;
struct vm_sandbox;
struct vm_spare_process;

struct vm_process_end {
	bool said;	       /* the process reported the reason, by message or in its end file: event is set */
	struct vm_event event;
	bool status_known;     /* false: the process was not this daemon's child */
	bool signaled;
	int status;	       /* exit status, or the signal's number */
	bool protocol;	       /* the daemon killed the process because it broke the protocol */
	bool unanswered;       /* the process was adopted, and answered no request */
	bool replaced;	       /* the connection was lost, and another process answers on the new one, or nobody yet */
};

struct vm_process_ops {
	/* The process is spawned; r < 0: it could not be, and gone() follows. Only for vm_process_start_successor().
	 * May be NULL. */
	void (*spawned)(void *opaque, int r, const struct err *e);
	/* The process reports an event. May be NULL. */
	void (*event)(void *opaque, const struct vm_event *ev);
	/* The process has ended, and the outstanding requests have no answer. Return whether the VM continues in
	 * another process, which the owner has from now on (vm_process_pass_requests()); then this object frees itself,
	 * and requests that are left fail with -ESRCH. May be NULL. */
	bool (*moved)(void *opaque, const struct vm_process_end *end);
	/* The process has ended. This is the last callback; the outstanding requests have failed before. */
	void (*gone)(void *opaque, const struct vm_process_end *end);
	/* The connection is lost, but the process runs and has answered before: call vm_process_connect(). Returns
	 * its result. If the process does not listen, it is killed unless it ends within 5 s; after another error,
	 * this is called again. May be NULL: then the process is killed unless it ends within 5 s. */
	int (*lost)(void *opaque, struct err *e);
	/* The process has not ended 5 s after vm_process_kill(), for example because it waits in the kernel for a disk
	 * that does not answer. May be NULL. */
	void (*stuck)(void *opaque);
};

struct vm_process_paths {
	const char *program;
	struct closer *closer; /* closes the connection (api/wire/close_async.h) */
	const struct vm_sandbox *sandbox; /* NULL: nothing is prepared */
	struct cgroup_place place; /* the process's control group */
	uid_t uid;	  /* the process's user; 0: the daemon's */
	int run_dir;	  /* folder of the sockets */
	const char *name; /* name of the VM */
	bool whole;	  /* spawn no process that lacks its control group or its pid namespace */
	bool owns_hash;	  /* see vm_socket_connect() */
	int log_fd;	  /* the process's stdout and stderr; borrowed */
	int end_fd;	  /* the end file, see vm_config.end_fd; borrowed. -1: none */
};

/* Answer to a request; borrowed. At most one member is set: the one for the request's type. On an error, only
 * `snapshot` may be set. The process is not trusted: vm_process has checked the counts of `snapshots`, `pci` and
 * `addresses`, and has terminated and cleaned all texts except those of `info` and the `msg` of `snapshot`. It has
 * checked no other value. */
struct vm_answer {
	const char *note; /* text in a VM_MSG_REPLY that reports success, such as to VM_MSG_CONFIG; NULL: none */
	const struct vm_info *info;		  /* answer to VM_MSG_QUERY */
	const struct vm_snapshots *snapshots;	  /* answer to VM_MSG_SNAPSHOT_LIST and _SIZE */
	const struct vm_spaces *spaces;		  /* answer to VM_MSG_SPACE */
	const struct vm_pci *pci;		  /* answer to VM_MSG_PCI */
	const struct vm_addresses *addresses;	  /* answer to VM_MSG_ADDRESSES */
	const struct vm_agent_answer *agent;	  /* answer to VM_MSG_AGENT_COMMAND */
	/* answer to VM_MSG_SNAPSHOT_CREATE, _REVERT (may be NULL), VM_MSG_FORK, _DUMP and _RECLAIM */
	const struct vm_snapshot_done *snapshot;
};

#define VM_PROCESS_NO_TIMEOUT UINT64_MAX

/* Spawn the program, on a thread, and connect to it. The process waits for vm_process_configure(), and ends if the
 * channel closes before. If it cannot be spawned, the requests fail with the reason, and gone() is called.
 * Returns 0; -errno, and then no callback comes. */
int vm_process_start(struct loop *l, const struct vm_process_paths *p, const struct vm_process_ops *ops, void *opaque,
	struct vm_process **ret_p, struct err *e);
/* Give the process of a spare (api/vm/vm_spare.h) its socket, log and end file, and connect to it; otherwise as
 * vm_process_start(). On success pid and pidfd are taken. */
int vm_process_start_spare(struct loop *l, const struct vm_process_paths *p, const struct vm_spare_process *spare,
	const struct vm_process_ops *ops, void *opaque, struct vm_process **ret_p, struct err *e);
/* Send the configuration, once.
 * c: borrowed, with its fds. done: gets the process's answer to the configuration, or an error, as for
 * vm_process_request(); the time limit is 30 s. waits: the process waits for other work, so the limit is an hour until
 * vm_process_configure_limit(). */
void vm_process_configure(struct vm_process *p, const struct config *c, bool waits,
	void (*done)(void *opaque, int r, const struct vm_answer *a, const struct err *e), void *opaque);
/* Let the configuration, if it was sent and not answered, time out in 30 s. */
void vm_process_configure_limit(struct vm_process *p);

/* Connect to a VM process that an earlier daemon started, and send VM_MSG_QUERY in the message version that its end
 * file names, or in VM_MSG_VERSION if there is no such file or this daemon does not know that version. As long as the
 * process's socket has no place for one more connection, or the daemon lacks an fd or memory, this and all other
 * requests wait, within their time limits.
 * done: gets the answer or an error.
 * Returns 0; -ENOENT: there is no process (a stale socket is removed); -errno. On errors no callback comes. */
int vm_process_adopt(struct loop *l, const struct vm_process_paths *p,
	const struct vm_process_ops *ops, void *opaque,
	void (*done)(void *opaque, int r, const struct vm_answer *a, const struct err *e),
	void *done_opaque, struct vm_process **ret_p, struct err *e);

/* Spawn the process that is to take over a running VM (api/vm/vm_handover.h), on a thread; spawned() follows. The
 * daemon has no channel to the process before vm_process_connect().
 * *ret_pair: the other end of its socket pair; owned.
 * Returns 0; -errno, and then no callback comes. */
int vm_process_start_successor(struct loop *l, const struct vm_process_paths *p, const struct vm_process_ops *ops, void *opaque,
	struct vm_process **ret_p, int *ret_pair, struct err *e);
/* Replace the callbacks for the events and the end of the process. */
void vm_process_set_ops(struct vm_process *p, const struct vm_process_ops *ops, void *opaque);
/* Connect to the VM's socket, and send VM_MSG_QUERY: the successor has taken the VM over, or the connection was lost.
 * When the process answers, of the requests that were made before, those that may be repeated are sent again, work is
 * cancelled, and the others fail with -ECONNRESET; so does work that has ended or was not sent. done: gets the answer
 * or an error. Returns 0; -ENOENT, -ECONNREFUSED: nobody listens; -errno. On errors nothing has changed. */
int vm_process_connect(struct vm_process *p, const struct vm_process_paths *paths,
	void (*done)(void *opaque, int r, const struct vm_answer *a, const struct err *e),
	void *done_opaque, struct err *e);

/* Send a request.
 * fd: borrowed; -1: none. timeout_ns: VM_PROCESS_NO_TIMEOUT: none.
 * done: NULL: none; called exactly once, also if the request cannot be sent, unless vm_process_free() comes first. r:
 * 0; -EREMOTEIO: the process reports an error; -ETIMEDOUT; -ESRCH: the process has ended, or has handed the VM over
 * and may have carried the request out; -ECONNRESET: the connection was lost, and the process may have carried the
 * request out; -EPIPE: the channel is closed; -EPROTO: an answer of the wrong type; -EPROTONOSUPPORT: the process
 * speaks an unknown version; -ENOTSUP: a process of an older version lacks the request; other -errno. *e is set when
 * r < 0. */
void vm_process_request(struct vm_process *p, enum vm_msg_type type, const void *body, size_t len,
	int fd, uint64_t timeout_ns,
	void (*done)(void *opaque, int r, const struct vm_answer *a, const struct err *e),
	void *opaque);

/* Send to p the outstanding requests of `from` that it has not got, and those that may be repeated, such as
 * VM_MSG_ADDRESSES. They keep their time limits. */
void vm_process_pass_requests(struct vm_process *from, struct vm_process *p);

/* Send a request like vm_process_request(), with several file descriptors. fds: borrowed. */
void vm_process_request_fds(struct vm_process *p, enum vm_msg_type type, const void *body,
	size_t len, const int *fds, unsigned nfds, uint64_t timeout_ns,
	void (*done)(void *opaque, int r, const struct vm_answer *a, const struct err *e),
	void *opaque);

/* Send a request like vm_process_request_fds(), with files that another process holds (api/access/client_file.h) before
 * the other fds. file: taken; NULL: none. */
void vm_process_request_with(struct vm_process *p, enum vm_msg_type type, const void *body, size_t len, struct client_file *file,
	const int *fds, unsigned nfds, uint64_t timeout_ns,
	void (*done)(void *opaque, int r, const struct vm_answer *a, const struct err *e), void *opaque);

/* Send SIGKILL, if the pid is known. gone() follows; if it is late, stuck() comes first. */
void vm_process_kill(struct vm_process *p);
/* Send SIGKILL unless the process ends within that time. */
void vm_process_kill_after(struct vm_process *p, uint64_t ns);
/* Return the process id; -1: unknown, as long as an adopted process has sent no message. */
pid_t vm_process_pid(const struct vm_process *p);
/* Return whether the process has ended, even if the owner does not know it yet. vm_process_pid() must be known. */
bool vm_process_has_ended(const struct vm_process *p);
/* Return whether the process has ended, or is about to end: it has said so, or is killed. */
bool vm_process_is_ending(const struct vm_process *p);
/* Return the message version that the process speaks, at most VM_MSG_VERSION (see api/vm/vm_compat.h). */
unsigned vm_process_version(const struct vm_process *p);
/* Return whether the process has said that it runs another build of the program (base/build_id.h). */
bool vm_process_is_other_build(const struct vm_process *p, uint64_t build);
/* Return the vCPUs that the guest lacks, a bit for each, as the process has said last. */
uint64_t vm_process_vcpus_absent(const struct vm_process *p);
/* Features that only processes of later releases have. */
enum vm_known {
	VM_KNOWS_CONSOLE_END,	/* VM_MSG_CONSOLE_END */
	VM_KNOWS_INTERFACE_SET, /* VM_MSG_INTERFACE_SET */
	VM_KNOWS_DISK_SET,	/* VM_MSG_DISK_SET */
	VM_KNOWS_DISK_TUNE,	/* vm_disk_set.tune, vm_config.disk_tune in VM_MSG_PLUG */
	VM_KNOWS_AGENT_COMMAND, /* VM_MSG_AGENT_COMMAND */
	VM_KNOWS_VSOCK,		/* VM_MSG_VSOCK */
	VM_KNOWS_AGENT_END,	/* VM_CONSOLE_END_AGENTS */
	VM_KNOWS_DUMP_THEN,	/* vm_dump.then */
	VM_KNOWS_PLUG,		/* VM_MSG_PLUG, VM_MSG_UNPLUG */
	VM_KNOWS_BALLOON_SET,	/* VM_MSG_BALLOON_SET */
	VM_KNOWS_RECLAIM,	/* VM_MSG_RECLAIM */
	VM_KNOWS_MEDIUM_SET,	/* VM_MSG_MEDIUM_SET */
	VM_KNOWS_DISK_COPY,	/* VM_MSG_DISK_COPY, VM_MSG_DISK_COPY_END, VM_MSG_DISK_PIVOT */
	VM_KNOWS_DISK_LAYERS,	/* VM_MSG_DISK_LAYERS, VM_MSG_DISK_COMMIT */
	VM_KNOWS_DISK_RESIZE,	/* VM_MSG_DISK_RESIZE */
	VM_KNOWS_COMMIT_ABOVE,	/* disk 1 of VM_MSG_DISK_COMMIT with `top` 1 */
	VM_KNOWS_SAVE_DISKS,	/* struct vm_save_devices up to `interfaces` */
	VM_KNOWS_SAVE_INTERFACES, /* all of it */
	VM_KNOWS_SCREENSHOT,	/* VM_MSG_SCREENSHOT */
	VM_KNOWS_SEND_KEYS,	/* VM_MSG_SEND_KEYS */
	VM_KNOWS_INPUT,		/* VM_MSG_INPUT */
	VM_KNOWS_PAGE,		/* VM_MSG_PAGE */
	VM_KNOWS_VCPUS,		/* VM_MSG_VCPUS */
	VM_KNOWS_PCI,		/* VM_MSG_PCI */
	VM_KNOWS_DIRTY_RATE,	/* VM_MSG_DIRTY_RATE */
	VM_KNOWS_PINS_READABLE, /* at VM_FORK_READY, the pins can be read */
	VM_KNOWS_PIN_SHARING,	/* vm_fork.shared */
	VM_KNOWS_IDLE_PINS,	/* VM_MSG_PINS_IDLE */
	VM_KNOWS_GROUPS,	/* VM_MSG_SNAPSHOT_GO */
	VM_KNOWS_GROUP_FORKS,	/* VM_FORK_GROUP */
	VM_KNOWN_COUNT
};
/* False as long as an adopted process has not answered VM_MSG_QUERY. */
bool vm_process_knows(const struct vm_process *p, enum vm_known what);
/* Let the object free itself when the process has ended and is reaped. Events are dropped. The caller has killed the
 * process, or knows that it ends by itself. */
void vm_process_detach(struct vm_process *p);
/* Free the object; the process keeps running. Outstanding requests get no callback. NULL allowed. */
void vm_process_free(struct vm_process *p);

#endif
