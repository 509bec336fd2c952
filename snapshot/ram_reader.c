#include "snapshot/ram_reader.h"
#include "base/bitmap.h"
#include "base/cleanup.h"
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
/* Maximum number of blocks per background read outside the working set; a fault waits for such a read. */
#define RUN_BACKGROUND_BLOCKS 8u
/* The working set is sorted in groups of this many blocks, which are needed at about the same time.
 * Ascending blocks allow larger reads. */
#define WORKING_SET_SORT_BLOCKS 64u

struct ram_reader {
	struct ram_reader_config c;
	uint8_t *buf; /* RUN_MAX_BLOCKS blocks, page-aligned */
	/* For the tracker's thread only: */
	uint32_t *crcs; /* page-aligned */
	/* pieces of crcs that were read; a piece is read when one of its blocks is needed */
	struct bitmap known;
	struct bitmap loaded;
	/* room for WORKING_SET_BLOCKS_MAX: first the nfirst blocks of config.first, then the faulting ones */
	uint32_t *working_set;
	uint32_t nworking_set, nfirst, at; /* at: the background reader's position among the nfirst blocks */
	struct bitmap noted;	       /* blocks in working_set */
	uint64_t next;		   /* the background reader's position in RAM, once it has read those blocks */
	uint64_t expected, window; /* the next block if faults ascend, and the number of blocks to read then */
	pthread_mutex_t lock;
	pthread_cond_t cond;
	struct ram_reader_stats stats; /* protected by lock */
};

static bool is_absent(const struct ram_reader *rd, uint64_t block)
{
	return vmstate_block_is_zero(&rd->c.header.layout, rd->crcs, block);
}

static bool crc_is_known(const struct ram_reader *rd, uint64_t block)
{
	return bitmap_test(&rd->known, block / VMSTATE_CRC_PIECE_BLOCKS);
}

static int crc_want(struct ram_reader *rd, uint64_t block, struct err *e)
{
	uint64_t piece = block / VMSTATE_CRC_PIECE_BLOCKS;
	int r = vmstate_read_crc_piece(rd->c.store, &rd->c.header, piece, rd->crcs + piece * VMSTATE_CRC_PIECE_BLOCKS, e);

	if (!r)
		bitmap_set(&rd->known, piece);
	return r;
}

void ram_reader_inherit(struct ram_reader *rd, const struct ram_reader *from, const struct bitmap *dropped)
{
	for (size_t i = 0; i < DIV_ROUND_UP(rd->loaded.nbits, 64); i++)
		rd->loaded.words[i] = (from ? from->loaded.words[i] : UINT64_MAX) & (dropped ? ~dropped->words[i] : UINT64_MAX);
}

bool ram_reader_has(const struct ram_reader *rd, uint64_t block)
{
	return bitmap_test(&rd->loaded, block);
}

void ram_reader_skip(struct ram_reader *rd, uint64_t block)
{
	bitmap_set(&rd->loaded, block);
}

void ram_reader_drop(struct ram_reader *rd, uint64_t block)
{
	bitmap_clear(&rd->loaded, block);
	rd->next = MIN(rd->next, block);
}

void ram_reader_fail(struct ram_reader *rd, const struct err *e)
{
	bool first;

	pthread_mutex_lock(&rd->lock);
	first = !rd->stats.failed;
	rd->stats.failed = true;
	pthread_mutex_unlock(&rd->lock);
	if (first)
		rd->c.failed(rd->c.opaque, e);
}

/* Returns the number of blocks from first on, at most max, to read at once: not yet requested, not zero, and with known
 * checksums. */
static uint64_t run_length(const struct ram_reader *rd, uint64_t first, uint64_t max)
{
	uint64_t n = 1, blocks = rd->c.header.layout.blocks;

	while (n < max && first + n < blocks && !ram_reader_has(rd, first + n) &&
		crc_is_known(rd, first + n) && !is_absent(rd, first + n))
		n++;
	return n;
}

static void working_set_note(struct ram_reader *rd, uint64_t block)
{
	if (rd->nworking_set == WORKING_SET_BLOCKS_MAX || bitmap_test(&rd->noted, block))
		return;
	bitmap_set(&rd->noted, block);
	rd->working_set[rd->nworking_set++] = (uint32_t)block;
}

const uint32_t *ram_reader_working_set(const struct ram_reader *rd, uint64_t *ret_key, uint32_t *ret_n)
{
	*ret_key = rd->c.header.realtime_ns;
	*ret_n = rd->nworking_set;
	return rd->working_set;
}

static int run_read(struct ram_reader *rd, uint64_t first, uint64_t n, struct err *e)
{
	return vmstate_read_blocks(rd->c.store, &rd->c.header, rd->crcs, first, n, rd->buf, e);
}

/* Read up to *n blocks into buf. An error in a block behind the first is reported when that block
 * is requested. */
static void run_get(struct ram_reader *rd, uint64_t first, uint64_t *n, bool faulted)
{
	struct err e = { 0 };

	if (run_read(rd, first, *n, &e) < 0) {
		bool alone = *n == 1;

		*n = 1;
		if (alone || run_read(rd, first, 1, &e) < 0) {
			/* The waiting vCPU cannot stop before the fault is answered. */
			ram_reader_fail(rd, &e);
			memset(rd->buf, 0, VMSTATE_BLOCK_BYTES);
		}
	}
	for (uint64_t b = first; b < first + *n; b++)
		bitmap_set(&rd->loaded, b);
	for (uint64_t b = first; faulted && b < first + *n; b++)
		working_set_note(rd, b);
	LOCK_GUARD(&rd->lock);
	rd->stats.blocks_faulted += faulted;
	rd->stats.blocks_prefetched += *n - faulted;
}

static const uint8_t *zeros_give(struct ram_reader *rd, uint64_t block)
{
	bitmap_set(&rd->loaded, block);
	memset(rd->buf, 0, VMSTATE_BLOCK_BYTES);
	return rd->buf;
}

const uint8_t *ram_reader_read(struct ram_reader *rd, uint64_t block, uint64_t *ret_n)
{
	struct err e = { 0 };

	*ret_n = 1;
	if (!crc_is_known(rd, block) && crc_want(rd, block, &e) < 0) {
		ram_reader_fail(rd, &e);
		return zeros_give(rd, block);
	}
	if (is_absent(rd, block))
		return zeros_give(rd, block);
	rd->window = block == rd->expected ? MIN(2 * rd->window, RUN_MAX_BLOCKS) : RUN_MIN_BLOCKS;
	*ret_n = run_length(rd, block, rd->window);
	run_get(rd, block, ret_n, true);
	rd->expected = block + *ret_n;
	return rd->buf;
}

/* Returns true if the block needs no read. */
static bool block_is_done(const struct ram_reader *rd, uint64_t block)
{
	return ram_reader_has(rd, block) || (crc_is_known(rd, block) && is_absent(rd, block));
}

/* Returns the next block for the background reader: first the known working set, then all blocks in
 * order; the number of blocks at the end. */
static uint64_t next_find(struct ram_reader *rd)
{
	while (rd->at < rd->nfirst && block_is_done(rd, rd->working_set[rd->at]))
		rd->at++;
	if (rd->at < rd->nfirst)
		return rd->working_set[rd->at];
	while ((rd->next = bitmap_next_clear(&rd->loaded, rd->next)) < rd->c.header.layout.blocks && block_is_done(rd, rd->next))
		rd->next++;
	return rd->next;
}

/* Like run_length(), but only for blocks of the known working set. */
static uint64_t working_set_run_length(const struct ram_reader *rd)
{
	uint64_t first = rd->working_set[rd->at], max = MIN(rd->nfirst - rd->at, RUN_MAX_BLOCKS), n = 1;

	while (n < max && rd->working_set[rd->at + n] == first + n && crc_is_known(rd, first + n) && !block_is_done(rd, first + n))
		n++;
	return n;
}

const uint8_t *ram_reader_next(struct ram_reader *rd, uint64_t *ret_block, uint64_t *ret_n)
{
	uint64_t block = next_find(rd);
	struct err e = { 0 };

	*ret_n = 0;
	if (block >= rd->c.header.layout.blocks)
		return NULL;
	if (crc_is_known(rd, block)) {
		*ret_block = block;
		*ret_n = rd->at < rd->nfirst ? working_set_run_length(rd) : run_length(rd, block, RUN_BACKGROUND_BLOCKS);
		run_get(rd, block, ret_n, false);
	} else if (crc_want(rd, block, &e) < 0) { /* skip the blocks that this piece describes */
		ram_reader_fail(rd, &e);
		if (rd->at < rd->nfirst)
			rd->at++;
		else
			rd->next = ROUND_UP(block + 1, VMSTATE_CRC_PIECE_BLOCKS);
	}
	return rd->buf;
}

void ram_reader_complete(struct ram_reader *rd)
{
	if (rd->c.complete)
		rd->c.complete(rd->c.opaque);
	LOCK_GUARD(&rd->lock);
	rd->stats.complete = true;
	pthread_cond_broadcast(&rd->cond);
}

bool ram_reader_wait(struct ram_reader *rd)
{
	bool ok;

	pthread_mutex_lock(&rd->lock);
	while (!rd->stats.complete)
		pthread_cond_wait(&rd->cond, &rd->lock);
	ok = !rd->stats.failed;
	pthread_mutex_unlock(&rd->lock);
	return ok;
}

void ram_reader_stats(struct ram_reader *rd, struct ram_reader_stats *ret)
{
	LOCK_GUARD(&rd->lock);
	*ret = rd->stats;
}

static int buffers_make(struct ram_reader *rd)
{
	uint64_t blocks = rd->c.header.layout.blocks, pieces = DIV_ROUND_UP(blocks, VMSTATE_CRC_PIECE_BLOCKS);

	if (bitmap_init(&rd->loaded, blocks) < 0 || bitmap_init(&rd->known, pieces) < 0 ||
		bitmap_init(&rd->noted, blocks) < 0 ||
		!(rd->working_set = malloc(WORKING_SET_BLOCKS_MAX * sizeof(*rd->working_set))) ||
		posix_memalign((void **)&rd->crcs, 4096, pieces * VMSTATE_CRC_PIECE_BLOCKS * sizeof(*rd->crcs)) ||
		posix_memalign((void **)&rd->buf, 4096, RUN_MAX_BLOCKS * VMSTATE_BLOCK_BYTES))
		return -ENOMEM;
	return 0;
}

static int number_compare(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return (x > y) - (x < y);
}

static void working_set_begin(struct ram_reader *rd, const struct working_set *w)
{
	for (uint32_t i = 0; w && i < w->n; i++)
		if (w->blocks[i] < rd->c.header.layout.blocks)
			working_set_note(rd, w->blocks[i]);
	rd->nfirst = rd->nworking_set;
	for (uint32_t i = 0; i < rd->nfirst; i += WORKING_SET_SORT_BLOCKS)
		qsort(rd->working_set + i, MIN(WORKING_SET_SORT_BLOCKS, rd->nfirst - i), sizeof(*rd->working_set), number_compare);
}

int ram_reader_new(const struct ram_reader_config *c, struct ram_reader **ret_rd, struct err *e)
{
	struct ram_reader *rd = calloc(1, sizeof(*rd));

	if (!rd)
		return err_set_errno(e, -ENOMEM, "RAM reader");
	rd->c = *c;
	rd->c.first = NULL; /* the caller may free it */
	rd->window = RUN_MIN_BLOCKS;
	pthread_mutex_init(&rd->lock, NULL);
	pthread_cond_init(&rd->cond, NULL);
	if (buffers_make(rd) < 0) {
		ram_reader_free(rd);
		return err_set_errno(e, -ENOMEM, "RAM reader");
	}
	working_set_begin(rd, c->first);
	*ret_rd = rd;
	return 0;
}

void ram_reader_free(struct ram_reader *rd)
{
	if (!rd)
		return;
	pthread_cond_destroy(&rd->cond);
	pthread_mutex_destroy(&rd->lock);
	bitmap_done(&rd->loaded);
	bitmap_done(&rd->known);
	bitmap_done(&rd->noted);
	free(rd->working_set);
	free(rd->crcs);
	free(rd->buf);
	free(rd);
}
