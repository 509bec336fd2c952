#include "snapshot/pager.h"
#include "base/bitmap.h"
#include "base/err.h"
#include "base/util.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

/* What a fault reads at once, in blocks: first, and at most. */
#define RUN_MIN_BLOCKS 2u
#define RUN_MAX_BLOCKS 16u
/* What the background does: a fault has to wait for it. */
#define RUN_BACKGROUND_BLOCKS 8u

struct pager {
	struct pager_config c;
	uint8_t *buf; /* RUN_MAX_BLOCKS, page-aligned */
	/* The tracker's thread's: */
	uint32_t *crcs; /* page-aligned */
	struct bitmap known; /* pieces of crcs that were read: each when a block of it is wanted */
	struct bitmap loaded;
	uint64_t next;		   /* the background's */
	uint64_t expected, window; /* where the next fault comes if they go upwards; how much that one reads */
	pthread_mutex_t lock;
	pthread_cond_t cond;
	struct pager_stats stats; /* under lock */
};

static bool is_absent(const struct pager *p, uint64_t block)
{
	return vmstate_block_is_zero(&p->c.header.layout, p->crcs, block);
}

static bool crc_is_known(const struct pager *p, uint64_t block)
{
	return bitmap_test(&p->known, block / VMSTATE_CRC_PIECE_BLOCKS);
}

static int crc_want(struct pager *p, uint64_t block, struct err *e)
{
	uint64_t piece = block / VMSTATE_CRC_PIECE_BLOCKS;
	int r = vmstate_read_crc_piece(p->c.store, &p->c.header, piece, p->crcs + piece * VMSTATE_CRC_PIECE_BLOCKS, e);

	if (!r)
		bitmap_set(&p->known, piece);
	return r;
}

void pager_inherit(struct pager *p, const struct pager *from, const struct bitmap *dropped)
{
	for (size_t i = 0; i < DIV_ROUND_UP(p->loaded.nbits, 64); i++)
		p->loaded.words[i] = (from ? from->loaded.words[i] : UINT64_MAX) & ~dropped->words[i];
}

bool pager_has(const struct pager *p, uint64_t block)
{
	return bitmap_test(&p->loaded, block);
}

void pager_fail(struct pager *p, const struct err *e)
{
	bool first;

	pthread_mutex_lock(&p->lock);
	first = !p->stats.failed;
	p->stats.failed = true;
	pthread_mutex_unlock(&p->lock);
	if (first)
		p->c.failed(p->c.opaque, e);
}

/* Blocks from first on that are still to be read, at most max. */
static uint64_t run_length(const struct pager *p, uint64_t first, uint64_t max)
{
	uint64_t n = 1, blocks = p->c.header.layout.blocks;

	while (n < max && first + n < blocks && !pager_has(p, first + n) &&
		crc_is_known(p, first + n) && !is_absent(p, first + n))
		n++;
	return n;
}

static int run_read(struct pager *p, uint64_t first, uint64_t n, struct err *e)
{
	return vmstate_read_blocks(p->c.store, &p->c.header, p->crcs, first, n, p->buf, e);
}

/* Up to *n blocks into buf; what is wrong with those behind the first is found when they are asked for. */
static void run_get(struct pager *p, uint64_t first, uint64_t *n, bool faulted)
{
	struct err e = { 0 };

	if (run_read(p, first, *n, &e) < 0) {
		bool alone = *n == 1;

		*n = 1;
		if (alone || run_read(p, first, 1, &e) < 0) {
			/* The vCPU that waits for it cannot be stopped before it has got something. */
			pager_fail(p, &e);
			memset(p->buf, 0, VMSTATE_BLOCK_BYTES);
		}
	}
	for (uint64_t b = first; b < first + *n; b++)
		bitmap_set(&p->loaded, b);
	pthread_mutex_lock(&p->lock);
	p->stats.blocks_faulted += faulted;
	p->stats.blocks_prefetched += *n - faulted;
	pthread_mutex_unlock(&p->lock);
}

static const uint8_t *zeros_give(struct pager *p, uint64_t block)
{
	bitmap_set(&p->loaded, block);
	memset(p->buf, 0, VMSTATE_BLOCK_BYTES);
	return p->buf;
}

const uint8_t *pager_fault(struct pager *p, uint64_t block, uint64_t *ret_n)
{
	struct err e = { 0 };

	*ret_n = 1;
	if (!crc_is_known(p, block) && crc_want(p, block, &e) < 0) {
		pager_fail(p, &e);
		return zeros_give(p, block);
	}
	if (is_absent(p, block))
		return zeros_give(p, block);
	p->window = block == p->expected ? MIN(2 * p->window, RUN_MAX_BLOCKS) : RUN_MIN_BLOCKS;
	*ret_n = run_length(p, block, p->window);
	run_get(p, block, ret_n, true);
	p->expected = block + *ret_n;
	return p->buf;
}

/* The next block that is to be read, as far as the checksums are known. False when there is none before
 * p->next. */
static bool next_find(struct pager *p)
{
	uint64_t blocks = p->c.header.layout.blocks;

	while ((p->next = bitmap_next_clear(&p->loaded, p->next)) < blocks && crc_is_known(p, p->next)) {
		if (!is_absent(p, p->next))
			return true;
		p->next++;
	}
	return false;
}

const uint8_t *pager_next(struct pager *p, uint64_t *ret_block, uint64_t *ret_n)
{
	struct err e = { 0 };

	*ret_n = 0;
	if (!next_find(p)) {
		if (p->next >= p->c.header.layout.blocks)
			return NULL;
		if (crc_want(p, p->next, &e) < 0) {
			pager_fail(p, &e);
			p->next = ROUND_UP(p->next + 1, VMSTATE_CRC_PIECE_BLOCKS);
		}
		return p->buf;
	}
	*ret_block = p->next;
	*ret_n = run_length(p, p->next, RUN_BACKGROUND_BLOCKS);
	run_get(p, p->next, ret_n, false);
	return p->buf;
}

void pager_complete(struct pager *p)
{
	pthread_mutex_lock(&p->lock);
	p->stats.complete = true;
	pthread_cond_broadcast(&p->cond);
	pthread_mutex_unlock(&p->lock);
}

bool pager_wait(struct pager *p)
{
	bool ok;

	pthread_mutex_lock(&p->lock);
	while (!p->stats.complete)
		pthread_cond_wait(&p->cond, &p->lock);
	ok = !p->stats.failed;
	pthread_mutex_unlock(&p->lock);
	return ok;
}

void pager_stats(struct pager *p, struct pager_stats *ret)
{
	pthread_mutex_lock(&p->lock);
	*ret = p->stats;
	pthread_mutex_unlock(&p->lock);
}

static int buffers_make(struct pager *p)
{
	uint64_t blocks = p->c.header.layout.blocks, pieces = DIV_ROUND_UP(blocks, VMSTATE_CRC_PIECE_BLOCKS);

	if (bitmap_init(&p->loaded, blocks) < 0 || bitmap_init(&p->known, pieces) < 0 ||
		posix_memalign((void **)&p->crcs, 4096, pieces * VMSTATE_CRC_PIECE_BLOCKS * sizeof(*p->crcs)) ||
		posix_memalign((void **)&p->buf, 4096, RUN_MAX_BLOCKS * VMSTATE_BLOCK_BYTES))
		return -ENOMEM;
	return 0;
}

int pager_new(const struct pager_config *c, struct pager **ret_p, struct err *e)
{
	struct pager *p = calloc(1, sizeof(*p));

	if (!p)
		return err_set_errno(e, -ENOMEM, "pager");
	p->c = *c;
	p->window = RUN_MIN_BLOCKS;
	pthread_mutex_init(&p->lock, NULL);
	pthread_cond_init(&p->cond, NULL);
	if (buffers_make(p) < 0) {
		pager_free(p);
		return err_set_errno(e, -ENOMEM, "pager");
	}
	*ret_p = p;
	return 0;
}

void pager_free(struct pager *p)
{
	if (!p)
		return;
	pthread_cond_destroy(&p->cond);
	pthread_mutex_destroy(&p->lock);
	bitmap_done(&p->loaded);
	bitmap_done(&p->known);
	free(p->crcs);
	free(p->buf);
	free(p);
}
