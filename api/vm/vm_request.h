/* vm_request: the requests to a VM process that are not answered yet: in which order they are sent, which wait, and
 * which are repeated on another connection. Inner header of vm_process.c.
 * Threading: the daemon's loop. */
#ifndef CAIRN_API_VM_VM_REQUEST_H
#define CAIRN_API_VM_VM_REQUEST_H

#include "api/vm/vm_process.h"
#include "vmm/vm_msg.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct client_file;
struct closer;
struct loop;
struct loop_timer;
struct loop_watch;
struct vm_page;
struct vm_spawn;

struct vm_request {
	struct vm_request *next;
	uint64_t seq, deadline_ns;
	enum vm_msg_type type;
	void (*done)(void *opaque, int r, const struct vm_answer *a, const struct err *e);
	void *opaque;
	void *body; /* a copy of the body, if the request may be repeated, waits or is kept; NULL: otherwise, or it has none */
	size_t len;
	struct vm_process *process;
	struct client_file *file; /* its process sends the request; owned. NULL: none, or it was sent */
	bool waits; /* to be sent behind a request with a file, or once the process is connected */
	int *fds; /* of a request that waits or is kept; owned */
	unsigned nfds;
	int send_error; /* why the request could not be sent, as -errno; 0: none */
	bool unsent; /* the request waits, or could not be sent because the connection is lost or its process ends */
	bool kept;   /* unsent, with its body and fds, for the next connection or the process that the VM is handed over to */
};

/* The page that the process shares (api/vm/vm_figures.h). */
struct vm_shown {
	struct vm_page *page; /* mapped for reading; owned; NULL: none */
	pid_t threads[VM_VCPUS_MAX]; /* of the vCPUs */
	unsigned nthreads; /* number of entries in `threads` */
	uint64_t told_ns[VM_VCPUS_MAX]; /* the last reported CPU times of the vCPUs */
};

/* The socket of an adopted process that has no place for one more connection. */
struct vm_adopt_wait {
	int run_dir; /* borrowed */
	bool owns_hash; /* see vm_socket_connect() */
	uint64_t interval_ns; /* from one attempt to the next */
	char name[]; /* of the VM */
};

struct vm_process {
	struct loop *loop;
	struct closer *closer; /* borrowed */
	const struct vm_process_ops *ops;
	void *opaque;
	char name[VM_NAME_MAX + 1]; /* the VM's name */
	pid_t pid;
	int pidfd, sock, end_fd;
	uint64_t vcpus_absent; /* vCPUs that the guest lacks, a bit for each; 0: none, or an older process */
	/* Until it is NULL, the process is being spawned, and pid is unknown. */
	struct vm_spawn *spawn;
	struct err *spawn_error; /* NULL: none */
	struct loop_watch *pid_watch, *sock_watch, *spawn_watch;
	struct loop_timer *timer;      /* armed for the earliest deadline of a request */
	struct loop_timer *kill_timer;
	struct loop_timer *lost_timer; /* armed while the connection is lost: calls lost(); or while adopt_wait is set */
	struct vm_adopt_wait *adopt_wait; /* owned; set until the process is connected: requests wait. NULL: it is */
	struct vm_request *first, **last;
	uint64_t seq; /* number of the last request */
	uint64_t connected_ns; /* time of the last vm_process_connect() */
	uint64_t lost_seq; /* number of the last request before that */
	uint64_t phase_seq; /* number of the last request before the last report of a phase */
	unsigned phases_left; /* number of phases that the process may report before the next request */
	uint16_t version; /* version of the messages that the process speaks */
	bool tells_build; /* the process has reported `build`, or is an older one, which reports nothing */
	uint64_t build;	  /* base/build_id.h */
	unsigned unknown_version; /* with is_unmanaged: the version of the process */
	bool is_unmanaged; /* this daemon does not know the version of the process */
	bool child;	/* this daemon started the process and has to reap it */
	bool heard;	/* a valid message has arrived */
	bool answered;	/* an answer has arrived */
	bool lost;	/* the connection is lost: requests wait for the next one, or for the process's end */
	bool unproven;	/* no message has arrived since vm_process_connect() */
	bool replaced;	/* another process answered on that connection */
	bool knows[VM_KNOWN_COUNT]; /* see vm_process_knows() */
	struct vm_shown *shown; /* owned; NULL: the process has no page */
	bool killed;	/* vm_process_kill() was called */
	bool freed;	/* vm_process_free() was called */
	unsigned busy;	/* number of callbacks that are on the stack */
	struct vm_process_end end;
};

/* Return whether requests of this type change nothing, or the same each time, so that the process or its successor may
 * get them again. */
bool vm_request_may_repeat(enum vm_msg_type type);
/* NULL allowed. */
void vm_shown_free(struct vm_shown *s);
/* Keep the vCPUs' CPU times from going back: /proc's time of a running thread is some milliseconds old, and the
 * process's answer is exact. s: NULL: do nothing. */
void vm_shown_raise(struct vm_shown *s, struct vm_info *info);
/* Arm the timer for the earliest deadline. */
void vm_requests_timer(struct vm_process *p);
/* Report the answer, and free the request. a: NULL: none. e: set if res < 0. */
void vm_request_finish(struct vm_process *p, struct vm_request *r, int res, const struct vm_answer *a, const struct err *e);
/* On a new connection, repeat the requests of the earlier one that may be repeated, and fail the others. Work may still
 * be under way, or its answer was lost: cancel it, which makes the process send the answer, or say that there is no
 * work. */
void vm_requests_resume(struct vm_process *p);
/* Send the requests that wait, up to the next one that another process is to send. */
void vm_requests_send_waiting(struct vm_process *p);
/* Free all requests; done() is not called. */
void vm_requests_free(struct vm_process *p);

#endif
