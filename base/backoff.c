#include "base/backoff.h"
#include "base/util.h"

#define SECOND_NS 1000000000ULL

/* Wait number n: delay, 2 × delay, 4 × delay, … up to max_delay. */
static uint64_t wait_ns(const struct backoff_rule *r, uint32_t n)
{
	uint64_t s = (uint64_t)r->delay_s << MIN(n, 31u);

	return MIN(s, (uint64_t)r->max_delay_s) * SECOND_NS;
}

static void window_update(const struct backoff_rule *r, struct backoff *b, uint64_t now_ns)
{
	if (b->n && now_ns - b->window_ns <= r->window_s * SECOND_NS)
		return;
	b->n = 0;
	b->window_ns = now_ns;
}

bool backoff_again(const struct backoff_rule *r, struct backoff *b, uint64_t now_ns,
	uint64_t *ret_wait_ns)
{
	window_update(r, b, now_ns);
	if (r->tries && b->n >= r->tries)
		return false;
	if (!r->tries)
		b->window_ns = now_ns;
	*ret_wait_ns = b->n ? wait_ns(r, b->n - 1) : 0;
	b->n += b->n < UINT32_MAX;
	return true;
}

uint64_t backoff_slow(const struct backoff_rule *r, struct backoff *b, uint64_t now_ns)
{
	uint32_t before;

	window_update(r, b, now_ns);
	before = b->n;
	b->n += b->n < UINT32_MAX;
	if (!r->tries || before < r->tries)
		return 0;
	return wait_ns(r, before - r->tries);
}
