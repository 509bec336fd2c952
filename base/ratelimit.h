/* limit: how much of one kind may be written down: some, then a count. Else a user who may nothing, by
 * what is refused, or a guest, by what it repeats, could push all else out of logs of a fixed size. */
#ifndef CAIRN_BASE_RATELIMIT_H
#define CAIRN_BASE_RATELIMIT_H

#include <stdbool.h>
#include <stdint.h>

#define RATELIMIT_BURST 20
#define RATELIMIT_WINDOW_NS (10 * 1000000000ULL)

struct ratelimit {
	uint64_t since_ns; /* begin of the window; 0: none yet */
	unsigned n;
	uint64_t left_out; /* since one was let through */
};

/* Is this one to be told? *ret_left_out: how many were not, since the last that was; set only then. */
bool ratelimit_take(struct ratelimit *l, uint64_t now_ns, uint64_t *ret_left_out);

#endif
