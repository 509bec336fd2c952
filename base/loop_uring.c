#include "base/file_pool.h"
#include "base/loop_impl.h"
#include "base/util.h"

#include <errno.h>
#include <liburing.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

/* The low bits of user_data give the completion's kind; operations and watches are at least 8-aligned. */
enum completion_kind { KIND_OP = 0, KIND_WATCH = 1, KIND_IGNORE = 2, KIND_MASK = 7 };

struct loop_uring {
	struct loop loop;
	struct io_uring ring;
	unsigned held; /* reads and writes that are queued but not submitted; those of files in memory do not count */
	unsigned unsubmitted; /* operations in the queue */
};

static struct loop_uring *uring_of(struct loop *l)
{
	return container_of(l, struct loop_uring, loop);
}

static struct io_uring_sqe *get_sqe(struct loop *l)
{
	struct loop_uring *u = uring_of(l);
	struct io_uring_sqe *sqe = io_uring_get_sqe(&u->ring);

	while (!sqe) {
		/* -EBUSY: the completion queue overflowed. The kernel keeps the submitted entries, and accepts further
		 * ones when the loop has consumed some completions. The loop consumes a completion before it runs the
		 * callback that has called this function, so only retry. */
		io_uring_submit(&u->ring);
		sqe = io_uring_get_sqe(&u->ring);
	}
	return sqe;
}

/* ---- watches ---- */

static void watch_arm(struct loop_watch *w)
{
	struct io_uring_sqe *sqe;

	if (w->uring.armed || w->uring.dead || !w->events)
		return;
	sqe = get_sqe(w->loop);
	io_uring_prep_poll_add(sqe, w->fd, w->events);
	io_uring_sqe_set_data64(sqe, (uintptr_t)w | KIND_WATCH);
	w->uring.armed = true;
	w->uring.cancelling = false;
}

static void watch_cancel(struct loop_watch *w)
{
	struct io_uring_sqe *sqe;

	if (!w->uring.armed || w->uring.cancelling)
		return;
	sqe = get_sqe(w->loop);
	io_uring_prep_poll_remove(sqe, (uintptr_t)w | KIND_WATCH);
	io_uring_sqe_set_data64(sqe, KIND_IGNORE);
	w->uring.cancelling = true;
}

static void watch_completed(struct loop_watch *w, int res)
{
	w->uring.armed = false;
	/* This call is nested, because ready() of this watch runs the loop. The outer call arms or frees the watch. */
	if (w->uring.running)
		return;
	if (!w->uring.dead && !w->uring.cancelling && w->events) {
		/* A failed poll would fail again at once, so report POLLERR. */
		w->uring.running = true;
		w->ready(w->opaque, res < 0 ? POLLERR : (unsigned)res);
		w->uring.running = false;
	}
	if (w->uring.dead) {
		/* ready() has called loop_unwatch(). The watch's last completion is still to come. */
		if (w->uring.armed)
			return;
		loop_watch_free(w);
		return;
	}
	watch_arm(w);
}

static int uring_watch(struct loop_watch *w)
{
	watch_arm(w);
	return 0;
}

static void uring_watch_events(struct loop_watch *w)
{
	if (w->uring.armed)
		watch_cancel(w); /* the completion arms it again with the new mask */
	else
		watch_arm(w);
}

static void uring_unwatch(struct loop_watch *w)
{
	w->uring.dead = true;
	if (w->uring.armed) {
		watch_cancel(w);
		/* The caller may close the fd next, so the kernel must drop the poll first. */
		io_uring_submit(&uring_of(w->loop)->ring);
	}
	/* The last completion frees the watch. An unarmed watch is freed in the loop's next round,
	 * because the caller may be the watch's own callback. */
	if (!w->uring.armed) {
		struct io_uring_sqe *sqe = get_sqe(w->loop);

		io_uring_prep_nop(sqe);
		io_uring_sqe_set_data64(sqe, (uintptr_t)w | KIND_WATCH);
		w->uring.armed = true;
		w->uring.cancelling = true;
	}
}

/* ---- operations ---- */

static struct io_uring_sqe *data_sqe(struct loop *l, struct loop_op *op, enum loop_op_kind kind, int fd,
	const struct iovec *iov, unsigned niov, uint64_t offset)
{
	uring_of(l)->held += !loop_fd_in_memory(l, fd);
	uring_of(l)->unsubmitted++;
	op->kind = kind;
	op->fd = fd;
	op->iov = iov;
	op->niov = niov;
	op->offset = offset;
	return get_sqe(l);
}

static void uring_readv(struct loop *l, struct loop_op *op, int fd, const struct iovec *iov, unsigned niov,
	uint64_t offset)
{
	struct io_uring_sqe *sqe = data_sqe(l, op, LOOP_OP_READ, fd, iov, niov, offset);

	if (niov == 1)
		io_uring_prep_read(sqe, fd, iov->iov_base, (unsigned)iov->iov_len, offset);
	else
		io_uring_prep_readv(sqe, fd, iov, niov, offset);
	io_uring_sqe_set_data(sqe, op);
}

static void uring_writev(struct loop *l, struct loop_op *op, int fd, const struct iovec *iov, unsigned niov,
	uint64_t offset)
{
	struct io_uring_sqe *sqe = data_sqe(l, op, LOOP_OP_WRITE, fd, iov, niov, offset);

	if (niov == 1)
		io_uring_prep_write(sqe, fd, iov->iov_base, (unsigned)iov->iov_len, offset);
	else
		io_uring_prep_writev(sqe, fd, iov, niov, offset);
	io_uring_sqe_set_data(sqe, op);
}

static void uring_fdatasync(struct loop *l, struct loop_op *op, int fd)
{
	struct io_uring_sqe *sqe = get_sqe(l);

	uring_of(l)->unsubmitted++;
	op->kind = LOOP_OP_SYNC;
	op->fd = fd;
	op->offset = 0;
	io_uring_prep_fsync(sqe, fd, IORING_FSYNC_DATASYNC);
	io_uring_sqe_set_data(sqe, op);
}

static void uring_fallocate(struct loop *l, struct loop_op *op, int fd, int mode, uint64_t offset, uint64_t len)
{
	struct io_uring_sqe *sqe = get_sqe(l);

	uring_of(l)->unsubmitted++;
	op->kind = LOOP_OP_FALLOCATE;
	op->fd = fd;
	op->mode = mode;
	op->offset = offset;
	op->len = len;
	io_uring_prep_fallocate(sqe, fd, mode, (off_t)offset, (off_t)len);
	io_uring_sqe_set_data(sqe, op);
}

_Static_assert((int)LOOP_OP_READ == FILE_JOB_READ && (int)LOOP_OP_WRITE == FILE_JOB_WRITE &&
	(int)LOOP_OP_SYNC == FILE_JOB_SYNC && (int)LOOP_OP_FALLOCATE == FILE_JOB_FALLOCATE, "both enums agree");

/* Perform an operation that the kernel has cancelled. The loop itself cancels none; the kernel does when it cannot
 * create the thread for an operation, because signals interrupt that, or because of a limit of processes. The kernel
 * has not begun the operation. The loop's thread performs it, because the kernel could cancel it again. */
static int op_repeat(const struct loop_op *op)
{
	struct file_job job = { .kind = (enum file_job_kind)op->kind, .fd = op->fd, .mode = op->mode, .iov = op->iov,
		.niov = op->niov, .offset = op->offset, .len = op->len };

	/* An operation at the file's current position may wait for a reader or a writer: its caller repeats it. */
	if (op->offset == UINT64_MAX)
		return -EINTR;
	do {
		file_job_run(&job);
	} while (job.res == -EINTR);
	return job.res;
}

/* ---- waiting for completions; creating and freeing the loop ---- */

static void completion_handle(struct loop *l, uint64_t data, int res)
{
	void *p = (void *)(uintptr_t)(data & ~(uint64_t)KIND_MASK);

	switch (data & KIND_MASK) {
	case KIND_OP:
		loop_op_deliver(l, p, res == -ECANCELED ? op_repeat(p) : res);
		break;
	case KIND_WATCH:
		watch_completed(p, res);
		break;
	case KIND_IGNORE:
		break;
	}
}

/* Number of operations from callbacks that wait before the loop submits them. Waiting for the end
 * of the round leaves the device idle while callbacks run, and then floods it. Random 4 KiB at
 * depth 32 on disk: with 2, reads 91 k/s and writes 158 k/s; with 8, 85 and 142; at the end of the
 * round, 75 and 113. */
#define HELD_MAX 2u

static void sqes_submit(struct loop_uring *u)
{
	u->held = u->unsubmitted = 0;
	io_uring_submit(&u->ring);
}

static void completions_reap(struct loop_uring *u)
{
	struct io_uring_cqe *cqe;

	/* Return each entry to the ring before its callback runs, because callbacks submit. The bound
	 * gives timers a turn during a stream of completions. */
	for (unsigned n = 0; n < 1024 && io_uring_peek_cqe(&u->ring, &cqe) == 0; n++) {
		uint64_t data = cqe->user_data;
		int res = cqe->res;

		io_uring_cqe_seen(&u->ring, cqe);
		completion_handle(&u->loop, data, res);
		if (u->held >= HELD_MAX)
			sqes_submit(u);
	}
}

static void uring_turn(struct loop *l, uint64_t timeout_ns)
{
	struct __kernel_timespec ts, *tsp = NULL;
	struct loop_uring *u = uring_of(l);
	struct io_uring_cqe *cqe;

	if (timeout_ns != UINT64_MAX) {
		ts.tv_sec = (long long)(timeout_ns / 1000000000ULL);
		ts.tv_nsec = (long long)(timeout_ns % 1000000000ULL);
		tsp = &ts;
	}
	if (!timeout_ns || io_uring_cq_ready(&u->ring)) {
		sqes_submit(u);
	} else {
		u->held = u->unsubmitted = 0;
		io_uring_submit_and_wait_timeout(&u->ring, &cqe, 1, tsp, NULL);
		loop_woke(l);
	}
	completions_reap(u);
}

/* Submits operations. Without any, leaves new entries in the queue: a watch that is not armed again costs no interrupt
 * of this processor when its next event comes. */
static bool uring_handle_ready(struct loop *l)
{
	if (uring_of(l)->unsubmitted)
		sqes_submit(uring_of(l));
	if (!io_uring_cq_ready(&uring_of(l)->ring))
		return false;
	completions_reap(uring_of(l));
	return true;
}

/* Submissions to a ring are no system calls, so seccomp does not filter them. Restrict the ring, so
 * that an attacker in the process cannot open, connect or rename with it. Restrictions are
 * permanent. */
static int ring_restrict(struct io_uring *ring)
{
	static const uint8_t ops[] = { IORING_OP_NOP, IORING_OP_POLL_ADD, IORING_OP_POLL_REMOVE, IORING_OP_READ,
		IORING_OP_READV, IORING_OP_WRITE, IORING_OP_WRITEV, IORING_OP_FSYNC, IORING_OP_FALLOCATE };
	struct io_uring_restriction all[ARRAY_SIZE(ops)] = { 0 };

	for (size_t i = 0; i < ARRAY_SIZE(ops); i++) {
		all[i].opcode = IORING_RESTRICTION_SQE_OP;
		all[i].sqe_op = ops[i];
	}
	/* Debian 12's liburing declares functions for these two registrations but does not export them. */
	if (syscall(SYS_io_uring_register, ring->ring_fd, IORING_REGISTER_RESTRICTIONS, all, ARRAY_SIZE(all)) < 0 ||
		syscall(SYS_io_uring_register, ring->ring_fd, IORING_REGISTER_ENABLE_RINGS, NULL, 0) < 0)
		return -errno;
	return 0;
}

static int ring_new(unsigned entries, struct io_uring *ring)
{
	struct io_uring_params p = { .flags = IORING_SETUP_CLAMP | IORING_SETUP_R_DISABLED };
	int r = io_uring_queue_init_params(entries, ring, &p);

	if (r < 0)
		return r;
	r = ring_restrict(ring);
	/* A child's copy of the mapping would keep the ring after the end of its parent, and the ring would keep the
	 * fds that it polls. So the sockets of a killed daemon would stay open, and their clients would wait. */
	if (!r)
		r = io_uring_ring_dontfork(ring);
	if (r < 0)
		io_uring_queue_exit(ring);
	return r;
}

static void uring_free(struct loop *l)
{
	struct loop_uring *u = uring_of(l);

	io_uring_queue_exit(&u->ring);
	while (l->watches)
		loop_watch_free(l->watches);
	free(u);
}

static const struct loop_backend uring_backend = {
	.kind = LOOP_IO_URING,
	.free = uring_free,
	.watch = uring_watch,
	.watch_events = uring_watch_events,
	.unwatch = uring_unwatch,
	.readv = uring_readv,
	.writev = uring_writev,
	.fdatasync = uring_fdatasync,
	.fallocate = uring_fallocate,
	.turn = uring_turn,
	.handle_ready = uring_handle_ready,
};

int loop_uring_new(unsigned entries, struct loop **ret_loop)
{
	struct loop_uring *u = calloc(1, sizeof(*u));
	int r = u ? ring_new(entries, &u->ring) : -ENOMEM;

	if (r < 0) {
		free(u);
		return r;
	}
	u->loop.backend = &uring_backend;
	*ret_loop = &u->loop;
	return 0;
}
