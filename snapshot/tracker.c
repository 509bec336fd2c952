#include "snapshot/tracker.h"
#include "base/bitmap.h"
#include "base/err.h"
#include "base/log.h"
#include "base/util.h"
#include "snapshot/holes.h"
#include "snapshot/pager.h"
#include "snapshot/uffd.h"

#include <errno.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define FAULTS_AT_ONCE 16
/* What arming protects in one call: short enough that faults of the guest's get their turn at
 * the address space's lock. */
#define ARM_PIECE_BYTES (32 * MIB)

/* A block's old content, waiting to be saved. */
struct aside {
	struct aside *next;
	uint64_t block;
	uint8_t data[VMSTATE_BLOCK_BYTES];
};

/* A fault that waits for room. */
struct deferred {
	struct deferred *next;
	uint64_t block;
};

struct tracker {
	struct tracker_config c;
	uint64_t blocks;
	int uffd, stop_fd, room_fd; /* eventfds: end; room came */
	pthread_t thread;
	bool thread_made;
	pthread_mutex_t lock; /* what follows, and copying out of RAM */
	struct bitmap dirty;  /* unprotected since the last mark */
	struct bitmap unsaved;
	bool saving;
	uint64_t next; /* of unsaved */
	struct holes holes;
	struct aside *aside, **aside_tail;
	uint64_t aside_bytes;
	struct deferred *deferred;
	struct tracker_stats stats;
};

/* ---- protection ---- */

static int protect(struct tracker *t, uint64_t first, uint64_t n, bool on)
{
	uint64_t off = first * VMSTATE_BLOCK_BYTES;
	struct uffdio_writeprotect wp = { .range = { .start = (uintptr_t)t->c.ram + off,
						  .len = MIN(n * VMSTATE_BLOCK_BYTES,
							  ROUND_UP(t->c.ram_bytes, 4096) - off) },
		.mode = on ? UFFDIO_WRITEPROTECT_MODE_WP : 0 };

	while (ioctl(t->uffd, UFFDIO_WRITEPROTECT, &wp) < 0)
		if (errno != EAGAIN)
			return -errno;
	return 0;
}

int tracker_arm(struct tracker *t, struct err *e)
{
	uint64_t piece = ARM_PIECE_BYTES / VMSTATE_BLOCK_BYTES;
	int r = 0;

	/* Faults from here on note their blocks: the mark protects those again. */
	for (uint64_t b = 0; b < t->blocks && !r; b += piece)
		r = protect(t, b, MIN(piece, t->blocks - b), true);
	return r < 0 ? err_set_errno(e, r, "cannot protect the VM's memory") : 0;
}

int tracker_mark(struct tracker *t, struct bitmap *ret_dirty, struct err *e)
{
	int r = 0;

	pthread_mutex_lock(&t->lock);
	memcpy(ret_dirty->words, t->dirty.words, DIV_ROUND_UP(t->blocks, 64) * 8);
	for (uint64_t b = bitmap_next_set(&t->dirty, 0); b < t->blocks && !r;) {
		uint64_t end = bitmap_next_clear(&t->dirty, b);

		r = protect(t, b, end - b, true);
		b = bitmap_next_set(&t->dirty, end);
	}
	if (!r)
		memset(t->dirty.words, 0, DIV_ROUND_UP(t->blocks, 64) * 8);
	pthread_mutex_unlock(&t->lock);
	return r < 0 ? err_set_errno(e, r, "cannot protect the VM's memory again") : 0;
}

/* ---- saving ---- */

static size_t block_len(const struct tracker *t, uint64_t block)
{
	return (size_t)MIN(VMSTATE_BLOCK_BYTES, t->c.ram_bytes - block * VMSTATE_BLOCK_BYTES);
}

static void block_copy(const struct tracker *t, uint64_t block, uint8_t *buf)
{
	size_t len = block_len(t, block);

	memcpy(buf, t->c.ram + block * VMSTATE_BLOCK_BYTES, len);
	memset(buf + len, 0, VMSTATE_BLOCK_BYTES - len);
}

void tracker_save_begin(struct tracker *t, const struct bitmap *wanted)
{
	pthread_mutex_lock(&t->lock);
	memcpy(t->unsaved.words, wanted->words, DIV_ROUND_UP(t->blocks, 64) * 8);
	t->next = 0;
	t->holes = (struct holes){ .fd = t->c.ram_fd, .bytes = t->c.ram_bytes };
	t->saving = true;
	pthread_mutex_unlock(&t->lock);
}

static void room_tell(struct tracker *t)
{
	uint64_t one = 1;

	if (t->deferred && write(t->room_fd, &one, sizeof(one)) < 0)
		log_error("tracker", "eventfd: %s", strerror(errno));
}

static bool aside_take(struct tracker *t, uint64_t *ret_block, uint8_t *buf)
{
	struct aside *a = t->aside;

	if (!a)
		return false;
	t->aside = a->next;
	if (!t->aside)
		t->aside_tail = &t->aside;
	t->aside_bytes -= VMSTATE_BLOCK_BYTES;
	*ret_block = a->block;
	memcpy(buf, a->data, VMSTATE_BLOCK_BYTES);
	free(a);
	room_tell(t);
	return true;
}

/* Protected, and a fault on it would wait for the lock: nobody writes. What is no hole does not fault
 * here: a pager's blocks are there wholly or not at all. */
static bool ram_take(struct tracker *t, uint64_t *ret_block, uint8_t *buf)
{
	while ((t->next = bitmap_next_set(&t->unsaved, t->next)) < t->blocks) {
		uint64_t block = t->next;

		bitmap_clear(&t->unsaved, block);
		if (hole_at(&t->holes, block * VMSTATE_BLOCK_BYTES, block_len(t, block)))
			continue;
		*ret_block = block;
		block_copy(t, block, buf);
		return true;
	}
	return false;
}

bool tracker_save_next(struct tracker *t, uint64_t *ret_block, uint8_t *buf)
{
	bool got;

	pthread_mutex_lock(&t->lock);
	got = aside_take(t, ret_block, buf) || ram_take(t, ret_block, buf);
	pthread_mutex_unlock(&t->lock);
	return got;
}

void tracker_save_end(struct tracker *t)
{
	pthread_mutex_lock(&t->lock);
	t->saving = false;
	memset(t->unsaved.words, 0, DIV_ROUND_UP(t->blocks, 64) * 8);
	while (t->aside) {
		struct aside *a = t->aside;

		t->aside = a->next;
		free(a);
	}
	t->aside_tail = &t->aside;
	t->aside_bytes = 0;
	room_tell(t);
	pthread_mutex_unlock(&t->lock);
}

/* ---- faults: with the lock ---- */

static bool must_wait(struct tracker *t, int tid)
{
	return t->aside_bytes >= t->c.aside_max_bytes && t->c.may_wait &&
		t->c.may_wait(t->c.opaque, tid);
}

/* True when the block may be written now. tid 0: it has waited already. */
static bool preserve(struct tracker *t, uint64_t block, int tid)
{
	struct aside *a;

	if (!t->saving || !bitmap_test(&t->unsaved, block))
		return true;
	if (tid && must_wait(t, tid))
		return false;
	a = malloc(sizeof(*a));
	if (!a)
		return false;
	a->block = block;
	a->next = NULL;
	block_copy(t, block, a->data);
	*t->aside_tail = a;
	t->aside_tail = &a->next;
	t->aside_bytes += VMSTATE_BLOCK_BYTES;
	bitmap_clear(&t->unsaved, block);
	t->stats.copied_aside++;
	return true;
}

static void release(struct tracker *t, uint64_t block)
{
	bitmap_set(&t->dirty, block);
	protect(t, block, 1, false); /* wakes whoever waits */
}

static void defer(struct tracker *t, uint64_t block)
{
	struct deferred *d = malloc(sizeof(*d));

	if (!d) { /* no memory at all: the guest's write wins over the snapshot's block */
		release(t, block);
		return;
	}
	d->block = block;
	d->next = t->deferred;
	t->deferred = d;
	t->stats.waits++;
}

static void write_fault(struct tracker *t, uint64_t block, int tid)
{
	pthread_mutex_lock(&t->lock);
	t->stats.faults++;
	if (preserve(t, block, tid))
		release(t, block);
	else
		defer(t, block);
	pthread_mutex_unlock(&t->lock);
}

/* ---- memory out of the pager ---- */

/* EAGAIN: the address space changed under us, once more. */
static int copy_in(struct tracker *t, uint64_t block, const uint8_t *data, bool protected)
{
	struct uffdio_copy copy = { .dst = (uintptr_t)t->c.ram + block * VMSTATE_BLOCK_BYTES,
		.src = (uintptr_t)data, .len = block_len(t, block),
		.mode = protected ? UFFDIO_COPY_MODE_WP : 0 };

	while (ioctl(t->uffd, UFFDIO_COPY, &copy) < 0) {
		if (errno != EAGAIN)
			return -errno;
		if (copy.copy > 0) {
			copy.dst += (uint64_t)copy.copy;
			copy.src += (uint64_t)copy.copy;
			copy.len -= (uint64_t)copy.copy;
		}
		copy.copy = 0;
	}
	return 0;
}

/* A block that is about to be written need not be protected first, unless a save wants it: then the
 * write faults again and finds it there. */
static void bring(struct tracker *t, uint64_t block, bool faulted, bool write)
{
	const uint8_t *data = pager_block(t->c.pager, block, faulted);
	struct err e = { 0 };
	bool protected;
	int r;

	pthread_mutex_lock(&t->lock);
	protected = t->c.uffd->can_protect && (!write || bitmap_test(&t->unsaved, block));
	if (!protected)
		bitmap_set(&t->dirty, block);
	r = copy_in(t, block, data, protected);
	pthread_mutex_unlock(&t->lock);
	if (r < 0) {
		err_set_errno(&e, r, "cannot put a block of saved memory in place");
		pager_fail(t->c.pager, &e);
	}
}

static void missing_fault(struct tracker *t, uint64_t block, bool write)
{
	struct uffdio_range range = { .start = (uintptr_t)t->c.ram + block * VMSTATE_BLOCK_BYTES,
		.len = block_len(t, block) };

	if (!pager_has(t->c.pager, block))
		bring(t, block, true, write);
	else /* it came in between the fault and now */
		ioctl(t->uffd, UFFDIO_WAKE, &range);
}

/* One block of the background's. False: there are no more. */
static bool prefetch(struct tracker *t)
{
	uint64_t block;

	if (!pager_next(t->c.pager, &block)) {
		pager_complete(t->c.pager);
		return false;
	}
	bring(t, block, false, false);
	return true;
}

/* ---- the thread ---- */

static void fault(struct tracker *t, const struct uffd_msg *m)
{
	uint64_t block = (m->arg.pagefault.address - (uintptr_t)t->c.ram) / VMSTATE_BLOCK_BYTES;
	uint64_t flags = m->arg.pagefault.flags;

	if (block >= t->blocks)
		return;
	if (flags & UFFD_PAGEFAULT_FLAG_WP)
		write_fault(t, block, (int)m->arg.pagefault.feat.ptid);
	else if (t->c.pager)
		missing_fault(t, block, flags & UFFD_PAGEFAULT_FLAG_WRITE);
}

static void faults_read(struct tracker *t)
{
	struct uffd_msg msgs[FAULTS_AT_ONCE];
	ssize_t n = read(t->uffd, msgs, sizeof(msgs));

	for (ssize_t i = 0; i < n / (ssize_t)sizeof(msgs[0]); i++)
		if (msgs[i].event == UFFD_EVENT_PAGEFAULT)
			fault(t, &msgs[i]);
}

/* Room came: those that waited go first come, first served as far as it reaches. */
static void deferred_retry(struct tracker *t)
{
	struct deferred *d, *list;
	uint64_t n;

	if (read(t->room_fd, &n, sizeof(n)) < 0)
		return;
	pthread_mutex_lock(&t->lock);
	list = t->deferred;
	t->deferred = NULL;
	while ((d = list)) {
		list = d->next;
		if (t->aside_bytes < t->c.aside_max_bytes && preserve(t, d->block, 0)) {
			release(t, d->block);
			free(d);
		} else {
			d->next = t->deferred;
			t->deferred = d;
		}
	}
	pthread_mutex_unlock(&t->lock);
}

static void *tracker_thread(void *opaque)
{
	struct tracker *t = opaque;
	struct pollfd fds[3] = { { .fd = t->uffd, .events = POLLIN },
		{ .fd = t->stop_fd, .events = POLLIN }, { .fd = t->room_fd, .events = POLLIN } };
	bool more = t->c.pager;

	pthread_setname_np(pthread_self(), "tracker");
	for (;;) {
		/* Faults go before the background's work: somebody waits for them. */
		int n = poll(fds, 3, more ? 0 : -1);

		if ((n < 0 && errno != EINTR) || fds[1].revents)
			break;
		if (fds[2].revents)
			deferred_retry(t);
		if (fds[0].revents & POLLIN)
			faults_read(t);
		else if (more)
			more = prefetch(t);
	}
	if (more)
		pager_complete(t->c.pager);
	return NULL;
}

/* ---- making and ending ---- */

static int tracker_register(struct tracker *t)
{
	struct uffdio_register reg = { .mode = (t->c.uffd->can_protect ? UFFDIO_REGISTER_MODE_WP : 0) |
			(t->c.pager ? UFFDIO_REGISTER_MODE_MISSING : 0),
		.range = { .start = (uintptr_t)t->c.ram, .len = ROUND_UP(t->c.ram_bytes, 4096) } };

	return ioctl(t->uffd, UFFDIO_REGISTER, &reg) < 0 ? -errno : 0;
}

static void tracker_release(struct tracker *t)
{
	bitmap_done(&t->dirty);
	bitmap_done(&t->unsaved);
	if (t->stop_fd >= 0)
		close(t->stop_fd);
	if (t->room_fd >= 0)
		close(t->room_fd);
	pthread_mutex_destroy(&t->lock);
	free(t);
}

int tracker_new(const struct tracker_config *c, struct tracker **ret_t, struct err *e)
{
	struct tracker *t = calloc(1, sizeof(*t));
	int r = 0;

	if (!t)
		return err_set_errno(e, -ENOMEM, "tracker");
	t->c = *c;
	t->uffd = c->uffd->fd;
	t->blocks = DIV_ROUND_UP(c->ram_bytes, VMSTATE_BLOCK_BYTES);
	t->aside_tail = &t->aside;
	pthread_mutex_init(&t->lock, NULL);
	t->stop_fd = eventfd(0, EFD_CLOEXEC);
	t->room_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (t->stop_fd < 0 || t->room_fd < 0)
		r = -errno;
	if (!r)
		r = bitmap_init(&t->dirty, t->blocks);
	if (!r)
		r = bitmap_init(&t->unsaved, t->blocks);
	if (!r)
		r = tracker_register(t);
	if (r < 0) {
		tracker_release(t);
		return err_set_errno(e, r, "cannot watch the VM's memory");
	}
	*ret_t = t;
	return 0;
}

int tracker_start(struct tracker *t, struct err *e)
{
	sigset_t all, old;
	int r;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	r = pthread_create(&t->thread, NULL, tracker_thread, t);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	t->thread_made = !r;
	return r ? err_set_errno(e, -r, "cannot start the tracker's thread") : 0;
}

void tracker_free(struct tracker *t)
{
	struct uffdio_range range;
	uint64_t one = 1;

	if (!t)
		return;
	tracker_save_end(t);
	if (t->thread_made) {
		if (write(t->stop_fd, &one, sizeof(one)) < 0)
			log_error("tracker", "cannot stop: %s", strerror(errno));
		pthread_join(t->thread, NULL);
	}
	/* Unregistering lifts the protection and wakes those that wait: a missing page is what it is for
	 * any VM, zeros. */
	range = (struct uffdio_range){ .start = (uintptr_t)t->c.ram,
		.len = ROUND_UP(t->c.ram_bytes, 4096) };
	ioctl(t->uffd, UFFDIO_UNREGISTER, &range);
	while (t->deferred) {
		struct deferred *d = t->deferred;

		t->deferred = d->next;
		free(d);
	}
	tracker_release(t);
}

void tracker_stats(struct tracker *t, struct tracker_stats *ret)
{
	pthread_mutex_lock(&t->lock);
	*ret = t->stats;
	ret->dirty_blocks = bitmap_count(&t->dirty);
	pthread_mutex_unlock(&t->lock);
}
