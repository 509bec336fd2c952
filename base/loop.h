/* loop: an event loop on io_uring, or on epoll and threads where io_uring is refused.
 *
 * One thread runs the loop. All functions except loop_new(), loop_post(), loop_stop() and loop_now_ns() belong to
 * that thread, or to any one thread while the loop does not run. Callbacks run on the loop's thread and nest only if a
 * callback itself runs the loop. There are no periodic wake-ups: an idle loop sleeps in the kernel. A busy loop with a
 * loop_poller polls for a bounded time before it sleeps. */
#ifndef CAIRN_BASE_LOOP_H
#define CAIRN_BASE_LOOP_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

struct err;
struct loop;

/* Create a loop on io_uring. If io_uring is refused, as in most containers, create one on epoll, in which up to four
 * threads perform the file operations that would block, and log one line. All later loops are on epoll then. Earlier
 * loops may be on io_uring, because a further ring may exceed the limit of locked memory. The environment variable
 * CAIRN_LOOP, epoll or io_uring, overrides the choice. Any thread.
 * entries: submission queue size, e.g. 64 for control, 256 for a disk.
 * Returns 0; -errno with a sentence (ERR_HOST if the kernel refuses, ERR_INVALID if CAIRN_LOOP is unknown). */
int loop_new(unsigned entries, struct loop **ret_loop, struct err *e);
enum loop_kind { LOOP_IO_URING, LOOP_EPOLL };
/* Returns the loop's back end. */
enum loop_kind loop_kind(const struct loop *l);
#define LOOP_KIND(kind) (1u << (kind))
#define LOOP_KINDS_ALL (LOOP_KIND(LOOP_IO_URING) | LOOP_KIND(LOOP_EPOLL))
/* Returns the back ends of all loops that the process has created: LOOP_KIND() of each. A sandbox must allow their
 * system calls: see lockdown_allow_loops(). Any thread. */
unsigned loop_kinds(void);
/* With defer true, create no threads until a call with false. Meanwhile, a file operation that needs a thread runs
 * inside the submitting call, and done() still runs later. A thread that exists before lockdown_drop() would keep its
 * capabilities. No effect with io_uring. */
void loop_defer_threads(struct loop *l, bool defer);
/* Free the loop and its remaining watches. Timers belong to their creators, who free them before or
 * after. No operation may be in flight, except when the process is about to end: then the operation's memory must
 * stay valid. */
void loop_free(struct loop *l);
/* Run until loop_stop() is called. */
void loop_run(struct loop *l);
/* End loop_run(). Any thread, at any time. */
void loop_stop(struct loop *l);
/* Wait for events and handle the ready ones once. Callbacks and other functions use it to wait for one event.
 * timeout_ns: longest wait; 0: do not wait; UINT64_MAX: no limit. */
void loop_run_once(struct loop *l, uint64_t timeout_ns);

/* ---- work from other threads ---- */
struct loop_task {
	void (*run)(struct loop_task *t);
	struct loop_task *next; /* the loop's own */
};
/* Queue t->run() on the loop's thread. Any thread. t: borrowed until its run() begins; a task may
 * be queued only once at a time. */
void loop_post(struct loop *l, struct loop_task *t);
/* Return the fd to which loop_post() writes; borrowed. A thread with a table of files of its own keeps it open. */
int loop_wake_fd(const struct loop *l);

/* ---- readiness ---- */
struct loop_watch;
/* Call ready() while an event is pending on fd (level-triggered).
 * fd: borrowed; must stay open until loop_unwatch().
 * events: POLLIN|POLLOUT; revents as in poll(2).
 * Returns 0 or -errno. The caller ends the watch with loop_unwatch(). */
int loop_watch(struct loop *l, int fd, unsigned events,
	void (*ready)(void *opaque, unsigned revents), void *opaque, struct loop_watch **ret_w);
/* Change the events; 0 pauses the watch. */
void loop_watch_events(struct loop_watch *w, unsigned events);
/* End a watch; NULL allowed. Safe inside the watch's own callback. ready() does not run afterwards. */
void loop_unwatch(struct loop_watch *w);

/* ---- timers ---- */
struct loop_timer;
/* Create an unarmed timer.
 * Returns 0 or -ENOMEM. The caller frees it with loop_timer_free(). */
int loop_timer_new(struct loop *l, void (*fire)(void *opaque), void *opaque,
	struct loop_timer **ret_t);
/* Let the timer fire once at `deadline_ns` of CLOCK_MONOTONIC (see loop_now_ns()). Arming again
 * replaces the deadline. */
void loop_timer_arm(struct loop_timer *t, uint64_t deadline_ns);
void loop_timer_disarm(struct loop_timer *t);
void loop_timer_free(struct loop_timer *t);
/* Returns the time of CLOCK_MONOTONIC. Any thread. */
uint64_t loop_now_ns(void);

/* ---- busy polling ---- */
struct loop_poller {
	/* Look for work, and do it. Returns whether there was any. */
	bool (*poll)(void *opaque);
	/* The loop is about to sleep. Enable the notifications that end the sleep. Returns whether work came meanwhile:
	 * the loop does not sleep then. */
	bool (*sleeps)(void *opaque);
	void *opaque;
	uint32_t max_ns; /* longest poll without work; 0: the usual length */
};
/* Let the loop call p's functions before it sleeps: poll() repeatedly while work has come soon after each sleep
 * (base/busy_poll.h), then sleeps() once. p: borrowed until loop_poll_end(). Returns 0; -EBUSY: the loop has another
 * poller. */
int loop_poll(struct loop *l, const struct loop_poller *p);
/* End loop_poll(). Does nothing if the loop's poller is another one. */
void loop_poll_end(struct loop *l, const struct loop_poller *p);
/* Returns whether the loop will poll before its next sleep, so that the poller's notifications can stay disabled until
 * sleeps(). */
bool loop_polls(struct loop *l);

/* ---- asynchronous operations ---- */
enum loop_op_kind { LOOP_OP_READ, LOOP_OP_WRITE, LOOP_OP_SYNC, LOOP_OP_FALLOCATE, LOOP_OP_NOP };
/* An operation, embedded in the caller's request; it must not move until done() runs. The same holds for
 * the iovecs. Operations in flight at the same time take effect in any order. done() runs
 * exactly once, from the loop, never inside the submitting call. res: the system call's result, or
 * -errno. */
struct loop_op {
	void (*done)(struct loop_op *op, int res);
	/* the loop's own */
	struct loop_op *next;
	int res;
	/* the arguments, because io_uring may give an operation back (op_repeat() in loop_uring.c) */
	enum loop_op_kind kind;
	int fd, mode;
	unsigned niov;
	const struct iovec *iov;
	uint64_t offset, len;
};
void loop_readv(struct loop *l, struct loop_op *op, int fd, const struct iovec *iov, unsigned niov,
	uint64_t offset);
void loop_writev(struct loop *l, struct loop_op *op, int fd, const struct iovec *iov,
	unsigned niov, uint64_t offset);
/* Tell the loop that fd is a file in memory (tmpfs). io_uring may pass a read or write of such a file to a kernel
 * thread, which costs more than a small transfer. So loop_readv() and loop_writev() perform small transfers
 * themselves. Call it again with false before fd is closed. */
void loop_file_in_memory(struct loop *l, int fd, bool in_memory);
/* Tell the loop that writes to fd go to the page cache. io_uring passes them to a kernel thread on most file systems,
 * so loop_writev() performs small ones itself; but no more for a while after one that took long. 4 KiB on ext4: 3 us,
 * and by the ring 23 to 36 us at depth 1 and 7 us at depth 32. Reads stay with the ring, which reads what the cache
 * holds while it takes the operation (3 us; preadv2(RWF_NOWAIT): 2.3 us).
 * reads: the file system cannot do that (RWF_NOWAIT fails), so io_uring passes reads to a kernel thread, too. Then
 * loop_readv() performs a small read itself if no other operation is in flight.
 * loop_file_in_memory(l, fd, false) ends this. */
void loop_file_cached(struct loop *l, int fd, bool reads);
void loop_fdatasync(struct loop *l, struct loop_op *op, int fd);
/* mode: FALLOC_FL_* */
void loop_fallocate(struct loop *l, struct loop_op *op, int fd, int mode, uint64_t offset,
	uint64_t len);
/* Let the loop call op's done() with 0, to answer asynchronously without I/O. */
void loop_nop(struct loop *l, struct loop_op *op);
/* Observe all operations; tests use this to simulate power cuts. The calls come from the
 * loop's thread: submit() before the operation can have an effect, complete() before its done().
 * t: borrowed; NULL ends the observation. */
struct loop_trace {
	/* iov: for READ and WRITE; mode and len: for FALLOCATE. */
	void (*submit)(struct loop_trace *t, struct loop_op *op, enum loop_op_kind kind, int fd,
		const struct iovec *iov, unsigned niov, uint64_t offset, uint64_t len, int mode);
	void (*complete)(struct loop_trace *t, struct loop_op *op, int res);
};
void loop_trace(struct loop *l, struct loop_trace *t);
/* Returns the number of submitted operations whose done() was not called yet. */
unsigned loop_ops_in_flight(const struct loop *l);

#endif
