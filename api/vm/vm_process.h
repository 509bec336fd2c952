/* vm_process: one cairn-vm seen from the daemon: its start, its messages, its end.
 *
 * Knows no VM state and no JSON. Everything runs on the loop's thread; callbacks come from
 * the loop, never from inside the call that caused them. The process is not owned: freeing
 * the object lets it run on (that is how a daemon ends without harm). */
#ifndef CAIRN_API_VM_VM_PROCESS_H
#define CAIRN_API_VM_VM_PROCESS_H

#include "vmm/vm_msg.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct config;
struct err;
struct loop;
struct vm_process;

struct vm_process_end {
	bool said;	       /* it sent (or left in its file) why: event is set */
	struct vm_event event;
	bool status_known;     /* false: it was not our child */
	bool signaled;
	int status;	       /* exit status, or the signal's number */
	bool protocol;	       /* killed by us: it sent what the protocol does not allow */
};

struct vm_process_ops {
	void (*event)(void *opaque, const struct vm_event *ev);
	/* The last callback; the process is gone and its requests have been failed. */
	void (*gone)(void *opaque, const struct vm_process_end *end);
};

struct vm_process_paths {
	const char *program;
	int run_dir;	  /* folder of the sockets */
	const char *name; /* of the VM */
	int log_fd;	  /* borrowed: its stderr */
	int end_fd;	  /* borrowed; -1: none. See vm_config.end_fd */
};

/* What answered a request: at most one of these, borrowed. The process is not trusted: the
 * numbers in them are checked against the message's length, the strings end, and no more.
 * When a request succeeds (r is 0), the field that belongs to its type is set. */
struct vm_answer {
	const struct vm_info *info;		  /* to VM_MSG_QUERY */
	const struct vm_snapshots *snapshots;	  /* to VM_MSG_SNAPSHOT_LIST and _SIZE */
	const struct vm_spaces *spaces;		  /* to VM_MSG_SPACE */
	const struct vm_addresses *addresses;	  /* to VM_MSG_ADDRESSES */
	const struct vm_snapshot_done *snapshot;  /* to VM_MSG_SNAPSHOT_CREATE, VM_MSG_FORK and VM_MSG_DUMP */
};

#define VM_PROCESS_NO_TIMEOUT UINT64_MAX

/* Fork and exec the program, connect, send the configuration. The configuration's fds are
 * borrowed. Its answer goes to done; a time limit of 30 s covers it.
 * Returns 0; -errno with a sentence and no callback. */
int vm_process_start(struct loop *l, const struct vm_process_paths *p, const struct config *c,
	const struct vm_process_ops *ops, void *opaque,
	void (*done)(void *opaque, int r, const struct vm_answer *a, const struct err *e),
	void *done_opaque, struct vm_process **ret_p, struct err *e);

/* Find a VM process that an earlier daemon started, and ask how it is.
 * Returns 0; -ENOENT: there is none (a stale socket is removed); -errno. */
int vm_process_adopt(struct loop *l, const struct vm_process_paths *p,
	const struct vm_process_ops *ops, void *opaque,
	void (*done)(void *opaque, int r, const struct vm_answer *a, const struct err *e),
	void *done_opaque, struct vm_process **ret_p, struct err *e);

/* done is called exactly once, also when it cannot be sent: r is 0, or -errno with *e
 * (-EREMOTEIO: the process says so). fd: borrowed, -1: none. */
void vm_process_request(struct vm_process *p, enum vm_msg_type type, const void *body, size_t len,
	int fd, uint64_t timeout_ns,
	void (*done)(void *opaque, int r, const struct vm_answer *a, const struct err *e),
	void *opaque);

/* The same with several. */
void vm_process_request_fds(struct vm_process *p, enum vm_msg_type type, const void *body,
	size_t len, const int *fds, unsigned nfds, uint64_t timeout_ns,
	void (*done)(void *opaque, int r, const struct vm_answer *a, const struct err *e),
	void *opaque);

/* SIGKILL. gone() follows. */
void vm_process_kill(struct vm_process *p);
/* SIGKILL unless it is gone within that time. */
void vm_process_kill_after(struct vm_process *p, uint64_t ns);
/* -1 while it is not known (adopted, and silent so far). */
pid_t vm_process_pid(const struct vm_process *p);
/* Lets go of it. Outstanding requests get no callback. NULL allowed. */
void vm_process_free(struct vm_process *p);

/* Of the file of a run: the end, and far behind it what is the daemon's: the number of the run (u64), and the version of
 * the messages (u64), one of which the end is. */
#define VM_PROCESS_END_RUN 4096
#define VM_PROCESS_END_VERSION 4104
/* The end that a process left in its file, when nobody listened. */
bool vm_process_read_end(int end_fd, struct vm_event *ret_ev);

#endif
