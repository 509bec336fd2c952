#include "snapshot/fault_tracker_impl.h"
#include "base/bitmap.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/file.h"
#include "base/log.h"
#include "base/short_slice.h"
#include "base/util.h"
#include "snapshot/holes.h"
#include "snapshot/ram_reader.h"
#include "snapshot/ram_view.h"
#include "snapshot/uffd_open.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#define FAULTS_AT_ONCE 16
#define PAGE_BYTES 4096u

/* ---- saving blocks ---- */

static int block_copy(const struct fault_tracker *t, uint64_t block, uint8_t *buf)
{
	return ram_block_read(t->c.view, t->c.ram_fd, t->c.ram_bytes, block, buf);
}

void fault_tracker_save_begin(struct fault_tracker *t, const struct bitmap *wanted)
{
	LOCK_GUARD(&t->lock);
	bitmap_copy(&t->unsaved, wanted);
	t->next = 0;
	t->holes = (struct holes){ .fd = t->c.ram_fd, .bytes = t->c.ram_bytes };
	t->saving = true;
	/* A fault from before the reset may have been answered after it, if its thread was stopped
	 * meanwhile. Its block is then writable. */
	t->save_error = tracker_bare_protect(t);
}

void tracker_wake(int fd)
{
	uint64_t one = 1;

	if (write(fd, &one, sizeof(one)) < 0)
		log_error("tracker", "eventfd: %s", strerror(errno));
}

static void room_notify(struct fault_tracker *t)
{
	struct room_waiter *w;

	if (t->deferred)
		tracker_wake(t->wake_fd);
	if (t->saving && t->aside_bytes > t->c.aside_max_bytes / 2)
		return; /* let a device copy many blocks at once */
	while ((w = t->room_waiters)) {
		t->room_waiters = w->next;
		tracker_wake(w->fd);
		free(w);
	}
}

static int aside_take(struct fault_tracker *t, uint64_t *ret_block, uint8_t *buf)
{
	struct aside *a = t->aside;

	if (!a)
		return 0;
	t->aside = a->next;
	if (!t->aside)
		t->aside_tail = &t->aside;
	t->aside_bytes -= VMSTATE_BLOCK_BYTES;
	*ret_block = a->block;
	memcpy(buf, a->data, VMSTATE_BLOCK_BYTES);
	free(a);
	room_notify(t);
	return 1;
}

/* Return whether the block was never touched. A view that is armed has no such blocks. */
static bool block_is_hole(struct fault_tracker *t, uint64_t block)
{
	return !t->c.view && hole_at(&t->holes, block * VMSTATE_BLOCK_BYTES, block_len(t, block));
}

/* Find the next unsaved block that was ever touched, and leave it unsaved. Returns 1; 0: there is none. */
static int unsaved_find(struct fault_tracker *t, uint64_t *ret_block)
{
	while ((t->next = bitmap_next_set(&t->unsaved, t->next)) < t->blocks) {
		*ret_block = t->next;
		if (!block_is_hole(t, t->next))
			return 1;
		bitmap_clear(&t->unsaved, t->next);
	}
	return 0;
}

/* Find the next blocks to return. Returns 1; 0: nothing is left; -errno. *ret_taken: set if buf has the block's
 * content. */
static int save_find(struct fault_tracker *t, uint64_t *ret_block, uint8_t *buf, bool *ret_taken)
{
	int r;

	LOCK_GUARD(&t->lock);
	r = t->save_error;
	if (!r)
		r = aside_take(t, ret_block, buf);
	*ret_taken = r;
	return r ? r : unsaved_find(t, ret_block);
}

/* Returns whether the copy of a block is good: nobody has preserved, and then changed, the block meanwhile. */
static bool copy_counts(struct fault_tracker *t, uint64_t block)
{
	LOCK_GUARD(&t->lock);
	if (!bitmap_test(&t->unsaved, block))
		return false;
	bitmap_clear(&t->unsaved, block);
	return true;
}

/* Copy without the lock: a fault's answer needs the lock, and would wait as long as the host does not run this thread.
 * Besides, a thread that gives the lock back and takes it again for the next block leaves a waiter no chance on a busy
 * host. The block stays unsaved meanwhile, so it is protected, and its old content is copied aside before anybody
 * changes it. */
int fault_tracker_save_next(struct fault_tracker *t, uint64_t *ret_block, uint8_t *buf)
{
	bool taken;
	int r;

	while ((r = save_find(t, ret_block, buf, &taken)) > 0 && !taken) {
		r = block_copy(t, *ret_block, buf);
		if (r < 0)
			return r;
		if (copy_counts(t, *ret_block))
			return 1;
	}
	return r;
}

/* Drop everything that the save has kept or still wants. */
static void save_drop(struct fault_tracker *t)
{
	bitmap_clear_all(&t->unsaved);
	while (t->aside) {
		struct aside *a = t->aside;

		t->aside = a->next;
		free(a);
	}
	t->aside_tail = &t->aside;
	t->aside_bytes = 0;
	room_notify(t);
}

void fault_tracker_save_end(struct fault_tracker *t)
{
	pthread_mutex_lock(&t->lock);
	t->saving = false;
	save_drop(t);
	pthread_mutex_unlock(&t->lock);
}

/* ---- write faults; the lock is held ---- */

/* While a device waits, vCPUs leave room to it: room_notify() wakes it at half the limit. */
static bool vcpu_has_room(const struct fault_tracker *t)
{
	return t->aside_bytes < (t->room_waiters ? t->c.aside_max_bytes / 2 : t->c.aside_max_bytes);
}

static bool must_wait(struct fault_tracker *t, int tid)
{
	return !vcpu_has_room(t) && t->c.may_wait && t->c.may_wait(t->c.opaque, tid);
}

/* Preserve a block that is about to be written. tid: the faulting thread; 0: the fault has waited already.
 * Returns true if the block may be written now. */
static bool block_preserve(struct fault_tracker *t, uint64_t block, int tid)
{
	struct aside *a;

	if (!t->saving || !bitmap_test(&t->unsaved, block))
		return true;
	if (tid && must_wait(t, tid))
		return false;
	if (t->c.aside_hard_bytes && t->aside_bytes >= t->c.aside_hard_bytes) {
		t->save_error = -ENOBUFS;
		save_drop(t);
		return true;
	}
	a = malloc(sizeof(*a));
	if (!a)
		return false;
	a->block = block;
	a->next = NULL;
	if (block_copy(t, block, a->data) < 0) {
		free(a);
		t->save_error = -EIO;
		return true;
	}
	*t->aside_tail = a;
	t->aside_tail = &a->next;
	t->aside_bytes += VMSTATE_BLOCK_BYTES;
	bitmap_clear(&t->unsaved, block);
	t->stats.copied_aside++;
	return true;
}

static void range_release(struct fault_tracker *t, uint64_t block)
{
	tracker_bare_set(t, block);
	tracker_range_protect(t, block, 1, false); /* wakes the waiting thread */
}

static void fault_defer(struct fault_tracker *t, uint64_t block)
{
	struct deferred *d = malloc(sizeof(*d));

	if (!d) { /* out of memory: the guest's write takes precedence over the snapshot */
		t->save_error = -ENOMEM;
		range_release(t, block);
		return;
	}
	d->block = block;
	d->next = t->deferred;
	t->deferred = d;
	t->stats.waits++;
}

static void write_fault(struct fault_tracker *t, uint64_t block, int tid)
{
	LOCK_GUARD(&t->lock);
	t->stats.faults++;
	if (block_preserve(t, block, tid))
		range_release(t, block);
	else
		fault_defer(t, block);
}

/* ---- devices that write to memory ---- */

static bool room_wait(struct fault_tracker *t, int fd)
{
	struct room_waiter *w = t->room_waiters;

	while (w && w->fd != fd)
		w = w->next;
	if (w)
		return true;
	w = malloc(sizeof(*w));
	if (!w)
		return false;
	*w = (struct room_waiter){ t->room_waiters, fd };
	t->room_waiters = w;
	return true;
}

/* Make a block writable. Returns false if there is no room for its old content. */
bool tracker_block_make_room(struct fault_tracker *t, uint64_t block, int wake_fd)
{
	LOCK_GUARD(&t->lock);
	if (!t->saving || !bitmap_test(&t->unsaved, block))
		return true;
	if (t->aside_bytes < t->c.aside_max_bytes && block_preserve(t, block, 0)) {
		range_release(t, block);
		return true;
	}
	return !room_wait(t, wake_fd); /* if nobody can wake the device, it continues, up to aside_hard_bytes */
}

bool fault_tracker_saves(const struct fault_tracker *t)
{
	return atomic_load(&t->saving);
}

bool fault_tracker_make_room(struct fault_tracker *t, const struct iovec *iov, unsigned niov, int wake_fd)
{
	if (!fault_tracker_saves(t))
		return true;
	for (; niov; niov--, iov++) {
		uint64_t at = (uint64_t)((uint8_t *)iov->iov_base - t->c.ram), end = at + iov->iov_len;

		for (uint64_t b = at / VMSTATE_BLOCK_BYTES; iov->iov_len && b <= (end - 1) / VMSTATE_BLOCK_BYTES; b++)
			if (!tracker_block_make_room(t, b, wake_fd))
				return false;
	}
	return true;
}

/* ---- putting the RAM reader's blocks in place ---- */

/* Copy a block's data into missing pages; present pages stay. Returns 0 or -errno. */
static int copy_in(struct fault_tracker *t, uint64_t block, const uint8_t *data, bool protected)
{
	struct uffdio_range all = { .start = (uintptr_t)t->c.ram + block * VMSTATE_BLOCK_BYTES,
		.len = block_len(t, block) };
	struct uffdio_copy copy = { .dst = all.start, .src = (uintptr_t)data, .len = all.len,
		.mode = protected ? UFFDIO_COPY_MODE_WP : 0 };
	bool some_there = false;

	while (copy.len && ioctl(t->uffd, UFFDIO_COPY, &copy) < 0) {
		uint64_t done = copy.copy > 0 ? (uint64_t)copy.copy : 0;

		if (errno == EEXIST) {
			done = PAGE_BYTES;
			some_there = true;
		} else if (errno != EAGAIN) {
			return -errno;
		}
		copy.dst += done;
		copy.src += done;
		copy.len -= done;
		copy.copy = 0;
	}
	if (some_there) /* wake a thread that waits for a page that was present already */
		ioctl(t->uffd, UFFDIO_WAKE, &all);
	return 0;
}

/* Put a block in place. If a write asked for it, leave it unprotected, unless a save wants the
 * block: then the write faults again. */
static int page_put(struct fault_tracker *t, uint64_t block, const uint8_t *data, bool write)
{
	bool protected;

	LOCK_GUARD(&t->lock);
	protected = t->c.uffd->can_protect && (!write || bitmap_test(&t->unsaved, block));
	if (!protected)
		tracker_bare_set(t, block);
	return copy_in(t, block, data, protected);
}

static bool owner_writes(const struct fault_tracker *t, uint64_t block)
{
	return t->c.written_at && block == t->c.written_at / VMSTATE_BLOCK_BYTES;
}

/* Put n blocks from the RAM reader in place. write: a write asked for the first one. t->feed is held. */
static void block_bring(struct fault_tracker *t, uint64_t block, uint64_t n, const uint8_t *data, bool write)
{
	struct err e = { 0 };

	for (uint64_t i = 0; i < n; i++) {
		int r = page_put(t, block + i, data + i * VMSTATE_BLOCK_BYTES, (write && !i) || owner_writes(t, block + i));

		if (r < 0) {
			err_set_errno(&e, r, "cannot put a block of saved memory in place");
			ram_reader_fail(t->ram_reader, &e);
			return;
		}
	}
}

/* Answer a fault on a page that was never touched, or that was put in place since the fault. */
static void zeros_bring(struct fault_tracker *t, uint64_t block, bool write)
{
	static const uint8_t zeros[VMSTATE_BLOCK_BYTES];
	int r = page_put(t, block, zeros, write);

	if (r < 0)
		log_error("tracker", "cannot put zeros in place: %s", strerror(-r));
}

static void missing_fault(struct fault_tracker *t, uint64_t block, bool write)
{
	uint64_t n;

	LOCK_GUARD(&t->feed);
	if (t->ram_reader && !ram_reader_has(t->ram_reader, block)) {
		const uint8_t *data = ram_reader_read(t->ram_reader, block, &n);

		block_bring(t, block, n, data, write);
	} else {
		zeros_bring(t, block, write);
	}
}

/* Put a few blocks in place in the background. */
static void blocks_prefetch(struct fault_tracker *t)
{
	const uint8_t *data;
	uint64_t block, n;

	LOCK_GUARD(&t->feed);
	if (atomic_load(&t->lazy) || !atomic_load(&t->loading)) /* a reclaim came meanwhile */
		return;
	data = ram_reader_next(t->ram_reader, &block, &n);
	if (data) {
		block_bring(t, block, n, data, false);
	} else {
		ram_reader_complete(t->ram_reader);
		atomic_store(&t->loading, false);
	}
}

bool fault_tracker_loads(const struct fault_tracker *t)
{
	return atomic_load(&t->loading);
}

/* Whether the file has a page in [from, to). To punch a hole into a huge page, the kernel has to split it. If anybody
 * uses a page of it at that moment, the kernel cannot, and only writes zeros to the hole. */
static bool has_pages(const struct fault_tracker *t, uint64_t from, uint64_t to)
{
	off_t data = lseek(t->c.ram_fd, (off_t)from, SEEK_DATA);

	return data >= 0 ? (uint64_t)data < to : errno != ENXIO;
}

static int dirty_drop(struct fault_tracker *t)
{
	for (uint64_t b = bitmap_next_set(&t->dirty, 0); b < t->blocks;) {
		uint64_t end = bitmap_next_clear(&t->dirty, b), at = b * VMSTATE_BLOCK_BYTES;
		uint64_t to = MIN(end * VMSTATE_BLOCK_BYTES, t->c.ram_bytes);

		if (fallocate(t->c.ram_fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)at, (off_t)(to - at)) < 0)
			return -errno;
		if (t->c.huge_pages && has_pages(t, at, to))
			return -EBUSY;
		b = bitmap_next_set(&t->dirty, end);
	}
	return 0;
}

int fault_tracker_rewind(struct fault_tracker *t, struct ram_reader *rd, const struct bitmap *changed, struct err *e)
{
	int r;

	pthread_mutex_lock(&t->feed);
	pthread_mutex_lock(&t->lock);
	if (changed)
		bitmap_or(&t->dirty, changed);
	r = dirty_drop(t);
	if (!r) {
		ram_reader_inherit(rd, t->ram_reader, &t->dirty);
		bitmap_clear_all(&t->dirty);
		bitmap_clear_all(&t->bare);
		t->ram_reader = rd;
		atomic_store(&t->lazy, false);
		atomic_store(&t->loading, true);
	}
	pthread_mutex_unlock(&t->lock);
	pthread_mutex_unlock(&t->feed);
	tracker_wake(t->wake_fd);
	return r < 0 ? err_set_errno(e, r, "cannot drop the VM's changed memory") : 0;
}

/* ---- the tracker's thread ---- */

static void fault_answer(struct fault_tracker *t, const struct uffd_msg *m)
{
	uint64_t block = (m->arg.pagefault.address - (uintptr_t)t->c.ram) / VMSTATE_BLOCK_BYTES;
	uint64_t flags = m->arg.pagefault.flags;

	if (block >= t->blocks)
		return;
	if (flags & UFFD_PAGEFAULT_FLAG_WP)
		write_fault(t, block, (int)m->arg.pagefault.feat.ptid);
	else
		missing_fault(t, block, flags & UFFD_PAGEFAULT_FLAG_WRITE);
}

static void faults_read(struct fault_tracker *t)
{
	struct uffd_msg msgs[FAULTS_AT_ONCE];
	ssize_t n = read(t->uffd, msgs, sizeof(msgs));

	for (ssize_t i = 0; i < n / (ssize_t)sizeof(msgs[0]); i++)
		if (msgs[i].event == UFFD_EVENT_PAGEFAULT)
			fault_answer(t, &msgs[i]);
}

/* Answer the waiting faults, as long as the kept old contents stay below aside_max_bytes. The others wait on. */
static void deferred_retry(struct fault_tracker *t)
{
	struct deferred *d, *list;
	uint64_t n;

	if (read(t->wake_fd, &n, sizeof(n)) < 0)
		return;
	pthread_mutex_lock(&t->lock);
	list = t->deferred;
	t->deferred = NULL;
	while ((d = list)) {
		list = d->next;
		if (vcpu_has_room(t) && block_preserve(t, d->block, 0)) {
			range_release(t, d->block);
			free(d);
		} else {
			d->next = t->deferred;
			t->deferred = d;
		}
	}
	pthread_mutex_unlock(&t->lock);
}

static void *fault_tracker_thread(void *opaque)
{
	struct fault_tracker *t = opaque;
	struct pollfd fds[3] = { { .fd = t->uffd, .events = POLLIN },
		{ .fd = t->stop_fd, .events = POLLIN }, { .fd = t->wake_fd, .events = POLLIN } };

	pthread_setname_np(pthread_self(), "tracker");
	short_slice_set(true); /* vCPUs wait for this thread */
	if (t->c.begin)
		t->c.begin(t->c.opaque);
	for (;;) {
		/* Faults come before background work, because threads wait for them. */
		bool busy = atomic_load(&t->loading) && !atomic_load(&t->lazy);
		int n = poll(fds, 3, busy ? 0 : -1);

		if ((n < 0 && errno != EINTR) || fds[1].revents)
			break;
		if (fds[2].revents)
			deferred_retry(t);
		if (fds[0].revents & POLLIN)
			faults_read(t);
		else if (busy)
			blocks_prefetch(t);
	}
	if (atomic_load(&t->loading))
		ram_reader_complete(t->ram_reader);
	return NULL;
}

/* ---- creating and freeing a tracker ---- */

static int range_register(int uffd, const void *at, uint64_t bytes, uint64_t mode)
{
	struct uffdio_register reg = { .mode = mode, .range = { .start = (uintptr_t)at, .len = ROUND_UP(bytes, 4096) } };

	return ioctl(uffd, UFFDIO_REGISTER, &reg) < 0 ? -errno : 0;
}

static int fault_tracker_register(struct fault_tracker *t)
{
	uint64_t mode = (t->c.view ? 0 : UFFDIO_REGISTER_MODE_MISSING) |
		(t->c.uffd->can_protect ? UFFDIO_REGISTER_MODE_WP : 0);

	return range_register(t->uffd, t->c.ram, t->c.ram_bytes, mode);
}

/* Bit of an entry of /proc/PID/pagemap. */
#define ENTRY_UFFD_WP (1ULL << 57)

static bool page_can_protect(int uffd, void *page, int pagemap_fd)
{
	struct uffdio_writeprotect wp = { .range = { .start = (uintptr_t)page, .len = PAGE_BYTES },
		.mode = UFFDIO_WRITEPROTECT_MODE_WP };
	uint64_t entry = 0;

	return !range_register(uffd, page, PAGE_BYTES, UFFDIO_REGISTER_MODE_WP) &&
		ioctl(uffd, UFFDIO_WRITEPROTECT, &wp) == 0 &&
		!pread_full(pagemap_fd, &entry, sizeof(entry), (off_t)((uintptr_t)page / PAGE_BYTES * sizeof(entry))) &&
		(entry & ENTRY_UFFD_WP);
}

bool fault_tracker_can_watch(const struct uffd *u, const struct ram_view *v)
{
	void *page = mmap(NULL, PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE, v->base_fd, (off_t)v->base_offset);
	bool can = page != MAP_FAILED && u->can_protect && page_can_protect(u->fd, page, v->pagemap_fd);

	if (page != MAP_FAILED)
		munmap(page, PAGE_BYTES); /* unmapping also ends the registration with userfaultfd */
	return can;
}

static void fault_tracker_release(struct fault_tracker *t)
{
	bitmap_done(&t->dirty);
	bitmap_done(&t->bare);
	bitmap_done(&t->used);
	bitmap_done(&t->unsaved);
	if (t->stop_fd >= 0)
		close(t->stop_fd);
	if (t->wake_fd >= 0)
		close(t->wake_fd);
	pthread_mutex_destroy(&t->feed);
	pthread_mutex_destroy(&t->lock);
	free(t);
}

int fault_tracker_new(const struct fault_tracker_config *c, struct fault_tracker **ret_t, struct err *e)
{
	struct fault_tracker *t = calloc(1, sizeof(*t));
	int r = 0;

	if (!t)
		return err_set_errno(e, -ENOMEM, "fault tracker");
	t->c = *c;
	t->uffd = c->uffd->fd;
	t->blocks = DIV_ROUND_UP(c->ram_bytes, VMSTATE_BLOCK_BYTES);
	t->aside_tail = &t->aside;
	t->ram_reader = c->ram_reader;
	atomic_init(&t->loading, c->ram_reader != NULL);
	atomic_init(&t->lazy, false);
	atomic_init(&t->arming, false);
	pthread_mutex_init(&t->feed, NULL);
	pthread_mutex_init(&t->lock, NULL);
	t->stop_fd = eventfd(0, EFD_CLOEXEC);
	t->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (t->stop_fd < 0 || t->wake_fd < 0)
		r = -errno;
	if (!r)
		r = bitmap_init(&t->dirty, t->blocks);
	if (!r)
		r = bitmap_init(&t->bare, t->blocks);
	if (!r)
		r = bitmap_init(&t->unsaved, t->blocks);
	if (!r)
		r = fault_tracker_register(t);
	if (r < 0) {
		fault_tracker_release(t);
		return err_set_errno(e, r, "cannot watch the VM's memory");
	}
	*ret_t = t;
	return 0;
}

int fault_tracker_start(struct fault_tracker *t, struct err *e)
{
	sigset_t all, old;
	int r;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	r = pthread_create(&t->thread, NULL, fault_tracker_thread, t);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	t->thread_made = !r;
	return r ? err_set_errno(e, -r, "cannot start the tracker's thread") : 0;
}

void fault_tracker_stop(struct fault_tracker *t)
{
	uint64_t one = 1;

	if (!t || !t->thread_made)
		return;
	fault_tracker_save_end(t);
	if (write(t->stop_fd, &one, sizeof(one)) < 0)
		log_error("tracker", "cannot stop: %s", strerror(errno));
	pthread_join(t->thread, NULL);
	t->thread_made = false;
}

void fault_tracker_free(struct fault_tracker *t)
{
	struct uffdio_range range;

	if (!t)
		return;
	fault_tracker_stop(t);
	/* Unregistering lifts the protection; a page that is still missing then reads as zeros. It wakes the waiting
	 * threads only where missing pages are registered, which a view's are not. */
	range = (struct uffdio_range){ .start = (uintptr_t)t->c.ram, .len = ROUND_UP(t->c.ram_bytes, 4096) };
	ioctl(t->uffd, UFFDIO_UNREGISTER, &range);
	ioctl(t->uffd, UFFDIO_WAKE, &range); /* for a view */
	while (t->deferred) {
		struct deferred *d = t->deferred;

		t->deferred = d->next;
		free(d);
	}
	fault_tracker_release(t);
}

void fault_tracker_stats(struct fault_tracker *t, struct fault_tracker_stats *ret)
{
	LOCK_GUARD(&t->lock);
	*ret = t->stats;
}
