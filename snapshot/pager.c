#include "snapshot/pager.h"
#include "base/bitmap.h"
#include "base/err.h"
#include "base/util.h"
#include "snapshot/working_set.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

/* Number of blocks that a fault reads at once: at first, and at most. */
#define RUN_MIN_BLOCKS 2u
#define RUN_MAX_BLOCKS 16u
/* Number of blocks per background read; a fault waits for such a read. */
#define RUN_BACKGROUND_BLOCKS 8u
/* The working set is sorted in groups of this many blocks, which are needed at about the same time.
 * Ascending blocks allow larger reads. */
#define WORKING_SET_SORT_BLOCKS 64u

struct pager {
	struct pager_config c;
	uint8_t *buf; /* RUN_MAX_BLOCKS blocks, page-aligned */
	/* For the tracker's thread only: */
	uint32_t *crcs; /* page-aligned */
	/* pieces of crcs that were read; a piece is read when one of its blocks is needed */
	struct bitmap known;
	struct bitmap loaded;
	/* room for WORKING_SET_BLOCKS_MAX: first the nfirst known blocks, then the faulting ones */
	uint32_t *working_set;
	uint32_t nworking_set, nfirst, at; /* at: the background reader's position among the known blocks */
	struct bitmap noted;	       /* blocks in working_set */
	uint64_t next;		   /* the background reader's position behind the known blocks */
	uint64_t expected, window; /* the next block if faults ascend, and the number of blocks to read then */
	pthread_mutex_t lock;
	pthread_cond_t cond;
	struct pager_stats stats; /* protected by lock */
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

/* Returns the number of unread blocks from first on, at most max. */
static uint64_t run_length(const struct pager *p, uint64_t first, uint64_t max)
{
	uint64_t n = 1, blocks = p->c.header.layout.blocks;

	while (n < max && first + n < blocks && !pager_has(p, first + n) &&
		crc_is_known(p, first + n) && !is_absent(p, first + n))
		n++;
	return n;
}

static void working_set_note(struct pager *p, uint64_t block)
{
	if (p->nworking_set == WORKING_SET_BLOCKS_MAX || bitmap_test(&p->noted, block))
		return;
	bitmap_set(&p->noted, block);
	p->working_set[p->nworking_set++] = (uint32_t)block;
}

const uint32_t *pager_working_set(const struct pager *p, uint64_t *ret_key, uint32_t *ret_n)
{
	*ret_key = p->c.header.realtime_ns;
	*ret_n = p->nworking_set;
	return p->working_set;
}

static int run_read(struct pager *p, uint64_t first, uint64_t n, struct err *e)
{
	return vmstate_read_blocks(p->c.store, &p->c.header, p->crcs, first, n, p->buf, e);
}

/* Read up to *n blocks into buf. An error in a block behind the first is reported when that block
 * is requested. */
static void run_get(struct pager *p, uint64_t first, uint64_t *n, bool faulted)
{
	struct err e = { 0 };

	if (run_read(p, first, *n, &e) < 0) {
		bool alone = *n == 1;

		*n = 1;
		if (alone || run_read(p, first, 1, &e) < 0) {
			/* The waiting vCPU cannot stop before the fault is answered. */
			pager_fail(p, &e);
			memset(p->buf, 0, VMSTATE_BLOCK_BYTES);
		}
	}
	for (uint64_t b = first; b < first + *n; b++)
		bitmap_set(&p->loaded, b);
	for (uint64_t b = first; faulted && b < first + *n; b++)
		working_set_note(p, b);
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

/* Returns true if the block needs no read. */
static bool block_is_done(const struct pager *p, uint64_t block)
{
	return pager_has(p, block) || (crc_is_known(p, block) && is_absent(p, block));
}

/* Returns the next block for the background reader: first the known working set, then all blocks in
 * order; the number of blocks at the end. */
static uint64_t next_find(struct pager *p)
{
	while (p->at < p->nfirst && block_is_done(p, p->working_set[p->at]))
		p->at++;
	if (p->at < p->nfirst)
		return p->working_set[p->at];
	while ((p->next = bitmap_next_clear(&p->loaded, p->next)) < p->c.header.layout.blocks && block_is_done(p, p->next))
		p->next++;
	return p->next;
}

/* Like run_length(), but only for blocks of the known working set. */
static uint64_t working_set_run_length(const struct pager *p)
{
	uint64_t first = p->working_set[p->at], max = MIN(p->nfirst - p->at, RUN_MAX_BLOCKS), n = 1;

	while (n < max && p->working_set[p->at + n] == first + n && crc_is_known(p, first + n) && !block_is_done(p, first + n))
		n++;
	return n;
}

const uint8_t *pager_next(struct pager *p, uint64_t *ret_block, uint64_t *ret_n)
{
	uint64_t block = next_find(p);
	struct err e = { 0 };

	*ret_n = 0;
	if (block >= p->c.header.layout.blocks)
		return NULL;
	if (crc_is_known(p, block)) {
		*ret_block = block;
		*ret_n = p->at < p->nfirst ? working_set_run_length(p) : run_length(p, block, RUN_BACKGROUND_BLOCKS);
		run_get(p, block, ret_n, false);
	} else if (crc_want(p, block, &e) < 0) { /* skip the blocks that this piece describes */
		pager_fail(p, &e);
		if (p->at < p->nfirst)
			p->at++;
		else
			p->next = ROUND_UP(block + 1, VMSTATE_CRC_PIECE_BLOCKS);
	}
	return p->buf;
}

void pager_complete(struct pager *p)
{
	if (p->c.complete)
		p->c.complete(p->c.opaque);
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
		bitmap_init(&p->noted, blocks) < 0 ||
		!(p->working_set = malloc(WORKING_SET_BLOCKS_MAX * sizeof(*p->working_set))) ||
		posix_memalign((void **)&p->crcs, 4096, pieces * VMSTATE_CRC_PIECE_BLOCKS * sizeof(*p->crcs)) ||
		posix_memalign((void **)&p->buf, 4096, RUN_MAX_BLOCKS * VMSTATE_BLOCK_BYTES))
		return -ENOMEM;
	return 0;
}

static int number_compare(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return (x > y) - (x < y);
}

static void working_set_begin(struct pager *p, const struct working_set *w)
{
	for (uint32_t i = 0; w && i < w->n; i++)
		if (w->blocks[i] < p->c.header.layout.blocks)
			working_set_note(p, w->blocks[i]);
	p->nfirst = p->nworking_set;
	for (uint32_t i = 0; i < p->nfirst; i += WORKING_SET_SORT_BLOCKS)
		qsort(p->working_set + i, MIN(WORKING_SET_SORT_BLOCKS, p->nfirst - i), sizeof(*p->working_set), number_compare);
}

int pager_new(const struct pager_config *c, struct pager **ret_p, struct err *e)
{
	struct pager *p = calloc(1, sizeof(*p));

	if (!p)
		return err_set_errno(e, -ENOMEM, "pager");
	p->c = *c;
	p->c.first = NULL; /* the caller may free it */
	p->window = RUN_MIN_BLOCKS;
	pthread_mutex_init(&p->lock, NULL);
	pthread_cond_init(&p->cond, NULL);
	if (buffers_make(p) < 0) {
		pager_free(p);
		return err_set_errno(e, -ENOMEM, "pager");
	}
	working_set_begin(p, c->first);
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
	bitmap_done(&p->noted);
	free(p->working_set);
	free(p->crcs);
	free(p->buf);
	free(p);
}
