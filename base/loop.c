#include "base/loop.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"
#include "base/loop_impl.h"
#include "base/util.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

struct loop_timer {
	struct loop *loop;
	void (*fire)(void *opaque);
	void *opaque;
	uint64_t deadline_ns;
	size_t heap_pos; /* index + 1; 0 if unarmed */
};

uint64_t loop_now_ns(void)
{
	return clock_monotonic_ns();
}

/* ---- tasks from other threads ---- */

static void wake_ready(void *opaque, unsigned revents)
{
	struct loop *l = opaque;
	struct loop_task *newest, *fifo = NULL;
	uint64_t n;

	(void)revents;
	if (read(l->wake_fd, &n, sizeof(n)) < 0 && errno != EAGAIN)
		return;
	newest = atomic_exchange(&l->posted, NULL);
	while (newest) {
		struct loop_task *t = newest;

		newest = t->next;
		t->next = fifo;
		fifo = t;
	}
	while (fifo) {
		struct loop_task *t = fifo;

		fifo = t->next;
		t->run(t);
	}
}

static void loop_wake(struct loop *l)
{
	uint64_t one = 1;

	while (write(l->wake_fd, &one, sizeof(one)) < 0 && errno == EINTR)
		;
}

void loop_post(struct loop *l, struct loop_task *t)
{
	struct loop_task *head = atomic_load(&l->posted);

	do {
		t->next = head;
	} while (!atomic_compare_exchange_weak(&l->posted, &head, t));
	if (!head)
		loop_wake(l);
}

int loop_wake_fd(const struct loop *l)
{
	return l->wake_fd;
}

void loop_stop(struct loop *l)
{
	atomic_store(&l->stop, true);
	loop_wake(l);
}

/* ---- watches ---- */

void loop_watch_free(struct loop_watch *w)
{
	if (w->prev)
		w->prev->next = w->next;
	else
		w->loop->watches = w->next;
	if (w->next)
		w->next->prev = w->prev;
	free(w);
}

int loop_watch(struct loop *l, int fd, unsigned events,
	void (*ready)(void *opaque, unsigned revents), void *opaque, struct loop_watch **ret_w)
{
	struct loop_watch *w = calloc(1, sizeof(*w));
	int r;

	if (!w)
		return -ENOMEM;
	w->loop = l;
	w->fd = fd;
	w->events = events;
	w->ready = ready;
	w->opaque = opaque;
	w->next = l->watches;
	if (w->next)
		w->next->prev = w;
	l->watches = w;
	r = l->backend->watch(w);
	if (r < 0) {
		loop_watch_free(w);
		return r;
	}
	*ret_w = w;
	return 0;
}

void loop_watch_events(struct loop_watch *w, unsigned events)
{
	if (w->events == events)
		return;
	w->events = events;
	w->loop->backend->watch_events(w);
}

void loop_unwatch(struct loop_watch *w)
{
	if (w)
		w->loop->backend->unwatch(w);
}

/* ---- timers ---- */

static void heap_place(struct loop *l, size_t i, struct loop_timer *t)
{
	l->heap[i] = t;
	t->heap_pos = i + 1;
}

static void heap_up(struct loop *l, size_t i)
{
	struct loop_timer *t = l->heap[i];

	while (i && l->heap[(i - 1) / 2]->deadline_ns > t->deadline_ns) {
		heap_place(l, i, l->heap[(i - 1) / 2]);
		i = (i - 1) / 2;
	}
	heap_place(l, i, t);
}

static void heap_down(struct loop *l, size_t i)
{
	struct loop_timer *t = l->heap[i];

	for (;;) {
		size_t c = 2 * i + 1;

		if (c >= l->heap_len)
			break;
		if (c + 1 < l->heap_len && l->heap[c + 1]->deadline_ns < l->heap[c]->deadline_ns)
			c++;
		if (l->heap[c]->deadline_ns >= t->deadline_ns)
			break;
		heap_place(l, i, l->heap[c]);
		i = c;
	}
	heap_place(l, i, t);
}

int loop_timer_new(struct loop *l, void (*fire)(void *opaque), void *opaque,
	struct loop_timer **ret_t)
{
	struct loop_timer *t = calloc(1, sizeof(*t));

	if (!t)
		return -ENOMEM;
	t->loop = l;
	t->fire = fire;
	t->opaque = opaque;
	*ret_t = t;
	return 0;
}

void loop_timer_disarm(struct loop_timer *t)
{
	struct loop *l = t->loop;
	size_t i = t->heap_pos;

	if (!i)
		return;
	i--;
	t->heap_pos = 0;
	l->heap_len--;
	if (i == l->heap_len)
		return;
	heap_place(l, i, l->heap[l->heap_len]);
	heap_up(l, i);
	heap_down(l, l->heap[i]->heap_pos - 1);
}

void loop_timer_arm(struct loop_timer *t, uint64_t deadline_ns)
{
	struct loop *l = t->loop;

	loop_timer_disarm(t);
	if (l->heap_len == l->heap_cap) {
		size_t cap = l->heap_cap ? 2 * l->heap_cap : 16;
		struct loop_timer **h = reallocarray(l->heap, cap, sizeof(*h));

		if (!h)
			abort(); /* otherwise the timer would never fire */
		l->heap = h;
		l->heap_cap = cap;
	}
	t->deadline_ns = deadline_ns;
	l->heap[l->heap_len] = t;
	heap_up(l, l->heap_len++);
}

void loop_timer_free(struct loop_timer *t)
{
	if (!t)
		return;
	loop_timer_disarm(t);
	free(t);
}

static void timers_run(struct loop *l)
{
	size_t left = l->heap_len;
	uint64_t now;

	if (!left)
		return;
	now = loop_now_ns();
	/* `left` ends this function even if a timer always re-arms itself for the past. */
	for (; left-- && l->heap_len && l->heap[0]->deadline_ns <= now;) {
		struct loop_timer *t = l->heap[0];

		loop_timer_disarm(t);
		t->fire(t->opaque);
	}
}

/* ---- operations ---- */

void loop_op_completed(struct loop *l, struct loop_op *op, int res)
{
	op->res = res;
	op->next = NULL;
	*l->over_tail = op;
	l->over_tail = &op->next;
}

static struct loop_file *file_find(const struct loop *l, int fd)
{
	for (unsigned i = 0; i < l->nfiles; i++)
		if (l->files[i].fd == fd)
			return &l->files[i];
	return NULL;
}

static void file_add(struct loop *l, struct loop_file f)
{
	struct loop_file *files = file_find(l, f.fd) ? NULL : reallocarray(l->files, l->nfiles + 1, sizeof(*files));

	if (!files)
		return; /* known, or out of memory: without the entry, operations on fd are only slower */
	l->files = files;
	files[l->nfiles++] = f;
}

void loop_file_in_memory(struct loop *l, int fd, bool in_memory)
{
	struct loop_file *f = file_find(l, fd);

	if (in_memory)
		file_add(l, (struct loop_file){ .fd = fd, .in_memory = true });
	else if (f)
		*f = l->files[--l->nfiles];
}

void loop_file_cached(struct loop *l, int fd, bool reads)
{
	file_add(l, (struct loop_file){ .fd = fd, .reads = reads });
}

bool loop_fd_in_memory(const struct loop *l, int fd)
{
	const struct loop_file *f = file_find(l, fd);

	return f && f->in_memory;
}

/* A transfer to or from the page cache takes a few us. If one takes this long, the host throttles writers that are
 * faster than its disks, or the cache lacks the data. The back end then performs transfers for a while, so that the
 * loop's other work continues. */
#define TRANSFER_SLOW_NS 2000000ULL
#define TRANSFER_SLOW_REST_NS 200000000ULL

bool loop_iov_is_small(const struct iovec *iov, unsigned niov)
{
	size_t bytes = 0;

	for (unsigned i = 0; i < niov && bytes <= LOOP_NOW_BYTES_MAX; i++)
		bytes += iov[i].iov_len;
	return bytes <= LOOP_NOW_BYTES_MAX;
}

static int transfer_now(struct loop_file *f, bool write, const struct iovec *iov, unsigned niov, uint64_t offset)
{
	uint64_t begin = f->in_memory ? 0 : clock_monotonic_ns();
	ssize_t n = write ? pwritev(f->fd, iov, (int)niov, (off_t)offset) : preadv(f->fd, iov, (int)niov, (off_t)offset);
	int res = n < 0 ? -errno : (int)n;

	if (begin && clock_monotonic_ns() - begin > TRANSFER_SLOW_NS)
		f->slow_until_ns = clock_monotonic_ns() + TRANSFER_SLOW_REST_NS;
	return res;
}

/* Return whether the loop's thread performs a transfer itself. */
static bool transfers_now(const struct loop_file *f, const struct iovec *iov, unsigned niov)
{
	return f && loop_iov_is_small(iov, niov) && (!f->slow_until_ns || clock_monotonic_ns() > f->slow_until_ns);
}

/* A read that waits for the disk holds up no other operation if it is the only one. */
static bool may_read_now(const struct loop *l, const struct loop_file *f)
{
	return f && (f->in_memory || (f->reads && !l->in_flight));
}

void loop_readv(struct loop *l, struct loop_op *op, int fd, const struct iovec *iov, unsigned niov,
	uint64_t offset)
{
	struct loop_file *f = file_find(l, fd);
	bool now = may_read_now(l, f) && transfers_now(f, iov, niov);

	if (l->trace)
		l->trace->submit(l->trace, op, LOOP_OP_READ, fd, iov, niov, offset, 0, 0);
	l->in_flight++;
	if (now)
		loop_op_completed(l, op, transfer_now(f, false, iov, niov, offset));
	else
		l->backend->readv(l, op, fd, iov, niov, offset);
}

void loop_writev(struct loop *l, struct loop_op *op, int fd, const struct iovec *iov,
	unsigned niov, uint64_t offset)
{
	struct loop_file *f = file_find(l, fd);

	if (l->trace)
		l->trace->submit(l->trace, op, LOOP_OP_WRITE, fd, iov, niov, offset, 0, 0);
	l->in_flight++;
	if (transfers_now(f, iov, niov))
		loop_op_completed(l, op, transfer_now(f, true, iov, niov, offset));
	else
		l->backend->writev(l, op, fd, iov, niov, offset);
}

void loop_fdatasync(struct loop *l, struct loop_op *op, int fd)
{
	if (l->trace)
		l->trace->submit(l->trace, op, LOOP_OP_SYNC, fd, NULL, 0, 0, 0, 0);
	l->in_flight++;
	l->backend->fdatasync(l, op, fd);
}

void loop_fallocate(struct loop *l, struct loop_op *op, int fd, int mode, uint64_t offset,
	uint64_t len)
{
	if (l->trace)
		l->trace->submit(l->trace, op, LOOP_OP_FALLOCATE, fd, NULL, 0, offset, len, mode);
	l->in_flight++;
	l->backend->fallocate(l, op, fd, mode, offset, len);
}

void loop_nop(struct loop *l, struct loop_op *op)
{
	if (l->trace)
		l->trace->submit(l->trace, op, LOOP_OP_NOP, -1, NULL, 0, 0, 0, 0);
	l->in_flight++;
	loop_op_completed(l, op, 0);
}

void loop_trace(struct loop *l, struct loop_trace *t)
{
	l->trace = t;
}

unsigned loop_ops_in_flight(const struct loop *l)
{
	return l->in_flight;
}

/* ---- running the loop ---- */

void loop_op_deliver(struct loop *l, struct loop_op *op, int res)
{
	l->in_flight--;
	if (l->trace)
		l->trace->complete(l->trace, op, res);
	op->done(op, res);
}

static void completed_init(struct loop *l)
{
	l->over = NULL;
	l->over_tail = &l->over;
}

/* Operations that complete during this call are reported in the next round, after the back end had
 * its turn. A done() may run the loop to wait for another operation; that nested round continues this
 * list. */
static void completed_deliver(struct loop *l)
{
	struct loop_op **at = &l->delivering, *op;

	while (*at)
		at = &(*at)->next;
	*at = l->over;
	completed_init(l);
	while ((op = l->delivering)) {
		l->delivering = op->next;
		loop_op_deliver(l, op, op->res);
	}
}

/* ---- busy polling ---- */

/* Longest sequence of polls, though they find work: afterwards, events and timers get a turn. */
#define POLL_TURN_NS 500000u

int loop_poll(struct loop *l, const struct loop_poller *p)
{
	if (l->poller)
		return -EBUSY;
	l->poller = p;
	l->busy[0].max_ns = l->busy[1].max_ns = p->max_ns;
	return 0;
}

void loop_poll_end(struct loop *l, const struct loop_poller *p)
{
	if (l->poller == p)
		l->poller = NULL;
}

void loop_woke(struct loop *l)
{
	if (l->poller)
		l->woke_ns = clock_monotonic_ns();
}

/* An operation takes the disk's time, and the next request the guest's. So the loop keeps the history of polls with an
 * operation in flight apart from that of polls without one. */
static struct busy_poll *busy_of(struct loop *l)
{
	return &l->busy[l->in_flight != 0];
}

bool loop_polls(struct loop *l)
{
	return l->poller && busy_of(l)->window_ns;
}

/* Look for work once, and report the operations that it completes. */
static bool poll_once(struct loop *l)
{
	bool some = l->poller->poll(l->poller->opaque);

	if (l->backend->handle_ready && l->backend->handle_ready(l)) {
		l->polled_events++;
		some = true;
	}
	if (l->over) {
		completed_deliver(l);
		l->polled_events++;
		some = true;
	}
	return some;
}

/* Return whether only the back end's turn sees the end of an operation. */
static bool polls_see_no_end(const struct loop *l)
{
	return l->in_flight && !l->backend->handle_ready;
}

/* Let other threads of this processor run. Returns whether one did, for long; *now_ns: the time afterwards. */
static bool yield_is_contended(uint64_t *now_ns)
{
	uint64_t before_ns = *now_ns;

	sched_yield();
	*now_ns = clock_monotonic_ns();
	return *now_ns - before_ns > BUSY_POLL_CONTENDED_NS;
}

/* Poll until nothing has come for the window, or until the first operation starts or the last one ends. Returns whether
 * the loop has to turn without a sleep. */
static bool busy_poll_run(struct loop *l)
{
	struct busy_poll *busy = busy_of(l);
	uint64_t began_ns = clock_monotonic_ns(), now_ns = began_ns, last_ns = began_ns;
	bool some = false, found = false, contended = false;

	while (!atomic_load(&l->stop) && now_ns - began_ns < POLL_TURN_NS &&
		busy_of(l) == busy && (contended || now_ns - last_ns < busy->window_ns)) {
		some = poll_once(l);
		now_ns = clock_monotonic_ns();
		if (some) {
			found = true;
			contended = false;
			last_ns = now_ns;
		} else if (polls_see_no_end(l)) {
			break;
		} else if (contended) {
			break; /* another thread needs the processor, and this one has nothing to do */
		} else {
			contended = yield_is_contended(&now_ns);
		}
	}
	busy_poll_ended(busy, found, contended);
	return atomic_load(&l->stop) || (some && loop_polls(l));
}

/* ---- turns ---- */

/* Return how long the loop may sleep, at most timeout_ns. */
static uint64_t sleep_limit(const struct loop *l, uint64_t timeout_ns)
{
	if (l->over || l->delivering)
		return 0;
	if (timeout_ns && l->heap_len) {
		uint64_t now = loop_now_ns(), d = l->heap[0]->deadline_ns;

		timeout_ns = MIN(timeout_ns, d > now ? d - now : 0);
	}
	return timeout_ns;
}

/* Poll, and then wait for events in the back end. Callbacks of the polls may arm timers. awaited: the caller may wait
 * for events that the polls have reported, so do not wait for more. */
static void turn_with_polls(struct loop *l, uint64_t timeout_ns, bool awaited)
{
	uint64_t began_ns, events = l->polled_events;
	bool again = loop_polls(l) && busy_poll_run(l);
	struct busy_poll *busy = busy_of(l);

	if (again || (awaited && l->polled_events != events) || l->poller->sleeps(l->poller->opaque))
		timeout_ns = 0;
	timeout_ns = sleep_limit(l, timeout_ns);
	l->woke_ns = began_ns = clock_monotonic_ns();
	l->backend->turn(l, timeout_ns);
	if (timeout_ns)
		busy_poll_slept(busy, l->woke_ns - began_ns);
}

static void loop_turn(struct loop *l, uint64_t timeout_ns, bool awaited)
{
	timeout_ns = sleep_limit(l, timeout_ns);
	if (l->poller && timeout_ns)
		turn_with_polls(l, timeout_ns, awaited);
	else
		l->backend->turn(l, timeout_ns);
	completed_deliver(l);
	timers_run(l);
}

void loop_run_once(struct loop *l, uint64_t timeout_ns)
{
	loop_turn(l, timeout_ns, true);
}

void loop_run(struct loop *l)
{
	while (!atomic_load(&l->stop))
		loop_turn(l, UINT64_MAX, false);
	atomic_store(&l->stop, false);
}

/* ---- creating a loop ---- */

static atomic_uint kinds_created;

enum loop_kind loop_kind(const struct loop *l)
{
	return l->backend->kind;
}

unsigned loop_kinds(void)
{
	return atomic_load(&kinds_created);
}

void loop_defer_threads(struct loop *l, bool defer)
{
	if (l->backend->defer_threads)
		l->backend->defer_threads(l, defer);
}

/* Whether only io_uring fails with this error: a policy forbids it, the kernel is too old, or the limit of locked
 * memory is too low, which a later ring may be the first to exceed. After other errors, such as EMFILE, epoll would
 * fail, too. */
static bool refusal_is_of_io_uring(int r)
{
	if (loop_kinds())
		return r == -ENOMEM;
	return r == -EPERM || r == -EACCES || r == -ENOSYS || r == -EINVAL || r == -EOPNOTSUPP || r == -ENOMEM;
}

static bool sysctl_disables_io_uring(void)
{
	CLEANUP_CLOSE int fd = open("/proc/sys/kernel/io_uring_disabled", O_RDONLY | O_CLOEXEC);
	char c = '0';

	return fd >= 0 && read(fd, &c, 1) == 1 && c != '0';
}

static void refusal_log(int r)
{
	const char *remedy;

	if (r == -EINVAL)
		remedy = "a kernel from 5.10 on has the io_uring that Cairn needs";
	else if (r == -ENOMEM)
		remedy = "raise the limit of locked memory (ulimit -l)";
	else if (sysctl_disables_io_uring())
		remedy = "set the sysctl kernel.io_uring_disabled to 0";
	else
		remedy = "in a container, allow io_uring_setup, io_uring_enter and io_uring_register in its seccomp profile";
	log_info(NULL, "io_uring is refused (%s), so disk I/O uses epoll, kernel AIO and threads; %s", strerror(-r),
		remedy);
}

static int uring_new(unsigned entries, struct loop **ret_loop, struct err *e)
{
	int r = loop_uring_new(entries, ret_loop);

	return r < 0 ? err_set(e, r, ERR_HOST, "the kernel refuses io_uring (%s)%s", strerror(-r),
		r == -ENOMEM ? "; raise the limit of locked memory (ulimit -l)" : "") : 0;
}

static int epoll_new(unsigned entries, struct loop **ret_loop, struct err *e)
{
	int r = loop_epoll_new(entries, ret_loop);

	return r < 0 ? err_set(e, r, ERR_HOST, "event loop on epoll: %s", strerror(-r)) : 0;
}

/* Create a loop on io_uring, or on epoll if io_uring refuses this loop or has refused an earlier one. */
static int any_new(unsigned entries, struct loop **ret_loop, struct err *e)
{
	static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
	static bool refused;
	int r = 0;

	pthread_mutex_lock(&lock);
	if (!refused) {
		r = uring_new(entries, ret_loop, e);
		refused = r < 0 && refusal_is_of_io_uring(r);
		if (refused)
			refusal_log(r);
	}
	if (refused)
		r = epoll_new(entries, ret_loop, e);
	pthread_mutex_unlock(&lock);
	return r;
}

static int backend_new(unsigned entries, struct loop **ret_loop, struct err *e)
{
	const char *choice = getenv("CAIRN_LOOP");

	if (!choice)
		return any_new(entries, ret_loop, e);
	if (!strcmp(choice, "epoll"))
		return epoll_new(entries, ret_loop, e);
	if (!strcmp(choice, "io_uring"))
		return uring_new(entries, ret_loop, e);
	return err_set(e, -EINVAL, ERR_INVALID, "CAIRN_LOOP is '%.40s'; it can be epoll or io_uring", choice);
}

int loop_new(unsigned entries, struct loop **ret_loop, struct err *e)
{
	struct loop *l;
	int r = entries ? backend_new(entries, &l, e) :
		err_set(e, -EINVAL, ERR_HOST, "an event loop needs at least one entry");

	if (r < 0)
		return r;
	atomic_fetch_or(&kinds_created, LOOP_KIND(loop_kind(l)));
	completed_init(l);
	l->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	r = l->wake_fd < 0 ? -errno : loop_watch(l, l->wake_fd, POLLIN, wake_ready, l, &l->wake_watch);
	if (r < 0) {
		loop_free(l);
		return err_set_errno(e, r, "event loop");
	}
	*ret_loop = l;
	return 0;
}

void loop_free(struct loop *l)
{
	if (!l)
		return;
	for (size_t i = 0; i < l->heap_len; i++)
		l->heap[i]->heap_pos = 0;
	free(l->heap);
	free(l->files);
	if (l->wake_fd >= 0)
		close(l->wake_fd);
	l->backend->free(l);
}
