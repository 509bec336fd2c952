#include "vmm/machine/ram_revert.h"
#include "base/err.h"
#include "base/util.h"
#include "vmm/machine/machine.h"
#include "vmm/machine/machine_disk.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* Number of checked blocks whose content is kept until ram_revert_apply(): 64 MiB. */
#define KEPT_BLOCKS 1024u
/* Adjacent blocks that are read together, at most. */
#define RUN_BLOCKS 16u
/* Threads that read and check runs, besides the worker: while one waits for the disk, another computes checksums. */
#define READERS 3u
/* Alignment of the buffer, so that it can have huge pages: 4096 page faults would take a part of a revert's time. */
#define DATA_ALIGN (2 * MIB)

struct run {
	uint64_t first, n;
	uint8_t *to; /* where the blocks are kept; NULL: nowhere */
};

/* Runs that are being read and checked. */
struct reading {
	struct ram_revert *v;
	struct run *runs; /* owned */
	size_t nruns, cap;
	atomic_size_t next;
	pthread_mutex_t lock;
	int res;
	struct err e; /* with res < 0 */
};

static int buffers_new(struct ram_revert *v)
{
	uint64_t blocks = v->h->layout.blocks;
	int r;

	v->kept = calloc(KEPT_BLOCKS, sizeof(*v->kept));
	if (!v->kept || bitmap_init(&v->wanted, blocks) < 0 || bitmap_init(&v->checked, blocks) < 0)
		return -ENOMEM;
	r = -posix_memalign((void **)&v->data, DATA_ALIGN, KEPT_BLOCKS * (size_t)VMSTATE_BLOCK_BYTES);
	if (!r)
		(void)madvise(v->data, KEPT_BLOCKS * (size_t)VMSTATE_BLOCK_BYTES, MADV_HUGEPAGE);
	return r;
}

/* Return whether the block still has to be read; a block of zeros needs no read. */
static bool block_is_unread(const struct ram_revert *v, uint64_t block)
{
	return bitmap_test(&v->wanted, block) && !bitmap_test(&v->checked, block) &&
		!vmstate_block_is_zero(&v->h->layout, v->crcs, block);
}

static int run_add(struct reading *x, uint64_t first, uint64_t n)
{
	struct ram_revert *v = x->v;
	struct run *more = x->nruns < x->cap ? x->runs : reallocarray(x->runs, 2 * x->cap + 16, sizeof(*x->runs));

	if (!more)
		return -ENOMEM;
	if (x->nruns == x->cap)
		x->cap = 2 * x->cap + 16;
	x->runs = more;
	x->runs[x->nruns] = (struct run){ first, n, NULL };
	if (v->nkept + n <= KEPT_BLOCKS) {
		x->runs[x->nruns].to = v->data + v->nkept * VMSTATE_BLOCK_BYTES;
		for (uint64_t b = first; b < first + n; b++)
			v->kept[v->nkept++] = b;
	}
	x->nruns++;
	return 0;
}

static int runs_find(struct reading *x)
{
	const struct ram_revert *v = x->v;
	uint64_t blocks = v->h->layout.blocks, n;
	int r = 0;

	for (uint64_t b = 0; b < blocks && !r; b = bitmap_next_set(&v->wanted, b + MAX(n, (uint64_t)1))) {
		for (n = 0; n < RUN_BLOCKS && b + n < blocks && block_is_unread(v, b + n);)
			n++;
		if (n)
			r = run_add(x, b, n);
	}
	return r;
}

static void reading_fail(struct reading *x, int r, const struct err *e)
{
	pthread_mutex_lock(&x->lock);
	if (!x->res) {
		x->res = r;
		x->e = *e;
	}
	pthread_mutex_unlock(&x->lock);
	atomic_store(&x->next, x->nruns);
}

/* Read and check runs until none is left. */
static void *reader_main(void *opaque)
{
	struct reading *x = opaque;
	const struct ram_revert *v = x->v;
	uint8_t *other = NULL; /* for runs that are not kept */
	struct err e = { 0 };
	size_t i;
	int r = 0;

	while (!r && (i = atomic_fetch_add(&x->next, 1)) < x->nruns) {
		const struct run *u = &x->runs[i];

		if (!u->to && !other && posix_memalign((void **)&other, 4096, RUN_BLOCKS * (size_t)VMSTATE_BLOCK_BYTES))
			r = err_set_errno(&e, -ENOMEM, "revert of memory");
		if (!r)
			r = vmstate_read_blocks(v->store, v->h, v->crcs, u->first, u->n, u->to ? u->to : other, &e);
	}
	if (r < 0)
		reading_fail(x, r, &e);
	free(other);
	return NULL;
}

/* readers: number of further threads, at most. */
static void runs_read(struct reading *x, unsigned readers)
{
	pthread_t threads[READERS];
	unsigned n = 0;

	while (n < readers && n + 1 < x->nruns && !pthread_create(&threads[n], NULL, reader_main, x))
		n++;
	reader_main(x);
	while (n)
		pthread_join(threads[--n], NULL);
}

/* readers: as for runs_read(). */
static int blocks_check(struct ram_revert *v, unsigned readers, struct err *e)
{
	struct reading x = { .v = v };
	int r = runs_find(&x);

	if (r < 0) {
		free(x.runs);
		return err_set_errno(e, r, "revert of memory");
	}
	pthread_mutex_init(&x.lock, NULL);
	runs_read(&x, readers);
	pthread_mutex_destroy(&x.lock);
	if (x.res < 0)
		*e = x.e;
	for (size_t i = 0; i < x.nruns && !x.res; i++)
		for (uint64_t b = x.runs[i].first; b < x.runs[i].first + x.runs[i].n; b++)
			bitmap_set(&v->checked, b);
	free(x.runs);
	return x.res;
}

static int written_add(struct ram_revert *v, struct err *e)
{
	int r = dirty_log_collect(&v->m->dirty_log, NULL, e);

	if (!r)
		bitmap_or(&v->wanted, &v->m->dirty_log.written);
	return r;
}

int ram_revert_prepare(struct ram_revert *v, struct machine *m, struct vmstate_store *store,
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
	return r < 0 || !check ? r : blocks_check(v, READERS, e);
}

int ram_revert_update(struct ram_revert *v, struct err *e)
{
	int r;

	if (!dirty_log_stays(&v->m->dirty_log))
		return 0; /* all blocks are replaced */
	r = v->all ? dirty_log_collect(&v->m->dirty_log, NULL, e) : written_add(v, e);
	return r < 0 || v->all ? r : blocks_check(v, 0, e); /* the main thread may start no threads */
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

	if (v->all) {
		memory_clear(&v->m->mem);
		machine_disks_close_warm(v->m);
	}
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
