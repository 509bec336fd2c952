#include "base/util.h"
#include "block/qcow2/impl.h"
#include "block/qcow2/warm.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Minimum number of slices of a cache; a transaction uses fewer at once. */
#define CACHE_SLICES_MIN 16u
#define CACHE_AHEAD_SLICES 64u
/* Memory is allocated for this many slices at a time, and freed when the cache is freed. */
#define CACHE_SLAB_SLICES 32u
/* A cache grows by a slab when it has loaded so many slices that it had evicted shortly before: for random reads of
 * tables of twice its size, after some 200 reads. A walk through the tables of a disk wants none again. */
#define CACHE_WANTED_MAX 64u

struct cache_slab {
	struct cache_slab *next;
	uint8_t *data;
	struct slice slices[CACHE_SLAB_SLICES];
};

/* Several adjacent slices in one read. */
struct slice_batch {
	struct io io;
	unsigned n;
	struct slice *slices[CACHE_AHEAD_SLICES];
	struct iovec iov[CACHE_AHEAD_SLICES];
};

void wait_list_init(struct wait_list *l)
{
	l->head = NULL;
	l->tail = &l->head;
}

void wait_list_add(struct wait_list *l, struct wait *w)
{
	w->next = NULL;
	*l->tail = w;
	l->tail = &w->next;
}

void wait_list_move(struct wait_list *to, struct wait_list *from)
{
	if (!from->head)
		return;
	*to->tail = from->head;
	to->tail = from->tail;
	wait_list_init(from);
}

void wait_list_wake(struct wait_list *l, int res)
{
	struct wait *w = l->head, *next;

	wait_list_init(l);
	for (; w; w = next) {
		next = w->next;
		w->run(w, res);
	}
}

/* ---- hash and list ---- */

static uint64_t hash_of(const struct cache *c, uint64_t offset)
{
	return (offset / c->slice_bytes) * 0x9e3779b97f4a7c15ULL;
}

static struct slice **hash_slot(struct cache *c, uint64_t offset)
{
	return &c->hash[hash_of(c, offset) >> (64 - c->hash_bits)];
}

static void lru_unlink(struct slice *s)
{
	struct cache *c = s->cache;

	if (s->lru_prev)
		s->lru_prev->lru_next = s->lru_next;
	else
		c->lru_head = s->lru_next;
	if (s->lru_next)
		s->lru_next->lru_prev = s->lru_prev;
	else
		c->lru_tail = s->lru_prev;
}

static void lru_push(struct slice *s)
{
	struct cache *c = s->cache;

	s->lru_prev = NULL;
	s->lru_next = c->lru_head;
	if (c->lru_head)
		c->lru_head->lru_prev = s;
	else
		c->lru_tail = s;
	c->lru_head = s;
}

static void slice_unhash(struct slice *s)
{
	struct slice **p = hash_slot(s->cache, s->offset);

	while (*p != s)
		p = &(*p)->hash_next;
	*p = s->hash_next;
	lru_unlink(s);
	s->cache->count--;
}

static void slice_free(struct slice *s)
{
	s->hash_next = s->cache->spare;
	s->cache->spare = s;
}

static bool slab_add(struct cache *c)
{
	struct cache_slab *b = calloc(1, sizeof(*b));

	if (b)
		b->data = io_buffer_new((size_t)CACHE_SLAB_SLICES * c->slice_bytes);
	if (!b || !b->data) {
		free(b);
		return false;
	}
	b->next = c->slabs;
	c->slabs = b;
	c->slab_left = CACHE_SLAB_SLICES;
	return true;
}

/* Get a slice with memory and without content; NULL if out of memory. */
static struct slice *slice_blank(struct cache *c)
{
	struct slice *s = c->spare;
	uint8_t *data;

	if (s) {
		c->spare = s->hash_next;
		data = s->data;
	} else {
		if (!c->slab_left && !slab_add(c))
			return NULL;
		s = &c->slabs->slices[--c->slab_left];
		data = c->slabs->data + (size_t)c->slab_left * c->slice_bytes;
	}
	*s = (struct slice){ .cache = c, .data = data };
	return s;
}

void slice_set_dirty(struct slice *s)
{
	struct cache *c = s->cache;

	if (s->dirty)
		return;
	l2_runs_drop(c->runs, s->offset);
	s->dirty = true;
	s->dirty_prev = NULL;
	s->dirty_next = c->dirty_head;
	if (c->dirty_head)
		c->dirty_head->dirty_prev = s;
	c->dirty_head = s;
	c->ndirty++;
}

void slice_set_clean(struct slice *s)
{
	struct cache *c = s->cache;

	if (!s->dirty)
		return;
	s->dirty = false;
	if (s->dirty_prev)
		s->dirty_prev->dirty_next = s->dirty_next;
	else
		c->dirty_head = s->dirty_next;
	if (s->dirty_next)
		s->dirty_next->dirty_prev = s->dirty_prev;
	c->ndirty--;
}

void slice_unpin(struct slice *s)
{
	if (!--s->pins && s->dropped)
		slice_free(s);
}

/* ---- growing ---- */

static unsigned bits_for(unsigned n)
{
	unsigned bits = 6;

	while ((1u << bits) < n && bits < 22)
		bits++;
	return bits;
}

static uint32_t *evicted_slot(struct cache *c, uint64_t offset)
{
	return &c->evicted[hash_of(c, offset) >> (64 - c->evicted_bits)];
}

static void evicted_note(struct cache *c, uint64_t offset)
{
	if (c->max == c->bound)
		return;
	if (!c->evicted) {
		c->evicted_bits = bits_for(2 * c->max);
		c->evicted = calloc((size_t)1 << c->evicted_bits, sizeof(*c->evicted));
	}
	if (c->evicted)
		*evicted_slot(c, offset) = (uint32_t)(offset / c->slice_bytes);
}

static void hash_resize(struct cache *c)
{
	unsigned bits = bits_for(c->max);
	struct slice **hash = bits > c->hash_bits ? calloc((size_t)1 << bits, sizeof(*hash)) : NULL;

	if (!hash)
		return;
	free(c->hash);
	c->hash = hash;
	c->hash_bits = bits;
	for (struct slice *s = c->lru_head; s; s = s->lru_next) {
		struct slice **slot = hash_slot(c, s->offset);

		s->hash_next = *slot;
		*slot = s;
	}
}

static void cache_grow(struct cache *c)
{
	c->max = MIN(c->max + CACHE_SLAB_SLICES, c->bound);
	c->wanted = 0;
	hash_resize(c);
	if (c->max == c->bound || bits_for(2 * c->max) > c->evicted_bits) {
		free(c->evicted);
		c->evicted = NULL;
	}
}

/* Let the cache grow if the slice, which is to be read, was evicted shortly before. */
static void evicted_check(struct cache *c, uint64_t offset)
{
	if (c->evicted && *evicted_slot(c, offset) == (uint32_t)(offset / c->slice_bytes) && ++c->wanted == CACHE_WANTED_MAX)
		cache_grow(c);
}

/* Make room for a slice: evict the least recently used slice that is clean and not pinned. If there
 * is none among the 64 oldest, the cache exceeds its bound by dirty slices (bounded by commits) and pinned slices
 * (bounded by requests in flight). */
static void cache_evict(struct cache *c)
{
	struct slice *s = c->lru_tail;

	for (unsigned tries = 0; s && tries < 64; tries++) {
		struct slice *prev = s->lru_prev;

		if (!s->dirty && !s->pins && !s->loading) {
			l2_runs_keep(c->runs, s);
			evicted_note(c, s->offset);
			slice_unhash(s);
			slice_free(s);
			return;
		}
		s = prev;
	}
}

static struct slice *slice_new(struct cache *c, uint64_t offset)
{
	struct slice *s, **slot;

	while (c->count >= c->max) {
		unsigned before = c->count;

		cache_evict(c);
		if (c->count == before)
			break;
	}
	s = slice_blank(c);
	if (!s)
		return NULL;
	s->offset = offset;
	wait_list_init(&s->waiters);
	slot = hash_slot(c, offset);
	s->hash_next = *slot;
	*slot = s;
	lru_push(s);
	c->count++;
	return s;
}

static struct slice *cache_find(struct cache *c, uint64_t offset)
{
	struct slice *s = *hash_slot(c, offset);

	while (s && s->offset != offset)
		s = s->hash_next;
	return s;
}

struct slice *cache_peek(struct cache *c, uint64_t offset)
{
	struct slice *s = cache_find(c, offset);

	return s && !s->loading ? s : NULL;
}

static void slice_read_done(struct slice *s, int res)
{
	struct qcow2 *q = s->cache->q;

	s->loading = false;
	q->internal--;
	slice_pin(s); /* keep it while the waiters run */
	if (res < 0 && !s->dropped) {
		slice_unhash(s);
		s->dropped = true;
	}
	wait_list_wake(&s->waiters, res);
	slice_unpin(s);
}

static void slice_loaded(struct io *io, int res)
{
	struct slice *s = container_of(io, struct slice, io);

	slice_read_done(s, io_read_result(io, res, s->cache->q->tail.file_bytes));
}

static void slice_read(struct slice *s)
{
	struct cache *c = s->cache;

	s->iov = (struct iovec){ s->data, c->slice_bytes };
	s->io.done = slice_loaded;
	io_read(&s->io, c->q->base.loop, c->q->base.fd, &s->iov, 1, s->offset, c->slice_bytes);
}

/* Create a slice whose content the caller is about to read. */
static struct slice *slice_awaited(struct cache *c, uint64_t offset)
{
	struct slice *s = slice_new(c, offset);

	if (!s)
		return NULL;
	s->loading = true;
	c->q->internal++;
	return s;
}

static struct slice *slice_load(struct cache *c, uint64_t offset)
{
	struct slice *s;

	evicted_check(c, offset);
	s = slice_awaited(c, offset);
	if (s)
		slice_read(s);
	return s;
}

/* If the batch failed, read its slices one by one, so that one bad sector does not fail its
 * neighbours. */
static void batch_loaded(struct io *io, int res)
{
	struct slice_batch *b = container_of(io, struct slice_batch, io);

	res = io_read_result(io, res, b->slices[0]->cache->q->tail.file_bytes);
	for (unsigned i = 0; i < b->n; i++) {
		if (res < 0)
			slice_read(b->slices[i]);
		else
			slice_read_done(b->slices[i], 0);
	}
	free(b);
}

void cache_ahead(struct cache *c, uint64_t offset, uint64_t end)
{
	unsigned max = MIN(c->max / 4, CACHE_AHEAD_SLICES);
	struct slice_batch *b;

	if (offset >= end || cache_find(c, offset))
		return;
	b = malloc(sizeof(*b));
	if (!b)
		return;
	b->n = 0;
	for (uint64_t o = offset; b->n < max && o < end && !cache_find(c, o); o += c->slice_bytes) {
		struct slice *s = slice_awaited(c, o);

		if (!s)
			break;
		b->iov[b->n] = (struct iovec){ s->data, c->slice_bytes };
		b->slices[b->n++] = s;
	}
	if (!b->n) {
		free(b);
		return;
	}
	b->io.done = batch_loaded;
	io_read(&b->io, c->q->base.loop, c->q->base.fd, b->iov, b->n, offset,
		(uint64_t)b->n * c->slice_bytes);
}

/* Return a slice that needs no read, because the source's process of a fork has passed it on; NULL: none. */
static struct slice *slice_warm(struct cache *c, uint64_t offset)
{
	struct slice *s = qcow2_warm_has(c->warm, offset) ? slice_new(c, offset) : NULL;

	if (!s || qcow2_warm_read(c->warm, offset, s->data))
		return s;
	cache_drop(c, offset, c->slice_bytes);
	return NULL;
}

int cache_get(struct cache *c, uint64_t offset, struct wait *w, struct slice **ret_s)
{
	struct slice *s = cache_find(c, offset);

	if (s && !s->loading) {
		if (c->lru_head != s) {
			lru_unlink(s);
			lru_push(s);
		}
		*ret_s = s;
		return 0;
	}
	if (!s && (s = slice_warm(c, offset))) {
		*ret_s = s;
		return 0;
	}
	if (!s) {
		s = slice_load(c, offset);
		if (!s)
			return -ENOMEM;
	}
	wait_list_add(&s->waiters, w);
	return -EINPROGRESS;
}

struct slice *cache_new_slice(struct cache *c, uint64_t offset)
{
	struct slice *s;

	cache_drop(c, offset, c->slice_bytes);
	s = slice_new(c, offset);
	if (s)
		memset(s->data, 0, c->slice_bytes);
	return s;
}

void cache_drop(struct cache *c, uint64_t offset, uint64_t len)
{
	for (uint64_t o = offset; o < offset + len; o += c->slice_bytes) {
		struct slice *s = cache_find(c, o);

		l2_runs_drop(c->runs, o);
		if (!s)
			continue;
		slice_set_clean(s);
		slice_unhash(s);
		s->dropped = true;
		if (!s->pins && !s->loading) /* otherwise the last user frees it */
			slice_free(s);
	}
}

int cache_init(struct cache *c, struct qcow2 *q, uint32_t slice_bytes, uint64_t bytes_max, uint64_t bytes_bound)
{
	uint64_t max = MAX(bytes_max / slice_bytes, CACHE_SLICES_MIN), bound = MAX(bytes_bound / slice_bytes, max);

	*c = (struct cache){ .q = q, .slice_bytes = slice_bytes, .max = (unsigned)MIN(max, 1u << 24),
		.bound = (unsigned)MIN(bound, 1u << 24) };
	c->hash_bits = bits_for(c->max);
	c->hash = calloc((size_t)1 << c->hash_bits, sizeof(*c->hash));
	return c->hash ? 0 : -ENOMEM;
}

void cache_done(struct cache *c)
{
	while (c->lru_head) {
		struct slice *s = c->lru_head;

		slice_unhash(s);
	}
	while (c->slabs) {
		struct cache_slab *b = c->slabs;

		c->slabs = b->next;
		free(b->data);
		free(b);
	}
	free(c->hash);
	free(c->evicted);
	c->hash = NULL;
	l2_runs_free(c->runs);
	c->runs = NULL;
}
