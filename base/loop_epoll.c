#include "base/file_aio.h"
#include "base/file_pool.h"
#include "base/loop_impl.h"
#include "base/util.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <unistd.h>

#define EVENTS_MAX 64

/* One frame for each ready() that runs. Frames nest, because ready() may run the loop. */
struct running {
	struct loop_watch *w; /* NULL: loop_unwatch() freed it */
	struct running *outer;
};

struct loop_epoll {
	struct loop loop;
	int epoll_fd;
	int done_fd; /* an eventfd, signalled when a thread or the kernel's AIO has completed a job */
	bool no_pwait2; /* the kernel or a container refuses epoll_pwait2() */
	bool defer_threads;
	struct loop_watch *due, **due_tail; /* watches whose ready() is to be called */
	struct running *running;
	unsigned nalways; /* watches that are always ready, because epoll refuses their fds (such as regular files) */
	unsigned turn;	  /* counts the turns; it may wrap */

	struct file_pool *pool; /* NULL before the first use */
	struct file_aio *aio;	/* NULL before the first use */
	bool no_aio;		/* the kernel refuses io_setup() */
	unsigned entries;
	struct file_job *free_jobs;
};

static struct loop_epoll *epoll_of(struct loop *l)
{
	return container_of(l, struct loop_epoll, loop);
}

/* ---- watches ---- */

static void due_append(struct loop_epoll *p, struct loop_watch *w, unsigned revents)
{
	w->epoll.revents = revents;
	if (w->epoll.link)
		return;
	w->epoll.link = p->due_tail;
	w->epoll.next = NULL;
	*p->due_tail = w;
	p->due_tail = &w->epoll.next;
}

static void due_remove(struct loop_epoll *p, struct loop_watch *w)
{
	if (!w->epoll.link)
		return;
	*w->epoll.link = w->epoll.next;
	if (w->epoll.next)
		w->epoll.next->epoll.link = w->epoll.link;
	else
		p->due_tail = w->epoll.link;
	w->epoll.link = NULL;
}

static int watched_fd(const struct loop_watch *w)
{
	return w->epoll.dup >= 0 ? w->epoll.dup : w->fd;
}

static void set_remove(struct loop_epoll *p, struct loop_watch *w)
{
	if (!w->epoll.added)
		return;
	epoll_ctl(p->epoll_fd, EPOLL_CTL_DEL, watched_fd(w), NULL);
	w->epoll.added = false;
}

/* epoll has one entry for each fd, so a second watch of an fd uses a duplicate. */
static int set_add(struct loop_epoll *p, struct loop_watch *w)
{
	struct epoll_event ev = { .events = w->events, .data.ptr = w };
	int r = epoll_ctl(p->epoll_fd, EPOLL_CTL_ADD, watched_fd(w), &ev);

	if (r < 0 && errno == EEXIST && w->epoll.dup < 0) {
		w->epoll.dup = fcntl(w->fd, F_DUPFD_CLOEXEC, 0);
		if (w->epoll.dup < 0)
			return -errno;
		r = epoll_ctl(p->epoll_fd, EPOLL_CTL_ADD, w->epoll.dup, &ev);
	}
	return r < 0 ? -errno : 0;
}

static void always_set(struct loop_epoll *p, struct loop_watch *w, unsigned revents)
{
	p->nalways += !w->epoll.always;
	w->epoll.always = revents;
}

/* Bring the epoll set up to date with the watch. epoll reports a hang-up even if no event is requested, so a paused
 * watch leaves the set. */
static int set_update(struct loop_epoll *p, struct loop_watch *w)
{
	struct epoll_event ev = { .events = w->events, .data.ptr = w };
	int r;

	if (!w->events || w->epoll.masked) {
		set_remove(p, w);
		return 0;
	}
	if (w->epoll.always)
		return 0;
	if (w->epoll.added) {
		epoll_ctl(p->epoll_fd, EPOLL_CTL_MOD, watched_fd(w), &ev);
		return 0;
	}
	r = set_add(p, w);
	w->epoll.added = !r;
	if (r == -EPERM) /* a regular file, /dev/null: poll() reports them as ready */
		always_set(p, w, POLLIN | POLLOUT);
	else if (r == -EBADF)
		always_set(p, w, POLLERR);
	else
		return r;
	return 0;
}

static int epoll_watch(struct loop_watch *w)
{
	w->epoll.dup = -1;
	return set_update(epoll_of(w->loop), w);
}

static void epoll_watch_events(struct loop_watch *w)
{
	struct loop_epoll *p = epoll_of(w->loop);

	due_remove(p, w); /* the event may no longer be requested; if it is, epoll reports it again */
	if (set_update(p, w) < 0)
		always_set(p, w, POLLERR); /* ready() gets POLLERR, so that the watch's owner sees the failure */
}

static void watch_release(struct loop_epoll *p, struct loop_watch *w)
{
	due_remove(p, w);
	set_remove(p, w);
	p->nalways -= w->epoll.always != 0;
	if (w->epoll.dup >= 0)
		close(w->epoll.dup);
	loop_watch_free(w);
}

static void epoll_unwatch(struct loop_watch *w)
{
	struct loop_epoll *p = epoll_of(w->loop);

	for (struct running *f = p->running; f; f = f->outer)
		if (f->w == w)
			f->w = NULL;
	watch_release(p, w);
}

/* Handle an event of a watch. If the watch's ready() runs already (a callback may run the loop), it must not be called
 * again, so take the fd out of the epoll set until ready() returns. */
static void watch_event(struct loop_epoll *p, struct loop_watch *w, unsigned revents)
{
	if (!w->epoll.running) {
		due_append(p, w, revents);
		return;
	}
	w->epoll.masked = true;
	set_remove(p, w);
}

static void watch_unmask(struct loop_epoll *p, struct loop_watch *w)
{
	w->epoll.running = false;
	if (!w->epoll.masked)
		return;
	w->epoll.masked = false;
	if (set_update(p, w) < 0)
		always_set(p, w, POLLERR);
}

static unsigned always_events(const struct loop_watch *w)
{
	if (!w->events || w->epoll.running)
		return 0;
	return w->epoll.always & (w->events | POLLERR);
}

static bool always_due(struct loop_epoll *p)
{
	for (struct loop_watch *w = p->nalways ? p->loop.watches : NULL; w; w = w->next)
		if (always_events(w))
			due_append(p, w, always_events(w));
	return p->due;
}

/* Call ready() for all watches in the list. If a callback runs the loop, the nested call continues the list. */
static void watches_serve(struct loop_epoll *p)
{
	while (p->due) {
		struct running frame = { p->due, p->running };
		struct loop_watch *w = p->due;

		due_remove(p, w);
		w->epoll.served = p->turn;
		w->epoll.running = true;
		p->running = &frame;
		w->ready(w->opaque, w->epoll.revents);
		p->running = frame.outer;
		if (frame.w)
			watch_unmask(p, frame.w);
	}
}

/* ---- operations ---- */

static struct file_job *file_job_new(struct loop_epoll *p, struct loop_op *op, enum file_job_kind kind, int fd)
{
	struct file_job *job = p->free_jobs;

	if (job)
		p->free_jobs = job->next;
	else
		job = malloc(sizeof(*job));
	if (!job)
		abort(); /* otherwise the operation would never complete */
	*job = (struct file_job){ .owner = op, .kind = kind, .fd = fd };
	return job;
}

static void job_finish(struct loop_epoll *p, struct file_job *job)
{
	struct loop_op *op = job->owner;
	int res = job->res;

	job->next = p->free_jobs;
	p->free_jobs = job;
	loop_op_completed(&p->loop, op, res);
}

static void job_to_thread(struct loop_epoll *p, struct file_job *job)
{
	if (!p->pool && !p->defer_threads)
		p->pool = file_pool_new(p->done_fd);
	if (p->pool && !p->defer_threads) {
		file_pool_submit(p->pool, job);
		return;
	}
	file_job_run(job);
	job_finish(p, job);
}

/* Pass the job to the kernel's AIO. Returns 0; -errno: the job needs a thread. */
static int job_to_kernel(struct loop_epoll *p, struct file_job *job)
{
	if (!p->aio && !p->no_aio) {
		p->aio = file_aio_new(p->done_fd, p->entries);
		p->no_aio = !p->aio;
	}
	return p->aio ? file_aio_submit(p->aio, job) : -ENOSYS;
}

static void job_transfer(struct loop_epoll *p, struct loop_op *op, enum file_job_kind kind, int fd,
	const struct iovec *iov, unsigned niov, uint64_t offset, int flags)
{
	struct file_job *job = file_job_new(p, op, kind, fd);

	job->iov = iov;
	if (niov == 1) {
		job->one = *iov;
		job->iov = &job->one;
	}
	job->niov = niov;
	job->offset = offset;
	if (flags < 0 || !(flags & O_DIRECT) || job_to_kernel(p, job) < 0)
		job_to_thread(p, job);
}

/* Read from the page cache. Returns false if some of the bytes are not in the cache, or the read is large. A read at
 * the file's current position also returns false: it would move the position even if it is short, and could not be
 * repeated. */
static bool read_cached(struct loop *l, struct loop_op *op, int fd, const struct iovec *iov, unsigned niov,
	uint64_t offset)
{
	size_t bytes = 0;
	ssize_t n;

	if (offset == UINT64_MAX || !loop_iov_is_small(iov, niov))
		return false;
	for (unsigned i = 0; i < niov; i++)
		bytes += iov[i].iov_len;
	n = preadv2(fd, iov, (int)niov, (off_t)offset, RWF_NOWAIT);
	if (n < 0 || (size_t)n != bytes)
		return false;
	loop_op_completed(l, op, (int)n);
	return true;
}

static void epoll_readv(struct loop *l, struct loop_op *op, int fd, const struct iovec *iov, unsigned niov,
	uint64_t offset)
{
	int flags = fcntl(fd, F_GETFL);

	/* A direct read waits for the device even with RWF_NOWAIT. */
	if (flags >= 0 && !(flags & O_DIRECT) && read_cached(l, op, fd, iov, niov, offset))
		return;
	job_transfer(epoll_of(l), op, FILE_JOB_READ, fd, iov, niov, offset, flags);
}

static void epoll_writev(struct loop *l, struct loop_op *op, int fd, const struct iovec *iov, unsigned niov,
	uint64_t offset)
{
	job_transfer(epoll_of(l), op, FILE_JOB_WRITE, fd, iov, niov, offset, fcntl(fd, F_GETFL));
}

static void epoll_fdatasync(struct loop *l, struct loop_op *op, int fd)
{
	struct loop_epoll *p = epoll_of(l);

	if (loop_fd_in_memory(l, fd)) /* tmpfs has nothing to sync */
		loop_op_completed(l, op, 0);
	else
		job_to_thread(p, file_job_new(p, op, FILE_JOB_SYNC, fd));
}

static void epoll_fallocate(struct loop *l, struct loop_op *op, int fd, int mode, uint64_t offset, uint64_t len)
{
	struct loop_epoll *p = epoll_of(l);
	struct file_job *job = file_job_new(p, op, FILE_JOB_FALLOCATE, fd);

	job->mode = mode;
	job->offset = offset;
	job->len = len;
	job_to_thread(p, job);
}

static void jobs_take(struct loop_epoll *p)
{
	struct file_job *job = p->aio ? file_aio_take(p->aio) : NULL, *next;

	for (; job; job = next) {
		next = job->next;
		if (job->res == -EAGAIN)
			job_to_thread(p, job);
		else
			job_finish(p, job);
	}
	for (job = p->pool ? file_pool_take(p->pool) : NULL; job; job = next) {
		next = job->next;
		job_finish(p, job);
	}
}

/* ---- waiting for events; creating and freeing the loop ---- */

static struct timespec timespec_of(uint64_t ns)
{
	return (struct timespec){ .tv_sec = (time_t)(ns / 1000000000ULL), .tv_nsec = (long)(ns % 1000000000ULL) };
}

/* Wait for events with a timeout in ns. epoll_wait() knows only milliseconds, so where epoll_pwait2() is missing,
 * ppoll() waits on the epoll fd. */
static int wait_until(struct loop_epoll *p, struct epoll_event *events, uint64_t timeout_ns)
{
	struct timespec ts = timespec_of(timeout_ns);
	struct pollfd set = { .fd = p->epoll_fd, .events = POLLIN };

	if (!p->no_pwait2) {
		int n = epoll_pwait2(p->epoll_fd, events, EVENTS_MAX, &ts, NULL);

		if (n >= 0 || errno == EINTR)
			return n;
		p->no_pwait2 = true;
	}
	if (ppoll(&set, 1, &ts, NULL) <= 0)
		return 0;
	return epoll_wait(p->epoll_fd, events, EVENTS_MAX, 0);
}

/* Pass the events to their watches in io_uring's order: first the watches that were not served in the turn before.
 * epoll's own order would put the served watches first, because they stay in its list of ready fds. Returns whether
 * jobs are done. */
static bool events_take(struct loop_epoll *p, const struct epoll_event *events, int n)
{
	bool done = false;

	for (int again = 0; again < 2; again++) {
		for (int i = 0; i < n; i++) {
			struct loop_watch *w = events[i].data.ptr;

			if (!w)
				done = true;
			else if (again == (w->epoll.served == p->turn))
				watch_event(p, w, events[i].events);
		}
	}
	p->turn++;
	return done;
}

static void epoll_turn(struct loop *l, uint64_t timeout_ns)
{
	struct loop_epoll *p = epoll_of(l);
	struct epoll_event events[EVENTS_MAX];
	int n;

	if (always_due(p))
		timeout_ns = 0;
	if (timeout_ns && timeout_ns != UINT64_MAX)
		n = wait_until(p, events, timeout_ns);
	else
		n = epoll_wait(p->epoll_fd, events, EVENTS_MAX, timeout_ns ? -1 : 0);
	loop_woke(l);
	if (events_take(p, events, n))
		jobs_take(p);
	watches_serve(p);
}

static void epoll_defer_threads(struct loop *l, bool defer)
{
	epoll_of(l)->defer_threads = defer;
}

static void epoll_free(struct loop *l)
{
	struct loop_epoll *p = epoll_of(l);

	file_aio_free(p->aio);
	file_pool_free(p->pool);
	while (l->watches)
		watch_release(p, l->watches);
	while (p->free_jobs) {
		struct file_job *job = p->free_jobs;

		p->free_jobs = job->next;
		free(job);
	}
	if (p->done_fd >= 0)
		close(p->done_fd);
	if (p->epoll_fd >= 0)
		close(p->epoll_fd);
	free(p);
}

static const struct loop_backend epoll_backend = {
	.kind = LOOP_EPOLL,
	.free = epoll_free,
	.watch = epoll_watch,
	.watch_events = epoll_watch_events,
	.unwatch = epoll_unwatch,
	.readv = epoll_readv,
	.writev = epoll_writev,
	.fdatasync = epoll_fdatasync,
	.fallocate = epoll_fallocate,
	.turn = epoll_turn,
	.defer_threads = epoll_defer_threads,
};

int loop_epoll_new(unsigned entries, struct loop **ret_loop)
{
	/* Edge-triggered: each signal of the eventfd is reported once, and nobody has to read it. */
	struct epoll_event done = { .events = EPOLLIN | EPOLLET };
	struct loop_epoll *p = calloc(1, sizeof(*p));
	int r;

	if (!p)
		return -ENOMEM;
	p->loop.backend = &epoll_backend;
	p->due_tail = &p->due;
	p->entries = entries;
	p->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	p->done_fd = p->epoll_fd < 0 ? -1 : eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (p->done_fd < 0 || epoll_ctl(p->epoll_fd, EPOLL_CTL_ADD, p->done_fd, &done) < 0) {
		r = -errno;
		epoll_free(&p->loop);
		return r;
	}
	*ret_loop = &p->loop;
	return 0;
}
