/* loop_impl: structures and functions that loop.c shares with its two back ends, loop_uring.c and loop_epoll.c.
 *
 * loop.c has timers, tasks, the list of watches, small writes to files in memory, the trace, and the
 * list of operations whose done() is due. A back end waits for events and performs file operations. */
#ifndef CAIRN_BASE_LOOP_IMPL_H
#define CAIRN_BASE_LOOP_IMPL_H

#include "base/busy_poll.h"
#include "base/loop.h"

#include <stdatomic.h>

struct loop_watch {
	struct loop *loop;
	struct loop_watch *prev, *next;
	void (*ready)(void *opaque, unsigned revents);
	void *opaque;
	int fd;
	unsigned events; /* requested events */
	union {
		struct {
			bool armed;	 /* a poll is in the ring */
			bool cancelling; /* the poll's removal was requested */
			bool dead;	 /* to be freed after its last completion */
			bool running;	 /* ready() runs */
		} uring;
		struct {
			/* position in the list of watches with an event; link: NULL if the watch is not in the list */
			struct loop_watch **link, *next;
			unsigned revents; /* the event, while in that list */
			unsigned served;  /* number of the turn in which ready() last ran */
			unsigned always;  /* events to report in every turn, because epoll refuses the fd; 0: none */
			int dup;	  /* a duplicate of fd, watched instead, because another watch has fd; -1: none */
			bool added;	  /* the fd (or its duplicate) is in the epoll set */
			bool running;	  /* ready() runs */
			bool masked;	  /* the fd is out of the epoll set until ready() returns */
		} epoll;
	};
};

/* A back end's functions. The loop's thread calls them. Each read, write, sync and fallocate() ends in one call of
 * loop_op_completed() or loop_op_deliver(). loop_op_deliver() must not be called before the back end's function
 * returns. */
struct loop_backend {
	enum loop_kind kind;
	void (*free)(struct loop *l);
	/* Begin to watch. loop.c has set w's common fields and put w into the loop's list.
	 * Returns 0 or -errno. */
	int (*watch)(struct loop_watch *w);
	/* w->events has changed. */
	void (*watch_events)(struct loop_watch *w);
	/* End the watch. The kernel must have dropped the fd on return; w may be removed from the loop's list and freed
	 * later. */
	void (*unwatch)(struct loop_watch *w);
	void (*readv)(struct loop *l, struct loop_op *op, int fd, const struct iovec *iov, unsigned niov,
		uint64_t offset);
	void (*writev)(struct loop *l, struct loop_op *op, int fd, const struct iovec *iov, unsigned niov,
		uint64_t offset);
	void (*fdatasync)(struct loop *l, struct loop_op *op, int fd);
	void (*fallocate)(struct loop *l, struct loop_op *op, int fd, int mode, uint64_t offset, uint64_t len);
	/* Wait for an event, at most timeout_ns (UINT64_MAX: no limit), and handle a bounded number of events. */
	void (*turn)(struct loop *l, uint64_t timeout_ns);
	/* Submit operations, handle the events that can be seen without a system call, and prepare the watches for
	 * their next events no earlier than in the next turn. Returns whether there were any events. May be NULL. */
	bool (*handle_ready)(struct loop *l);
	/* See loop_defer_threads(); may be NULL. */
	void (*defer_threads)(struct loop *l, bool defer);
};

/* The common part; each back end's loop begins with it. */
struct loop {
	const struct loop_backend *backend;
	struct loop_watch *watches;
	struct loop_timer **heap; /* min-heap by deadline */
	size_t heap_len, heap_cap;
	_Atomic(struct loop_task *) posted; /* tasks of loop_post(), newest first */
	atomic_bool stop;
	int wake_fd;
	struct loop_watch *wake_watch;
	unsigned in_flight;
	/* completed operations that completed_deliver() has still to report */
	struct loop_op *over, **over_tail;
	struct loop_op *delivering; /* operations that are being reported in this round */
	struct loop_file *files; /* of loop_file_in_memory() and loop_file_cached() */
	unsigned nfiles;
	struct loop_trace *trace;
	const struct loop_poller *poller;
	struct busy_poll busy[2]; /* without an operation in flight, and with one */
	uint64_t woke_ns; /* end of the back end's last wait, if there is a poller */
	uint64_t polled_events; /* how often polls reported an operation or an event of the back end */
};

/* Create a loop without wake_fd. The back end's free() frees it. Returns 0 or -errno. */
int loop_uring_new(unsigned entries, struct loop **ret_loop);
int loop_epoll_new(unsigned entries, struct loop **ret_loop);

/* A back end calls this after each wait, before it handles the events. */
void loop_woke(struct loop *l);
/* Take w out of the loop's list and free it. */
void loop_watch_free(struct loop_watch *w);
/* Put op on the list of completed operations. */
void loop_op_completed(struct loop *l, struct loop_op *op, int res);
/* Call op's done() now. Not allowed inside the submitting call. */
void loop_op_deliver(struct loop *l, struct loop_op *op, int res);
struct loop_file {
	int fd;
	bool in_memory;
	bool reads; /* see loop_file_cached() */
	uint64_t slow_until_ns; /* transfers took long; until then, the back end performs them */
};
/* Return whether loop_file_in_memory() said that fd is a file in memory. */
bool loop_fd_in_memory(const struct loop *l, int fd);

/* Largest operation that the loop's thread performs itself: on tmpfs, and on epoll also a read from the page cache.
 * Measured with `cairn-img bench -w` on tmpfs, CPU time per write by the thread and by the ring: 4 KiB 0.9 and 6.5 us,
 * 64 KiB 7 and 22 us, 256 KiB 26 and 51 us; the thread takes less elapsed time, too. From 1 MiB on there is little
 * difference. */
#define LOOP_NOW_BYTES_MAX (256 * 1024u)
/* Return whether the iovecs have at most LOOP_NOW_BYTES_MAX bytes together. */
bool loop_iov_is_small(const struct iovec *iov, unsigned niov);

#endif
