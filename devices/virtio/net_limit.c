#include "devices/virtio/net_limit.h"
#include "base/util.h"
#include "devices/virtio/virtio_net.h"

#define WAIT_NS 1000000u

/* Without a configured burst, a limit allows bursts of a tenth of a second; the peak, of a hundredth. */
#define BURSTS 10
#define PEAK_BURSTS 100

void net_limit_set(struct net_limit *l, const struct virtio_net_limit *want, uint64_t now_ns)
{
	token_bucket_set(&l->average, want->average, want->burst ? want->burst : want->average / BURSTS, now_ns);
	token_bucket_set(&l->peak, want->peak, want->peak / PEAK_BURSTS, now_ns);
	token_bucket_set(&l->frames, want->packets, want->packets / BURSTS, now_ns);
}

/* A wait of a quarter of the time in which the bucket fills loses no token, even if the loop is late. */
static uint64_t bucket_wait(struct token_bucket *b, uint64_t now_ns)
{
	uint64_t wait_ns = token_bucket_wait(b, now_ns);
	uint64_t fill_ns = wait_ns ? (uint64_t)MIN((unsigned __int128)b->depth * TOKEN_BUCKET_NS / b->rate, (unsigned __int128)INT64_MAX) : 0;

	return MAX(wait_ns, MIN(fill_ns / 4, (uint64_t)WAIT_NS));
}

uint64_t net_limit_wait(struct net_limit *l, uint64_t now_ns)
{
	uint64_t average_ns = bucket_wait(&l->average, now_ns), peak_ns = bucket_wait(&l->peak, now_ns);
	uint64_t frames_ns = bucket_wait(&l->frames, now_ns);

	return MAX(MAX(average_ns, peak_ns), frames_ns);
}

void net_limit_take(struct net_limit *l, uint64_t bytes)
{
	token_bucket_take(&l->average, bytes);
	token_bucket_take(&l->peak, bytes);
	token_bucket_take(&l->frames, 1);
}
