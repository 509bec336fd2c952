#include "devices/virtio/disk_throttle.h"
#include "base/util.h"

#define BURSTS_A_SECOND 10 /* without a configured burst, the requests of a tenth of a second pass at once */

static void bucket_set(struct disk_bucket *b, const struct disk_rate *l, uint64_t now_ns)
{
	bool bursts = l->rate && l->max > l->rate;
	unsigned __int128 depth = (unsigned __int128)(l->max - l->rate) * (l->max_s ? l->max_s : 1);

	token_bucket_set(&b->average, l->rate, bursts ? (uint64_t)MIN(depth, (unsigned __int128)INT64_MAX) : l->rate / BURSTS_A_SECOND, now_ns);
	token_bucket_set(&b->burst, bursts ? l->max : 0, l->max / BURSTS_A_SECOND, now_ns);
}

void disk_throttle_set(struct disk_throttle *t, const struct virtio_blk_limits *l, uint64_t now_ns)
{
	t->iops_bytes = l->iops_bytes;
	t->any = t->any_one_way = false;
	for (unsigned i = 0; i < DISK_LIMITS; i++) {
		bucket_set(&t->iops[i], &l->iops[i], now_ns);
		bucket_set(&t->bps[i], &l->bps[i], now_ns);
		t->any |= l->iops[i].rate || l->bps[i].rate;
		t->any_one_way |= i != DISK_LIMIT_ALL && (l->iops[i].rate || l->bps[i].rate);
	}
}

static uint64_t bucket_wait(struct disk_bucket *b, uint64_t now_ns)
{
	return MAX(token_bucket_wait(&b->average, now_ns), token_bucket_wait(&b->burst, now_ns));
}

uint64_t disk_throttle_wait(struct disk_throttle *t, enum disk_limit of, uint64_t now_ns)
{
	return MAX(bucket_wait(&t->iops[of], now_ns), bucket_wait(&t->bps[of], now_ns));
}

enum disk_limit disk_throttle_kind(enum block_op op)
{
	return op == BLOCK_READ ? DISK_LIMIT_READ : op == BLOCK_FLUSH ? DISK_LIMIT_ALL : DISK_LIMIT_WRITE;
}

static void bucket_take(struct disk_bucket *b, uint64_t n)
{
	token_bucket_take(&b->average, n);
	token_bucket_take(&b->burst, n);
}

void disk_throttle_take(struct disk_throttle *t, enum block_op op, uint64_t len)
{
	uint64_t bytes = op == BLOCK_READ || op == BLOCK_WRITE || op == BLOCK_WRITE_ZEROES ? len : 0;
	uint64_t requests = t->iops_bytes && bytes > t->iops_bytes ? DIV_ROUND_UP(bytes, t->iops_bytes) : 1;
	enum disk_limit kind = disk_throttle_kind(op);

	if (!t->any)
		return;
	bucket_take(&t->iops[DISK_LIMIT_ALL], requests);
	bucket_take(&t->bps[DISK_LIMIT_ALL], bytes);
	if (kind == DISK_LIMIT_ALL)
		return;
	bucket_take(&t->iops[kind], requests);
	bucket_take(&t->bps[kind], bytes);
}
