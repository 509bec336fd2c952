/* The part of the fault tracker that frees memory while the guest runs: pages that the guest gives back, and blocks
 * that a saved state has. */
#include "base/err.h"
#include "snapshot/fault_tracker_impl.h"
#include "snapshot/ram_reader.h"
#include "snapshot/ram_view.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>

/* Number of blocks that a reclaim looks at with the locks held: 4 MiB. */
#define RECLAIM_BLOCKS 64u
#define HUGE_BLOCKS (2 * MIB / VMSTATE_BLOCK_BYTES)

_Static_assert(RECLAIM_BLOCKS % HUGE_BLOCKS == 0, "a reclaim sees huge pages as a whole");

static int range_punch(struct fault_tracker *t, uint64_t from, uint64_t to)
{
	if (from >= to)
		return 0;
	return fallocate(t->c.ram_fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)from, (off_t)(to - from)) < 0
		? -errno : 0;
}

/* Drop the clone's own pages. A protected page would leave a marker, which must not happen in a hole of the base
 * file. So remove the protection first, and map the page of zeros into holes, as in view_protect(). */
static int view_give_back(struct fault_tracker *t, uint64_t off, uint64_t end)
{
	uint64_t base = t->c.view->base_offset, first = off / VMSTATE_BLOCK_BYTES, last = (end - 1) / VMSTATE_BLOCK_BYTES;
	struct holes h;
	int r;

	for (uint64_t b = first; b <= last; b++)
		tracker_bare_set(t, b);
	r = tracker_range_protect(t, first, last - first + 1, false);
	if (!r && madvise(t->c.ram + off, end - off, MADV_DONTNEED) < 0)
		r = -errno;
	ram_view_walk(t->c.view, &h);
	for (uint64_t at = base + off; at < base + end && !r; at = h.data_to) {
		hole_at(&h, at, 1);
		r = tracker_zeros_map(t, at - base, MIN(MAX(h.data_from, at), base + end) - base);
	}
	return r;
}

/* The pages of a block that stays in the saved state are left alone: they are not in memory. */
static bool block_can_go(struct fault_tracker *t, uint64_t block, bool whole)
{
	if (!t->ram_reader || ram_reader_has(t->ram_reader, block))
		return true;
	if (whole)
		ram_reader_skip(t->ram_reader, block);
	return whole;
}

static int shared_give_back(struct fault_tracker *t, uint64_t off, uint64_t end)
{
	uint64_t from = off; /* of the run to free */
	int r = 0;

	for (uint64_t b = off / VMSTATE_BLOCK_BYTES; b <= (end - 1) / VMSTATE_BLOCK_BYTES && !r; b++) {
		uint64_t at = b * VMSTATE_BLOCK_BYTES, next = at + block_len(t, b);

		if (block_can_go(t, b, at >= off && next <= end)) {
			bitmap_set(&t->dirty, b);
			continue;
		}
		r = range_punch(t, from, MAX(at, from));
		from = next;
	}
	return r < 0 ? r : range_punch(t, from, end);
}

int fault_tracker_give_back(struct fault_tracker *t, uint64_t off, uint64_t len, int wake_fd)
{
	uint64_t end = off + len;
	int r;

	for (uint64_t b = off / VMSTATE_BLOCK_BYTES; fault_tracker_saves(t) && b <= (end - 1) / VMSTATE_BLOCK_BYTES; b++)
		if (!tracker_block_make_room(t, b, wake_fd))
			return 0;
	pthread_mutex_lock(&t->feed);
	pthread_mutex_lock(&t->lock);
	r = t->c.view ? view_give_back(t, off, end) : shared_give_back(t, off, end);
	pthread_mutex_unlock(&t->lock);
	pthread_mutex_unlock(&t->feed);
	return r < 0 ? r : 1;
}

/* Free the clean blocks in [block, end) that are in memory. A clean block is protected, and the answer to a write needs
 * the lock, which the caller holds. */
static int clean_drop(struct fault_tracker *t, struct holes *h, uint64_t block, uint64_t end, uint64_t *bytes)
{
	int r = 0;

	for (; block < end && !r; block++) {
		uint64_t at = block * VMSTATE_BLOCK_BYTES, len = block_len(t, block);

		if (bitmap_test(&t->dirty, block) || bitmap_test(&t->used, block) || !ram_reader_has(t->ram_reader, block) ||
			hole_at(h, at, len))
			continue;
		ram_reader_drop(t->ram_reader, block);
		r = range_punch(t, at, at + len);
		*bytes += len;
	}
	return r;
}

/* As clean_drop(), of memory in huge pages: free only whole ones, and those without dirty blocks. To free a part, the
 * kernel has to split the page. If it cannot, because a device reads a page of it at that moment, the part stays, with
 * zeros, and its accesses do not fault. */
static int huge_drop(struct fault_tracker *t, struct holes *h, uint64_t block, uint64_t end, uint64_t *bytes)
{
	int r = 0;

	for (; block + HUGE_BLOCKS <= end && !r; block += HUGE_BLOCKS) {
		uint64_t before = *bytes;

		if (bitmap_next_set(&t->dirty, block) < block + HUGE_BLOCKS || bitmap_next_set(&t->used, block) < block + HUGE_BLOCKS)
			continue;
		for (uint64_t b = block; b < block + HUGE_BLOCKS; b++) {
			if (!ram_reader_has(t->ram_reader, b) || hole_at(h, b * VMSTATE_BLOCK_BYTES, block_len(t, b)))
				continue;
			ram_reader_drop(t->ram_reader, b);
			*bytes += block_len(t, b);
		}
		if (*bytes > before)
			r = range_punch(t, block * VMSTATE_BLOCK_BYTES, (block + HUGE_BLOCKS) * VMSTATE_BLOCK_BYTES);
	}
	return r;
}

int fault_tracker_reclaim_begin(struct fault_tracker *t, struct ram_reader *rd, struct err *e)
{
	int r;

	pthread_mutex_lock(&t->lock);
	r = bitmap_init(&t->used, t->blocks);
	if (!r)
		atomic_store(&t->reclaims, true);
	pthread_mutex_unlock(&t->lock);
	if (r < 0)
		return err_set_errno(e, r, "no memory to reclaim memory");
	pthread_mutex_lock(&t->feed);
	ram_reader_inherit(rd, t->ram_reader, NULL);
	t->ram_reader = rd;
	atomic_store(&t->lazy, true);
	atomic_store(&t->loading, true);
	pthread_mutex_unlock(&t->feed);
	return 0;
}

void fault_tracker_use(struct fault_tracker *t, const struct iovec *iov, unsigned niov)
{
	if (!atomic_load(&t->reclaims))
		return;
	pthread_mutex_lock(&t->lock);
	for (; niov && atomic_load(&t->reclaims); niov--, iov++) {
		uint64_t off = (uint64_t)((uint8_t *)iov->iov_base - t->c.ram), end = off + iov->iov_len;

		for (uint64_t b = off / VMSTATE_BLOCK_BYTES; off < end && end <= t->c.ram_bytes && b <= (end - 1) / VMSTATE_BLOCK_BYTES; b++)
			bitmap_set(&t->used, b);
	}
	pthread_mutex_unlock(&t->lock);
}

static void reclaim_end(struct fault_tracker *t)
{
	pthread_mutex_lock(&t->lock);
	atomic_store(&t->reclaims, false);
	bitmap_done(&t->used);
	pthread_mutex_unlock(&t->lock);
}

int fault_tracker_reclaim(struct fault_tracker *t, uint64_t *ret_bytes, struct err *e)
{
	struct holes h = { .fd = t->c.ram_fd, .bytes = t->c.ram_bytes };
	int r = 0;

	*ret_bytes = 0;
	for (uint64_t b = 0; b < t->blocks && !r; b += RECLAIM_BLOCKS) {
		pthread_mutex_lock(&t->feed);
		pthread_mutex_lock(&t->lock);
		r = (t->c.huge_pages ? huge_drop : clean_drop)(t, &h, b, MIN(b + RECLAIM_BLOCKS, t->blocks), ret_bytes);
		pthread_mutex_unlock(&t->lock);
		pthread_mutex_unlock(&t->feed);
	}
	reclaim_end(t);
	return r < 0 ? err_set_errno(e, r, "cannot free the VM's memory") : 0;
}

void fault_tracker_load_all(struct fault_tracker *t)
{
	if (atomic_exchange(&t->lazy, false))
		tracker_wake(t->wake_fd);
}
