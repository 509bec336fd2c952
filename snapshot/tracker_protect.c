/* Write-protects guest memory, at first and again after each reset of the dirty blocks. */
#include "base/cleanup.h"
#include "base/err.h"
#include "base/util.h"
#include "snapshot/fault_tracker_impl.h"
#include "snapshot/holes.h"
#include "snapshot/ram_view.h"

#include <errno.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/ioctl.h>

#define PAGE_BYTES 4096u
/* Maximum number of bytes that one call protects. Short calls let the guest's faults take the address space's
 * lock in between. */
#define ARM_PIECE_BYTES (32 * MIB)
/* Maximum number of rounds of fault_tracker_preprotect(). A round leaves the blocks that the guest dirtied during it,
 * about a tenth of what the previous round left. */
#define PREPROTECT_ROUNDS 4

int tracker_range_protect(struct fault_tracker *t, uint64_t first, uint64_t n, bool on)
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

void tracker_bare_set(struct fault_tracker *t, uint64_t block)
{
	bitmap_set(&t->dirty, block);
	bitmap_set(&t->bare, block);
}

/* Protect [from, to), in bytes, widened to whole blocks, in pieces. */
static int stretch_protect(struct fault_tracker *t, uint64_t from, uint64_t to)
{
	uint64_t piece = ARM_PIECE_BYTES / VMSTATE_BLOCK_BYTES;
	uint64_t end = DIV_ROUND_UP(to, VMSTATE_BLOCK_BYTES);
	int r = 0;

	for (uint64_t b = from / VMSTATE_BLOCK_BYTES; b < end && !r; b += piece)
		r = tracker_range_protect(t, b, MIN(piece, end - b), true);
	return r;
}

int tracker_zeros_map(struct fault_tracker *t, uint64_t from, uint64_t to)
{
	while (from < to) {
		struct uffdio_zeropage z = { .range = { .start = (uintptr_t)t->c.ram + from,
							 .len = MIN(to - from, ARM_PIECE_BYTES) } };
		int r = ioctl(t->uffd, UFFDIO_ZEROPAGE, &z);

		if (r < 0 && errno != EEXIST && errno != EAGAIN)
			return -errno;
		if (z.zeropage > 0)
			from += (uint64_t)z.zeropage;
		else if (r < 0 && errno == EEXIST)
			from += PAGE_BYTES;
	}
	return 0;
}

/* Protect all of a view. Protecting a page that is not mapped leaves a marker in the page table. This must not happen
 * in a hole of the base file (ram_view.c), so map the page of zeros into holes first. The guest may write to it
 * before it is protected, as to any page. */
static int view_protect(struct fault_tracker *t)
{
	uint64_t base = t->c.view->base_offset;
	struct holes h;
	int r = 0;

	ram_view_walk(t->c.view, &h);
	for (uint64_t at = base; at < h.bytes && !r; at = h.data_to) {
		hole_at(&h, at, 1);
		r = tracker_zeros_map(t, at - base, MAX(h.data_from, at) - base);
	}
	return r < 0 ? r : stretch_protect(t, 0, t->c.ram_bytes);
}

/* Protect present memory from *at on, at most max_bytes of it. *at: set to where to continue. */
static int present_protect(struct fault_tracker *t, uint64_t *at, uint64_t max_bytes)
{
	struct holes h = { .fd = t->c.ram_fd, .bytes = t->c.ram_bytes };
	uint64_t from;

	hole_at(&h, *at, 1);
	from = MAX(MIN(h.data_from, h.data_to), *at);
	*at = MIN(h.data_to, ROUND_DOWN(from, VMSTATE_BLOCK_BYTES) + max_bytes);
	return stretch_protect(t, from, *at);
}

static int all_present_protect(struct fault_tracker *t)
{
	int r = 0;

	for (uint64_t at = 0; at < t->c.ram_bytes && !r;)
		r = present_protect(t, &at, t->c.ram_bytes);
	return r;
}

int fault_tracker_arm(struct fault_tracker *t, struct err *e)
{
	/* Faults note their blocks from here on, and the next reset protects these again. Missing
	 * memory causes a fault anyway, except in a view. */
	int r = t->c.view ? view_protect(t) : all_present_protect(t);

	if (!r)
		atomic_store(&t->arming, false);
	return r < 0 ? err_set_errno(e, r, "cannot protect the VM's memory") : 0;
}

void fault_tracker_arm_begin(struct fault_tracker *t)
{
	t->armed_to = 0;
	atomic_store(&t->arming, true);
}

int fault_tracker_arm_step(struct fault_tracker *t, struct err *e)
{
	int r = 0;

	if (atomic_load(&t->arming) && t->armed_to < t->c.ram_bytes)
		r = present_protect(t, &t->armed_to, ARM_PIECE_BYTES);
	if (r < 0)
		return err_set_errno(e, r, "cannot protect the VM's memory");
	if (t->armed_to >= t->c.ram_bytes)
		atomic_store(&t->arming, false);
	return atomic_load(&t->arming);
}

bool fault_tracker_is_arming(const struct fault_tracker *t)
{
	return atomic_load(&t->arming);
}

/* Protect the next unprotected blocks from *at on. The caller holds the lock, so a fault on one of
 * these blocks is handled entirely before or entirely after the protection. */
static int bare_protect_piece(struct fault_tracker *t, uint64_t *at)
{
	uint64_t b = bitmap_next_set(&t->bare, *at);
	uint64_t end = MIN(bitmap_next_clear(&t->bare, b), b + ARM_PIECE_BYTES / VMSTATE_BLOCK_BYTES);
	int r = b < end ? tracker_range_protect(t, b, end - b, true) : 0;

	for (*at = end; b < end && !r; b++)
		bitmap_clear(&t->bare, b);
	return r;
}

int tracker_bare_protect(struct fault_tracker *t)
{
	int r = 0;

	for (uint64_t at = 0; at < t->blocks && !r;)
		r = bare_protect_piece(t, &at);
	return r;
}

static uint64_t bare_count(struct fault_tracker *t)
{
	LOCK_GUARD(&t->lock);

	return bitmap_count(&t->bare);
}

static int preprotect_round(struct fault_tracker *t)
{
	int r = 0;

	for (uint64_t at = 0; at < t->blocks && !r;) {
		pthread_mutex_lock(&t->lock);
		r = bare_protect_piece(t, &at);
		pthread_mutex_unlock(&t->lock);
	}
	return r;
}

int fault_tracker_preprotect(struct fault_tracker *t, uint64_t leave, struct err *e)
{
	int r = 0;

	for (unsigned i = 0; i < PREPROTECT_ROUNDS && !r && bare_count(t) > leave; i++)
		r = preprotect_round(t);
	return r < 0 ? err_set_errno(e, r, "cannot protect the VM's memory again") : 0;
}

int fault_tracker_hold(struct fault_tracker *t, struct err *e)
{
	int r;

	pthread_mutex_lock(&t->lock);
	r = tracker_bare_protect(t);
	pthread_mutex_unlock(&t->lock);
	return r < 0 ? err_set_errno(e, r, "cannot protect the VM's memory again") : 0;
}

void fault_tracker_dirty(struct fault_tracker *t, struct bitmap *to)
{
	LOCK_GUARD(&t->lock);

	bitmap_or(to, &t->dirty);
}

int fault_tracker_reset_dirty(struct fault_tracker *t, struct bitmap *ret_dirty, struct err *e)
{
	int r;

	pthread_mutex_lock(&t->lock);
	if (ret_dirty)
		bitmap_copy(ret_dirty, &t->dirty);
	r = tracker_bare_protect(t);
	if (!r)
		bitmap_clear_all(&t->dirty);
	pthread_mutex_unlock(&t->lock);
	return r < 0 ? err_set_errno(e, r, "cannot protect the VM's memory again") : 0;
}
