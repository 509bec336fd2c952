#include "base/ratelimit.h"

bool ratelimit_take_of(struct ratelimit *l, unsigned burst, uint64_t window_ns, uint64_t now_ns,
	uint64_t *ret_left_out)
{
	uint64_t since_ns = atomic_load_explicit(&l->since_ns, memory_order_relaxed);

	if (!since_ns || now_ns - since_ns >= window_ns) {
		atomic_store(&l->since_ns, now_ns);
		atomic_store(&l->n, 0);
	}
	if (atomic_fetch_add(&l->n, 1) >= burst) {
		atomic_fetch_add(&l->left_out, 1);
		return false;
	}
	*ret_left_out = atomic_exchange(&l->left_out, 0);
	return true;
}
