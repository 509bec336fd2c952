/* ratelimit: limits the messages of one kind, and counts the suppressed ones. Without it, a user
 * (by denied commands) or a guest (by repeated messages) could push everything else out of logs of
 * fixed size. */
#ifndef CAIRN_BASE_RATELIMIT_H
#define CAIRN_BASE_RATELIMIT_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define RATELIMIT_BURST 20
#define RATELIMIT_WINDOW_NS (10 * 1000000000ULL)

/* The initial state is all zeros. */
struct ratelimit {
	_Atomic uint64_t since_ns; /* start of the window; 0: none yet */
	atomic_uint n;		   /* messages in the window */
	_Atomic uint64_t left_out; /* suppressed since the last message that passed */
};

/* Count a message and decide whether it passes: at most `burst` in each window.
 * ret_left_out: number of suppressed messages since the last one that passed; set only if the
 * result is true.
 * Returns true if the message passes. Any thread. */
bool ratelimit_take_of(struct ratelimit *l, unsigned burst, uint64_t window_ns, uint64_t now_ns,
	uint64_t *ret_left_out);

/* Like ratelimit_take_of(), with RATELIMIT_BURST messages in RATELIMIT_WINDOW_NS. */
static inline bool ratelimit_take(struct ratelimit *l, uint64_t now_ns, uint64_t *ret_left_out)
{
	return ratelimit_take_of(l, RATELIMIT_BURST, RATELIMIT_WINDOW_NS, now_ns, ret_left_out);
}

#endif
