#include "snapshot/pager.h"
#include "base/bitmap.h"
#include "base/err.h"
#include "base/util.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

struct pager {
	struct pager_config c;
	uint8_t *buf;	      /* one block, page-aligned */
	struct bitmap loaded; /* the tracker's thread's, as next */
	uint64_t next;
	pthread_mutex_t lock;
	pthread_cond_t cond;
	struct pager_stats stats; /* under lock */
};

static bool is_absent(const struct pager *p, uint64_t block)
{
	return vmstate_block_is_zero(&p->c.header.layout, p->c.crcs, block);
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

const uint8_t *pager_block(struct pager *p, uint64_t block, bool faulted)
{
	struct err e = { 0 };

	bitmap_set(&p->loaded, block);
	if (is_absent(p, block)) {
		memset(p->buf, 0, VMSTATE_BLOCK_BYTES);
		return p->buf;
	}
	if (vmstate_read_block(p->c.store, &p->c.header, p->c.crcs, block, p->buf, &e) < 0) {
		/* The vCPU that waits for it cannot be stopped before it has got something. */
		pager_fail(p, &e);
		memset(p->buf, 0, VMSTATE_BLOCK_BYTES);
	}
	pthread_mutex_lock(&p->lock);
	p->stats.blocks_faulted += faulted;
	p->stats.blocks_prefetched += !faulted;
	pthread_mutex_unlock(&p->lock);
	return p->buf;
}

bool pager_next(struct pager *p, uint64_t *ret_block)
{
	uint64_t blocks = p->c.header.layout.blocks;

	while (p->next < blocks && (pager_has(p, p->next) || is_absent(p, p->next)))
		p->next++;
	*ret_block = p->next;
	return p->next < blocks;
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

int pager_new(const struct pager_config *c, struct pager **ret_p, struct err *e)
{
	struct pager *p = calloc(1, sizeof(*p));

	if (!p || bitmap_init(&p->loaded, c->header.layout.blocks) < 0 ||
		posix_memalign((void **)&p->buf, 4096, VMSTATE_BLOCK_BYTES)) {
		if (p)
			bitmap_done(&p->loaded);
		free(p);
		return err_set_errno(e, -ENOMEM, "pager");
	}
	p->c = *c;
	pthread_mutex_init(&p->lock, NULL);
	pthread_cond_init(&p->cond, NULL);
	for (uint64_t b = 0; b < c->header.layout.blocks; b++)
		p->stats.blocks_total += !is_absent(p, b);
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
	free(p->c.crcs);
	free(p->buf);
	free(p);
}
