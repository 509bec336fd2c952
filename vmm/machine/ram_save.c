#include "vmm/machine/ram_save.h"
#include "base/err.h"
#include "base/log.h"
#include "base/util.h"
#include "snapshot/ram_view.h"
#include "snapshot/vmstate.h"
#include "vmm/machine/machine.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* With at most this many blocks left, the rounds end: copying 4 MiB in the pause takes about 1 ms. */
#define LEFT_BLOCKS (4 * MIB / VMSTATE_BLOCK_BYTES)
/* At most this many blocks are copied aside: copying 32 MiB takes about 10 ms. */
#define ASIDE_BLOCKS (32 * MIB / VMSTATE_BLOCK_BYTES)

int ram_save_begin(struct ram_save *s, struct machine *m, bool all, struct err *e)
{
	struct dirty_log *l = &m->dirty_log;
	int r = dirty_log_start(l, e);

	s->m = m;
	s->aside = malloc(ASIDE_BLOCKS * VMSTATE_BLOCK_BYTES);
	if (!r && (!s->aside || bitmap_init(&s->todo, l->blocks) < 0))
		r = err_set_errno(e, -ENOMEM, "copy of memory");
	if (!r)
		r = dirty_log_collect(l, NULL, e);
	if (r < 0)
		return r;
	/* Touch this memory now, so that the pause takes no page faults on it. */
	memset(s->aside, 0, LEFT_BLOCKS * VMSTATE_BLOCK_BYTES);
	if (all)
		bitmap_set_all(&s->todo);
	else
		bitmap_copy(&s->todo, &l->written);
	s->round_blocks = bitmap_count(&s->todo);
	/* Skip holes only in a round of all blocks: a hole is a block that was never touched, and the blocks
	 * in the log were written. */
	s->holes = (struct holes){ .fd = all ? m->mem.fd : -1, .bytes = m->mem.bytes };
	if (all && memory_view(&m->mem))
		ram_view_walk(memory_view(&m->mem), &s->holes);
	return 0;
}

static size_t block_len(const struct ram_save *s, uint64_t block)
{
	return (size_t)MIN(VMSTATE_BLOCK_BYTES, s->m->mem.bytes - block * VMSTATE_BLOCK_BYTES);
}

static bool block_is_hole(struct ram_save *s, uint64_t block)
{
	const struct ram_view *v = memory_view(&s->m->mem);
	uint64_t off = block * VMSTATE_BLOCK_BYTES;

	return v && s->holes.fd >= 0 ? ram_view_is_hole(v, &s->holes, off, block_len(s, block))
		: hole_at(&s->holes, off, block_len(s, block));
}

int ram_save_next(struct ram_save *s, uint64_t *ret_block, uint8_t *buf)
{
	const struct memory *mem = &s->m->mem;
	int r = 0;

	do {
		s->next = bitmap_next_set(&s->todo, s->next);
		if (s->next >= s->todo.nbits)
			return 0;
		*ret_block = s->next++;
	} while (block_is_hole(s, *ret_block));
	if (s->frozen && !s->stays_paused)
		memcpy(buf, s->aside + s->taken++ * VMSTATE_BLOCK_BYTES, VMSTATE_BLOCK_BYTES);
	else
		r = ram_block_read(memory_view(mem), mem->fd, mem->bytes, *ret_block, buf);
	return r < 0 ? r : 1;
}

/* Slow the guest down when it has written more than half as much as the round copied. */
static void guest_slow(struct ram_save *s, uint64_t left)
{
	static const unsigned percents[] = { 50, 80, 95 };
	unsigned i = 0;

	while (i < ARRAY_SIZE(percents) && percents[i] <= s->throttle)
		i++;
	if (left <= s->round_blocks / 2 || i == ARRAY_SIZE(percents))
		return;
	s->throttle = percents[i];
	throttle_set(&s->m->throttle, s->throttle);
	log_info(NULL, "the guest writes its memory faster than it is copied; slowing it down by %u %%", s->throttle);
}

int ram_save_round_end(struct ram_save *s, struct err *e)
{
	uint64_t left;
	int r;

	bitmap_clear_all(&s->todo);
	s->holes = (struct holes){ .fd = -1 };
	s->next = 0;
	s->rounds++;
	r = dirty_log_collect(&s->m->dirty_log, &s->todo, e);
	if (r < 0)
		return r;
	left = bitmap_count(&s->todo);
	if (left <= LEFT_BLOCKS || s->rounds >= RAM_SAVE_ROUNDS_MAX)
		return 0;
	guest_slow(s, left);
	s->round_blocks = left;
	return 1;
}

int ram_save_freeze(struct ram_save *s, struct err *e)
{
	uint8_t *to = s->aside;
	uint64_t block;
	int r;

	throttle_set(&s->m->throttle, 0);
	s->next = 0;
	r = dirty_log_collect(&s->m->dirty_log, &s->todo, e);
	s->stays_paused = !r && bitmap_count(&s->todo) > ASIDE_BLOCKS;
	if (r < 0 || s->stays_paused)
		return r;
	for (; (r = ram_save_next(s, &block, to)) > 0; to += VMSTATE_BLOCK_BYTES)
		;
	s->next = 0;
	s->frozen = true;
	return r < 0 ? err_set_errno(e, r, "cannot copy the VM's memory") : 0;
}

void ram_save_done(struct ram_save *s)
{
	struct err e;

	if (s->m)
		throttle_set(&s->m->throttle, 0);
	if (s->m && !dirty_log_stays(&s->m->dirty_log) && dirty_log_stop(&s->m->dirty_log, &e) < 0)
		log_warn(NULL, "cannot turn KVM's dirty log off, so the guest's memory stays in small pages: %s", e.msg);
	bitmap_done(&s->todo);
	free(s->aside);
	memset(s, 0, sizeof(*s));
}
