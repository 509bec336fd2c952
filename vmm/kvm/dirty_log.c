#include "vmm/kvm/dirty_log.h"
#include "base/err.h"
#include "base/util.h"
#include "snapshot/vmstate.h"
#include "vmm/kvm/kvm.h"
#include "vmm/kvm/memory.h"

#include <errno.h>
#include <linux/kvm.h>
#include <stdlib.h>
#include <string.h>

#define PAGE_BYTES 4096u
#define BLOCK_PAGES (VMSTATE_BLOCK_BYTES / PAGE_BYTES)
#define WORD_BLOCKS (64 / BLOCK_PAGES)

int dirty_log_init(struct dirty_log *l, struct kvm *k, struct memory *mem, struct err *e)
{
	int r;

	memset(l, 0, sizeof(*l));
	l->kvm = k;
	l->mem = mem;
	l->blocks = DIV_ROUND_UP(mem->bytes, VMSTATE_BLOCK_BYTES);
	l->marks = calloc(DIV_ROUND_UP(l->blocks, 64), sizeof(*l->marks));
	l->pages = calloc(DIV_ROUND_UP(mem->bytes / PAGE_BYTES, 64), sizeof(*l->pages));
	r = l->marks && l->pages ? bitmap_init(&l->written, l->blocks) : -ENOMEM;
	if (!r)
		return 0;
	dirty_log_done(l);
	return err_set_errno(e, r, "dirty log");
}

void dirty_log_done(struct dirty_log *l)
{
	free(l->marks);
	free(l->pages);
	bitmap_done(&l->written);
	memset(l, 0, sizeof(*l));
}

void dirty_log_mark(struct dirty_log *l, uint64_t off, uint64_t len)
{
	if (!len || !atomic_load(&l->on))
		return;
	/* A full barrier also where the bit is set already: the write must be visible before the bit is taken. */
	for (uint64_t b = off / VMSTATE_BLOCK_BYTES; b <= (off + len - 1) / VMSTATE_BLOCK_BYTES; b++)
		__atomic_fetch_or(&l->marks[b / 64], 1ULL << b % 64, __ATOMIC_SEQ_CST);
}

int dirty_log_start(struct dirty_log *l, struct err *e)
{
	int can = kvm_ioctl(l->kvm->vm_fd, KVM_CHECK_EXTENSION, (void *)KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2), r;
	struct kvm_enable_cap cap = { .cap = KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2,
		.args = { KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE } };

	if (atomic_load(&l->on))
		return 0;
	l->clears = can > 0 && (can & KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE) &&
		!kvm_ioctl(l->kvm->vm_fd, KVM_ENABLE_CAP, &cap);
	r = memory_log_dirty(l->mem, l->kvm, true, e);
	if (r < 0)
		return r;
	bitmap_set_all(&l->written);
	atomic_store(&l->on, true);
	return 0;
}

int dirty_log_stop(struct dirty_log *l, struct err *e)
{
	if (!atomic_exchange(&l->on, false))
		return 0;
	return memory_log_dirty(l->mem, l->kvm, false, e);
}

bool dirty_log_is_on(const struct dirty_log *l)
{
	return atomic_load(&l->on);
}

bool dirty_log_stays(const struct dirty_log *l)
{
	return l->blocks && !l->mem->huge_pages;
}

static void pages_take(struct dirty_log *l, uint64_t words, uint64_t first_block, struct bitmap *to)
{
	for (uint64_t w = 0; w < words; w++)
		for (unsigned i = 0; l->pages[w] && i < WORD_BLOCKS; i++)
			if (l->pages[w] >> i * BLOCK_PAGES & ((1u << BLOCK_PAGES) - 1))
				bitmap_set(to, first_block + w * WORD_BLOCKS + i);
}

static int slot_collect(struct dirty_log *l, uint32_t slot, uint64_t off, uint64_t bytes, struct bitmap *to)
{
	struct kvm_dirty_log get = { .slot = slot, .dirty_bitmap = l->pages };
	struct kvm_clear_dirty_log clear = { .slot = slot, .num_pages = (uint32_t)(bytes / PAGE_BYTES),
		.dirty_bitmap = l->pages };
	int r = kvm_ioctl(l->kvm->vm_fd, KVM_GET_DIRTY_LOG, &get);

	if (!r && l->clears)
		r = kvm_ioctl(l->kvm->vm_fd, KVM_CLEAR_DIRTY_LOG, &clear);
	if (!r)
		pages_take(l, DIV_ROUND_UP(bytes / PAGE_BYTES, 64), off / VMSTATE_BLOCK_BYTES, to);
	return r;
}

static int log_take(struct dirty_log *l, struct bitmap *to)
{
	int r = slot_collect(l, MEMORY_SLOT_LOW, 0, l->mem->low_bytes, to);

	if (!r && l->mem->high_bytes)
		r = slot_collect(l, MEMORY_SLOT_HIGH, l->mem->low_bytes, l->mem->high_bytes, to);
	for (uint64_t w = 0; w < DIV_ROUND_UP(l->blocks, 64); w++)
		if (__atomic_load_n(&l->marks[w], __ATOMIC_RELAXED))
			to->words[w] |= __atomic_exchange_n(&l->marks[w], 0, __ATOMIC_SEQ_CST);
	return r;
}

int dirty_log_collect(struct dirty_log *l, struct bitmap *more, struct err *e)
{
	struct bitmap found;
	int r = bitmap_init(&found, l->blocks);

	if (!r)
		r = log_take(l, &found);
	if (r < 0)
		bitmap_set_all(&l->written);
	else
		bitmap_or(&l->written, &found);
	if (!r && more)
		bitmap_or(more, &found);
	bitmap_done(&found);
	return r < 0 ? err_set(e, r, ERR_HOST, "KVM's dirty log: %s", strerror(-r)) : 0;
}

void dirty_log_reset(struct dirty_log *l)
{
	bitmap_clear_all(&l->written);
}
