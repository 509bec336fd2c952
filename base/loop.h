/* loop: an event loop on io_uring. One thread runs it; everything but
 * loop_post() and loop_stop() is called on that thread (or before
 * loop_run()). Callbacks run on it, never nested. No periodic wake-ups: an idle
 * loop sleeps in the kernel. */
#ifndef CAIRN_BASE_LOOP_H
#define CAIRN_BASE_LOOP_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

struct err;
struct loop;

/* entries: submission queue size, e.g. 64 for control, 256 for a disk.
 * Returns 0; -errno (ERR_HOST, with a sentence) when the kernel refuses io_uring. */
int loop_new(unsigned entries, struct loop **ret_loop, struct err *e);
/* Frees what is left of watches; timers stay their makers', who free them before or after.
 * The caller has no ops in flight. */
void loop_free(struct loop *l);
/* Runs until loop_stop(). */
void loop_run(struct loop *l);
/* Any thread, any time. */
void loop_stop(struct loop *l);
/* Handle what is ready, waiting at most timeout_ns (0: do not wait; UINT64_MAX:
 * no limit). For tests and for tools that wait for one thing. */
void loop_run_once(struct loop *l, uint64_t timeout_ns);

/* ---- work from other threads ---- */
struct loop_task {
	void (*run)(struct loop_task *t);
	struct loop_task *next; /* the loop's */
};
/* Any thread. t: borrowed until its run() begins; not queued twice at a time. */
void loop_post(struct loop *l, struct loop_task *t);

/* ---- readiness ---- */
struct loop_watch;
/* events: POLLIN|POLLOUT; revents as poll(2). Level-triggered. fd: borrowed, must
 * stay open until loop_unwatch(). */
int loop_watch(struct loop *l, int fd, unsigned events,
	void (*ready)(void *opaque, unsigned revents), void *opaque, struct loop_watch **ret_w);
/* events 0 pauses the watch. */
void loop_watch_events(struct loop_watch *w, unsigned events);
/* NULL allowed. Safe from the watch's own callback; no callback after it. */
void loop_unwatch(struct loop_watch *w);

/* ---- timers ---- */
struct loop_timer;
/* Created unarmed. */
int loop_timer_new(struct loop *l, void (*fire)(void *opaque), void *opaque,
	struct loop_timer **ret_t);
/* Fires once at `deadline_ns` of CLOCK_MONOTONIC (see loop_now_ns); re-arming replaces. */
void loop_timer_arm(struct loop_timer *t, uint64_t deadline_ns);
void loop_timer_disarm(struct loop_timer *t);
void loop_timer_free(struct loop_timer *t);
uint64_t loop_now_ns(void);

/* ---- asynchronous operations ---- */
/* Embedded in the caller's request; stays put until done() runs (exactly once,
 * from the loop, never from inside the submitting call). res: as the system
 * call, or -errno. */
struct loop_op {
	void (*done)(struct loop_op *op, int res);
	/* the loop's */
	struct loop_op *next;
	int res;
};
void loop_readv(struct loop *l, struct loop_op *op, int fd, const struct iovec *iov, unsigned niov,
	uint64_t offset);
void loop_writev(struct loop *l, struct loop_op *op, int fd, const struct iovec *iov,
	unsigned niov, uint64_t offset);
/* Is fd a file in memory (tmpfs)? io_uring gives every write to one to a thread of its own, which
 * costs more than the write: small ones are done by loop_writev() itself. To be told again, with
 * false, before fd is closed. */
void loop_file_in_memory(struct loop *l, int fd, bool in_memory);
void loop_fdatasync(struct loop *l, struct loop_op *op, int fd);
/* mode: FALLOC_FL_* */
void loop_fallocate(struct loop *l, struct loop_op *op, int fd, int mode, uint64_t offset,
	uint64_t len);
/* Completes with 0 in the loop's next round: to answer asynchronously without I/O. */
void loop_nop(struct loop *l, struct loop_op *op);
/* Watch what is asked of files: how tests cut the power. The calls come from the loop's
 * thread, submit() before the operation can have an effect, complete() before its done().
 * t: borrowed; NULL ends it. */
enum loop_op_kind { LOOP_OP_READ, LOOP_OP_WRITE, LOOP_OP_SYNC, LOOP_OP_FALLOCATE, LOOP_OP_NOP };
struct loop_trace {
	/* iov: READ and WRITE; mode and len: FALLOCATE. */
	void (*submit)(struct loop_trace *t, struct loop_op *op, enum loop_op_kind kind, int fd,
		const struct iovec *iov, unsigned niov, uint64_t offset, uint64_t len, int mode);
	void (*complete)(struct loop_trace *t, struct loop_op *op, int res);
};
void loop_trace(struct loop *l, struct loop_trace *t);
/* Operations submitted and not done. */
unsigned loop_ops_in_flight(const struct loop *l);

#endif
