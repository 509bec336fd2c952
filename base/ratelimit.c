#include "base/ratelimit.h"

bool ratelimit_take(struct ratelimit *l, uint64_t now_ns, uint64_t *ret_left_out)
{
	if (!l->since_ns || now_ns - l->since_ns >= RATELIMIT_WINDOW_NS) {
		l->since_ns = now_ns;
		l->n = 0;
	}
	if (l->n == RATELIMIT_BURST) {
		l->left_out++;
		return false;
	}
	l->n++;
	*ret_left_out = l->left_out;
	l->left_out = 0;
	return true;
}
