#include "devices/bus.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

/* A range; freed only when its last running handler has returned. */
struct bus_range {
	uint64_t base, last; /* inclusive: a range may end at the top of the space */
	const struct bus_ops *ops;
	void *dev;
	atomic_uint refs; /* one for the bus, and one for each running handler */
};

struct bus {
	pthread_rwlock_t lock;
	struct bus_range **ranges; /* sorted by base, disjoint */
	size_t n, cap;
};

/* Number of handlers on this thread's stack: a handler that removes a range (a BAR moved by a
 * configuration write) must not wait for itself. */
static _Thread_local unsigned handler_depth;

struct bus *bus_new(void)
{
	struct bus *b = calloc(1, sizeof(*b));

	if (b && pthread_rwlock_init(&b->lock, NULL)) {
		free(b);
		return NULL;
	}
	return b;
}

static void range_unref(struct bus_range *r)
{
	if (atomic_fetch_sub_explicit(&r->refs, 1, memory_order_acq_rel) == 1)
		free(r);
}

void bus_free(struct bus *b)
{
	if (!b)
		return;
	for (size_t i = 0; i < b->n; i++)
		range_unref(b->ranges[i]);
	free(b->ranges);
	pthread_rwlock_destroy(&b->lock);
	free(b);
}

/* Return the index of the first range whose base is above addr. */
static size_t bus_upper(const struct bus *b, uint64_t addr)
{
	size_t lo = 0, hi = b->n;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;

		if (b->ranges[mid]->base <= addr)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

static int bus_insert(struct bus *b, struct bus_range *r)
{
	size_t i = bus_upper(b, r->base);

	if ((i && b->ranges[i - 1]->last >= r->base) || (i < b->n && b->ranges[i]->base <= r->last))
		return -EEXIST;
	if (b->n == b->cap) {
		size_t cap = b->cap ? 2 * b->cap : 32;
		struct bus_range **p = reallocarray(b->ranges, cap, sizeof(struct bus_range *));

		if (!p)
			return -ENOMEM;
		b->ranges = p;
		b->cap = cap;
	}
	memmove(b->ranges + i + 1, b->ranges + i, (b->n - i) * sizeof(struct bus_range *));
	b->ranges[i] = r;
	b->n++;
	return 0;
}

int bus_add(struct bus *b, uint64_t base, uint64_t len, const struct bus_ops *ops, void *dev)
{
	struct bus_range *r;
	int e;

	if (!len || base + (len - 1) < base || !ops)
		return -EINVAL;
	r = calloc(1, sizeof(*r));
	if (!r)
		return -ENOMEM;
	r->base = base;
	r->last = base + (len - 1);
	r->ops = ops;
	r->dev = dev;
	atomic_init(&r->refs, 1);
	pthread_rwlock_wrlock(&b->lock);
	e = bus_insert(b, r);
	pthread_rwlock_unlock(&b->lock);
	if (e)
		free(r);
	return e;
}

static struct bus_range *bus_take_out(struct bus *b, uint64_t base, const void *dev)
{
	size_t i = bus_upper(b, base);
	struct bus_range *r;

	if (!i || b->ranges[i - 1]->base != base || b->ranges[i - 1]->dev != dev)
		return NULL;
	r = b->ranges[--i];
	b->n--;
	memmove(b->ranges + i, b->ranges + i + 1, (b->n - i) * sizeof(struct bus_range *));
	return r;
}

void bus_remove(struct bus *b, uint64_t base, void *dev)
{
	struct bus_range *r;

	pthread_rwlock_wrlock(&b->lock);
	r = bus_take_out(b, base, dev);
	pthread_rwlock_unlock(&b->lock);
	if (!r)
		return;
	/* Spin: removals are rare, and few handlers block. */
	while (!handler_depth && atomic_load_explicit(&r->refs, memory_order_acquire) > 1)
		sched_yield();
	range_unref(r);
}

static struct bus_range *bus_lookup(struct bus *b, uint64_t addr, unsigned size)
{
	struct bus_range *r = NULL;
	size_t i;

	pthread_rwlock_rdlock(&b->lock);
	i = bus_upper(b, addr);
	if (i && addr <= b->ranges[i - 1]->last && size - 1 <= b->ranges[i - 1]->last - addr) {
		r = b->ranges[i - 1];
		atomic_fetch_add_explicit(&r->refs, 1, memory_order_relaxed);
	}
	pthread_rwlock_unlock(&b->lock);
	return r;
}

static bool size_is_valid(unsigned size)
{
	return size == 1 || size == 2 || size == 4 || size == 8;
}

static uint64_t size_mask(unsigned size)
{
	return size == 8 ? UINT64_MAX : (1ULL << (8 * size)) - 1;
}

bool bus_read(struct bus *b, uint64_t addr, unsigned size, uint64_t *ret_value)
{
	struct bus_range *r = size_is_valid(size) ? bus_lookup(b, addr, size) : NULL;

	*ret_value = UINT64_MAX;
	if (!r)
		return false;
	if (r->ops->read) {
		handler_depth++;
		*ret_value = r->ops->read(r->dev, addr - r->base, size) & size_mask(size);
		handler_depth--;
	}
	range_unref(r);
	return true;
}

bool bus_write(struct bus *b, uint64_t addr, unsigned size, uint64_t value)
{
	struct bus_range *r = size_is_valid(size) ? bus_lookup(b, addr, size) : NULL;

	if (!r)
		return false;
	if (r->ops->write) {
		handler_depth++;
		r->ops->write(r->dev, addr - r->base, size, value & size_mask(size));
		handler_depth--;
	}
	range_unref(r);
	return true;
}
