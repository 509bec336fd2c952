#include "vmm/machine/ram_revert.h"
#include "base/err.h"
#include "base/util.h"
#include "vmm/machine/machine.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Number of checked blocks whose content is kept until ram_revert_apply(): 64 MiB. */
#define KEPT_BLOCKS 1024u
/* Adjacent blocks that are read together, at most. */
#define RUN_BLOCKS 16u

static int buffers_new(struct ram_revert *v)
{
	uint64_t blocks = v->h->layout.blocks;

	v->kept = calloc(KEPT_BLOCKS, sizeof(*v->kept));
	if (!v->kept || bitmap_init(&v->wanted, blocks) < 0 || bitmap_init(&v->checked, blocks) < 0)
		return -ENOMEM;
	/* The buffer holds the kept blocks and, after them, one run of blocks that are checked but not kept. */
	return -posix_memalign((void **)&v->data, 4096, (KEPT_BLOCKS + RUN_BLOCKS) * (size_t)VMSTATE_BLOCK_BYTES);
}

/* Return whether the block still has to be read; a block of zeros needs no read. */
static bool block_is_unread(const struct ram_revert *v, uint64_t block)
{
	return bitmap_test(&v->wanted, block) && !bitmap_test(&v->checked, block) &&
		!vmstate_block_is_zero(&v->h->layout, v->crcs, block);
}

static int run_check(struct ram_revert *v, uint64_t first, uint64_t n, struct err *e)
{
	bool keep = v->nkept + n <= KEPT_BLOCKS;
	uint8_t *to = v->data + (keep ? v->nkept : KEPT_BLOCKS) * (size_t)VMSTATE_BLOCK_BYTES;
	int r = vmstate_read_blocks(v->store, v->h, v->crcs, first, n, to, e);

	for (uint64_t b = first; b < first + n && !r; b++) {
		bitmap_set(&v->checked, b);
		if (keep)
			v->kept[v->nkept++] = b;
	}
	return r;
}

static int blocks_check(struct ram_revert *v, struct err *e)
{
	uint64_t blocks = v->h->layout.blocks, n;
	int r = 0;

	for (uint64_t b = 0; b < blocks && !r; b = bitmap_next_set(&v->wanted, b + MAX(n, (uint64_t)1))) {
		for (n = 0; n < RUN_BLOCKS && b + n < blocks && block_is_unread(v, b + n);)
			n++;
		if (n)
			r = run_check(v, b, n, e);
	}
	return r;
}

static int written_add(struct ram_revert *v, struct err *e)
{
	int r = dirty_log_collect(&v->m->dirty_log, NULL, e);

	if (!r)
		bitmap_or(&v->wanted, &v->m->dirty_log.written);
	return r;
}

int ram_revert_look(struct ram_revert *v, struct machine *m, struct vmstate_store *store,
	const struct vmstate_header *h, const struct bitmap *changed, bool check, struct err *e)
{
	int r;

	v->m = m;
	v->store = store;
	v->h = h;
	v->all = !changed;
	r = buffers_new(v);
	if (r < 0)
		return err_set_errno(e, r, "revert of memory");
	r = vmstate_read_crcs(store, h, &v->crcs, e);
	if (!r && dirty_log_stays(&m->dirty_log))
		r = dirty_log_start(&m->dirty_log, e);
	if (!r && changed) {
		bitmap_copy(&v->wanted, changed);
		r = written_add(v, e);
	} else {
		bitmap_set_all(&v->wanted);
	}
	return r < 0 || !check ? r : blocks_check(v, e);
}

int ram_revert_settle(struct ram_revert *v, struct err *e)
{
	int r;

	if (!dirty_log_stays(&v->m->dirty_log))
		return 0; /* all blocks are replaced */
	r = v->all ? dirty_log_collect(&v->m->dirty_log, NULL, e) : written_add(v, e);
	return r < 0 || v->all ? r : blocks_check(v, e);
}

static void kept_put(struct ram_revert *v)
{
	for (uint64_t i = 0; i < v->nkept; i++) {
		uint64_t b = v->kept[i];

		memcpy(v->m->mem.host + b * VMSTATE_BLOCK_BYTES, v->data + i * VMSTATE_BLOCK_BYTES,
			vmstate_block_len(&v->h->layout, b));
		bitmap_clear(&v->wanted, b);
	}
}

int ram_revert_apply(struct ram_revert *v, struct err *e)
{
	const struct vmstate_layout *l = &v->h->layout;
	int r = 0;

	if (v->all)
		memory_clear(&v->m->mem);
	kept_put(v);
	for (uint64_t b = bitmap_next_set(&v->wanted, 0); b < l->blocks && !r; b = bitmap_next_set(&v->wanted, b + 1)) {
		uint8_t *to = v->m->mem.host + b * VMSTATE_BLOCK_BYTES;

		if (!vmstate_block_is_zero(l, v->crcs, b))
			r = vmstate_read_blocks(v->store, v->h, v->crcs, b, 1, to, e);
		else if (!v->all)
			memset(to, 0, vmstate_block_len(l, b));
	}
	dirty_log_reset(&v->m->dirty_log);
	return r;
}

void ram_revert_done(struct ram_revert *v)
{
	bitmap_done(&v->wanted);
	bitmap_done(&v->checked);
	free(v->crcs);
	free(v->kept);
	free(v->data);
	memset(v, 0, sizeof(*v));
}
